//! Talking netlink on a blocking socket: batches with every refusal read, answers and dumps that are whole or fail.
//!
//! Owns the range of port numbers by which our own changes are told from others', sequence numbers, acknowledgements, extended error texts, time-outs and interrupted dumps. Only the kernel's
//! answers are believed: whoever may send in a sandbox can send to its socket, too. Knows nothing of what the messages
//! mean.

use crate::answer::{Header, NLMSG_DONE, NLMSG_ERROR, Refusal, messages, refusal};
use crate::fail_point;
use crate::stats::{Counters, Family};
use crate::sys;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvmsg, send, setsockopt,
    socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// How long the kernel may take to answer. It answers within the send; a wait means that the answer was lost.
const ANSWER_SECONDS: i64 = 5;
/// How often an interrupted dump is begun again.
const DUMP_TRIES: usize = 20;
/// One read: the kernel fills at most 32 KiB of it for a dump.
const READ: usize = 64 * 1024;
/// The most reads that answer one send: an end for a socket on which somebody else's messages never end.
const READS_MAX: usize = 4096;
/// The most reads of one dump inside a sandbox: 4 MiB, some sixty thousand routes.
const SANDBOX_READS: usize = 128;
/// The most messages of one send: their answers fit a receive buffer of the smallest usual size.
pub(crate) const BATCH_MAX: usize = 32;
/// The most requests of one send whose answer is a whole link (2 KiB with all its attributes).
const GET_MAX: usize = 16;

pub(crate) const SOL_NETLINK: i32 = 270;
/// The upper half of our sockets' port numbers: above every process id, which is what the kernel gives first, and below
/// the range it falls back to. A notification tells the port of who made the change.
const OUR_PORTS: u32 = (OUR_PORTS_HALF as u32) << 16;
/// The upper half of these.
pub(crate) const OUR_PORTS_HALF: u16 = 0x0ec1;
/// How often another port is tried.
const PORT_TRIES: usize = 8;
const NLM_F_DUMP_INTR: u16 = 0x10;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// The kernel refused the message.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The socket failed.
    #[error("the netlink socket failed: {0}")]
    Io(#[from] io::Error),
    /// A dump was interrupted by changes each time.
    #[error("the dump was interrupted {DUMP_TRIES} times by changes")]
    Interrupted,
    /// What came is not what was asked for.
    #[error("the kernel's answer is not understood: {0}")]
    Malformed(&'static str),
}

impl CallError {
    /// The kernel's errno, when it refused.
    pub(crate) fn errno(&self) -> Option<i32> {
        match self {
            CallError::Refused(refusal) => Some(refusal.errno),
            _ => None,
        }
    }
}

/// A netlink socket of ours, in the network namespace that it was opened in.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    family: Family,
    sequence: u32,
    buffer: Vec<u8>,
    counters: Arc<Counters>,
}

impl Socket {
    /// A socket in the caller's network namespace.
    pub(crate) fn open(family: Family, counters: Arc<Counters>) -> io::Result<Socket> {
        // Not to be guessed by who wants to answer in the kernel's place.
        let sequence = RandomState::new().hash_one(0) as u32;
        Ok(Socket { fd: open(family)?, family, sequence, buffer: vec![0; READ], counters })
    }

    /// Sends messages and reads until the last is answered. All refusals, in order. Up to [`BATCH_MAX`] go in one send.
    ///
    /// The kernel takes them one after the other and answers a refused one in any case, so only the last need ask for
    /// an acknowledgement: whatever was not refused before it came was done. That is one read instead of one per message.
    pub(crate) fn batch(&mut self, messages: Vec<Vec<u8>>) -> io::Result<Vec<Refusal>> {
        self.batch_on(None, messages)
    }

    /// The same on a sandbox's socket, which lives in the sandbox's network namespace.
    pub(crate) fn batch_in(
        &mut self,
        sandbox: BorrowedFd<'_>,
        messages: Vec<Vec<u8>>,
    ) -> io::Result<Vec<Refusal>> {
        self.batch_on(Some(sandbox), messages)
    }

