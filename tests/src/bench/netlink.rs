//! Route netlink in its barest form: messages written into one buffer, one send, one acknowledgement read.
//!
//! Owns the bytes. For the floor pair, which must do the least that is right, and for laying the forwarding worlds;
//! ipamd has its own, which reads every acknowledgement. Nothing of ipamd's is used here: the floor is independent.

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};
use std::fmt;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

const NEWLINK: u16 = 16;
const DELLINK: u16 = 17;
const SETLINK: u16 = 19;
const NEWADDR: u16 = 20;
const NEWROUTE: u16 = 24;
const DELROUTE: u16 = 25;
const NEWNEIGH: u16 = 28;
const NEWRULE: u16 = 32;
const ERROR: u16 = 2;

const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const REPLACE: u16 = 0x100;
const CREATE: u16 = 0x600; // CREATE and EXCL

const HEADER: usize = 16;
const INET: u8 = 2;
const UP: u32 = 1;
/// The main table.
pub(crate) const MAIN: u32 = 254;

/// One end of a pair.
#[derive(Debug, Clone, Copy)]
pub(crate) struct End<'a> {
    /// Its name.
    pub(crate) name: &'a str,
    /// Its index.
    pub(crate) index: u32,
    /// Its MAC.
    pub(crate) mac: [u8; 6],
    /// Its group; 0 is the default.
    pub(crate) group: u32,
}

/// A route.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Route {
    /// Its destination; length 0 is the default route.
    pub(crate) to: (Ipv4Addr, u8),
    /// The next hop.
    pub(crate) via: Option<Ipv4Addr>,
    /// The link's index; without one the route is `unreachable`.
    pub(crate) index: Option<u32>,
    /// The table.
    pub(crate) table: u32,
    /// Its metric; 0 is none.
    pub(crate) metric: u32,
}

/// A rule that looks up a table.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Rule {
    /// Its priority.
    pub(crate) priority: u32,
    /// The table.
    pub(crate) table: u32,
    /// Packets from this address.
    pub(crate) from: Option<Ipv4Addr>,
    /// Packets to this address.
    pub(crate) to: Option<Ipv4Addr>,
    /// Packets with this mark under this mask.
    pub(crate) mark: Option<(u32, u32)>,
}

/// Messages of one send.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    last: usize,
    count: u32,
}

impl Batch {
    /// A pair of one queue each way, the peer born in another namespace.
    pub(crate) fn pair(&mut self, host: &End<'_>, peer: &End<'_>, netns: BorrowedFd<'_>) -> &mut Self {
        self.begin(NEWLINK, CREATE).link(host.index, 0, 0).end_attributes(host);
        let info = self.nest(18);
        self.attribute(1, b"veth");
        let data = self.nest(2);
        let inner = self.nest(1);
        self.link(peer.index, 0, 0).end_attributes(peer).number(28, netns.as_raw_fd().cast_unsigned());
        for nest in [inner, data, info] {
            self.close(nest);
        }
        self.finish()
    }

    fn end_attributes(&mut self, end: &End<'_>) -> &mut Self {
        self.attribute(3, end.name.as_bytes()).attribute(1, &end.mac);
        // Left alone, veth registers a queue per possible CPU and cuts back to one: the dearest part of a pod.
        self.number(31, 1).number(32, 1);
        if end.group != 0 {
            self.number(27, end.group);
        }
        self
    }

    /// Raises a link.
    pub(crate) fn up(&mut self, index: u32) -> &mut Self {
        self.begin(SETLINK, 0).link(index, UP, UP).finish()
    }

    /// No IPv6 link-local address, so no duplicate address detection.
    pub(crate) fn no_link_local(&mut self, index: u32) -> &mut Self {
        self.begin(SETLINK, 0).link(index, 0, 0);
        let families = self.nest(26);
        let inet6 = self.nest(10);
        self.attribute(8, &[1]);
        self.close(inet6);
        self.close(families);
        self.finish()
    }

    /// Puts a link into a group.
    pub(crate) fn group(&mut self, index: u32, group: u32) -> &mut Self {
        self.begin(SETLINK, 0).link(index, 0, 0).number(27, group).finish()
    }

    /// Deletes all links of a group.
    pub(crate) fn delete_group(&mut self, group: u32) -> &mut Self {
        self.begin(DELLINK, 0).link(0, 0, 0).number(27, group).finish()
    }

