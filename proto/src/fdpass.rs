//! Descriptors over a Unix socket, and what is asked of a socket by its descriptor.
//!
//! Owns the control messages (SCM_RIGHTS) and the few socket options that nobody else offers safely. Each call is
//! one system call, so that a blocking and a non-blocking caller can both use it. Does not own frames, deadlines or
//! what a descriptor is good for.
//!
//! This is the one module of the crate that uses `unsafe`: a descriptor taken from a control message has no safe
//! constructor, and control messages that came truncated must still be walked so that what they carry is closed.

#![allow(unsafe_code)]

use nix::sys::socket::{ControlMessage, MsgFlags, getsockopt, sendmsg, sockopt};
use std::io::{self, IoSlice};
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// The most descriptors that the kernel puts into one message (SCM_MAX_FD).
pub const MAX_FDS: usize = 253;

// SAFETY: CMSG_SPACE computes a size from a size and touches no memory.
const CONTROL_ROOM: usize = unsafe { libc::CMSG_SPACE((MAX_FDS * mem::size_of::<RawFd>()) as u32) } as usize;

/// Room for control messages, aligned as `cmsghdr` wants it.
#[repr(C, align(8))]
struct Control([u8; CONTROL_ROOM]);

/// Sends `bytes`, the descriptor with the first of them. Returns how many bytes went: the rest is to be sent without
/// the descriptor. No SIGPIPE.
pub fn send_with_fd(socket: BorrowedFd<'_>, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<usize> {
    let iov = [IoSlice::new(bytes)];
    let raw = fd.map(|fd| [fd.as_raw_fd()]);
    let rights = raw.as_ref().map(|raw| [ControlMessage::ScmRights(raw)]);
    let control = rights.as_ref().map_or(&[][..], |rights| &rights[..]);
    Ok(sendmsg::<()>(socket.as_raw_fd(), &iov, control, MsgFlags::MSG_NOSIGNAL, None)?)
}

/// Receives what is there, at most `buf`, with the descriptors that came with it (close-on-exec; up to
/// [`MAX_FDS`], which is all that one message can carry). `Ok((0, _))` is the peer's end. WouldBlock passes through.
///
/// Descriptors that were cut off (MSG_CTRUNC: this process may open no more) are an error; those that arrived are
/// closed then.
pub fn recv_with_fds(socket: BorrowedFd<'_>, buf: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut control = Control([0; CONTROL_ROOM]);
    let mut iov = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    // SAFETY: msghdr is a plain C struct for which all zeroes is a valid value: no name, no buffers.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &mut iov;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = CONTROL_ROOM as _;
    // SAFETY: the message points at `iov` (over `buf`) and `control`, which outlive the call and are not otherwise
    // borrowed; both lengths are those of the buffers.
    let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &mut message, libc::MSG_CMSG_CLOEXEC) };
    if received < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the message was filled by a recvmsg that succeeded, and its control buffer is still alive.
    let fds = unsafe { take_fds(&message) };
    if message.msg_flags & libc::MSG_CTRUNC != 0 {
        let text = "descriptors were cut off (MSG_CTRUNC): this process has no room for more open files";
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok((received as usize, fds))
}

/// Takes all descriptors out of a received message.
///
/// # Safety
/// `message` was filled by a successful recvmsg, its control buffer is alive, and nobody took its descriptors yet.
unsafe fn take_fds(message: &libc::msghdr) -> Vec<OwnedFd> {
    let mut fds = Vec::new();
    // SAFETY: by the contract above the control buffer holds whole control messages, so the CMSG macros stay within
    // it; a SCM_RIGHTS message holds descriptors that the kernel has just made for this process alone.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
                let bytes = ((*header).cmsg_len as usize).saturating_sub(libc::CMSG_LEN(0) as usize);
                let data = libc::CMSG_DATA(header).cast::<RawFd>();
                for index in 0..bytes / mem::size_of::<RawFd>() {
                    fds.push(OwnedFd::from_raw_fd(data.add(index).read_unaligned()));
                }
            }
            header = libc::CMSG_NXTHDR(message, header);
        }
    }
    fds
}

/// Who is at the other end: uid and process id at the time of its connect (SO_PEERCRED).
pub fn peer_uid_pid(socket: BorrowedFd<'_>) -> io::Result<(u32, i32)> {
    let peer = getsockopt(&socket, sockopt::PeerCredentials)?;
    Ok((peer.uid(), peer.pid()))
}

