//! A node and its sandboxes, each a network namespace, and what tests ask of them.

use eni_proto::ids::{MacAddr, NetnsCookie};
use ipamd_core::kernel::{Alias, FIRST_IFINDEX, POD_GROUP, WireSpec};
use ipamd_netlink::host::Host;
use ipamd_netlink::netns::Netns;
use ipamd_netlink::sandbox::{self, SandboxSocket};
use ipamd_netlink::stats::Counters;
use serde_json::Value;
use std::net::Ipv4Addr;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// The node's primary address.
pub const PRIMARY: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);

/// A network namespace that is removed with its holder.
pub struct Space(pub Netns);

impl Space {
    pub fn new() -> Space {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("nl-{}-{number}", std::process::id());
        Space(Netns::create(&name).expect("these tests run as root"))
    }

    /// Runs a program inside; its output, which must be a success.
    pub fn sh(&self, line: &str) -> String {
        let output = self.try_sh(line);
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn try_sh(&self, line: &str) -> Output {
        self.0.run(|| Command::new("sh").args(["-ec", line]).output().unwrap()).unwrap()
    }

    /// `ip -j …` inside.
    pub fn ip(&self, line: &str) -> Value {
        let text = self.sh(&format!("ip -j {line}"));
        if text.trim().is_empty() { Value::Array(Vec::new()) } else { serde_json::from_str(&text).unwrap() }
    }

    /// A sandbox's socket, as a plugin hands it over.
    pub fn socket(&self, host: NetnsCookie) -> SandboxSocket {
        SandboxSocket::check(self.0.route_socket().unwrap(), host).unwrap()
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        let _ = self.0.delete();
    }
}

/// A node whose loopback is up and holds its primary address.
pub struct Node {
    pub space: Space,
    pub cookie: NetnsCookie,
    pub counters: Arc<Counters>,
}

impl Node {
    pub fn new() -> Node {
        let space = Space::new();
        space.sh(&format!("ip link set lo up; ip addr add {PRIMARY}/32 dev lo"));
        let cookie = space.0.run(|| sandbox::own_cookie().unwrap()).unwrap();
        Node { space, cookie, counters: Arc::default() }
    }

    /// Runs with a handle on this node's network, on a thread inside it.
    pub fn with_host<T: Send>(&self, inside: impl FnOnce(&mut Host) -> T + Send) -> T {
        let counters = self.counters.clone();
        self.space.0.run(|| inside(&mut Host::open(counters).unwrap())).unwrap()
    }

    /// rtnetlink messages and sends since the last time.
    pub fn sent(&self) -> (u64, u64) {
        let take = |count: &std::sync::atomic::AtomicU64| count.swap(0, Ordering::Relaxed);
        (take(&self.counters.messages), take(&self.counters.sends))
    }
}

/// The pair number `n`: 10.9.1.n.
pub fn spec(n: u8) -> WireSpec {
    let alias = Alias {
        cookie: NetnsCookie(u64::from(n)),
        container: format!("c{n}"),
        ifname: "eth0".into(),
        generation: 1,
        network: "net".into(),
        pod: "default/web".into(),
    };
    WireSpec {
        host_name: format!("eni{n:011x}").parse().unwrap(),
        ifindex: FIRST_IFINDEX + u32::from(n),
        host_mac: MacAddr([2, 1, 0, 0, 0, n]),
        sandbox_name: "eth0".parse().unwrap(),
        sandbox_mac: MacAddr([2, 2, 0, 0, 0, n]),
        mtu: 1400,
        txqueuelen: 77,
        group: POD_GROUP + 1,
        address: Ipv4Addr::new(10, 9, 1, n),
        prefsrc: Some(PRIMARY),
        alias: alias.render(),
        delete_first: Vec::new(),
    }
}
