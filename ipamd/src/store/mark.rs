//! Whether the file at the store's path is still the one that was written last, as it was written.
//!
//! Owns the comparison: one look at the path before each commit, and one after, which cost a hundredth of it. redb holds its file open and locked, so it notices neither that the file
//! was deleted or replaced, nor that somebody wrote into it who does not ask for locks.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What the file was after the last commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    file: (u64, u64),
    written: (i64, i64),
}

/// What has become of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// As it was.
    Same,
    /// Gone, or another one has its name.
    TakenAway,
    /// Somebody else has written into it.
    Changed,
}

impl Mark {
    pub(super) fn of(path: &Path) -> io::Result<Mark> {
        let found = fs::metadata(path)?;
        Ok(Mark { file: (found.dev(), found.ino()), written: (found.mtime(), found.mtime_nsec()) })
    }

    /// Whether two are of one file, whatever was written into it.
    pub(super) fn same_file(&self, other: &Mark) -> bool {
        self.file == other.file
    }

    /// A path that cannot be looked at is as good as the same: the next commit says more.
    pub(super) fn compare(&self, path: &Path) -> Found {
        match Mark::of(path) {
            Ok(now) if !self.same_file(&now) => Found::TakenAway,
            Ok(now) if now != *self => Found::Changed,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Found::TakenAway,
            _ => Found::Same,
        }
    }

    /// After a commit. Another file of this name is left to be found by [`Mark::compare`].
    pub(super) fn renew(&mut self, path: &Path) {
        if let Ok(now) = Mark::of(path)
            && self.same_file(&now)
        {
            *self = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::time::{Duration, SystemTime};

    #[test]
    fn a_file_that_is_gone_replaced_or_written_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ipamd.redb");
        fs::write(&path, "a").unwrap();
        let mut mark = Mark::of(&path).unwrap();
        assert_eq!(mark.compare(&path), Found::Same);
        let later = SystemTime::UNIX_EPOCH + Duration::from_secs(7);
        File::options().write(true).open(&path).unwrap().set_modified(later).unwrap();
        assert_eq!(mark.compare(&path), Found::Changed);
        mark.renew(&path);
        assert_eq!(mark.compare(&path), Found::Same);
        fs::rename(&path, folder.path().join("kept")).unwrap();
        assert_eq!(mark.compare(&path), Found::TakenAway);
        fs::write(&path, "b").unwrap();
        mark.renew(&path);
        assert_eq!(mark.compare(&path), Found::TakenAway, "another file is not taken for it");
        assert_eq!(mark.compare(Path::new("/proc/1/no/such")), Found::TakenAway);
    }
}
