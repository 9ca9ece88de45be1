//! Packets inside namespaces: ICMP by ping, UDP and TCP by sockets of our own.
//!
//! Owns threads that enter a namespace for their life, and the servers on them. Nothing is sent outside namespaces that
//! the test has made.

use crate::programs::run;
use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How long an answer may take: namespaces of one machine answer in less than a millisecond.
const ANSWER: Duration = Duration::from_secs(2);

/// A namespace's path, of its path or its name.
fn path_of(netns: &str) -> String {
    if netns.starts_with('/') { netns.to_owned() } else { format!("/run/netns/{netns}") }
}

/// Runs a closure on a thread inside a namespace, which is given as its name or a path.
pub fn inside<T: Send + 'static>(netns: &str, run: impl FnOnce() -> T + Send + 'static) -> T {
    spawn(netns, run).join().expect("the thread inside the namespace")
}

/// Starts a closure on a thread inside a namespace.
pub fn spawn<T: Send + 'static>(netns: &str, run: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let file = File::open(path_of(netns)).expect("the namespace is there");
    thread::spawn(move || {
        setns(&file, CloneFlags::CLONE_NEWNET).expect("the namespace is entered");
        drop(file);
        run()
    })
}

/// Whether one ping is answered; `netns` is a name or a path, `source` the address to send from.
pub fn ping(netns: &str, target: Ipv4Addr, source: Option<Ipv4Addr>) -> bool {
    let net = format!("--net={}", path_of(netns));
    let (target, source) = (target.to_string(), source.map(|s| s.to_string()));
    let mut args = vec![net.as_str(), "ping", "-n", "-c1", "-W2"];
    if let Some(source) = &source {
        args.extend(["-I", source]);
    }
    args.push(&target);
    run("nsenter", &args).is_ok()
}

/// An echo server for UDP and TCP on one port; it answers with the address that it saw, and lives until the process ends
/// or its namespace's users do.
pub struct Echo {
    /// The port.
    pub port: u16,
    seen: Receiver<SocketAddr>,
}

impl Echo {
    /// Starts one in a namespace.
    pub fn start(netns: &str) -> Echo {
        Echo::at(netns, Ipv4Addr::UNSPECIFIED)
    }

    /// The same, bound to one address.
    pub fn at(netns: &str, address: Ipv4Addr) -> Echo {
        let (ready, started) = sync_channel(1);
        let (tell, seen) = sync_channel(1024);
        let told = tell.clone();
        spawn(netns, move || {
            let tcp = TcpListener::bind((address, 0)).expect("a port");
            let port = tcp.local_addr().expect("it is bound").port();
            let udp = UdpSocket::bind((address, port)).expect("the same port");
            ready.send(port).expect("the starter waits");
            thread::spawn(move || {
                for stream in tcp.incoming().flatten() {
                    let _ = told.try_send(stream.peer_addr().unwrap_or_else(|_| nobody()));
                    thread::spawn(move || serve(stream));
                }
            });
            let mut buffer = [0u8; 2048];
            while let Ok((length, from)) = udp.recv_from(&mut buffer) {
                if &buffer[..length] == b"end" {
                    return;
                }
                let _ = tell.try_send(from);
                let _ = udp.send_to(from.ip().to_string().as_bytes(), from);
            }
        });
        Echo { port: started.recv().expect("the server starts"), seen }
    }

    /// The sources that the server has seen since the last time.
    pub fn seen(&self) -> Vec<IpAddr> {
        self.seen.try_iter().map(|from| from.ip()).collect()
    }
}

fn nobody() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))
}

fn serve(mut stream: TcpStream) {
    let Ok(peer) = stream.peer_addr() else { return };
    if stream.write_all(format!("{}\n", peer.ip()).as_bytes()).is_err() {
        return;
    }
    let mut buffer = [0u8; 16 * 1024];
    while let Ok(length) = stream.read(&mut buffer) {
        if length == 0 || stream.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}

/// One UDP exchange; the source that the server saw.
pub fn udp(netns: &str, target: Ipv4Addr, port: u16) -> Option<Ipv4Addr> {
    inside(netns, move || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
        socket.set_read_timeout(Some(ANSWER)).ok()?;
        socket.send_to(b"hello", (target, port)).ok()?;
        let mut buffer = [0u8; 64];
        let (length, _) = socket.recv_from(&mut buffer).ok()?;
        std::str::from_utf8(&buffer[..length]).ok()?.parse().ok()
    })
}

/// One TCP transfer of `size` bytes and back; the source that the server saw.
pub fn tcp(netns: &str, target: Ipv4Addr, port: u16, size: usize) -> Option<Ipv4Addr> {
    inside(netns, move || {
        let mut connection = Connection::open(target, port)?;
        let source = connection.source;
        connection.exchange(size).then_some(source)
    })
}

/// A TCP connection that stays open.
pub struct Connection {
    stream: TcpStream,
    /// The source that the server saw.
    pub source: Ipv4Addr,
}

impl Connection {
    /// Connects from the caller's namespace.
    pub fn open(target: Ipv4Addr, port: u16) -> Option<Connection> {
        Connection::of(TcpStream::connect_timeout(&SocketAddr::from((target, port)), ANSWER).ok()?)
    }

    /// Of a stream that is connected to an [`Echo`].
    pub fn of(mut stream: TcpStream) -> Option<Connection> {
        stream.set_read_timeout(Some(ANSWER)).ok()?;
        let mut told = Vec::new();
        let mut byte = [0u8];
        while stream.read_exact(&mut byte).is_ok() && byte != *b"\n" {
            told.push(byte[0]);
        }
        let source = String::from_utf8(told).ok()?.parse().ok()?;
        Some(Connection { stream, source })
    }

    /// Sends bytes and reads them back: true when they are the same.
    pub fn exchange(&mut self, size: usize) -> bool {
        let block: Vec<u8> = (0..8192usize).map(|n| (n % 251) as u8).collect();
        let (mut left, mut back) = (size, vec![0u8; block.len()]);
        while left > 0 {
            let part = left.min(block.len());
            if self.stream.write_all(&block[..part]).is_err()
                || self.stream.read_exact(&mut back[..part]).is_err()
            {
                return false;
            }
            if back[..part] != block[..part] {
                return false;
            }
            left -= part;
        }
        true
    }
}
