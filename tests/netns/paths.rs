//! Every path of one ENI, by ICMP, UDP and TCP, with the source that the server must see.

use crate::node;
use eni_tests::cni::{Call, add, del};
use eni_tests::node::Node;
use eni_tests::sandbox::Sandbox;
use eni_tests::traffic::{Connection, Echo, inside, ping, spawn, tcp, udp};
use eni_tests::wait;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::Duration;

/// One path: from, to, and the source that the server must see.
struct Path<'a> {
    name: &'a str,
    from: String,
    to: Ipv4Addr,
    server: &'a Echo,
    source: Ipv4Addr,
}

fn check(path: &Path<'_>) {
    assert!(ping(&path.from, path.to, None), "{}: ping", path.name);
    assert_eq!(udp(&path.from, path.to, path.server.port), Some(path.source), "{}: UDP", path.name);
    assert_eq!(tcp(&path.from, path.to, path.server.port, 200_000), Some(path.source), "{}: TCP", path.name);
}

fn all_paths(node: &Node, one: &Sandbox, two: &Sandbox) {
    let (a, b) = (one.address("eth0").expect("an address"), two.address("eth0").expect("an address"));
    let primary = node.address("node_address");
    let (peer, internet) = (node.address("peer_address"), node.address("internet_address"));
    let [at_pod, at_node, at_peer, at_internet] =
        [two.name().to_owned(), node.netns("node"), node.netns("peer"), node.netns("internet")]
            .map(|n| Echo::start(&n));
    let from = |sandbox: &Sandbox| sandbox.name().to_owned();
    for path in [
        Path { name: "pod to pod", from: from(one), to: b, server: &at_pod, source: a },
        Path { name: "pod to node", from: from(one), to: primary, server: &at_node, source: a },
        Path { name: "pod to VPC", from: from(one), to: peer, server: &at_peer, source: a },
        Path {
            name: "pod to internet",
            from: from(one),
            to: internet,
            server: &at_internet,
            source: primary,
        },
        Path { name: "node to pod", from: node.netns("node"), to: b, server: &at_pod, source: primary },
        Path {
            name: "node to internet",
            from: node.netns("node"),
            to: internet,
            server: &at_internet,
            source: primary,
        },
        Path { name: "VPC to pod", from: node.netns("peer"), to: b, server: &at_pod, source: peer },
    ] {
        check(&path);
    }
    assert_eq!((node.drops("v1"), node.drops("internet")), (0, 0), "packets left with a wrong source");
}

#[test]
fn netns_every_path_and_again_after_a_restart_with_open_connections() {
    let mut node = node(5);
    let (one, two) = (Sandbox::new(), Sandbox::new());
    add(&node, "one", &one);
    add(&node, "two", &two);
    all_paths(&node, &one, &two);
    let server = Echo::start(&node.netns("internet"));
    let (target, port) = (node.address("internet_address"), server.port);
    let open = inside(one.name(), move || Connection::open(target, port)).expect("it connects");
    node.restart_ipamd();
    let mut open = open;
    assert!(open.exchange(100_000), "a connection that was open before goes on");
    all_paths(&node, &one, &two);
}

#[test]
fn netns_a_wrong_rule_is_counted_by_the_source_check() {
    let node = node(5);
    let one = Sandbox::new();
    let address = add(&node, "one", &one);
    // Masquerading to an address that the ENI does not own.
    node.sh(
        "node",
        "nft 'add table ip wrong; add chain ip wrong c { type nat hook postrouting priority 50; }; \
         add rule ip wrong c oifname ens5 snat to 10.0.1.250'",
    )
    .unwrap();
    assert!(!ping(one.name(), node.address("peer_address"), None));
    assert!(node.drops("v1") > 0, "the check counts");
    node.sh("node", "nft delete table ip wrong").unwrap();
    // Ours would be laid again at once: somebody else translates before it, to the sandbox's own address.
    node.sh(
        "node",
        &format!(
            "nft 'add table ip wrong; add chain ip wrong c {{ type nat hook postrouting priority 50; }}; \
             add rule ip wrong c oifname ens5 snat to {address}'"
        ),
    )
    .unwrap();
    let internet = node.address("internet_address");
    assert!(!ping(one.name(), internet, None), "an address of the VPC does not reach the internet");
    assert!(node.drops("internet") > 0, "the internet gateway's check counts");
    node.sh("node", "nft delete table ip wrong").unwrap();
}

/// "Destination Host Unreachable" within two tries: the kernel answers about once a second per sender.
fn unreachable(netns: &Sandbox, target: Ipv4Addr) -> bool {
    let said = netns.sh(&format!("ping -n -c2 -i1 -W1 {target} || true")).unwrap();
    said.contains("Destination Host Unreachable")
}

