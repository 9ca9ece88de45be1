//! The host's kernel for real, in network namespaces of the test: wiring, taken names and numbers, taking off,
//! reaping, conntrack, the lock. Needs root.

// All of this program is a test.
#![allow(clippy::unwrap_used)]

use eni_proto::fdpass;
use eni_proto::ids::{MacAddr, NetnsCookie};
use ipamd_core::kernel::{
    Alias, DYING_GROUP, HostKernel, HostStep, POD_GROUP, POD_INET, PODS_RULE_PRIORITY, PODS_TABLE, PROTOCOL,
    ReapLink, RouteAction, UnwireSpec, WireError, WireSpec,
};
use ipamd_netlink::host::Host;
use ipamd_netlink::lock::{LockError, NetfilterLock};
use ipamd_netlink::sandbox::{SandboxSocket, SandboxSocketError};
use ipamd_netlink::stats::Counters;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::sync::Arc;

/// A network namespace that lives as long as this value: kept by a descriptor, so that nothing is left behind.
struct Netns {
    file: File,
}

impl Netns {
    /// Makes one on a thread of its own: the test's thread stays where it is.
    fn new() -> Netns {
        let made = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("unshare needs root");
            File::open("/proc/thread-self/ns/net").expect("the new namespace")
        });
        Netns { file: made.join().expect("the thread") }
    }

    /// Runs a closure inside.
    fn inside<T: Send>(&self, run: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let entered = scope.spawn(|| {
                setns(&self.file, CloneFlags::CLONE_NEWNET).expect("setns needs root");
                run()
            });
            entered.join().expect("the closure")
        })
    }

    fn route_socket(&self) -> OwnedFd {
        self.inside(|| {
            socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)
                .expect("a socket")
        })
    }

    fn sh(&self, script: &str) -> String {
        self.inside(|| {
            let output = Command::new("sh").args(["-ec", script]).output().expect("sh");
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{script}: {error}");
            String::from_utf8_lossy(&output.stdout).into_owned()
        })
    }
}

/// A host namespace with a kernel handle in it.
struct Bench {
    netns: Netns,
    host: Host,
    counters: Arc<Counters>,
}

impl Bench {
    fn new() -> Bench {
        let netns = Netns::new();
        let counters = Arc::new(Counters::default());
        let host = netns.inside(|| Host::open(counters.clone()).expect("a host"));
        netns.sh("ip link set lo up; ip addr add 10.0.1.10/32 dev lo");
        Bench { netns, host, counters }
    }

    fn sandbox(&self, netns: &Netns) -> SandboxSocket {
        SandboxSocket::check(netns.route_socket(), self.host.cookie()).expect("a sandbox")
    }

    fn wire(&mut self, spec: &WireSpec, netns: &Netns) -> Result<(), WireError> {
        let sandbox = self.sandbox(netns);
        self.host.wire(spec, &sandbox)
    }
}

fn spec(number: u8) -> WireSpec {
    let alias = Alias {
        cookie: NetnsCookie(u64::from(number)),
        container: format!("c{number}"),
        ifname: "eth0".into(),
        generation: 1,
        network: "vpc".into(),
        pod: String::new(),
    };
    WireSpec {
        host_name: format!("eni{number:011x}").parse().expect("an ifname"),
        ifindex: 0x1000_0000 + u32::from(number),
        host_mac: MacAddr([2, 0, 0, 1, 0, number]),
        sandbox_name: "eth0".parse().expect("an ifname"),
        sandbox_mac: MacAddr([2, 0, 0, 2, 0, number]),
        mtu: 1500,
        txqueuelen: 1000,
        group: POD_GROUP + 1,
        address: Ipv4Addr::new(10, 0, 1, 100 + number),
        prefsrc: Some(Ipv4Addr::new(10, 0, 1, 10)),
        alias: alias.render(),
        delete_first: Vec::new(),
    }
}

fn reap(spec: &WireSpec) -> ReapLink {
    ReapLink { ifindex: spec.ifindex, alias: spec.alias.clone(), addresses: vec![spec.address] }
}