    /// Gives a link an address.
    pub(crate) fn address(&mut self, index: u32, address: Ipv4Addr, length: u8) -> &mut Self {
        self.begin(NEWADDR, CREATE).raw(&[INET, length, 0, 0]).raw(&index.to_ne_bytes());
        self.attribute(2, &address.octets()).attribute(1, &address.octets()).finish()
    }

    /// Lays a route.
    pub(crate) fn route(&mut self, route: &Route) -> &mut Self {
        self.begin(NEWROUTE, CREATE).route_body(route, 3)
    }

    /// Takes a route away.
    pub(crate) fn delete_route(&mut self, route: &Route) -> &mut Self {
        self.begin(DELROUTE, 0).route_body(route, 0)
    }

    fn route_body(&mut self, route: &Route, protocol: u8) -> &mut Self {
        const LINK: u8 = 253;
        let scope = if route.via.is_some() || route.index.is_none() { 0 } else { LINK };
        let kind = if route.index.is_some() { 1 } else { 7 };
        let (to, length) = route.to;
        self.raw(&[INET, length, 0, 0, 0, protocol, scope, kind]).raw(&[0; 4]);
        if length > 0 {
            self.attribute(1, &to.octets());
        }
        if let Some(via) = route.via {
            self.attribute(5, &via.octets());
        }
        if let Some(index) = route.index {
            self.number(4, index);
        }
        if route.metric > 0 {
            self.number(6, route.metric);
        }
        self.number(15, route.table).finish()
    }

    /// A permanent neighbour.
    pub(crate) fn neighbour(&mut self, index: u32, address: Ipv4Addr, mac: [u8; 6]) -> &mut Self {
        const PERMANENT: u16 = 0x80;
        self.begin(NEWNEIGH, 0x400 | REPLACE).raw(&[INET, 0, 0, 0]).raw(&index.to_ne_bytes());
        self.raw(&[PERMANENT.to_ne_bytes(), [0; 2]].concat());
        self.attribute(1, &address.octets()).attribute(2, &mac).finish()
    }

    /// Adds a rule.
    pub(crate) fn rule(&mut self, rule: &Rule) -> &mut Self {
        let length = |address: Option<Ipv4Addr>| if address.is_some() { 32 } else { 0 };
        self.begin(NEWRULE, CREATE)
            .raw(&[INET, length(rule.to), length(rule.from), 0, 0, 0, 0, 1])
            .raw(&[0; 4]);
        if let Some(to) = rule.to {
            self.attribute(1, &to.octets());
        }
        if let Some(from) = rule.from {
            self.attribute(2, &from.octets());
        }
        if let Some((mark, mask)) = rule.mark {
            self.number(10, mark).number(16, mask);
        }
        self.number(6, rule.priority).number(15, rule.table).finish()
    }

    fn begin(&mut self, kind: u16, flags: u16) -> &mut Self {
        self.last = self.bytes.len();
        self.count += 1;
        self.raw(&[0; 4]).bytes.extend([kind.to_ne_bytes(), (flags | REQUEST).to_ne_bytes()].concat());
        let number = self.count;
        self.raw(&number.to_ne_bytes()).raw(&[0; 4])
    }

    fn finish(&mut self) -> &mut Self {
        let length = u32::try_from(self.bytes.len() - self.last).expect("a message is short");
        self.bytes[self.last..self.last + 4].copy_from_slice(&length.to_ne_bytes());
        self
    }

    fn link(&mut self, index: u32, flags: u32, change: u32) -> &mut Self {
        self.raw(&[0; 4]).raw(&index.to_ne_bytes()).raw(&flags.to_ne_bytes()).raw(&change.to_ne_bytes())
    }

    fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
        self
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let length = u16::try_from(value.len() + 4).expect("an attribute is short");
        self.bytes.extend([length.to_ne_bytes(), kind.to_ne_bytes()].concat());
        self.raw(value)
    }

    fn number(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    fn nest(&mut self, kind: u16) -> usize {
        let at = self.bytes.len();
        self.attribute(kind, &[]);
        at
    }

    fn close(&mut self, at: usize) {
        let length = u16::try_from(self.bytes.len() - at).expect("a nest is short");
        self.bytes[at..at + 2].copy_from_slice(&length.to_ne_bytes());
    }
}