#[test]
fn netns_an_address_that_nobody_holds_is_answered_unreachable() {
    let node = node(5);
    let (one, two) = (Sandbox::new(), Sandbox::new());
    add(&node, "one", &one);
    let held = add(&node, "two", &two);
    assert!(unreachable(&one, Ipv4Addr::new(10, 0, 1, 14)), "a free address");
    assert!(ping(one.name(), held, None));
    two.die();
    wait::until("the kernel has taken the route away", || {
        !node.sh("node", "ip route show table 247529472").unwrap().contains(&format!("{held} dev"))
    });
    assert!(unreachable(&one, held), "right after its sandbox died by itself");
    assert_eq!(node.drops("v1"), 0, "it never left by the primary");
    del(&node, "two", "");
}

#[test]
fn netns_a_released_address_is_not_reached_by_its_last_holders_flow() {
    let node = node(2);
    let one = Sandbox::new();
    let first = add(&node, "one", &one);
    let peer = node.address("peer_address");
    let at_peer = Echo::start(&node.netns("peer"));
    // A flow of the first holder: conntrack knows it, and would carry the peer's packets back to the address.
    assert_eq!(udp(one.name(), peer, at_peer.port), Some(first));
    let entry = format!("conntrack -L -s {first} 2>/dev/null");
    assert!(!node.sh("node", &entry).unwrap().is_empty(), "the flow is in conntrack");
    del(&node, "one", &one.path());
    wait::until("the address is free", || node.ask("status")["pool"]["free"] == 2);
    assert!(
        node.sh("node", &entry).unwrap().is_empty(),
        "its entries are deleted before the address is free"
    );
    let two = Sandbox::new();
    // The longest-free address comes first: the other one, then the one that was released.
    let (a, b) = (add(&node, "two", &two), Sandbox::new());
    let c = add(&node, "three", &b);
    assert!(a == first || c == first);
}

/// A UDP server on a port that is wanted: it tells what it got, and answers nothing.
fn listen(sandbox: &Sandbox, port: u16) -> Receiver<String> {
    let (ready, started) = sync_channel(1);
    let (tell, told) = sync_channel(1024);
    spawn(sandbox.name(), move || {
        let socket =
            UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).expect("the port is free in a new sandbox");
        ready.send(()).expect("the starter waits");
        let mut buffer = [0u8; 64];
        while let Ok((length, _)) = socket.recv_from(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if tell.send(text).is_err() {
                return;
            }
        }
    });
    started.recv().expect("the server starts");
    told
}

#[test]
fn netns_a_flow_to_a_released_address_is_not_delivered_to_its_next_holder() {
    const PORT: u16 = 4000;
    let node = node(1);
    let one = Sandbox::new();
    let address = add(&node, "one", &one);
    // As kube-proxy does: the node's port leads to the sandbox, by an entry of conntrack that outlives the rule.
    node.sh(
        "node",
        &format!(
            "nft 'add table ip svc; add chain ip svc pre {{ type nat hook prerouting priority -100; }}; \
             add rule ip svc pre udp dport 30000 dnat to {address}:{PORT}'"
        ),
    )
    .unwrap();
    let got = listen(&one, PORT);
    let (target, stop) = (node.address("node_address"), Arc::new(AtomicBool::new(false)));
    let ended = stop.clone();
    let flow = spawn(&node.netns("peer"), move || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a port");
        while !ended.load(Ordering::Relaxed) {
            // "Port unreachable" is told to the next call: it goes on all the same, as such a client does.
            let _ = socket.send_to(b"old", (target, 30000));
            thread::sleep(Duration::from_millis(2));
        }
    });
    assert_eq!(got.recv_timeout(wait::PATIENCE).as_deref(), Ok("old"), "the flow reaches the first holder");
    node.sh("node", "nft delete table ip svc").unwrap();
    while got.try_recv().is_ok() {}
    assert_eq!(got.recv_timeout(wait::PATIENCE).as_deref(), Ok("old"), "also without the rule");
    del(&node, "one", &one.path());
    let two = Sandbox::new();
    let got = listen(&two, PORT);
    wait::until("the next holder has the address", || {
        Call::new(&node, "ADD").of("two", &two.path()).run().code == Some(0)
    });
    assert_eq!(two.address("eth0"), Some(address));
    let peer = node.netns("peer");
    for _ in 0..20 {
        // What was sent later to the address itself arrives; the old flow's packets would have come between.
        inside(&peer, move || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a port");
            socket.send_to(b"new", (address, PORT)).expect("it is sent");
        });
        assert_eq!(got.recv_timeout(wait::PATIENCE).as_deref(), Ok("new"));
    }
    stop.store(true, Ordering::Relaxed);
    flow.join().expect("the flow's thread");
}
