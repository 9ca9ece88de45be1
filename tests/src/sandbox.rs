//! A sandbox: a named network namespace, as a runtime makes it; or one that only descriptors hold, where hundreds are
//! needed.
//!
//! Owns the namespace; it goes when dropped.

use crate::programs::{run, sh};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

static NEXT: AtomicU32 = AtomicU32::new(1);

/// A sandbox.
#[derive(Debug)]
pub struct Sandbox {
    name: String,
}

impl Sandbox {
    /// A new one, with its loopback up.
    pub fn new() -> Sandbox {
        let name = format!("es{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        sh(&format!("ip netns add {name} && ip -n {name} link set lo up"));
        Sandbox { name }
    }

    /// The namespace's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// CNI_NETNS.
    pub fn path(&self) -> String {
        format!("/run/netns/{}", self.name)
    }

    /// Runs a line of shell inside; what it printed.
    pub fn sh(&self, line: &str) -> Result<String, String> {
        run("nsenter", &[&format!("--net={}", self.path()), "sh", "-ec", line])
    }

    /// The address of an interface inside.
    pub fn address(&self, ifname: &str) -> Option<Ipv4Addr> {
        let shown = self.sh(&format!("ip -4 -o addr show dev {ifname}")).ok()?;
        let after = shown.split("inet ").nth(1)?;
        after.split('/').next()?.parse().ok()
    }

    /// The sandbox dies by itself: its processes and links go with it.
    pub fn die(self) {}
}

impl Default for Sandbox {
    fn default() -> Self {
        Sandbox::new()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // Gone already is what is wanted.
        let _ = run("ip", &["netns", "del", &self.name]);
    }
}

/// A sandbox without a name: made in a tenth of a named one's time.
#[derive(Debug)]
pub struct Bare {
    netns: File,
    socket: OwnedFd,
}

impl Bare {
    /// That many. Each takes two descriptors of this process.
    pub fn many(count: usize) -> Vec<Bare> {
        let make = move || (0..count).map(|_| Bare::here()).collect();
        thread::spawn(make).join().expect("namespaces can be made")
    }

    /// Moves the calling thread into a new one.
    fn here() -> Bare {
        unshare(CloneFlags::CLONE_NEWNET).expect("root may make a namespace");
        let (family, kind) = (AddressFamily::Netlink, SockType::Raw);
        let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute);
        Bare {
            netns: File::open("/proc/thread-self/ns/net").expect("/proc is there"),
            socket: socket.expect("a netlink socket"),
        }
    }

    /// CNI_NETNS.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.netns.as_raw_fd())
    }

    /// A NETLINK_ROUTE socket of it: what a plugin hands over.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
