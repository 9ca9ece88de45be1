//! The stamp's file.
//!
//! Owns writing it, whole by rename. Its form is proto's, its moment the core's.

use eni_proto::ids::BootId;
use eni_proto::stamp::{FILE, Stamp, VERSION};
use ipamd_core::time::Timestamp;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Debug)]
pub(super) struct StampFile {
    path: PathBuf,
    new: PathBuf,
    boot: BootId,
}

impl StampFile {
    pub(super) fn new(run_dir: &Path, boot: BootId) -> StampFile {
        StampFile { path: run_dir.join(FILE), new: run_dir.join(format!("{FILE}.new")), boot }
    }

    pub(super) fn renew(&self, renewed: Timestamp, grace: Duration) -> io::Result<()> {
        let stamp = Stamp {
            version: VERSION,
            renewed_ns: renewed.as_nanos(),
            boot: self.boot.clone(),
            grace_ms: u64::try_from(grace.as_millis()).unwrap_or(u64::MAX),
        };
        let text = serde_json::to_vec(&stamp).map_err(io::Error::other)?;
        // One instance holds the run folder's lock: nobody else writes this name.
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600).open(&self.new)?.write_all(&text)?;
        fs::rename(&self.new, &self.path)
    }
}