#[test]
fn netns_a_sandbox_is_wired_whole_and_talks() {
    let mut bench = Bench::new();
    let pod = Netns::new();
    let spec = spec(1);
    bench.wire(&spec, &pod).unwrap();
    let view = bench.host.observe().unwrap();
    let link = view.links.iter().find(|l| l.ifindex == spec.ifindex).expect("the host link");
    assert_eq!(
        (link.name.as_str(), link.group, link.mtu, link.up),
        (spec.host_name.as_str(), spec.group, 1500, true)
    );
    assert_eq!(
        (link.alias.as_str(), link.mac, link.inet),
        (spec.alias.as_str(), Some(spec.host_mac), POD_INET)
    );
    let route = view.pods_routes.iter().find(|r| r.destination.addr() == spec.address).expect("the route");
    assert_eq!((route.metric, route.prefsrc, route.protocol), (0, spec.prefsrc, PROTOCOL));
    assert_eq!(route.action, RouteAction::Device { ifindex: spec.ifindex });
    let neighbour = view.neighbours.iter().find(|n| n.address == spec.address).expect("the neighbour");
    assert!(neighbour.permanent && neighbour.mac == spec.sandbox_mac);
    assert!(pod.sh("ip -4 route").contains("default via 169.254.1.1 dev eth0"));
    assert!(!bench.netns.sh("ip -6 addr show").contains("fe80"), "no link-local address");
    bench.host.apply(&[HostStep::AddRule { priority: PODS_RULE_PRIORITY, table: PODS_TABLE, mark: None }]);
    bench.netns.sh("ping -c2 -i0.2 -W2 10.0.1.101");
    pod.sh("ping -c2 -i0.2 -W2 10.0.1.10");
    let sent = bench.counters.messages.load(std::sync::atomic::Ordering::Relaxed);
    assert!(sent > 9, "counted: {sent}");
}

#[test]
fn netns_what_is_taken_is_told_apart_and_left_alone() {
    let mut bench = Bench::new();
    let (pod, other) = (Netns::new(), Netns::new());
    bench.netns.sh("ip link add foreign index 268435457 type veth peer name peer1");
    other.sh("ip link add foreign index 268435458 type veth peer name peer2");
    pod.sh("ip link add eth0 type veth peer name peer3");
    let before = bench.netns.sh("ip -d link show foreign");
    let error = bench.wire(&spec(1), &other).unwrap_err();
    assert_eq!(error, WireError::IfindexTaken { ifindex: 0x1000_0001 }, "on the host");
    let inside = other.sh("ip -d link show foreign");
    let error = bench.wire(&spec(2), &other).unwrap_err();
    assert_eq!(error, WireError::IfindexTaken { ifindex: 0x1000_0002 }, "in the sandbox");
    let error = bench.wire(&spec(3), &pod).unwrap_err();
    assert_eq!(error, WireError::IfnameTaken { name: "eth0".into() });
    let named = spec(4).host_name;
    bench.netns.sh(&format!("ip link add {named} index 77 type veth peer name peer4"));
    let error = bench.wire(&spec(4), &other).unwrap_err();
    assert_eq!(error, WireError::HostNameTaken { name: named.to_string(), ifindex: 77, group: 0 });
    assert_eq!(bench.netns.sh("ip -d link show foreign"), before);
    assert_eq!(other.sh("ip -d link show foreign"), inside);
    let view = bench.host.observe().unwrap();
    assert!(
        view.links.iter().all(|l| l.alias.is_empty()) && view.pods_routes.is_empty(),
        "nothing half-made"
    );
}

#[test]
fn netns_taking_off_leaves_the_link_to_the_reaper() {
    let mut bench = Bench::new();
    let pod = Netns::new();
    let spec = spec(1);
    bench.wire(&spec, &pod).unwrap();
    let off = UnwireSpec {
        host_name: spec.host_name.clone(),
        ifindex: spec.ifindex,
        addresses: vec![spec.address],
    };
    bench.host.unwire(&off).unwrap();
    bench.host.unwire(&off).unwrap();
    let view = bench.host.observe().unwrap();
    let link = view.links.iter().find(|l| l.ifindex == spec.ifindex).expect("still there");
    assert_eq!(link.group, DYING_GROUP);
    assert!(view.pods_routes.is_empty());
    assert_eq!(bench.host.reap(&[reap(&spec)]).gone, [spec.ifindex]);
    assert_eq!(bench.host.reap(&[reap(&spec)]).gone, [spec.ifindex], "again is fine");
    assert!(!pod.sh("ip link").contains("eth0"));
}

#[test]
fn netns_many_links_are_reaped_in_a_group_and_foreign_ones_kept() {
    let mut bench = Bench::new();
    let pods: Vec<Netns> = (0..16).map(|_| Netns::new()).collect();
    let specs: Vec<WireSpec> = (0..16).map(spec).collect();
    for (spec, pod) in specs.iter().zip(&pods) {
        bench.wire(spec, pod).unwrap();
    }
    for spec in &specs {
        bench
            .host
            .unwire(&UnwireSpec {
                host_name: spec.host_name.clone(),
                ifindex: spec.ifindex,
                addresses: vec![spec.address],
            })
            .unwrap();
    }
    bench.netns.sh(&format!("ip link set {} alias somebody-elses group 0", specs[3].host_name));
    let links: Vec<ReapLink> = specs.iter().map(reap).collect();
    let reaped = bench.host.reap(&links);
    assert_eq!(reaped.gone.len(), 15, "{reaped:?}");
    assert_eq!(reaped.kept[0].0, specs[3].ifindex);
    let left = bench.host.observe().unwrap();
    assert_eq!(left.links.iter().filter(|l| l.kind == "veth").count(), 1);
}

