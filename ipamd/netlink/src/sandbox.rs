//! A sandbox, as a plugin hands it over: a NETLINK_ROUTE socket that was opened inside its network namespace.
//!
//! Owns the descriptor and its checks. Dropping it closes the descriptor: a held one keeps a dead sandbox's links
//! alive for ever. Does not enter the namespace: messages sent on the socket act in it.

use crate::sys;
use eni_proto::fdpass;
use eni_proto::ids::NetnsCookie;
use ipamd_core::owner::event::PathSight;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use nix::sys::statfs::{NSFS_MAGIC, statfs};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A sandbox's socket.
#[derive(Debug)]
pub struct SandboxSocket {
    fd: OwnedFd,
    cookie: NetnsCookie,
    path: String,
}

/// Why a descriptor is no sandbox's.
#[derive(Debug, thiserror::Error)]
pub enum SandboxSocketError {
    /// It is no NETLINK_ROUTE socket.
    #[error("it is no NETLINK_ROUTE socket")]
    OtherKind,
    /// It was opened in the host's own network namespace.
    #[error("it was opened in the host's own network namespace")]
    OfTheHost,
    /// The kernel did not tell what it is.
    #[error("it could not be read: {0}")]
    Unreadable(io::Error),
    /// SO_NETNS_COOKIE is not there.
    #[error("this kernel does not tell a network namespace's cookie: 5.14 or later is needed")]
    NoCookie,
}

impl SandboxSocket {
    /// Checks a descriptor that a plugin passed; closes it when it is refused. `host` is the cookie of the host's own
    /// network namespace, as [`own_cookie`] tells it.
    pub fn check(fd: OwnedFd, host: NetnsCookie) -> Result<SandboxSocket, SandboxSocketError> {
        match fdpass::is_route_socket(fd.as_fd()) {
            Ok(true) => {}
            Ok(false) => return Err(SandboxSocketError::OtherKind),
            Err(error) if error.raw_os_error() == Some(libc::ENOTSOCK) => {
                return Err(SandboxSocketError::OtherKind);
            }
            Err(error) => return Err(SandboxSocketError::Unreadable(error)),
        }
        let cookie = cookie(fd.as_fd())?;
        if cookie == host {
            Err(SandboxSocketError::OfTheHost)
        } else {
            Ok(SandboxSocket { fd, cookie, path: String::new() })
        }
    }

    /// With the path by which the runtime named its namespace.
    #[must_use]
    pub fn named(self, path: &str) -> SandboxSocket {
        SandboxSocket { path: path.to_owned(), ..self }
    }

    /// What that path says now.
    pub fn sight(&self) -> PathSight {
        sight(&self.path)
    }

    /// The cookie of the sandbox's network namespace.
    pub fn cookie(&self) -> NetnsCookie {
        self.cookie
    }

    /// A descriptor of the sandbox's network namespace itself.
    pub(crate) fn netns(&self) -> io::Result<OwnedFd> {
        sys::socket_netns(self.fd.as_fd())
    }
}

/// What the path says by which a runtime named a sandbox: only what lies on nsfs is believed to be a namespace. Without
/// mount propagation the path of one that lives is a plain empty file.
pub fn sight(path: &str) -> PathSight {
    if !path.starts_with('/') {
        return PathSight::Unknown;
    }
    match statfs(path) {
        Ok(found) if found.filesystem_type() == NSFS_MAGIC => PathSight::Namespace,
        Err(Errno::ENOENT) => PathSight::Absent,
        Ok(_) | Err(_) => PathSight::Unknown,
    }
}

impl AsFd for SandboxSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The cookie of the network namespace that a socket lives in.
pub(crate) fn cookie(socket: BorrowedFd<'_>) -> Result<NetnsCookie, SandboxSocketError> {
    match fdpass::netns_cookie(socket) {
        Ok(cookie) => Ok(NetnsCookie(cookie)),
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Err(SandboxSocketError::NoCookie),
        Err(error) => Err(SandboxSocketError::Unreadable(error)),
    }
}

/// The cookie of the calling thread's network namespace.
pub fn own_cookie() -> Result<NetnsCookie, SandboxSocketError> {
    let made =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute);
    cookie(made.map_err(|errno| SandboxSocketError::Unreadable(errno.into()))?.as_fd())
}
