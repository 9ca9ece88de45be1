//! The stamp's file.
//!
//! Owns writing it, whole by rename, once a plugin would find this ipamd: `cni.sock` is called, as a plugin calls it. Its
//! form is proto's, its moment the core's. One that could not be renewed is tried again for as long as it would be of use.

use crate::clock;
use eni_proto::client::{self, CallError};
use eni_proto::ids::BootId;
use eni_proto::request::{Call, Request, Status};
use eni_proto::stamp::{FILE, FILE_MAX, Stamp, VERSION};
use ipamd_core::time::Timestamp;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tracing::{info, warn};

/// How long the call may take: its answer needs the main loop alone. At most; of a short grace, so many parts of it.
const CALL: Duration = Duration::from_secs(1);
const CALL_PER_GRACE: u32 = 5;
/// Between two calls of one renewal: at most, and as above.
const AGAIN: Duration = Duration::from_secs(1);

/// A failure is told when it has come so often in a row: the first one may be that of a start, before the socket is made.
const TOLD: u32 = 2;

/// Why the stamp was not renewed.
#[derive(Debug, thiserror::Error)]
pub(super) enum StampError {
    /// No plugin would find this ipamd: its socket's name is taken away, no descriptor is left to accept with, or no seat.
    #[error("cni.sock does not answer")]
    Unreachable(#[source] CallError),
    /// The file could not be written.
    #[error("{FILE} cannot be written: {0}")]
    File(#[from] io::Error),
}

/// A renewal that was asked for.
#[derive(Debug, Clone, Copy)]
struct Renewal {
    renewed: Timestamp,
    grace: Duration,
    due: Timestamp,
}

/// Whether an ipamd has been able to serve ADD in this boot: a stamp of it, however old, says so. One that cannot be read
/// says nothing.
pub fn was_stamped(run_dir: &Path, boot: &BootId) -> bool {
    let text = File::open(run_dir.join(FILE)).and_then(|file| {
        let mut text = Vec::new();
        file.take(FILE_MAX as u64).read_to_end(&mut text).map(|_| text)
    });
    text.is_ok_and(|text| serde_json::from_slice::<Stamp>(&text).is_ok_and(|stamp| stamp.boot == *boot))
}

#[derive(Debug)]
pub(super) struct StampFile {
    path: PathBuf,
    new: PathBuf,
    boot: BootId,
    socket: PathBuf,
    asked: Option<Renewal>,
    /// How often in a row it could not be.
    failures: u32,
}

impl StampFile {
    pub(super) fn new(run_dir: &Path, socket: &Path, boot: BootId) -> StampFile {
        let (path, new) = (run_dir.join(FILE), run_dir.join(format!("{FILE}.new")));
        StampFile { path, new, boot, socket: socket.to_owned(), asked: None, failures: 0 }
    }

    /// Asks for a renewal: the last one that is asked for is the one that counts.
    pub(super) fn ask(&mut self, renewed: Timestamp, grace: Duration) {
        self.asked = Some(Renewal { renewed, grace, due: clock::now() });
    }

    /// When there is something to do.
    pub(super) fn due(&self) -> Option<Timestamp> {
        self.asked.map(|asked| asked.due)
    }

    /// Renews it when that is due.
    pub(super) fn renew_when_due(&mut self) {
        let Some(asked) = self.asked.filter(|asked| asked.due <= clock::now()) else { return };
        match self.renew(asked.renewed, asked.grace) {
            Ok(()) => {
                self.asked = None;
                if std::mem::take(&mut self.failures) >= TOLD {
                    info!("the stamp is renewed again");
                }
            }
            Err(error) => {
                self.failures = self.failures.saturating_add(1);
                if self.failures == TOLD {
                    // A STATUS that finds no ipamd fails once the last one has grown old.
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    warn!(%error, cause, "the stamp is not renewed");
                }
                let now = clock::now();
                let due = now + AGAIN.min(asked.grace / CALL_PER_GRACE);
                self.asked = (now < asked.renewed + asked.grace).then_some(Renewal { due, ..asked });
            }
        }
    }

    fn renew(&self, renewed: Timestamp, grace: Duration) -> Result<(), StampError> {
        // What it answers does not matter here: that it does shows that a plugin is served.
        let deadline = client::boottime() + CALL.min(grace / CALL_PER_GRACE);
        let status = Request::new(Call::Status(Status::default()));
        client::call(&self.socket, &status, None, deadline).map_err(StampError::Unreachable)?;
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
        Ok(fs::rename(&self.new, &self.path)?)
    }
}