    fn batch_on(
        &mut self,
        other: Option<BorrowedFd<'_>>,
        mut messages: Vec<Vec<u8>>,
    ) -> io::Result<Vec<Refusal>> {
        let mut refusals = Vec::new();
        for (chunk, part) in messages.chunks_mut(BATCH_MAX).enumerate() {
            let first = self.take(part.len());
            let fd = other.unwrap_or(self.fd.as_fd());
            let last = part.len() - 1;
            part[..last].iter_mut().for_each(|message| ask_for_no_acknowledgement(message));
            transmit(fd, first, part)?;
            self.counters.sent(self.family, part.len());
            read_until(fd, &mut self.buffer, |header, body| {
                let index = header.sequence.wrapping_sub(first) as usize;
                if header.kind == NLMSG_ERROR && index <= last {
                    refusals.extend(refusal(header, body, chunk * BATCH_MAX + index));
                }
                header.kind == NLMSG_ERROR && index == last
            })?;
        }
        refusals.iter().for_each(|_| self.counters.refused(self.family));
        refusals.sort_by_key(|refusal| refusal.index);
        Ok(refusals)
    }

    /// One message; an error is a refusal.
    pub(crate) fn call(&mut self, message: Vec<u8>) -> Result<(), CallError> {
        match self.batch(vec![message])?.into_iter().next() {
            None => Ok(()),
            Some(refusal) => Err(refusal.into()),
        }
    }

    /// The answer to one request: the body of the message of `kind`.
    pub(crate) fn get(&mut self, request: Vec<u8>, kind: u16) -> Result<Vec<u8>, CallError> {
        self.get_on(None, vec![request], kind)?.remove(0)
    }

    /// The same in a sandbox.
    pub(crate) fn get_in(
        &mut self,
        sandbox: BorrowedFd<'_>,
        request: Vec<u8>,
        kind: u16,
    ) -> Result<Vec<u8>, CallError> {
        self.get_on(Some(sandbox), vec![request], kind)?.remove(0)
    }

    /// The answers to requests, each of which asks for one message and an acknowledgement, in their order.
    pub(crate) fn get_all(
        &mut self,
        requests: Vec<Vec<u8>>,
        kind: u16,
    ) -> io::Result<Vec<Result<Vec<u8>, CallError>>> {
        self.get_on(None, requests, kind)
    }

    fn get_on(
        &mut self,
        other: Option<BorrowedFd<'_>>,
        mut requests: Vec<Vec<u8>>,
        kind: u16,
    ) -> io::Result<Vec<Result<Vec<u8>, CallError>>> {
        let mut answers: Vec<Result<Vec<u8>, CallError>> = Vec::with_capacity(requests.len());
        for part in requests.chunks_mut(GET_MAX) {
            let first = self.take(part.len());
            let fd = other.unwrap_or(self.fd.as_fd());
            transmit(fd, first, part)?;
            self.counters.sent(self.family, part.len());
            let base = answers.len();
            answers.extend(part.iter().map(|_| Err(CallError::Malformed("no answer before its end"))));
            let mut open = Open::new(part.len());
            read_until(fd, &mut self.buffer, |header, body| {
                let index = header.sequence.wrapping_sub(first) as usize;
                if index < part.len() && header.kind == kind {
                    answers[base + index] = Ok(body.to_vec());
                } else if header.kind == NLMSG_ERROR
                    && open.close(index)
                    && let Some(refusal) = refusal(header, body, index)
                {
                    self.counters.refused(self.family);
                    answers[base + index] = Err(refusal.into());
                }
                open.none()
            })?;
        }
        Ok(answers)
    }

