//! Room that is kept for a full disk.
//!
//! Owns one file beside the store's, that nobody reads: given up, it leaves room for DELs to be recorded, and for
//! whatever is under way. Does not decide when: the store's thread does.

use nix::fcntl::posix_fallocate;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Its size: sixteen pages. A transaction writes each page that it changes anew, which is a handful, and what it wrote
/// before is free for the next one.
pub(super) const SIZE: u32 = 64 * 1024;

/// The reserve.
#[derive(Debug)]
pub struct Reserve {
    path: PathBuf,
    laid: bool,
}

impl Reserve {
    /// The reserve of a store, as an earlier ipamd may have left it.
    pub(super) fn of(store: &Path) -> Reserve {
        let mut name = store.as_os_str().to_owned();
        name.push(".reserve");
        Reserve { path: PathBuf::from(name), laid: false }
    }

    pub(super) fn is_laid(&self) -> bool {
        self.laid
    }

    /// Lays it, whole or not at all.
    pub(super) fn lay(&mut self) -> io::Result<()> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&self.path);
        let whole = file.and_then(|file| Ok(posix_fallocate(&file, 0, i64::from(SIZE))?));
        self.laid = whole.is_ok();
        if whole.is_err() {
            let _ = fs::remove_file(&self.path);
        }
        whole
    }

    /// Gives its room up; false when there was none.
    pub(super) fn give_up(&mut self) -> bool {
        self.laid = false;
        fs::remove_file(&self.path).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn it_takes_its_room_and_gives_it_back() {
        let folder = tempfile::tempdir().unwrap();
        let mut reserve = Reserve::of(&folder.path().join("ipamd.redb"));
        assert!(!reserve.is_laid() && !reserve.give_up());
        for _ in 0..2 {
            reserve.lay().unwrap();
        }
        assert!(reserve.is_laid());
        let found = fs::metadata(&reserve.path).unwrap();
        assert!(found.blocks() * 512 >= u64::from(SIZE), "it is no hole: {} blocks", found.blocks());
        assert!(reserve.give_up() && !reserve.is_laid());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        let mut nowhere = Reserve::of(&folder.path().join("no/ipamd.redb"));
        assert!(nowhere.lay().is_err() && !nowhere.is_laid());
    }
}