/// Why a call failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CallError {
    /// The number of the message that was refused; 0 when the socket itself failed.
    pub(crate) message: u32,
    /// The kernel's error.
    pub(crate) errno: Errno,
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "netlink message {}: {}", self.message, self.errno)
    }
}

impl std::error::Error for CallError {}

/// A route netlink socket, in the namespace that it was opened in.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
}

impl Socket {
    /// A socket in the caller's namespace.
    pub(crate) fn open() -> io::Result<Socket> {
        Ok(Socket { fd: open()? })
    }

    /// A socket that somebody else has opened, perhaps in another namespace.
    pub(crate) fn from_fd(fd: OwnedFd) -> Socket {
        Socket { fd }
    }

    /// Sends the messages; only the last asks for an acknowledgement, and it is waited for. An error is the first one:
    /// the kernel answers a failed message unasked.
    pub(crate) fn call(&self, batch: &mut Batch) -> Result<(), CallError> {
        let flags = batch.last + 6;
        let asked = u16::from_ne_bytes([batch.bytes[flags], batch.bytes[flags + 1]]) | ACK;
        batch.bytes[flags..flags + 2].copy_from_slice(&asked.to_ne_bytes());
        let (last, sent) = (batch.count, send(self.fd.as_raw_fd(), &batch.bytes, MsgFlags::empty()));
        *batch = Batch { bytes: std::mem::take(&mut batch.bytes), ..Batch::default() };
        batch.bytes.clear();
        sent.map_err(|errno| CallError { message: 0, errno })?;
        let mut failed: Option<CallError> = None;
        let mut buffer = [0; 16 * 1024];
        loop {
            let length = recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::empty())
                .map_err(|errno| CallError { message: 0, errno })?;
            for (message, errno) in answers(&buffer[..length]) {
                if errno != 0 && failed.is_none() {
                    failed = Some(CallError { message, errno: Errno::from_raw(errno) });
                }
                if message == last {
                    return failed.map_or(Ok(()), Err);
                }
            }
        }
    }
}

/// A route netlink socket's descriptor.
pub(crate) fn open() -> io::Result<OwnedFd> {
    Ok(socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?)
}

/// The acknowledgements in what was received: the message's number and its errno, 0 when it succeeded.
fn answers(bytes: &[u8]) -> Vec<(u32, i32)> {
    let word = |at: usize| bytes.get(at..at + 4).map(|b| <[u8; 4]>::try_from(b).expect("four bytes"));
    let (mut found, mut at) = (Vec::new(), 0);
    while let (Some(length), Some(kind), Some(number)) = (word(at), word(at + 4), word(at + 8)) {
        let length = u32::from_ne_bytes(length) as usize;
        if u16::from_ne_bytes([kind[0], kind[1]]) == ERROR
            && let Some(error) = word(at + HEADER)
        {
            found.push((u32::from_ne_bytes(number), -i32::from_ne_bytes(error)));
        }
        at += length.max(HEADER).next_multiple_of(4);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_found_behind_each_other() {
        let mut bytes = Vec::new();
        for (number, errno) in [(1u32, 0i32), (2, 17)] {
            bytes.extend(36u32.to_ne_bytes());
            bytes.extend([ERROR.to_ne_bytes(), [0; 2]].concat());
            bytes.extend([number.to_ne_bytes(), [0; 4]].concat());
            bytes.extend((-errno).to_ne_bytes());
            bytes.extend([0; 16]);
        }
        assert_eq!(answers(&bytes), [(1, 0), (2, 17)]);
        assert_eq!(answers(&bytes[..20]), [(1, 0)]);
        assert_eq!(answers(&[]), []);
    }

    #[test]
    fn messages_are_whole_and_numbered() {
        let mut batch = Batch::default();
        batch.up(1).group(1, 7).address(1, Ipv4Addr::LOCALHOST, 8);
        let (mut at, mut numbers) = (0, Vec::new());
        while at < batch.bytes.len() {
            let word =
                |from: usize| u32::from_ne_bytes(batch.bytes[at + from..at + from + 4].try_into().unwrap());
            numbers.push(word(8));
            at += word(0) as usize;
        }
        assert_eq!((at, numbers), (batch.bytes.len(), vec![1, 2, 3]));
    }
}