    /// A dump on a sandbox's socket, as [`Socket::dump`]. Who lives in a sandbox may fill its tables without end: more
    /// than [`SANDBOX_READS`] reads of it are an error.
    pub(crate) fn dump_in<T>(
        &mut self,
        sandbox: BorrowedFd<'_>,
        request: &[u8],
        kind: u16,
        read: impl Fn(&[u8]) -> Option<Option<T>>,
    ) -> Result<Vec<T>, CallError> {
        for _ in 0..DUMP_TRIES {
            if let Some(all) = self.dump_once(Some(sandbox), request, kind, &read)? {
                return Ok(all);
            }
        }
        Err(CallError::Interrupted)
    }

    /// A dump: what `read` makes of every message of `kind`, whole, or an error. `read` answers `None` for a message
    /// that is not what it should be, which fails the dump, and `Some(None)` for one to be left out.
    pub(crate) fn dump<T>(
        &mut self,
        request: &[u8],
        kind: u16,
        read: impl Fn(&[u8]) -> Option<Option<T>>,
    ) -> Result<Vec<T>, CallError> {
        for _ in 0..DUMP_TRIES {
            match self.dump_once(None, request, kind, &read) {
                Ok(Some(all)) => return Ok(all),
                Ok(None) => {}
                Err(error) => {
                    // The kernel runs one dump per socket: one that did not end would refuse the next.
                    if let CallError::Io(_) = error {
                        self.fd = open(self.family)?;
                    }
                    return Err(error);
                }
            }
        }
        Err(CallError::Interrupted)
    }

    fn dump_once<T>(
        &mut self,
        sandbox: Option<BorrowedFd<'_>>,
        request: &[u8],
        kind: u16,
        read: impl Fn(&[u8]) -> Option<Option<T>>,
    ) -> Result<Option<Vec<T>>, CallError> {
        let sequence = self.take(1);
        let fd = sandbox.unwrap_or(self.fd.as_fd());
        transmit(fd, sequence, &mut [request.to_vec()])?;
        self.counters.sent(self.family, 1);
        let (mut all, mut interrupted, mut malformed, mut refused) = (Vec::new(), false, false, None);
        let (mut ended, mut reads) = (false, 0);
        while !ended {
            reads += 1;
            if sandbox.is_some() && reads > SANDBOX_READS {
                return Err(CallError::Malformed("more than can be looked at lies in the sandbox"));
            }
            read_until(fd, &mut self.buffer, |header, body| {
                if header.sequence != sequence {
                    return false;
                }
                interrupted |= header.flags & NLM_F_DUMP_INTR != 0;
                if header.kind == NLMSG_DONE || header.kind == NLMSG_ERROR {
                    refused = refusal(header, body, 0);
                    ended = true;
                } else if header.kind == kind {
                    match read(body) {
                        Some(item) => all.extend(item),
                        None => malformed = true,
                    }
                }
                true
            })?;
        }
        if let Some(refusal) = refused {
            self.counters.refused(self.family);
            return Err(refusal.into());
        }
        if malformed {
            return Err(CallError::Malformed("a message of the dump lacks what all of its kind have"));
        }
        Ok((!interrupted).then_some(all))
    }

    /// Sends a transaction of nfnetlink: a begin, one message that asks for an acknowledgement, an end. The errno of the
    /// refusal, of whichever of them.
    pub(crate) fn transaction(&mut self, messages: &mut [Vec<u8>; 3]) -> io::Result<Option<i32>> {
        let first = self.take(messages.len());
        transmit(self.fd.as_fd(), first, messages)?;
        self.counters.sent(self.family, messages.len());
        let mut answer = None;
        read_until(self.fd.as_fd(), &mut self.buffer, |header, body| {
            let index = header.sequence.wrapping_sub(first) as usize;
            if header.kind == NLMSG_ERROR && index < messages.len() && answer.is_none() {
                answer = refusal(header, body, index).map(|refusal| refusal.errno);
                return answer.is_some() || index == 1;
            }
            false
        })?;
        Ok(answer)
    }

    /// The first of `count` sequence numbers that nobody used lately.
    fn take(&mut self, count: usize) -> u32 {
        let first = self.sequence;
        self.sequence = self.sequence.wrapping_add(count as u32);
        first
    }
}

