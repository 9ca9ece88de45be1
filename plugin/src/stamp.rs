//! What speaks for an ipamd that does not answer a STATUS: its stamp in the run folder.
//!
//! Owns reading it. Its form, and when it is too old, are proto's. Writes nothing.

use crate::spool;
use eni_proto::client::boottime;
use eni_proto::stamp::{FILE, FILE_MAX, Stale, Stamp};
use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

/// Why nothing speaks for ipamd: error 50.
#[derive(Debug)]
pub(crate) enum StampError {
    /// There is no stamp: since this boot, or since the run folder was emptied, ipamd was never ready.
    Absent { path: PathBuf },
    /// There is one that cannot be read.
    Unreadable { path: PathBuf, cause: String },
    /// It is too old, or of another boot.
    Stale(Stale),
}

impl fmt::Display for StampError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StampError::Absent { path } => {
                write!(f, "ipamd was never ready since this boot: there is no {}", path.display())
            }
            StampError::Unreadable { path, cause } => {
                write!(f, "{} cannot be read: {cause}", path.display())
            }
            StampError::Stale(stale) => stale.fmt(f),
        }
    }
}

impl std::error::Error for StampError {}

/// Whether the stamp in `run_dir` vouches for an ipamd that does not answer now.
pub(crate) fn vouches(run_dir: &Path) -> Result<(), StampError> {
    let path = run_dir.join(FILE);
    let unreadable = |cause: String| StampError::Unreadable { path: path.clone(), cause };
    let text = match read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(StampError::Absent { path }),
        Err(error) => return Err(unreadable(error.to_string())),
    };
    let stamp: Stamp = serde_json::from_slice(&text).map_err(|error| unreadable(error.to_string()))?;
    let boot = spool::boot_id().map_err(|error| unreadable(error.to_string()))?;
    stamp.check(boottime(), &boot).map_err(StampError::Stale)
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path)?.take(FILE_MAX as u64).read_to_end(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::fs;

    #[test]
    fn a_young_stamp_of_this_boot_vouches_and_nothing_else_does() {
        let run = tempfile::tempdir().unwrap();
        let said = || vouches(run.path()).map_err(|error| error.to_string());
        assert!(said().unwrap_err().contains("never ready"));
        let boot = spool::boot_id().unwrap();
        let now = u64::try_from(boottime().as_nanos()).unwrap();
        let young = json!({ "version": 1, "renewed_ns": now, "boot": boot, "grace_ms": 60_000 });
        let write = |text: &str| fs::write(run.path().join(FILE), text).unwrap();
        write(&young.to_string());
        assert_eq!(said(), Ok(()));
        for (key, value, words) in [
            ("renewed_ns", json!(0), "last known to serve"),
            ("grace_ms", json!(0), "may be silent for 0 s"),
            ("boot", json!("another"), "never ready since this boot"),
            ("boot", json!(3), "cannot be read"),
        ] {
            let mut changed = young.clone();
            changed[key] = value;
            write(&changed.to_string());
            let error = said().unwrap_err();
            assert!(error.contains(words), "{key}: {error}");
        }
        write(&" ".repeat(1 << 20));
        assert!(said().unwrap_err().contains("cannot be read"));
    }
}
