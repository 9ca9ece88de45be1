//! Watching the host's network for what others change.
//!
//! Owns two sockets that listen (rtnetlink and nfnetlink, each with a filter in the kernel for what every ADD makes), and
//! the gathering: what arrives within a few milliseconds is one event. What it says is no more than that it is time to
//! look, and what told so. When the kernel says that notifications were lost, that is told too, and everything is looked
//! at. Blocking, for a thread of its own.

mod sift;

use crate::answer::messages;
use crate::host::{Host, HostError};
use crate::nft::{self, Memory};
use crate::socket::{self, CallError, SOL_NETLINK, Socket};
use crate::stats::{Counters, Family};
use crate::{dump, message, sys};
use ipamd_core::kernel::{PROTOCOL, Trigger};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind};
use sift::{RTM_DELNETCONF, RTM_NEWNEIGH, RTM_NEWROUTE, Sift};
use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// How long the first notification waits for others: an ADD makes a handful, and they shall wake this thread once.
const GATHER: Duration = Duration::from_millis(10);
/// Room for what arrives meanwhile, in bytes; the kernel uses none of it before.
const ROOM: i32 = 8 * 1024 * 1024;
/// The most messages that are read for one event: others are another one.
const READS_MAX: usize = 16 * 1024;
/// One notification: a link with all its attributes has 2 KiB, a transaction of nftables comes in pieces of up to 8 KiB.
const READ: usize = 32 * 1024;

/// RTNLGRP_LINK, NEIGH, IPV4_IFADDR, IPV4_ROUTE, IPV4_RULE, IPV4_NETCONF.
const ROUTE_GROUPS: [i32; 6] = [1, 3, 5, 7, 8, 24];
/// NFNLGRP_NFTABLES.
const NETFILTER_GROUPS: [i32; 1] = [7];

/// Why the host is not watched any more.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    /// A socket failed.
    #[error("a socket that listens failed: {0}")]
    Socket(#[from] io::Error),
    /// The links could not be listed.
    #[error("the links could not be listed: {0}")]
    Links(String),
}

/// What listens.
#[derive(Debug)]
pub struct Monitor {
    route: OwnedFd,
    netfilter: OwnedFd,
    /// For dumps: the filter of the one that listens would take their answers, too.
    asking: Socket,
    nft: Arc<Mutex<Memory>>,
    sift: Sift,
    buffer: Vec<u8>,
}

impl Monitor {
    /// Listens in the calling thread's network namespace, and tells the handle that lays the nft table when somebody else
    /// has touched it.
    pub fn open(host: &Host) -> Result<Monitor, HostError> {
        let failed = |family| move |source| HostError::Open { family, source };
        let route = listen(SockProtocol::NetlinkRoute, &ROUTE_GROUPS).map_err(failed("NETLINK_ROUTE"))?;
        sys::attach_filter(route.as_fd(), &mut of_every_add()).map_err(failed("NETLINK_ROUTE"))?;
        let netfilter = listen(SockProtocol::NetlinkNetFilter, &NETFILTER_GROUPS);
        let netfilter = netfilter.map_err(failed("NETLINK_NETFILTER"))?;
        // Counted apart: it is no part of any operation.
        let asking = Socket::open(Family::Route, Arc::new(Counters::default()));
        let asking = asking.map_err(failed("NETLINK_ROUTE"))?;
        let (nft, sift) = (host.nft.clone(), Sift::default());
        let mut monitor = Monitor { route, netfilter, asking, nft, sift, buffer: vec![0; READ] };
        monitor.begin().map_err(|error| HostError::Look(error.to_string()))?;
        Ok(monitor)
    }

    /// What others have changed since the last time: waits until there is something.
    pub fn wait_for_changes(&mut self) -> Result<BTreeSet<Trigger>, MonitorError> {
        loop {
            wait(&[&self.route, &self.netfilter])?;
            thread::sleep(GATHER);
            let mut triggers = BTreeSet::new();
            self.read_route(&mut triggers)?;
            self.read_netfilter(&mut triggers)?;
            if !triggers.is_empty() {
                return Ok(triggers);
            }
        }
    }

    fn begin(&mut self) -> Result<(), CallError> {
        let links =
            self.asking.dump(&message::dump_links(), dump::RTM_NEWLINK, |body| dump::link(body).map(Some))?;
        self.sift.begin(&links);
        Ok(())
    }

