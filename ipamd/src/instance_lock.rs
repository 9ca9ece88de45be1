//! One ipamd per node.
//!
//! Owns the run folder's check and the two locks: flock on a file in it, which names the holder, and the nft table with
//! the owner flag, which is one per network namespace whatever the mounts. Both are freed by the kernel when the
//! holder ends. Does not ask the holder to go: `take_over` does.

use ipamd_netlink::lock::{LockError as NftError, NetfilterLock};
use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// How often a waiting ipamd tries again.
const AGAIN: Duration = Duration::from_millis(100);

/// The place of the one ipamd; given back when dropped.
#[derive(Debug)]
pub struct InstanceLock {
    _file: File,
    _table: Option<NetfilterLock>,
}

/// Who has the place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// What the lock file says: process id and version; empty when the holder uses another run folder.
    pub told: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.told.trim() {
            "" => f.write_str("an ipamd with another run folder"),
            told => f.write_str(told),
        }
    }
}

/// Why the place cannot be had at all.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// The run folder is not safe.
    #[error(
        "{folder} must be a folder of root's, writable by nobody else (it is uid {uid}, mode {mode:o}): remove it"
    )]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// Its owner.
        uid: u32,
        /// Its mode.
        mode: u32,
    },
    /// The kernel refused.
    #[error("{step} {path} failed")]
    Io {
        /// What was tried.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The nft table was refused.
    #[error(transparent)]
    Table(#[from] NftError),
}

impl InstanceLock {
    /// Waits for the place; `waiting` is told of who has it each time that it is tried in vain.
    pub fn acquire_blocking(
        run_dir: &Path,
        mut waiting: impl FnMut(&Holder),
    ) -> Result<InstanceLock, LockError> {
        loop {
            match InstanceLock::try_acquire(run_dir)? {
                Ok(lock) => return Ok(lock),
                Err(holder) => {
                    waiting(&holder);
                    thread::sleep(AGAIN);
                }
            }
        }
    }

    /// Takes the place, or says who has it.
    pub fn try_acquire(run_dir: &Path) -> Result<Result<InstanceLock, Holder>, LockError> {
        check_folder(run_dir)?;
        let path = run_dir.join("ipamd.lock");
        let io = |step| {
            let path = path.clone();
            move |source| LockError::Io { step, path, source }
        };
        let opened =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let mut file = opened.map_err(io("opening"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut told = String::new();
                file.take(256).read_to_string(&mut told).map_err(io("reading"))?;
                return Ok(Err(Holder { told }));
            }
            Err(TryLockError::Error(source)) => return Err(io("locking")(source)),
        }
        let table = match NetfilterLock::acquire() {
            Ok(lock) => Some(lock),
            Err(NftError::Held) => return Ok(Err(Holder { told: String::new() })),
            Err(NftError::OwnerFlagUnsupported) => {
                tracing::warn!(
                    "this kernel's nft tables have no owner flag: one ipamd per run folder is all that is held"
                );
                None
            }
            Err(error) => return Err(error.into()),
        };
        let told = format!("ipamd {} with process id {}\n", env!("CARGO_PKG_VERSION"), std::process::id());
        // Written over what is there, then cut: a page that is given back first may not come back on a full tmpfs.
        file.rewind()
            .and_then(|()| file.write_all(told.as_bytes()))
            .and_then(|()| file.set_len(told.len() as u64))
            .map_err(io("writing"))?;
        Ok(Ok(InstanceLock { _file: file, _table: table }))
    }
}

/// The run folder: made when it is not there; root's and writable by nobody else, or refused.
fn check_folder(folder: &Path) -> Result<(), LockError> {
    let io = |step| move |source| LockError::Io { step, path: folder.to_owned(), source };
    let group = nix::unistd::getegid().as_raw();
    let mode = if group == 0 { 0o700 } else { 0o750 };
    match fs::DirBuilder::new().recursive(true).mode(mode).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(io("making")(error)),
        _ => {}
    }
    // A link would be followed to somebody else's folder.
    let found = fs::symlink_metadata(folder).map_err(io("reading"))?;
    let (uid, mode) = (found.uid(), found.mode() & 0o7777);
    if !found.is_dir() || uid != 0 || mode & 0o022 != 0 {
        return Err(LockError::Folder { folder: folder.to_owned(), uid, mode });
    }
    Ok(())
}
