//! A store's file that is of no use any more, kept beside the new one for whoever wants to know why.
//!
//! Owns the names of such files and how many are kept. Does not judge a file, nor read one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// How many are kept: the last two tell whether it happened again; more would fill the tmpfs that all of it lies on.
const KEPT: usize = 2;

fn numbered(path: &Path, number: usize) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".damaged-{number}"));
    PathBuf::from(name)
}

/// Moves the file aside; the newest is number 1, the oldest gives way. Where it is now.
pub(super) fn set_aside(path: &Path) -> io::Result<PathBuf> {
    for number in (1..KEPT).rev() {
        match fs::rename(numbered(path, number), numbered(path, number + 1)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    let aside = numbered(path, 1);
    fs::rename(path, &aside)?;
    Ok(aside)
}

/// Deletes what was kept: room on a full disk is worth more. Whether there was anything.
pub(super) fn delete_all(path: &Path) -> bool {
    (1..=KEPT).map(|number| fs::remove_file(numbered(path, number)).is_ok()).fold(false, |any, one| any | one)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_two_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ipamd.redb");
        for content in ["first", "second", "third"] {
            fs::write(&path, content).unwrap();
            assert_eq!(set_aside(&path).unwrap(), numbered(&path, 1));
            assert!(!path.exists());
        }
        let read = |number| fs::read_to_string(numbered(&path, number)).unwrap();
        assert_eq!((read(1), read(2)), ("third".into(), "second".into()));
        assert!(!numbered(&path, 3).exists());
        assert!(delete_all(&path));
        assert!(!delete_all(&path));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
