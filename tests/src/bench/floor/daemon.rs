//! The floor's daemon: `floord SOCKET LOG`.
//!
//! Owns the pods' numbers, a log of records on what should be a tmpfs, four workers with a netlink socket each, and a
//! reaper that deletes links by group. A record is written before its answer.

use super::wiring::{self, DYING};
use super::{FAILED, MESSAGE_MAX};
use crate::bench::netlink::{Batch, Socket};
use eni_proto::fdpass::recv_with_fds;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
use serde_json::Value;
use std::collections::HashMap;
use std::error::Error;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

const WORKERS: usize = 4;
/// The most links of one group delete.
const GROUP_MAX: usize = 64;
/// What the reaper waits for more to come: a delete is an RCU grace period long, whatever its size.
const GATHER: Duration = Duration::from_millis(5);
/// Links that wait for the reaper; more than pods at once.
const QUEUE: usize = 4096;

struct Daemon {
    pods: Mutex<(u32, HashMap<String, u32>)>,
    log: Mutex<File>,
    dying: SyncSender<u32>,
}

/// Serves until it is killed.
#[allow(clippy::print_stderr)]
pub fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, path, log] = arguments.as_slice() else {
        eprintln!("floord SOCKET LOG");
        return ExitCode::from(2);
    };
    match serve(path, log) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("floord: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(path: &str, log: &str) -> Result<(), Box<dyn Error>> {
    let (dying, links) = sync_channel(QUEUE);
    let daemon = Arc::new(Daemon { pods: Mutex::default(), log: Mutex::new(File::create(log)?), dying });
    let reaper = Socket::open()?;
    thread::spawn(move || reap(&reaper, &links));
    let _ = fs::remove_file(path);
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
    bind(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    listen(&fd, Backlog::MAXCONN)?;
    let listener = Arc::new(UnixListener::from(fd));
    let workers: Vec<_> = (0..WORKERS)
        .map(|_| {
            let (daemon, listener) = (daemon.clone(), listener.clone());
            let host = Socket::open()?;
            Ok(thread::spawn(move || work(&daemon, &listener, &host)))
        })
        .collect::<io::Result<_>>()?;
    workers.into_iter().for_each(|worker| drop(worker.join()));
    Ok(())
}

fn work(daemon: &Daemon, listener: &UnixListener, host: &Socket) {
    let mut buffer = vec![0; MESSAGE_MAX];
    while let Ok((mut plugin, _)) = listener.accept() {
        let Ok((length, fds)) = recv_with_fds(plugin.as_fd(), &mut buffer) else { continue };
        let answer = answer(daemon, host, &buffer[..length], fds);
        reply(&mut plugin, answer);
    }
}

fn reply(plugin: &mut UnixStream, answer: Result<String, Box<dyn Error>>) {
    let answer = answer.unwrap_or_else(|error| format!("{FAILED}{error}"));
    // A plugin that is gone does not want it.
    let _ = plugin.write_all(answer.as_bytes());
}

fn answer(
    daemon: &Daemon,
    host: &Socket,
    message: &[u8],
    fds: Vec<OwnedFd>,
) -> Result<String, Box<dyn Error>> {
    let end = message.iter().position(|byte| *byte == b'\n').ok_or("no first line")?;
    let (first, conf) = message.split_at(end + 1);
    let conf: Value = serde_json::from_slice(conf)?;
    conf["name"].as_str().ok_or("no network name")?;
    let mut words = std::str::from_utf8(first)?.split_whitespace();
    let (verb, id) = (words.next().ok_or("no verb")?, words.next().ok_or("no container")?);
    match verb {
        "ADD" => {
            let ifname = words.next().ok_or("no interface name")?;
            let [netns, sandbox] = <[OwnedFd; 2]>::try_from(fds).map_err(|_| "two descriptors are needed")?;
            add(daemon, host, id, ifname, &netns, sandbox)
        }
        "DEL" => del(daemon, host, id),
        other => Err(format!("no verb {other}").into()),
    }
}

fn add(
    daemon: &Daemon,
    host: &Socket,
    id: &str,
    ifname: &str,
    netns: &OwnedFd,
    sandbox: OwnedFd,
) -> Result<String, Box<dyn Error>> {
    let pod = {
        let mut pods = lock(&daemon.pods);
        pods.0 += 1;
        let pod = pods.0;
        pods.1.insert(id.to_owned(), pod);
        pod
    };
    lock(&daemon.log).write_all(format!("{:200}\n", format!("add {id} {pod}")).as_bytes())?;
    wiring::add(host, netns.as_fd(), &Socket::from_fd(sandbox), ifname, pod)?;
    Ok(wiring::result(pod, ifname))
}

fn del(daemon: &Daemon, host: &Socket, id: &str) -> Result<String, Box<dyn Error>> {
    let Some(pod) = lock(&daemon.pods).1.remove(id) else { return Ok(" ".into()) };
    lock(&daemon.log).write_all(format!("del {id} {pod}\n").as_bytes())?;
    wiring::remove_route(host, pod)?;
    daemon.dying.send(wiring::index(pod))?;
    Ok(" ".into())
}

/// Deletes what waits, many at once.
#[allow(clippy::print_stderr)]
fn reap(host: &Socket, links: &Receiver<u32>) {
    let mut batch = Batch::default();
    while let Ok(first) = links.recv() {
        thread::sleep(GATHER);
        for index in std::iter::once(first).chain(links.try_iter().take(GROUP_MAX - 1)) {
            batch.group(index, DYING);
        }
        // A link whose sandbox went first is gone already: the rest of the batch is carried out all the same.
        if let Err(error) = host.call(batch.delete_group(DYING))
            && error.errno != Errno::ENODEV
        {
            eprintln!("floord: reaping: {error}");
        }
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
