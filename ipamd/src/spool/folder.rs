//! The spool's folder: what lies in it, one file at a time.
//!
//! Owns reading it within bounds, and throwing out what does not belong there: a file that is no tombstone, or not the
//! one that its name says, or too long, or no file at all, or half-written by a plugin that is gone. A file that cannot
//! be read is none of these: it stays, and is tried again. Does not decide what a tombstone means. Blocks, so it runs on
//! the spool's own thread.

use eni_proto::ids::AttachmentKey;
use eni_proto::spool::{self, FILE_MAX, Named, Tombstone};
use ipamd_core::time::Timestamp;
use nix::fcntl::{AT_FDCWD, OFlag, RenameFlags, renameat2};
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tracing::warn;

/// The most names of one look; the rest are the next one's. A node has a few hundred containers.
const NAMES_MOST: usize = 4096;
/// A plugin writes a few hundred bytes under its file's unfinished name: after this long it has been killed.
const UNFINISHED: Duration = Duration::from_secs(60);
/// The end of the name of a tombstone whose DEL is done, until it is seen to be the one that was done.
const SETTLING: &str = ".done";

/// The folder.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
}

/// What one look has found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Look {
    /// The names of tombstones.
    pub(super) names: Vec<String>,
    /// What was thrown out.
    pub(super) rejected: usize,
    /// There is more, and room was made for it.
    pub(super) more: bool,
}

/// What there is under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    /// A tombstone.
    Tombstone(Tombstone),
    /// Nothing, or what was thrown out; how much of the latter.
    Nothing {
        /// 0 or 1.
        rejected: usize,
    },
}

impl Folder {
    /// The folder at `path`, made when it is not there: root's and nobody else's, or refused.
    pub(super) fn ensure(path: &Path) -> io::Result<Folder> {
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        // A link would be followed to somebody else's folder.
        let found = fs::symlink_metadata(path)?;
        if !found.is_dir() || found.uid() != 0 || found.mode() & 0o022 != 0 {
            let text = "it must be a folder of root's, writable by nobody else: remove it";
            return Err(io::Error::other(text));
        }
        Ok(Folder { path: path.to_owned() })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Looks at all names, within the bound, and throws out what none of ours is.
    pub(super) fn look(&self, now: Timestamp) -> io::Result<Look> {
        let mut look = Look::default();
        for (seen, entry) in fs::read_dir(&self.path)?.enumerate() {
            if seen == NAMES_MOST {
                // Only what makes room lets the rest be reached: what cannot be thrown out must not be looked at for ever.
                look.more = look.rejected > 0 || !look.names.is_empty();
                break;
            }
            let name = entry?.file_name();
            let text = name.to_str().unwrap_or_default();
            if let Some(of) = text.strip_suffix(SETTLING).filter(|of| spool::named(of) == Named::Tombstone) {
                self.put_back(of)?;
                look.names.push(of.to_owned());
                continue;
            }
            match spool::named(text) {
                Named::Tombstone => look.names.push(text.to_owned()),
                Named::Unfinished { since_ns } if is_young(since_ns, now) => {}
                Named::Unfinished { .. } => {
                    look.rejected += self.reject(&self.path.join(&name), "it was never finished");
                }
                Named::Foreign => {
                    look.rejected += self.reject(&self.path.join(&name), "it is no tombstone's");
                }
            }
        }
        Ok(look)
    }

    /// What lies under the name of a tombstone. An error is unknown, not nothing.
    pub(super) fn read(&self, name: &str) -> io::Result<Found> {
        let path = self.path.join(name);
        match read_bounded(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Found::Nothing { rejected: 0 }),
            // ELOOP: a link, which was not followed.
            Err(error) if error.raw_os_error() == Some(nix::libc::ELOOP) => {
                Ok(self.nothing(&path, "it is a link"))
            }
            Err(error) => Err(error),
            Ok(None) => Ok(self.nothing(&path, "it is no file, or too long for a tombstone")),
            Ok(Some(text)) => match serde_json::from_slice::<Tombstone>(&text) {
                Ok(found) if spool::file_name(&found.key) == name => Ok(Found::Tombstone(found)),
                Ok(_) => Ok(self.nothing(&path, "it is another key's than its name says")),
                Err(error) => Ok(self.nothing(&path, &error.to_string())),
            },
        }
    }

    /// The tombstone of a key, if there is one.
    pub(super) fn of(&self, key: &AttachmentKey) -> io::Result<Option<Tombstone>> {
        match self.read(&spool::file_name(key))? {
            Found::Tombstone(found) => Ok(Some(found)),
            Found::Nothing { .. } => Ok(None),
        }
    }

