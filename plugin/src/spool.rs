//! The tombstone of a DEL that nobody answers.
//!
//! Owns writing it, whole by rename, into the spool that ipamd watches. The form and the names are proto's. Nothing is
//! synced: a tombstone is of use in its own boot alone, and a rename is seen whole by every later reader of it. Does not
//! decide when a DEL needs one.

use eni_proto::client::boottime;
use eni_proto::ids::{AttachmentKey, BootId, NetnsCookie};
use eni_proto::spool::{self, Tombstone};
use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The most names that lie in the spool: more than the containers of any node, and bounded, for a node may be without an
/// ipamd for days, and its runtime deletes and retries all the time.
const NAMES_MOST: usize = 8192;

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Buried {
    /// It is in the spool.
    Written,
    /// There is no run folder: no ipamd has run in this boot, and so nothing of ours lives.
    NothingLives,
}

/// Why there is no tombstone: error 11.
#[derive(Debug)]
pub(crate) struct SpoolError {
    step: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl fmt::Display for SpoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} failed: {}", self.step, self.path.display(), self.source)
    }
}

impl std::error::Error for SpoolError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// Which boot CLOCK_BOOTTIME counts.
pub(crate) fn boot_id() -> Result<BootId, SpoolError> {
    let path = PathBuf::from("/proc/sys/kernel/random/boot_id");
    match fs::read_to_string(&path) {
        Ok(text) => Ok(BootId::new(&text)),
        Err(source) => Err(SpoolError { step: "reading", path, source }),
    }
}

/// Writes a DEL down that began at `asked`. It must not delete what is made later: so the time is that of its beginning.
pub(crate) fn bury(
    run_dir: &Path,
    spool: &Path,
    key: &AttachmentKey,
    cookie: Option<NetnsCookie>,
    asked: Duration,
) -> Result<Buried, SpoolError> {
    let tombstone = Tombstone {
        version: spool::VERSION,
        key: key.clone(),
        netns_cookie: cookie,
        asked_ns: nanos(asked),
        boot: boot_id()?,
    };
    let failed = |step, path: &Path| {
        let path = path.to_owned();
        move |source| SpoolError { step, path, source }
    };
    let place = spool.join(spool::file_name(key));
    if is_full(spool, NAMES_MOST) && is_absent(&place) {
        let full = io::Error::other(format!(
            "{NAMES_MOST} names lie there already: start ipamd, which does these DELs"
        ));
        return Err(failed("adding to", spool)(full));
    }
    let new = spool.join(spool::unfinished_name(key, std::process::id(), nanos(boottime())));
    let text = serde_json::to_vec(&tombstone).map_err(io::Error::other).map_err(failed("writing", &new))?;
    let mut file = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound && is_absent(run_dir) => {
            return Ok(Buried::NothingLives);
        }
        Err(error) => return Err(failed("making", &new)(error)),
    };
    let written = file.write_all(&text).map_err(failed("writing", &new));
    let placed = written.and_then(|()| fs::rename(&new, &place).map_err(failed("making", &place)));
    if placed.is_err() {
        // What is left of it ipamd drops.
        let _ = fs::remove_file(&new);
    }
    placed.map(|()| Buried::Written)
}

fn is_absent(folder: &Path) -> bool {
    fs::symlink_metadata(folder).is_err_and(|error| error.kind() == ErrorKind::NotFound)
}

/// Whether a folder has so many names. One that cannot be read is not: making a file in it says why.
fn is_full(folder: &Path, most: usize) -> bool {
    fs::read_dir(folder).is_ok_and(|names| names.take(most).count() >= most)
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> AttachmentKey {
        AttachmentKey {
            network: "vpc".parse().unwrap(),
            container: "c1".parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
        }
    }

    fn names(folder: &Path) -> Vec<String> {
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_tombstone_is_whole_and_the_last_one_of_its_key_stays() {
        let run = tempfile::tempdir().unwrap();
        let spool = run.path().join("spool");
        fs::create_dir(&spool).unwrap();
        for asked in [5, 9] {
            let cookie = Some(NetnsCookie(asked));
            let done = bury(run.path(), &spool, &key(), cookie, Duration::from_nanos(asked)).unwrap();
            assert_eq!(done, Buried::Written);
        }
        assert_eq!(names(&spool), [spool::file_name(&key())]);
        let text = fs::read(spool.join(spool::file_name(&key()))).unwrap();
        assert!(text.len() <= spool::FILE_MAX);
        let read: Tombstone = serde_json::from_slice(&text).unwrap();
        assert_eq!((read.key, read.asked_ns, read.netns_cookie), (key(), 9, Some(NetnsCookie(9))));
        assert_eq!(read.boot, boot_id().unwrap());
    }

    #[test]
    fn a_full_spool_takes_no_more_names_and_a_newer_del_of_one_that_is_there() {
        let run = tempfile::tempdir().unwrap();
        let spool = run.path().join("spool");
        fs::create_dir(&spool).unwrap();
        let bury =
            |key: &AttachmentKey, asked| bury(run.path(), &spool, key, None, Duration::from_nanos(asked));
        assert_eq!(bury(&key(), 5).unwrap(), Buried::Written);
        for n in 1..NAMES_MOST - 1 {
            fs::write(spool.join(n.to_string()), "").unwrap();
        }
        let other = |name: &str| AttachmentKey { container: name.parse().unwrap(), ..key() };
        assert_eq!(bury(&other("c2"), 6).unwrap(), Buried::Written, "the last one");
        let error = bury(&other("c3"), 7).unwrap_err().to_string();
        assert!(error.contains("8192 names lie there") && error.contains("start ipamd"), "{error}");
        assert_eq!(names(&spool).len(), NAMES_MOST);
        assert_eq!(bury(&key(), 8).unwrap(), Buried::Written, "it has its place");
        let text = fs::read(spool.join(spool::file_name(&key()))).unwrap();
        assert_eq!(serde_json::from_slice::<Tombstone>(&text).unwrap().asked_ns, 8);
    }

    #[test]
    fn without_a_run_folder_nothing_lives_and_without_a_spool_it_fails() {
        let outer = tempfile::tempdir().unwrap();
        let run = outer.path().join("run");
        let spool = run.join("spool");
        let bury = || bury(&run, &spool, &key(), None, Duration::from_nanos(5));
        assert_eq!(bury().unwrap(), Buried::NothingLives);
        fs::create_dir(&run).unwrap();
        let error = bury().unwrap_err().to_string();
        assert!(error.starts_with("making ") && error.contains("/run/spool/"), "{error}");
        fs::write(&spool, "").unwrap();
        assert!(bury().is_err(), "it is no folder");
        fs::remove_file(&spool).unwrap();
        fs::create_dir_all(spool.join(spool::file_name(&key()))).unwrap();
        assert!(bury().is_err(), "its place is taken by a folder");
        assert_eq!(names(&spool).len(), 1, "nothing half-made stays");
    }
}
