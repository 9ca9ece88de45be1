//! Descriptors that do not fit are an error, and those that did fit are closed. One test in a binary of its own: it
//! lowers the limit of open files of its process.

// All of this program is a test.
#![allow(clippy::unwrap_used)]

use eni_proto::fdpass;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use std::io::{ErrorKind, IoSlice};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;

#[test]
fn descriptors_over_the_limit_are_an_error_and_leak_nothing() {
    let (left, right) = UnixStream::pair().unwrap();
    let raw = [left.as_raw_fd(); 8];
    let control = [ControlMessage::ScmRights(&raw)];
    let send = || sendmsg::<()>(left.as_raw_fd(), &[IoSlice::new(b"x")], &control, MsgFlags::empty(), None);
    send().unwrap();
    send().unwrap();

    // Room for three more.
    let next = std::fs::File::open("/dev/null").unwrap().as_raw_fd() as u64;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, next + 3, hard).unwrap();
    for _ in 0..2 {
        let error = fdpass::recv_with_fds(right.as_fd(), &mut [0; 1]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        assert!(error.to_string().contains("MSG_CTRUNC"), "{error}");
    }
    assert_eq!(std::fs::File::open("/dev/null").unwrap().as_raw_fd() as u64, next, "a descriptor leaked");
}
