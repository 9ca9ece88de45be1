//! One path, tried by ICMP, TCP and UDP, and the source that its server saw.
//!
//! Owns the sockets of both ends. Every path of a list is tried, each namespace by a thread of its own, before anything
//! is judged: a failure names all paths that are wrong. An answer counts only when it comes from where it was asked.

use eni_tests::traffic::{Connection, Echo, inside, spawn};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, SockaddrIn};
use nix::sys::socket::{bind, connect, setsockopt, socket, sockopt};
use nix::sys::time::TimeVal;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Bounds a failure only: namespaces of one machine answer in less than a millisecond.
const ANSWER: Duration = Duration::from_secs(2);
/// More than one segment, also where segments have 9001 bytes.
const TRANSFER: usize = 24_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Icmp,
    Tcp,
    Udp,
}

/// What an address is asked by.
pub(super) const ALL: &[Protocol] = &[Protocol::Icmp, Protocol::Tcp, Protocol::Udp];
/// What a service's port is asked by.
pub(super) const PORT: &[Protocol] = &[Protocol::Tcp, Protocol::Udp];

/// A server for all three: ICMP is answered by the kernel, a raw socket tells who asked.
pub(super) struct Server {
    pub(super) port: u16,
    echo: Echo,
    icmp: UdpSocket,
    asked: RefCell<HashMap<u64, Ipv4Addr>>,
}

impl Server {
    /// Bound to all addresses.
    pub(super) fn start(netns: &str) -> Server {
        Server::at(netns, Ipv4Addr::UNSPECIFIED)
    }

    /// Bound to one address.
    pub(super) fn at(netns: &str, address: Ipv4Addr) -> Server {
        let echo = Echo::at(netns, address);
        let icmp = inside(netns, || raw(None)).expect("a raw socket");
        icmp.set_nonblocking(true).expect("it does not block");
        Server { port: echo.port, echo, icmp, asked: RefCell::default() }
    }

    /// Who sent the echo request of this token. It came here before it was answered.
    fn asked(&self, token: u64) -> Option<Ipv4Addr> {
        let mut buffer = [0; 256];
        while let Ok(length) = self.icmp.recv(&mut buffer) {
            if let Some((8, token, source)) = parse(&buffer[..length]) {
                self.asked.borrow_mut().insert(token, source);
            }
        }
        self.echo.seen();
        self.asked.borrow().get(&token).copied()
    }
}

/// One path.
pub(super) struct Path<'a> {
    pub(super) name: String,
    pub(super) protocols: &'static [Protocol],
    pub(super) ask: Ask,
    pub(super) server: &'a Server,
    /// The source that the server must see.
    pub(super) source: Ipv4Addr,
}

/// Whom a client asks, and from where.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    pub(super) netns: String,
    pub(super) bound: Option<Ipv4Addr>,
    pub(super) to: Ipv4Addr,
    pub(super) port: u16,
}

/// What came of one protocol of one path: who asked, as the server said; for ICMP the token to look that up by.
enum Told {
    Source(Ipv4Addr),
    Token(u64),
}

