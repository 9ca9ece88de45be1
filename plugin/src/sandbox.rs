//! The sandbox's network namespace: one netlink socket from inside it.
//!
//! Owns entering it and leaving again, and the check that it is not the plugin's own, made before anything else is
//! done. The path is opened once and only that descriptor is used. Does not own what is done with the socket: ipamd
//! gets it and asks the kernel through it.

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use nix::sys::stat::{Mode, fstat};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};

/// Where the calling thread's own namespace is found.
const OWN: &str = "/proc/thread-self/ns/net";

/// Why there is no socket: error 8.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum SandboxError {
    /// CNI_NETNS cannot be opened.
    Open { path: String, errno: Errno },
    /// CNI_NETNS is no namespace: a plain file is what a bind mount leaves behind, or what it looks like where its
    /// mount did not propagate to.
    NotNamespace { path: String },
    /// CNI_NETNS is the network namespace that the plugin runs in.
    Own { path: String },
    /// The plugin's own namespace cannot be opened or looked at.
    OwnUnknown { errno: Errno },
    /// The kernel refused to enter: a namespace of another kind (EINVAL), or no right to (EPERM).
    Enter { path: String, errno: Errno },
    /// No netlink socket inside.
    Socket { path: String, errno: Errno },
    /// The way back failed.
    Leave { errno: Errno },
}

impl fmt::Display for SandboxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SandboxError::Open { path, errno } => write!(f, "CNI_NETNS {path:?} cannot be opened: {errno}"),
            SandboxError::NotNamespace { path } => write!(f, "CNI_NETNS {path:?} is not a namespace"),
            SandboxError::Own { path } => {
                write!(f, "CNI_NETNS {path:?} is the network namespace that the plugin itself runs in")
            }
            SandboxError::OwnUnknown { errno } => write!(f, "{OWN} cannot be opened: {errno}"),
            SandboxError::Enter { path, errno } => write!(f, "CNI_NETNS {path:?} cannot be entered: {errno}"),
            SandboxError::Socket { path, errno } => {
                write!(f, "no netlink socket can be opened in CNI_NETNS {path:?}: {errno}")
            }
            SandboxError::Leave { errno } => write!(f, "CNI_NETNS cannot be left again: {errno}"),
        }
    }
}

impl std::error::Error for SandboxError {}

/// A NETLINK_ROUTE socket from inside the network namespace at `path`; the thread is back in its own when it returns.
pub(crate) fn open_socket(path: &str, own_allowed: bool) -> Result<OwnedFd, SandboxError> {
    // O_NONBLOCK: a path that names a pipe must not make the plugin wait for a writer.
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let target = open(path, flags, Mode::empty())
        .map_err(|errno| SandboxError::Open { path: path.to_owned(), errno })?;
    let kind = fstatfs(&target).map_err(|errno| SandboxError::Open { path: path.to_owned(), errno })?;
    if kind.filesystem_type() != NSFS_MAGIC {
        return Err(SandboxError::NotNamespace { path: path.to_owned() });
    }
    let own = open(OWN, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(|errno| SandboxError::OwnUnknown { errno })?;
    if !own_allowed && is_same(&own, &target).map_err(|errno| SandboxError::OwnUnknown { errno })? {
        return Err(SandboxError::Own { path: path.to_owned() });
    }
    setns(&target, CloneFlags::CLONE_NEWNET)
        .map_err(|errno| SandboxError::Enter { path: path.to_owned(), errno })?;
    let inside =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute);
    setns(&own, CloneFlags::CLONE_NEWNET).map_err(|errno| SandboxError::Leave { errno })?;
    inside.map_err(|errno| SandboxError::Socket { path: path.to_owned(), errno })
}

/// Two open descriptors of one namespace. Inode numbers may be compared here: both are held, so neither is reused.
fn is_same(one: impl AsFd, other: impl AsFd) -> nix::Result<bool> {
    let (one, other) = (fstat(one)?, fstat(other)?);
    Ok((one.st_dev, one.st_ino) == (other.st_dev, other.st_ino))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_namespace_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let (absent, plain, pipe) = (path("absent"), path("plain"), path("pipe"));
        std::fs::write(&plain, "").unwrap();
        nix::unistd::mkfifo(pipe.as_str(), Mode::S_IRUSR).unwrap();
        let error = open_socket(&absent, false).unwrap_err();
        assert_eq!(error, SandboxError::Open { path: absent, errno: Errno::ENOENT });
        for path in [plain, pipe, "/dev/null".to_owned()] {
            assert_eq!(open_socket(&path, false).unwrap_err(), SandboxError::NotNamespace { path });
        }
    }

    #[test]
    fn the_own_namespace_is_refused_before_it_is_entered() {
        let error = open_socket("/proc/self/ns/net", false).unwrap_err();
        assert_eq!(error, SandboxError::Own { path: "/proc/self/ns/net".into() });
    }

    #[test]
    fn a_namespace_of_another_kind_is_refused() {
        let error = open_socket("/proc/self/ns/uts", false).unwrap_err();
        assert!(matches!(error, SandboxError::Enter { .. }), "{error}");
    }
}