/// The cookie of the network namespace that a socket lives in (SO_NETNS_COOKIE, Linux 5.14): unique within a boot.
/// An older kernel answers ENOPROTOOPT.
pub fn netns_cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    const SO_NETNS_COOKIE: libc::c_int = 71;
    option(socket, SO_NETNS_COOKIE)
}

/// Whether a descriptor is a NETLINK_ROUTE socket: what ADD must and DEL may bring.
pub fn is_route_socket(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let domain: libc::c_int = option(fd, libc::SO_DOMAIN)?;
    let protocol: libc::c_int = option(fd, libc::SO_PROTOCOL)?;
    Ok(domain == libc::AF_NETLINK && protocol == libc::NETLINK_ROUTE)
}

/// An integer option of level SOL_SOCKET.
fn option<T: Copy + Default + Into<i128>>(socket: BorrowedFd<'_>, name: libc::c_int) -> io::Result<T> {
    let mut value = T::default();
    let mut length = mem::size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` is an integer (all bit patterns are valid) and `length` is its size, so the kernel writes within
    // it.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, name, (&raw mut value).cast(), &mut length)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(value) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
    use std::fs::File;
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    fn route_socket() -> OwnedFd {
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)
            .unwrap()
    }

    #[test]
    fn a_descriptor_comes_with_the_first_byte_and_closes_on_exec() {
        let (left, right) = UnixStream::pair().unwrap();
        let netlink = route_socket();
        assert_eq!(send_with_fd(left.as_fd(), b"hello", Some(netlink.as_fd())).unwrap(), 5);
        let mut first = [0; 1];
        let (length, fds) = recv_with_fds(right.as_fd(), &mut first).unwrap();
        assert_eq!((length, &first, fds.len()), (1, b"h", 1));
        assert!(is_route_socket(fds[0].as_fd()).unwrap());
        assert_eq!(netns_cookie(fds[0].as_fd()).unwrap(), netns_cookie(netlink.as_fd()).unwrap());
        let flags = fcntl(&fds[0], FcntlArg::F_GETFD).unwrap();
        assert!(FdFlag::from_bits_truncate(flags).contains(FdFlag::FD_CLOEXEC));
        let mut rest = [0; 64];
        let (length, fds) = recv_with_fds(right.as_fd(), &mut rest).unwrap();
        assert_eq!((&rest[..length], fds.len()), (&b"ello"[..], 0));
    }

    #[test]
    fn as_many_as_the_kernel_allows_are_received_and_closed() {
        let (left, right) = UnixStream::pair().unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        let raw = [writer.as_raw_fd(); MAX_FDS];
        let control = [ControlMessage::ScmRights(&raw)];
        sendmsg::<()>(left.as_raw_fd(), &[IoSlice::new(b"x")], &control, MsgFlags::empty(), None).unwrap();
        drop(writer);
        let (length, fds) = recv_with_fds(right.as_fd(), &mut [0; 8]).unwrap();
        assert_eq!((length, fds.len()), (1, MAX_FDS));
        drop(fds);
        // Nobody holds the pipe's other end any more: all were closed.
        assert_eq!(std::io::Read::read(&mut &reader, &mut [0; 1]).unwrap(), 0);
    }

    #[test]
    fn a_non_blocking_socket_says_would_block_and_an_ended_one_says_zero() {
        let (mut left, right) = UnixStream::pair().unwrap();
        right.set_nonblocking(true).unwrap();
        let error = recv_with_fds(right.as_fd(), &mut [0; 8]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        left.write_all(b"a").unwrap();
        drop(left);
        assert_eq!(recv_with_fds(right.as_fd(), &mut [0; 8]).unwrap().0, 1);
        assert_eq!(recv_with_fds(right.as_fd(), &mut [0; 8]).unwrap().0, 0);
    }

    #[test]
    fn peers_and_kinds_are_told() {
        let (left, _right) = UnixStream::pair().unwrap();
        let (uid, pid) = peer_uid_pid(left.as_fd()).unwrap();
        assert_eq!((uid, pid), (nix::unistd::Uid::current().as_raw(), std::process::id() as i32));
        assert!(!is_route_socket(left.as_fd()).unwrap());
        let file = File::open("/dev/null").unwrap();
        assert!(is_route_socket(file.as_fd()).is_err());
    }
}