/// The requests of one send whose acknowledgement has not come.
struct Open(Vec<bool>);

impl Open {
    fn new(requests: usize) -> Open {
        Open(vec![true; requests])
    }

    /// Takes one acknowledgement; false for one of another send, or a second one.
    fn close(&mut self, index: usize) -> bool {
        self.0.get_mut(index).is_some_and(std::mem::take)
    }

    fn none(&self) -> bool {
        !self.0.contains(&true)
    }
}

fn open(family: Family) -> io::Result<OwnedFd> {
    let protocol = match family {
        Family::Route => SockProtocol::NetlinkRoute,
        Family::Netfilter => SockProtocol::NetlinkNetFilter,
    };
    let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
    for _ in 0..PORT_TRIES {
        let lower = RandomState::new().hash_one(0) as u32 & 0xffff;
        match bind(fd.as_raw_fd(), &NetlinkAddr::new(OUR_PORTS | lower, 0)) {
            Ok(()) => break,
            Err(Errno::EADDRINUSE) => {}
            Err(error) => return Err(error.into()),
        }
    }
    prepare(fd.as_fd())?;
    if family == Family::Route {
        check_strictly(fd.as_fd())?;
    }
    Ok(fd)
}

/// Whether a port is of a socket of ours, or of an ipamd before.
pub(crate) fn is_ours(port: u32) -> bool {
    port & 0xffff_0000 == OUR_PORTS
}

/// Makes the kernel take a dump's filters for what they are, instead of leaving them out.
pub(crate) fn check_strictly(fd: BorrowedFd<'_>) -> io::Result<()> {
    const NETLINK_GET_STRICT_CHK: i32 = 12;
    sys::set_option(fd, SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1)
}

/// A time-out for answers, and extended errors without the request's echo.
pub(crate) fn prepare(fd: BorrowedFd<'_>) -> io::Result<()> {
    const NETLINK_CAP_ACK: i32 = 10;
    const NETLINK_EXT_ACK: i32 = 11;
    setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::seconds(ANSWER_SECONDS))?;
    for option in [NETLINK_CAP_ACK, NETLINK_EXT_ACK] {
        sys::set_option(fd, SOL_NETLINK, option, 1)?;
    }
    Ok(())
}

/// Takes NLM_F_ACK out of a message's header: a refusal is answered all the same.
fn ask_for_no_acknowledgement(message: &mut [u8]) {
    const NLM_F_ACK: u16 = 4;
    let flags = u16::from_ne_bytes([message[6], message[7]]) & !NLM_F_ACK;
    message[6..8].copy_from_slice(&flags.to_ne_bytes());
}