#[test]
fn netns_a_dying_link_in_the_way_is_deleted_first_and_a_foreign_one_is_not() {
    let mut bench = Bench::new();
    let pod = Netns::new();
    bench.wire(&spec(1), &pod).unwrap();
    bench
        .host
        .unwire(&UnwireSpec {
            host_name: spec(1).host_name.clone(),
            ifindex: spec(1).ifindex,
            addresses: vec![spec(1).address],
        })
        .unwrap();
    let next = WireSpec { delete_first: vec![spec(1).ifindex], ..spec(2) };
    bench.wire(&next, &pod).unwrap();
    bench.netns.sh("ip link add foreign index 99 type veth peer name peer1");
    // The number of a dying one that is somebody else's by now: nothing of ours is in the way.
    let past = WireSpec { delete_first: vec![99], sandbox_name: "net1".parse().unwrap(), ..spec(3) };
    bench.wire(&past, &pod).unwrap();
    bench.netns.sh("ip link show foreign");
}

#[test]
fn netns_conntrack_entries_of_a_reaped_address_are_deleted_and_others_stay() {
    let mut bench = Bench::new();
    let pods: Vec<Netns> = (0..2).map(|_| Netns::new()).collect();
    let specs: Vec<WireSpec> = (1..3).map(spec).collect();
    bench.host.apply(&[HostStep::AddRule { priority: PODS_RULE_PRIORITY, table: PODS_TABLE, mark: None }]);
    bench.netns.sh("nft 'add table ip t; add chain ip t c { type filter hook prerouting priority 0; }; add rule ip t c ct state new accept'");
    for (spec, pod) in specs.iter().zip(&pods) {
        bench.wire(spec, pod).unwrap();
        // One more than needed: the kernel drops what is sent before it has started the new link's queue.
        pod.sh("ping -c2 -i0.2 -W2 10.0.1.10");
    }
    let entries = |bench: &Bench, address: Ipv4Addr| {
        bench.netns.sh(&format!("conntrack -L -s {address} 2>/dev/null || true")).lines().count()
    };
    assert_eq!(entries(&bench, specs[0].address), 1);
    bench
        .host
        .unwire(&UnwireSpec {
            host_name: specs[0].host_name.clone(),
            ifindex: specs[0].ifindex,
            addresses: vec![specs[0].address],
        })
        .unwrap();
    assert_eq!(bench.host.reap(&[reap(&specs[0])]).gone, [specs[0].ifindex]);
    assert_eq!(entries(&bench, specs[0].address), 0);
    assert_eq!(entries(&bench, specs[1].address), 1);
}

#[test]
fn netns_a_missing_preferred_source_does_not_stop_an_add() {
    let mut bench = Bench::new();
    let pod = Netns::new();
    bench.wire(&WireSpec { prefsrc: Some(Ipv4Addr::new(10, 9, 9, 9)), ..spec(1) }, &pod).unwrap();
    let view = bench.host.observe().unwrap();
    assert_eq!(view.pods_routes[0].prefsrc, None);
}

#[test]
fn netns_a_host_socket_and_other_descriptors_are_no_sandbox() {
    let bench = Bench::new();
    let own = bench.netns.route_socket();
    assert_eq!(fdpass::netns_cookie(own.as_fd()).unwrap(), bench.host.cookie().0);
    let refused = SandboxSocket::check(own, bench.host.cookie()).unwrap_err();
    assert!(matches!(refused, SandboxSocketError::OfTheHost));
    let file: OwnedFd = File::open("/dev/null").unwrap().into();
    assert!(matches!(
        SandboxSocket::check(file, bench.host.cookie()).unwrap_err(),
        SandboxSocketError::OtherKind
    ));
}

#[test]
fn netns_the_lock_is_held_once_per_namespace_and_freed_with_its_holder() {
    let (one, two) = (Netns::new(), Netns::new());
    let lock = one.inside(|| NetfilterLock::acquire().expect("free"));
    assert!(matches!(one.inside(|| NetfilterLock::acquire().err()), Some(LockError::Held)));
    one.sh("nft flush ruleset");
    assert!(
        matches!(one.inside(|| NetfilterLock::acquire().err()), Some(LockError::Held)),
        "survives a flush"
    );
    two.inside(|| NetfilterLock::acquire().expect("another namespace"));
    drop(lock);
    // The kernel takes the table away when the socket is released, which may be a moment later.
    let free = (0..500).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(10));
        one.inside(|| NetfilterLock::acquire().is_ok())
    });
    assert!(free, "freed with its holder");
}