/// Tries every path; fails with all that are wrong.
pub(super) fn check(when: &str, paths: &[Path<'_>]) {
    let mut clients: BTreeMap<&str, Vec<_>> = BTreeMap::new();
    for (index, path) in paths.iter().enumerate() {
        let client = clients.entry(&path.ask.netns).or_default();
        client.push((index, path.ask.clone(), path.protocols));
    }
    let threads = clients.into_iter().map(|(netns, asks)| {
        spawn(netns, move || {
            let each = asks.into_iter().flat_map(|(index, ask, protocols)| {
                protocols.iter().map(move |p| (index, *p, try_one(*p, &ask).map_err(|e| e.to_string())))
            });
            each.collect::<Vec<_>>()
        })
    });
    let threads: Vec<_> = threads.collect();
    let told = threads.into_iter().flat_map(|thread| thread.join().expect("a client"));
    let mut wrong = Vec::new();
    for (index, protocol, told) in told {
        let path = &paths[index];
        let seen = told.map(|told| match told {
            Told::Source(source) => Some(source),
            Told::Token(token) => path.server.asked(token),
        });
        if seen != Ok(Some(path.source)) {
            wrong.push(format!("{} by {protocol:?}: {seen:?} instead of {}", path.name, path.source));
        }
    }
    assert!(wrong.is_empty(), "{when}: {} of {} paths:\n{}", wrong.len(), paths.len(), wrong.join("\n"));
}

fn try_one(protocol: Protocol, ask: &Ask) -> io::Result<Told> {
    match protocol {
        Protocol::Icmp => icmp(ask).map(Told::Token),
        Protocol::Tcp => tcp(ask).map(Told::Source),
        Protocol::Udp => udp(ask).map(Told::Source),
    }
}

/// What a client in the caller's namespace is told by each protocol.
pub(super) fn errors(ask: &Ask) -> Vec<(Protocol, Option<Errno>)> {
    let errno = |protocol| try_one(protocol, ask).err()?.raw_os_error().map(Errno::from_raw);
    ALL.iter().map(|protocol| (*protocol, errno(*protocol))).collect()
}

/// Sends one datagram from the caller's namespace; whether no answer comes, within a time that only a failure needs.
pub(super) fn sent_in_vain(ask: &Ask) -> bool {
    udp_within(ask, Duration::from_millis(300)).is_err()
}

fn udp(ask: &Ask) -> io::Result<Ipv4Addr> {
    udp_within(ask, ANSWER)
}

fn udp_within(ask: &Ask, answer: Duration) -> io::Result<Ipv4Addr> {
    let socket = UdpSocket::bind((ask.bound.unwrap_or(Ipv4Addr::UNSPECIFIED), 0))?;
    setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?;
    socket.set_read_timeout(Some(answer))?;
    socket.connect((ask.to, ask.port))?;
    socket.send(b"hello")?;
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer)?;
    let text = std::str::from_utf8(&buffer[..length]).map_err(io::Error::other)?;
    text.parse().map_err(io::Error::other)
}

fn tcp(ask: &Ask) -> io::Result<Ipv4Addr> {
    let mut connection = open(ask)?;
    if !connection.exchange(TRANSFER) {
        return Err(io::Error::other(format!("it broke, source {}", connection.source)));
    }
    Ok(connection.source)
}

/// A TCP connection from the caller's namespace.
pub(super) fn open(ask: &Ask) -> io::Result<Connection> {
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    if let Some(bound) = ask.bound {
        bind(fd.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(bound, 0)))?;
    }
    // Bounds the connecting as well.
    setsockopt(&fd, sockopt::SendTimeout, &TimeVal::new(2, 0))?;
    connect(fd.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(ask.to, ask.port)))?;
    Connection::of(TcpStream::from(fd)).ok_or_else(|| io::Error::other("connected, but not served"))
}

/// A socket for ICMP. What `UdpSocket` does (connect, send, receive) fits it.
fn raw(bound: Option<Ipv4Addr>) -> io::Result<UdpSocket> {
    let fd: OwnedFd = socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Icmp)?;
    if let Some(bound) = bound {
        bind(fd.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(bound, 0)))?;
    }
    Ok(UdpSocket::from(fd))
}

/// One echo request and its reply; its token.
fn icmp(ask: &Ask) -> io::Result<u64> {
    static TOKENS: AtomicU64 = AtomicU64::new(1);
    let token = TOKENS.fetch_add(1, Ordering::Relaxed);
    let socket = raw(ask.bound)?;
    setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?;
    socket.set_read_timeout(Some(ANSWER))?;
    socket.connect((ask.to, 0))?;
    let mut packet = [0; 16];
    packet[0] = 8;
    packet[4..8].copy_from_slice(&(token as u32).to_be_bytes());
    packet[8..].copy_from_slice(&token.to_be_bytes());
    let sum = checksum(&packet);
    packet[2..4].copy_from_slice(&sum.to_be_bytes());
    socket.send(&packet)?;
    let mut buffer = [0; 256];
    loop {
        let length = socket.recv(&mut buffer)?;
        if let Some((0, told, _)) = parse(&buffer[..length])
            && told == token
        {
            return Ok(token);
        }
    }
}

/// Type, token and source of an echo request or reply behind its IP header.
fn parse(packet: &[u8]) -> Option<(u8, u64, Ipv4Addr)> {
    let source = Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(12..16)?).ok()?);
    let icmp = packet.get(usize::from(packet.first()? & 0xf) * 4..)?;
    Some((*icmp.first()?, u64::from_be_bytes(icmp.get(8..16)?.try_into().ok()?), source))
}

fn checksum(packet: &[u8]) -> u16 {
    let words = packet.chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum & 0xffff) + (sum >> 16)) as u16
}