/// Prepares a socket that somebody else opened: as [`prepare`], and what lies in it is thrown away.
pub(crate) fn adopt(fd: BorrowedFd<'_>) -> io::Result<()> {
    prepare(fd)?;
    let mut byte = [0];
    for _ in 0..READS_MAX {
        match receive(fd, &mut byte, MsgFlags::MSG_DONTWAIT) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            // Its buffer ran over before: said once, and cleared by that.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other(format!("more than {READS_MAX} messages lay in it")))
}

/// One read: its whole length, also of what did not fit, and whether the kernel has sent it.
pub(crate) fn receive(fd: BorrowedFd<'_>, buffer: &mut [u8], flags: MsgFlags) -> io::Result<(usize, bool)> {
    const KERNEL: u32 = 0;
    let mut parts = [IoSliceMut::new(buffer)];
    let read = recvmsg::<NetlinkAddr>(fd.as_raw_fd(), &mut parts, None, flags | MsgFlags::MSG_TRUNC)?;
    Ok((read.bytes, read.address.is_some_and(|sender| sender.pid() == KERNEL)))
}

/// Numbers the messages from `first` on and sends them in one call.
fn transmit(fd: BorrowedFd<'_>, first: u32, messages: &mut [Vec<u8>]) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(messages.iter().map(Vec::len).sum());
    for (index, message) in messages.iter_mut().enumerate() {
        message[8..12].copy_from_slice(&first.wrapping_add(index as u32).to_ne_bytes());
        bytes.extend_from_slice(message);
    }
    fail_point::pass("send.before");
    loop {
        match send(fd.as_raw_fd(), &bytes, MsgFlags::empty()) {
            Err(Errno::EINTR) => {}
            done => {
                fail_point::pass("send.after");
                return done.map(|_| ()).map_err(Into::into);
            }
        }
    }
}

/// Reads messages until `enough` says so at the end of one.
fn read_until(
    fd: BorrowedFd<'_>,
    buffer: &mut [u8],
    mut enough: impl FnMut(Header, &[u8]) -> bool,
) -> io::Result<()> {
    let mut done = false;
    for _ in 0..READS_MAX {
        let length = match receive(fd, buffer, MsgFlags::empty()) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Ok((_, false)) => continue,
            read => read?.0,
        };
        let whole =
            buffer.get(..length).ok_or_else(|| io::Error::other("a message is larger than 64 KiB"))?;
        for (header, body) in messages(whole) {
            done |= enough(header, body);
        }
        if done {
            return Ok(());
        }
    }
    Err(io::Error::other(format!("no answer among {READS_MAX} messages")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{getsockname, sendto};

    /// A netlink socket on which processes may talk to each other, and its number.
    fn user_socket() -> (OwnedFd, u32) {
        let made = SockProtocol::NetlinkUserSock;
        let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, made).unwrap();
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0)).unwrap();
        let number = getsockname::<NetlinkAddr>(fd.as_raw_fd()).unwrap().pid();
        (fd, number)
    }

    /// An acknowledgement, as the kernel writes one.
    fn acknowledgement(sequence: u32) -> Vec<u8> {
        let mut bytes = 36u32.to_ne_bytes().to_vec();
        bytes.extend_from_slice(&NLMSG_ERROR.to_ne_bytes());
        bytes.extend_from_slice(&[0; 2]);
        bytes.extend_from_slice(&sequence.to_ne_bytes());
        bytes.resize(36, 0);
        bytes
    }

    #[test]
    fn what_another_process_sends_is_no_answer() {
        let ((ours, number), (forger, _)) = (user_socket(), user_socket());
        setsockopt(&ours, sockopt::ReceiveTimeout, &TimeVal::milliseconds(100)).unwrap();
        let forge = |sequence| {
            let to = NetlinkAddr::new(number, 0);
            sendto(forger.as_raw_fd(), &acknowledgement(sequence), &to, MsgFlags::empty()).unwrap();
        };
        forge(7);
        let mut believed = 0;
        let error = read_until(ours.as_fd(), &mut [0; 256], |_, _| {
            believed += 1;
            true
        });
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::WouldBlock, "nobody has answered");
        assert_eq!(believed, 0);
        for sequence in 0..50 {
            forge(sequence);
        }
        adopt(ours.as_fd()).unwrap();
        let left = receive(ours.as_fd(), &mut [0; 256], MsgFlags::MSG_DONTWAIT);
        assert_eq!(left.unwrap_err().kind(), io::ErrorKind::WouldBlock, "what lay in it is thrown away");
    }

    #[test]
    fn a_second_acknowledgement_of_one_request_counts_for_nothing() {
        let mut open = Open::new(2);
        assert!(open.close(0) && !open.close(0) && !open.close(2));
        assert!(!open.none());
        assert!(open.close(1) && open.none());
    }

    #[test]
    fn sequences_do_not_begin_at_a_number_that_is_known() {
        let first = || Socket::open(Family::Route, Arc::default()).unwrap().take(1);
        let firsts: std::collections::BTreeSet<u32> = (0..4).map(|_| first()).collect();
        assert!(firsts.len() > 1, "{firsts:?}");
    }
}
