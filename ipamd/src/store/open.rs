//! Opening the store: what is damage, what is something else, and that a refused file stays as it is.
//!
//! Owns the classes. *Damaged* is: redb reports corruption, a value's checksum is wrong, or loading panics. Locked, an
//! I/O error, no permission or a newer schema is not damage. A file that exists is tried in memory first (redb repairs
//! as it opens, and may panic on a file that was changed from outside; a copy on the disk would need room on one that is
//! full): only when the copy opens and loads whole is the file itself opened. At start a damaged file is set aside and a
//! new one made: what is empty is rebuilt from the kernel and EC2.

use super::codec::DecodeError;
use super::reserve::Reserve;
use super::{ADDRESSES, ATTACHMENTS, ENIS, INTENTS, META, NODE, SCHEMA, SCHEMA_KEY, Store, aside};
use crate::panics::contained;
use eni_proto::ids::BootId;
use ipamd_core::record::Stored;
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use nix::unistd::geteuid;
use redb::backends::InMemoryBackend;
use redb::{Database, ReadableDatabase, ReadableTable, StorageBackend, TableHandle};
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// redb's cache: it is the log, not the read path.
const CACHE: usize = 1024 * 1024;

/// An open store and what it held.
pub struct Opened {
    /// The store.
    pub store: Store,
    /// Its records, of this boot.
    pub stored: Stored,
    /// What is worth a word to the operator.
    pub notes: Vec<String>,
    /// The file that was there was damaged: this is a new one. Why, and where the old one is.
    pub damaged: Option<String>,
}

/// Why the store was not opened. The file is untouched.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("{path} is open in another process")]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// It was written by a newer ipamd.
    #[error(
        "{path} has schema {found}, this ipamd knows {SCHEMA}: start the newer ipamd again, or move the file away"
    )]
    NewerSchema {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: u32,
    },
    /// It is damaged.
    #[error("{path} is damaged: {cause}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        cause: String,
    },
    /// Its folder is not safe.
    #[error("{folder} must be root's and writable by nobody else (it is uid {uid}, mode {mode:o})")]
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
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// redb refused for another reason.
    #[error("{path} could not be opened")]
    Redb {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<redb::Error>,
    },
}