    /// Unlinks a tombstone whose DEL is done; false when another one of its key has taken its place meanwhile, which
    /// stays.
    pub(super) fn settle(&self, tombstone: &Tombstone) -> io::Result<bool> {
        let name = spool::file_name(&tombstone.key);
        let aside = format!("{name}{SETTLING}");
        match fs::rename(self.path.join(&name), self.path.join(&aside)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
            other => other?,
        }
        // Nobody else writes this name: what is read now is what is unlinked.
        let text = read_bounded(&self.path.join(&aside))?.unwrap_or_default();
        if serde_json::from_slice::<Tombstone>(&text).is_ok_and(|found| found == *tombstone) {
            fs::remove_file(self.path.join(&aside))?;
            return Ok(true);
        }
        self.put_back(&name)?;
        Ok(false)
    }

    /// Gives a tombstone that was set aside its name again, unless a newer one has it.
    fn put_back(&self, name: &str) -> io::Result<()> {
        let (aside, place) = (self.path.join(format!("{name}{SETTLING}")), self.path.join(name));
        match renameat2(AT_FDCWD, &aside, AT_FDCWD, &place, RenameFlags::RENAME_NOREPLACE) {
            Ok(()) => Ok(()),
            Err(nix::errno::Errno::EEXIST) => fs::remove_file(&aside),
            Err(errno) => Err(errno.into()),
        }
    }

    fn nothing(&self, path: &Path, why: &str) -> Found {
        Found::Nothing { rejected: self.reject(path, why) }
    }

    /// Throws out what does not belong here; 1 when it is gone. A folder that holds something is left.
    fn reject(&self, path: &Path, why: &str) -> usize {
        let removed = match fs::symlink_metadata(path) {
            Ok(found) if found.is_dir() => fs::remove_dir(path),
            Ok(_) => fs::remove_file(path),
            Err(error) => Err(error),
        };
        match removed {
            Ok(()) => warn!(path = %path.display(), reason = why, "thrown out of the spool"),
            Err(error) => {
                warn!(path = %path.display(), reason = why, %error, "does not belong into the spool");
            }
        }
        usize::from(removed_now(path))
    }
}

fn removed_now(path: &Path) -> bool {
    fs::symlink_metadata(path).is_err_and(|error| error.kind() == ErrorKind::NotFound)
}

fn is_young(since_ns: u64, now: Timestamp) -> bool {
    let since = Timestamp::from_nanos(since_ns);
    since <= now && now - since < UNFINISHED
}