    fn read_route(&mut self, triggers: &mut BTreeSet<Trigger>) -> Result<(), MonitorError> {
        let (fd, sift) = (self.route.as_fd(), &mut self.sift);
        let lost = read(fd, &mut self.buffer, |header, body| triggers.extend(sift.route(header, body)))?;
        if lost {
            triggers.insert(Trigger::Overrun);
            self.begin().map_err(|error| MonitorError::Links(error.to_string()))?;
        }
        Ok(())
    }

    fn read_netfilter(&mut self, triggers: &mut BTreeSet<Trigger>) -> Result<(), MonitorError> {
        let (fd, sift, memory) = (self.netfilter.as_fd(), &mut self.sift, &self.nft);
        let lost = read(fd, &mut self.buffer, |header, body| {
            let Some(told) = sift.nftables(header, body) else { return };
            // Whoever lays our table holds the memory until it is laid: then it is known which transaction was ours.
            let touched = told.table && nft::locked(memory).touched(told.generation);
            if touched || told.filter {
                triggers.insert(Trigger::Nftables);
            }
        })?;
        if lost {
            nft::locked(memory).touched(None);
            triggers.insert(Trigger::Overrun);
        }
        Ok(())
    }
}

fn listen(protocol: SockProtocol, groups: &[i32]) -> io::Result<OwnedFd> {
    const NETLINK_ADD_MEMBERSHIP: i32 = 1;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = nix::sys::socket::socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
    // With a port of its own: the kernel's own notifications are not sent to port 0, which is who has none.
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    sys::set_option(fd.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, ROOM)?;
    for group in groups {
        sys::set_option(fd.as_fd(), SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, *group)?;
    }
    Ok(fd)
}

/// Takes every message but what each ADD and DEL makes and is never others' harm: our own routes that come, neighbours that
/// come or change by us or by the kernel (it learns others' by ARP without pause, and changes no permanent one), the
/// settings of a link that goes.
fn of_every_add() -> [libc::sock_filter; 12] {
    const LOAD_WORD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const LOAD_HALF: u16 = (libc::BPF_LD | libc::BPF_H | libc::BPF_ABS) as u16;
    const LOAD_BYTE: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
    const IS: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const END: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    const KIND: u32 = 4;
    const PORT: u32 = 12;
    // The half of it that says whose it is.
    const PORTS: u32 = if cfg!(target_endian = "little") { PORT + 2 } else { PORT };
    const RTM_PROTOCOL: u32 = 16 + 5;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    // The filter reads big-endian, netlink writes as the machine does.
    let half = |half: u16| u32::from(half.to_be());
    [
        step(LOAD_HALF, 0, 0, KIND),
        step(IS, 4, 0, half(RTM_NEWNEIGH)),
        step(IS, 8, 0, half(RTM_DELNETCONF)),
        step(IS, 0, 6, half(RTM_NEWROUTE)),
        step(LOAD_BYTE, 0, 0, RTM_PROTOCOL),
        step(IS, 5, 4, u32::from(PROTOCOL)),
        step(LOAD_WORD, 0, 0, PORT),
        step(IS, 3, 0, 0),
        step(LOAD_HALF, 0, 0, PORTS),
        step(IS, 1, 0, half(socket::OUR_PORTS_HALF)),
        step(END, 0, 0, u32::MAX),
        step(END, 0, 0, 0),
    ]
}

fn wait(fds: &[&OwnedFd; 2]) -> io::Result<()> {
    let mut fds = fds.map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN));
    match poll(&mut fds, PollTimeout::NONE) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Reads what is there; whether the kernel has lost some of it.
fn read(
    fd: std::os::fd::BorrowedFd<'_>,
    buffer: &mut [u8],
    mut take: impl FnMut(crate::answer::Header, &[u8]),
) -> io::Result<bool> {
    let mut lost = false;
    for _ in 0..READS_MAX {
        match socket::receive(fd, buffer, MsgFlags::MSG_DONTWAIT) {
            Ok((length, true)) => match buffer.get(..length) {
                Some(whole) => messages(whole).for_each(|(header, body)| take(header, body)),
                None => lost = true,
            },
            Ok((_, false)) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => lost = true,
            Err(error) => return Err(error),
        }
    }
    Ok(lost)
}