/// Why a load failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    #[error(transparent)]
    Record(#[from] DecodeError),
    #[error(transparent)]
    Redb(#[from] Box<redb::Error>),
    #[error("schema {0}")]
    Newer(u32),
}

macro_rules! redb_errors {
    ($($kind:ident),*) => {$(
        impl From<redb::$kind> for LoadError {
            fn from(error: redb::$kind) -> Self {
                LoadError::Redb(Box::new(error.into()))
            }
        }
    )*};
}
redb_errors!(TransactionError, TableError, StorageError, CommitError);

impl OpenError {
    /// Whether the disk is full.
    pub(super) fn is_full(&self) -> bool {
        matches!(self, OpenError::Io { source, .. } if is_full(source))
    }
}

/// Whether an error says that the disk is full.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl Store {
    /// Opens the store at start. On a full disk its reserve is given up; a damaged file is set aside, loudly, and a new
    /// one made. Every other refusal leaves the file as it is.
    pub fn open_at_start(path: &Path, boot: &BootId) -> Result<(Opened, Reserve), OpenError> {
        let mut reserve = Reserve::of(path);
        let mut tried = Store::open(path, boot);
        if tried.as_ref().is_err_and(OpenError::is_full) && (reserve.give_up() | aside::delete_all(path)) {
            tried = Store::open(path, boot);
        }
        match tried {
            Err(OpenError::Damaged { cause, .. }) => {
                let aside = aside::set_aside(path).map_err(|source| OpenError::Io {
                    step: "moving the damaged",
                    path: path.to_owned(),
                    source,
                })?;
                let mut opened = Store::open(path, boot)?;
                opened.damaged = Some(format!(
                    "the store was damaged ({cause}): it lies in {} now, and what it held is rebuilt from the kernel and EC2",
                    aside.display()
                ));
                Ok((opened, reserve))
            }
            other => Ok((other?, reserve)),
        }
    }

    /// Opens the store, making it when it is not there; records of another boot are dropped (no sandbox outlives one).
    pub fn open(path: &Path, boot: &BootId) -> Result<Opened, OpenError> {
        let io = |step| move |source| OpenError::Io { step, path: path.to_owned(), source };
        let folder = path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(folder).map_err(io("making the folder of"))?;
        check_folder(folder)?;
        let mut notes = Vec::new();
        if statfs(folder).is_ok_and(|fs| fs.filesystem_type() != TMPFS_MAGIC) {
            notes.push(format!(
                "the store's folder {} is not on a tmpfs: each commit waits for a disk",
                folder.display()
            ));
        }
        let exists = match fs::metadata(path) {
            Ok(found) if !found.is_file() => {
                let source = io::Error::other("it is not a regular file");
                return Err(OpenError::Io { step: "opening", path: path.to_owned(), source });
            }
            Ok(found) => found.len() > 0,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(source) => return Err(io("reading")(source)),
        };
        if exists {
            try_a_copy(path)?;
        }
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        drop(file.map_err(io("opening"))?);
        let store = open_database(path).map_err(|error| classify(path, error))?;
        store.make_tables().map_err(|error| classify(path, error))?;
        let mut stored = store.load().map_err(|error| classify(path, error))?;
        if stored.node.as_ref().is_some_and(|node| node.boot != *boot) {
            notes.push(format!("{} attachments of an earlier boot were dropped", stored.attachments.len()));
            stored = Stored::default();
            store.clear().map_err(|error| classify(path, error))?;
        }
        Ok(Opened { store, stored, notes, damaged: None })
    }

    /// Makes what is not there of the tables; a file that has them all is not written.
    fn make_tables(&self) -> Result<(), LoadError> {
        let there: Vec<String> =
            self.database.begin_read()?.list_tables()?.map(|table| table.name().to_owned()).collect();
        let tables = [META, NODE, ENIS, ADDRESSES, ATTACHMENTS, INTENTS];
        if tables.iter().all(|table| there.iter().any(|name| name == table.name()))
            && self.schema()?.is_some()
        {
            return Ok(());
        }
        let transaction = self.database.begin_write()?;
        {
            let mut meta = transaction.open_table(META)?;
            let found = meta.get(SCHEMA_KEY)?.and_then(|v| v.value().try_into().ok()).map(u32::from_be_bytes);
            if found.is_none() {
                meta.insert(SCHEMA_KEY, SCHEMA.to_be_bytes().as_slice())?;
            }
            for table in [NODE, ENIS, ADDRESSES, ATTACHMENTS, INTENTS] {
                transaction.open_table(table)?;
            }
        }
        transaction.commit()?;
        Ok(())
    }

    fn clear(&self) -> Result<(), LoadError> {
        let transaction = self.database.begin_write()?;
        for table in [NODE, ENIS, ADDRESSES, ATTACHMENTS, INTENTS] {
            transaction.delete_table(table)?;
            transaction.open_table(table)?;
        }
        transaction.commit()?;
        Ok(())
    }

    /// The schema's number; none in a file that has no table of it.
    pub(super) fn schema(&self) -> Result<Option<u32>, LoadError> {
        let transaction = self.database.begin_read()?;
        let meta = match transaction.open_table(META) {
            Ok(meta) => meta,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        Ok(meta.get(SCHEMA_KEY)?.and_then(|v| v.value().try_into().ok()).map(u32::from_be_bytes))
    }
}

fn check_folder(folder: &Path) -> Result<(), OpenError> {
    let found = fs::metadata(folder).map_err(|source| OpenError::Io {
        step: "reading",
        path: folder.to_owned(),
        source,
    })?;
    let (uid, mode) = (found.uid(), found.mode() & 0o7777);
    // ipamd is root's; whoever else runs it has folders of its own.
    let ours = uid == 0 || uid == geteuid().as_raw();
    if !ours || mode & 0o022 != 0 {
        return Err(OpenError::Folder { folder: folder.to_owned(), uid, mode });
    }
    Ok(())
}

/// Opens and loads what the file holds, in memory.
fn try_a_copy(path: &Path) -> Result<(), OpenError> {
    let io = |source| OpenError::Io { step: "reading", path: path.to_owned(), source };
    // A lock is seen on the file itself: a copy has none.
    let lock = fs::File::open(path).map_err(io)?;
    if let Err(fs::TryLockError::WouldBlock) = lock.try_lock_shared() {
        return Err(OpenError::Locked { path: path.to_owned() });
    }
    drop(lock);
    let bytes = fs::read(path).map_err(io)?;
    match contained(|| trial(path, &bytes)) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(classify_trial(path, error)),
        Err(_) => Err(OpenError::Damaged { path: path.to_owned(), cause: "reading it panicked".to_owned() }),
    }
}