/// A regular file's bytes; none when it is no file or longer than a tombstone may be.
fn read_bounded(path: &Path) -> io::Result<Option<Vec<u8>>> {
    // A pipe must not be waited for, a link not be followed.
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = match OpenOptions::new().read(true).custom_flags(flags.bits()).open(path) {
        // A socket cannot be opened.
        Err(error) if error.raw_os_error() == Some(nix::libc::ENXIO) => return Ok(None),
        opened => opened?,
    };
    let found = file.metadata()?;
    if !found.is_file() || found.len() > FILE_MAX as u64 {
        return Ok(None);
    }
    let mut text = Vec::new();
    file.take(FILE_MAX as u64 + 1).read_to_end(&mut text)?;
    Ok((text.len() <= FILE_MAX).then_some(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use eni_proto::ids::BootId;
    use std::os::unix::fs::symlink;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    fn tombstone(container: &str, asked_ns: u64) -> Tombstone {
        let key = AttachmentKey {
            network: "vpc".parse().unwrap(),
            container: container.parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
        };
        Tombstone { version: 1, key, netns_cookie: None, asked_ns, boot: BootId::new("boot-1") }
    }

    fn put(folder: &Folder, tombstone: &Tombstone) -> String {
        let name = spool::file_name(&tombstone.key);
        fs::write(folder.path().join(&name), serde_json::to_vec(tombstone).unwrap()).unwrap();
        name
    }

    fn folder() -> (tempfile::TempDir, Folder) {
        let outer = tempfile::tempdir().unwrap();
        let folder = Folder::ensure(&outer.path().join("spool")).unwrap();
        (outer, folder)
    }

    fn names(folder: &Folder) -> Vec<String> {
        let entries = fs::read_dir(folder.path()).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn the_folder_is_made_for_root_alone_and_another_one_is_refused() {
        let (outer, folder) = folder();
        assert_eq!(fs::metadata(folder.path()).unwrap().mode() & 0o777, 0o700);
        assert!(Folder::ensure(folder.path()).is_ok(), "it stays");
        let bad = outer.path().join("bad");
        symlink(folder.path(), &bad).unwrap();
        assert!(Folder::ensure(&bad).is_err());
        fs::remove_file(&bad).unwrap();
        fs::write(&bad, "").unwrap();
        assert!(Folder::ensure(&bad).is_err());
    }

    #[test]
    fn what_is_no_tombstone_is_thrown_out_and_the_tombstones_are_found() {
        let (_outer, folder) = folder();
        let good = put(&folder, &tombstone("c1", 5));
        let wrong = spool::file_name(&tombstone("c2", 5).key);
        fs::copy(folder.path().join(&good), folder.path().join(&wrong)).unwrap();
        let half = spool::file_name(&tombstone("c3", 5).key);
        fs::write(folder.path().join(&half), "{\"version\":1,\"key\"").unwrap();
        let huge = spool::file_name(&tombstone("c4", 5).key);
        fs::write(folder.path().join(&huge), vec![b' '; FILE_MAX + 1]).unwrap();
        let link = spool::file_name(&tombstone("c5", 5).key);
        symlink("/etc/hostname", folder.path().join(&link)).unwrap();
        let pipe = spool::file_name(&tombstone("c6", 5).key);
        nix::unistd::mkfifo(&folder.path().join(&pipe), nix::sys::stat::Mode::S_IRUSR).unwrap();
        let inner = spool::file_name(&tombstone("c7", 5).key);
        fs::create_dir(folder.path().join(&inner)).unwrap();
        fs::write(folder.path().join("core.1"), "").unwrap();
        fs::create_dir_all(folder.path().join("kept/inside")).unwrap();
        let of = &tombstone("c8", 5).key;
        fs::write(folder.path().join(spool::unfinished_name(of, 1, 1)), "").unwrap();
        let young = spool::unfinished_name(of, 2, NOW.as_nanos());
        fs::write(folder.path().join(&young), "").unwrap();

        let look = folder.look(NOW).unwrap();
        assert_eq!((look.rejected, look.more), (2, false), "the foreign file and the old half of one");
        assert_eq!(look.names.len(), 7);
        let mut found = Vec::new();
        for name in &look.names {
            match folder.read(name).unwrap() {
                Found::Tombstone(tombstone) => found.push(tombstone),
                Found::Nothing { rejected } => assert_eq!(rejected, 1, "{name}"),
            }
        }
        assert_eq!(found, [tombstone("c1", 5)]);
        let mut left = [good, young, "kept".to_owned()];
        left.sort();
        assert_eq!(names(&folder), left);
        assert_eq!(folder.of(of).unwrap(), None);
        assert_eq!(folder.of(&tombstone("c1", 5).key).unwrap(), Some(tombstone("c1", 5)));
    }

    #[test]
    fn a_folder_full_of_rubbish_is_emptied_look_by_look() {
        let (_outer, folder) = folder();
        for n in 0..NAMES_MOST + 10 {
            fs::write(folder.path().join(format!("rubbish-{n}")), "").unwrap();
        }
        put(&folder, &tombstone("c1", 5));
        let (mut looks, mut rejected) = (0, 0);
        loop {
            let look = folder.look(NOW).unwrap();
            (looks, rejected) = (looks + 1, rejected + look.rejected);
            if !look.more {
                break;
            }
        }
        assert_eq!((looks, rejected), (2, NAMES_MOST + 10));
        assert_eq!(names(&folder).len(), 1);
    }

    #[test]
    fn only_the_tombstone_that_was_done_is_unlinked() {
        let (_outer, folder) = folder();
        put(&folder, &tombstone("c1", 9));
        assert!(!folder.settle(&tombstone("c1", 5)).unwrap(), "a newer one has its name");
        assert_eq!(folder.of(&tombstone("c1", 0).key).unwrap(), Some(tombstone("c1", 9)));
        assert!(folder.settle(&tombstone("c1", 9)).unwrap());
        assert_eq!(names(&folder), [""; 0]);
        assert!(folder.settle(&tombstone("c1", 9)).unwrap(), "gone is gone");
    }

    #[test]
    fn what_a_crash_left_aside_is_found_again() {
        let (_outer, folder) = folder();
        let name = put(&folder, &tombstone("c1", 5));
        let aside = folder.path().join(format!("{name}{SETTLING}"));
        fs::rename(folder.path().join(&name), &aside).unwrap();
        assert_eq!(folder.look(NOW).unwrap().names, std::slice::from_ref(&name));
        assert_eq!(names(&folder), std::slice::from_ref(&name));
        fs::write(&aside, "older").unwrap();
        folder.look(NOW).unwrap();
        assert_eq!(folder.read(&name).unwrap(), Found::Tombstone(tombstone("c1", 5)), "the newer one stays");
    }
}
