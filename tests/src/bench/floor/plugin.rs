//! The floor's plugin: environment and stdin to the daemon, with a socket from inside the sandbox; the answer to stdout.
//!
//! Owns nothing that lasts. It does not go back to its own namespace: a path's Unix socket is reached from any.

use super::{FAILED, MESSAGE_MAX, SOCKET};
use crate::bench::netlink;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, sendmsg, socket,
};
use std::error::Error;
use std::fs::File;
use std::io::{IoSlice, Read, Write, stdin, stdout};
use std::os::fd::AsRawFd;
use std::process::ExitCode;

/// Serves one call.
pub fn main() -> ExitCode {
    match run() {
        Ok(answer) if !answer.starts_with(FAILED.as_bytes()) => {
            let written = stdout().write_all(&answer);
            if written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Ok(answer) => fail(&String::from_utf8_lossy(&answer)),
        Err(error) => fail(&error.to_string()),
    }
}

#[allow(clippy::print_stdout)]
fn fail(what: &str) -> ExitCode {
    println!("{{\"cniVersion\":\"1.0.0\",\"code\":999,\"msg\":{what:?}}}");
    ExitCode::FAILURE
}

#[allow(clippy::disallowed_methods)]
fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

fn run() -> Result<Vec<u8>, Box<dyn Error>> {
    let verb = variable("CNI_COMMAND");
    let mut request =
        format!("{verb} {} {}\n", variable("CNI_CONTAINERID"), variable("CNI_IFNAME")).into_bytes();
    stdin().lock().read_to_end(&mut request)?;
    let mut inside = None;
    if verb == "ADD" {
        let netns = File::open(variable("CNI_NETNS"))?;
        setns(&netns, CloneFlags::CLONE_NEWNET)?;
        inside = Some((netns, netlink::open()?));
    }
    let fds: Vec<i32> =
        inside.iter().flat_map(|(netns, socket)| [netns.as_raw_fd(), socket.as_raw_fd()]).collect();
    let rights = [ControlMessage::ScmRights(&fds)];
    let daemon = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
    connect(daemon.as_raw_fd(), &UnixAddr::new(variable(SOCKET).as_str())?)?;
    let control = if fds.is_empty() { &[][..] } else { &rights[..] };
    sendmsg::<()>(daemon.as_raw_fd(), &[IoSlice::new(&request)], control, MsgFlags::MSG_NOSIGNAL, None)?;
    let mut answer = vec![0; MESSAGE_MAX];
    let length = recv(daemon.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    answer.truncate(length);
    if answer.is_empty() { Err("the daemon closed without an answer".into()) } else { Ok(answer) }
}