fn trial(path: &Path, bytes: &[u8]) -> Result<(), LoadError> {
    let copy = InMemoryBackend::new();
    let filled = copy.set_len(bytes.len() as u64).and_then(|()| copy.write(0, bytes));
    filled.expect("memory has no errors");
    let database = Database::builder().set_cache_size(CACHE).create_with_backend(copy);
    let database = database.map_err(|error| LoadError::Redb(Box::new(error.into())))?;
    let mut store = Store { path: path.to_owned(), database };
    match store.schema()? {
        Some(found) if found > SCHEMA => return Err(LoadError::Newer(found)),
        _ => {}
    }
    let sound = store.database.check_integrity().map_err(|e| LoadError::Redb(Box::new(e.into())))?;
    if !sound {
        // A file that was not closed cleanly is repaired by opening it; what is wrong after that is damage.
        let again = store.database.check_integrity().map_err(|e| LoadError::Redb(Box::new(e.into())))?;
        if !again {
            let cause = "redb's integrity check fails".to_owned();
            return Err(LoadError::Record(DecodeError { table: "all", cause }));
        }
    }
    store.make_tables()?;
    store.load().map(|_| ())
}

fn open_database(path: &Path) -> Result<Store, LoadError> {
    let database = Database::builder().set_cache_size(CACHE).create(path);
    let database = database.map_err(|error| LoadError::Redb(Box::new(error.into())))?;
    Ok(Store { path: path.to_owned(), database })
}

/// Memory has no I/O errors: one there says that the file ends before what it should hold.
fn classify_trial(path: &Path, error: LoadError) -> OpenError {
    match classify(path, error) {
        OpenError::Io { path, source, .. } => OpenError::Damaged { path, cause: source.to_string() },
        other => other,
    }
}

fn classify(path: &Path, error: LoadError) -> OpenError {
    let path = path.to_owned();
    match error {
        LoadError::Newer(found) => OpenError::NewerSchema { path, found },
        LoadError::Record(error) => OpenError::Damaged { path, cause: error.to_string() },
        LoadError::Redb(error) => match *error {
            redb::Error::DatabaseAlreadyOpen => OpenError::Locked { path },
            redb::Error::Io(source) if source.kind() == io::ErrorKind::InvalidData => {
                OpenError::Damaged { path, cause: source.to_string() }
            }
            redb::Error::Io(source) => OpenError::Io { step: "reading or writing", path, source },
            redb::Error::Corrupted(cause) => OpenError::Damaged { path, cause },
            other => match &other {
                redb::Error::RepairAborted
                | redb::Error::TableTypeMismatch { .. }
                | redb::Error::TypeDefinitionChanged { .. } => {
                    OpenError::Damaged { path, cause: other.to_string() }
                }
                redb::Error::UpgradeRequired(_) => OpenError::Damaged { path, cause: other.to_string() },
                _ => OpenError::Redb { path, source: Box::new(other) },
            },
        },
    }
}
