//! The calls that have no safe form.
//!
//! Owns one ioctl, integer socket options, a socket's packet filter, and two calls of the C library's allocator, which are
//! here because this is the one module of the daemon that may say `unsafe`.

#![allow(unsafe_code)]

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// `include/uapi/linux/sockios.h`: the network namespace of a socket; needs CAP_NET_ADMIN over it.
const SIOCGSKNS: libc::Ioctl = 0x894C;

/// The network namespace that a socket lives in.
pub(crate) fn socket_netns(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: SIOCGSKNS takes no argument and returns a new descriptor or -1.
    let fd = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCGSKNS) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sets an integer socket option.
pub(crate) fn set_option(socket: BorrowedFd<'_>, level: i32, name: i32, value: i32) -> io::Result<()> {
    let length = mem::size_of::<i32>() as libc::socklen_t;
    // SAFETY: `value` is an i32 that outlives the call, and `length` is its size.
    let done =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), length) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Bounds the C library's arenas to `arenas`. It gives each thread one of its own otherwise, and what a thread has freed
/// serves no other. To be called before the first thread is started.
pub fn bound_arenas(arenas: i32) {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt(3) takes two integers and changes only the allocator's own settings.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, arenas);
    }
    #[cfg(not(target_env = "gnu"))]
    let _ = arenas;
}

/// Gives freed memory back to the system; the C library keeps it for the next allocation otherwise.
pub fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) is thread-safe and touches only memory that nobody has allocated.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Gives a socket a packet filter: messages for which it returns 0 are not queued.
pub(crate) fn attach_filter(socket: BorrowedFd<'_>, program: &mut [libc::sock_filter]) -> io::Result<()> {
    let length = u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = libc::sock_fprog { len: length, filter: program.as_mut_ptr() };
    let size = mem::size_of::<libc::sock_fprog>() as libc::socklen_t;
    // SAFETY: `program` names a slice of `len` instructions; both outlive the call, and the kernel copies them.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            size,
        )
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
