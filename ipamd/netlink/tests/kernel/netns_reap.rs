//! The reaper: links by the group, conntrack entries, and what is not its own.

use crate::bench::{Node, Space, spec};
use ipamd_core::kernel::{
    DYING_GROUP, HostKernel, HostStep, PODS_RULE_PRIORITY, PODS_TABLE, ReapLink, UnwireSpec, WireSpec,
};
use std::net::Ipv4Addr;

fn of(spec: &WireSpec) -> ReapLink {
    ReapLink { ifindex: spec.ifindex, alias: spec.alias.clone(), addresses: vec![spec.address] }
}

fn off(spec: &WireSpec) -> UnwireSpec {
    UnwireSpec { host_name: spec.host_name.clone(), ifindex: spec.ifindex, addresses: vec![spec.address] }
}

fn veths(node: &Node) -> usize {
    node.with_host(|host| host.observe().unwrap().links.iter().filter(|l| l.kind == "veth").count())
}

#[test]
fn sixty_four_links_go_at_once() {
    let node = Node::new();
    let specs: Vec<WireSpec> = (1..=64).map(spec).collect();
    let sandboxes: Vec<Space> = specs.iter().map(|_| Space::new()).collect();
    let sockets: Vec<_> = sandboxes.iter().map(|sandbox| sandbox.socket(node.cookie)).collect();
    let links: Vec<ReapLink> = specs.iter().map(of).collect();
    let (reaped, sent) = node.with_host(|host| {
        for (spec, socket) in specs.iter().zip(&sockets) {
            host.wire(spec, socket).unwrap();
            host.unwire(&off(spec)).unwrap();
        }
        node.sent();
        let reaped = host.reap(&links);
        (reaped, node.sent())
    });
    assert_eq!(reaped.kept, []);
    assert_eq!(reaped.gone.len(), 64);
    assert_eq!(sent.0, 64 + 1 + 1, "a look at each, one list, one group delete");
    assert_eq!(veths(&node), 0);
    assert_eq!(sandboxes[63].ip("link").as_array().unwrap().len(), 1);
}

#[test]
fn one_link_and_one_that_is_gone() {
    let (node, sandbox) = (Node::new(), Space::new());
    let socket = sandbox.socket(node.cookie);
    let (reaped, sent) = node.with_host(|host| {
        host.wire(&spec(1), &socket).unwrap();
        host.unwire(&off(&spec(1))).unwrap();
        node.sent();
        (host.reap(&[of(&spec(1)), of(&spec(2))]), node.sent())
    });
    assert_eq!((reaped.gone.len(), reaped.kept.len()), (2, 0));
    assert_eq!(sent, (3, 2), "a look at each in one send, one delete");
    assert_eq!(veths(&node), 0);
}

#[test]
fn links_outside_the_dying_group_are_moved_there_first() {
    let (node, one, two) = (Node::new(), Space::new(), Space::new());
    let (first, second) = (one.socket(node.cookie), two.socket(node.cookie));
    let reaped = node.with_host(|host| {
        host.wire(&spec(1), &first).unwrap();
        host.wire(&spec(2), &second).unwrap();
        host.unwire(&off(&spec(1))).unwrap();
        host.reap(&[of(&spec(1)), of(&spec(2))])
    });
    assert_eq!(reaped.gone.len(), 2);
    assert_eq!(veths(&node), 0);
}

#[test]
fn a_link_with_another_alias_is_not_deleted_by_its_index() {
    let (node, sandbox) = (Node::new(), Space::new());
    let mine = spec(1);
    node.space.sh(&format!(
        "ip link add foreign index {} type veth peer name p; ip link set foreign group {DYING_GROUP} alias 'eni1 9 other eth0 1 net'",
        mine.ifindex
    ));
    let before = node.space.sh("ip -d link show foreign");
    let socket = sandbox.socket(node.cookie);
    let reaped = node.with_host(|host| {
        host.wire(&spec(2), &socket).unwrap();
        host.reap(&[of(&mine), of(&spec(2))])
    });
    assert_eq!(reaped.gone, [mine.ifindex, spec(2).ifindex], "ours is gone: another has its number");
    assert_eq!(reaped.kept, []);
    assert_eq!(node.space.sh("ip -d link show foreign"), before);
}

#[test]
fn a_group_with_somebody_elses_link_in_it_is_not_deleted_as_one() {
    let (node, one, two) = (Node::new(), Space::new(), Space::new());
    node.space.sh("ip link add foreign index 99 type veth peer name p");
    node.space.sh(&format!("ip link set foreign group {DYING_GROUP}"));
    let (first, second) = (one.socket(node.cookie), two.socket(node.cookie));
    let reaped = node.with_host(|host| {
        for (spec, socket) in [(spec(1), &first), (spec(2), &second)] {
            host.wire(&spec, socket).unwrap();
            host.unwire(&off(&spec)).unwrap();
        }
        host.reap(&[of(&spec(1)), of(&spec(2))])
    });
    assert_eq!((reaped.gone.len(), reaped.kept.len()), (2, 0), "{reaped:?}");
    node.space.sh("ip link show foreign");
}

#[test]
fn a_link_that_took_a_dead_ones_number_is_left_alone_and_keeps_nothing() {
    let node = Node::new();
    let add = format!("ip link add foreign index {} type veth peer name p", spec(1).ifindex);
    node.space.sh(&format!("{add}; ip link set foreign up group 42"));
    let before = node.space.sh("ip -d link show foreign");
    let reaped = node.with_host(|host| {
        host.unwire(&off(&spec(1))).unwrap();
        host.reap(&[of(&spec(1))])
    });
    assert_eq!((reaped.gone, reaped.kept), (vec![spec(1).ifindex], Vec::new()));
    assert_eq!(node.space.sh("ip -d link show foreign"), before, "DEL has not touched it either");
}

#[test]
fn a_link_of_our_group_without_alias_and_our_name_is_not_deleted() {
    let node = Node::new();
    let add = format!("ip link add foreign index {} type veth peer name p", spec(1).ifindex);
    node.space.sh(&format!("{add}; ip link set foreign group {DYING_GROUP}"));
    let reaped = node.with_host(|host| host.reap(&[of(&spec(1))]));
    assert_eq!((reaped.gone.len(), reaped.kept.len()), (0, 1));
    node.space.sh("ip link show foreign");
}

#[test]
fn an_unfinished_pair_without_an_alias_is_reaped() {
    let (node, sandbox) = (Node::new(), Space::new());
    let socket = sandbox.socket(node.cookie);
    let reaped = node.with_host(|host| {
        host.wire(&WireSpec { alias: "x".repeat(300), ..spec(1) }, &socket).unwrap_err();
        host.unwire(&off(&spec(1))).unwrap();
        host.reap(&[of(&spec(1))])
    });
    assert_eq!(reaped.gone, [spec(1).ifindex]);
    assert_eq!(veths(&node), 0);
}

#[test]
fn one_member_that_cannot_be_deleted_does_not_keep_the_others() {
    let (node, one, two) = (Node::new(), Space::new(), Space::new());
    // Loopback has no way to be deleted, as an ENI's link has none.
    node.space.sh(&format!("ip link set lo group {DYING_GROUP}"));
    let (first, second) = (one.socket(node.cookie), two.socket(node.cookie));
    let reaped = node.with_host(|host| {
        host.wire(&spec(1), &first).unwrap();
        host.wire(&spec(2), &second).unwrap();
        host.reap(&[of(&spec(1)), of(&spec(2))])
    });
    assert_eq!(reaped.gone.len(), 2, "{reaped:?}");
    assert_eq!(veths(&node), 0);
}

/// A node that forwards and tracks, with two pods that have talked: one to the other, and the node to both.
fn talked() -> (Node, [Space; 3]) {
    let (node, sandboxes) = (Node::new(), [Space::new(), Space::new(), Space::new()]);
    let sockets: Vec<_> = sandboxes.iter().map(|s| s.socket(node.cookie)).collect();
    let rule = HostStep::AddRule { priority: PODS_RULE_PRIORITY, table: PODS_TABLE, mark: None };
    node.with_host(|host| {
        assert_eq!(host.apply(&[rule]), []);
        for (n, socket) in (1..).zip(&sockets) {
            host.wire(&spec(n), socket).unwrap();
        }
    });
    node.space.sh("nft add table ip t; nft 'add chain ip t c { type filter hook prerouting priority 0; }'; nft add rule ip t c ct state invalid drop; nft 'add chain ip t o { type filter hook output priority 0; }'; nft add rule ip t o ct state invalid drop");
    for n in [1, 2, 3] {
        node.space.sh(&format!("ping -c 2 -i 0.2 -W 1 10.9.1.{n}"));
    }
    sandboxes[0].sh("ping -c 2 -i 0.2 -W 1 10.9.1.2");
    sandboxes[1].sh("ping -c 2 -i 0.2 -W 1 10.9.1.3");
    (node, sandboxes)
}

/// The sources of both tuples of every entry.
fn tracked(node: &Node) -> Vec<[Ipv4Addr; 2]> {
    let text = node.space.sh("conntrack -L 2>/dev/null");
    let sources = |line: &str| {
        let words = line.split_whitespace().filter_map(|word| word.strip_prefix("src="));
        let sources: Vec<Ipv4Addr> = words.map(|a| a.parse().unwrap()).collect();
        <[Ipv4Addr; 2]>::try_from(sources).unwrap()
    };
    text.lines().map(sources).collect()
}

#[test]
fn the_conntrack_entries_of_few_addresses_are_deleted() {
    let (node, _sandboxes) = talked();
    let gone = spec(1).address;
    let before = tracked(&node);
    assert!(before.iter().any(|e| e[0] == gone) && before.iter().any(|e| e[1] == gone), "{before:?}");
    let others: Vec<_> = before.iter().filter(|e| !e.contains(&gone)).copied().collect();
    assert!(others.len() >= 3, "{before:?}");
    let reaped = node.with_host(|host| host.reap(&[of(&spec(1))]));
    assert_eq!(reaped.gone, [spec(1).ifindex]);
    let mut after = tracked(&node);
    after.sort();
    let mut others = others;
    others.sort();
    assert_eq!(after, others);
}

#[test]
fn the_conntrack_entries_of_many_addresses_are_deleted() {
    let (node, _sandboxes) = talked();
    assert!(!tracked(&node).is_empty());
    let reaped = node.with_host(|host| host.reap(&[of(&spec(1)), of(&spec(2)), of(&spec(3))]));
    assert_eq!(reaped.gone.len(), 3);
    assert_eq!(tracked(&node), Vec::<[Ipv4Addr; 2]>::new());
}

#[test]
fn entries_are_deleted_though_the_link_was_gone_already() {
    let (node, _sandboxes) = talked();
    node.space.sh(&format!("ip link del {}", spec(1).host_name));
    assert!(tracked(&node).iter().any(|e| e.contains(&spec(1).address)));
    let reaped = node.with_host(|host| host.reap(&[of(&spec(1))]));
    assert_eq!(reaped.gone, [spec(1).ifindex]);
    assert!(tracked(&node).iter().all(|e| !e.contains(&spec(1).address)));
}

#[test]
fn an_empty_conntrack_table_is_not_walked() {
    let (node, sandbox) = (Node::new(), Space::new());
    let socket = sandbox.socket(node.cookie);
    let asked = || node.counters.netfilter_messages.swap(0, std::sync::atomic::Ordering::Relaxed);
    let reaped = node.with_host(|host| {
        host.wire(&spec(1), &socket).unwrap();
        host.unwire(&off(&spec(1))).unwrap();
        asked();
        host.reap(&[of(&spec(1))])
    });
    assert_eq!((reaped.gone.len(), reaped.kept), (1, Vec::new()));
    assert_eq!(asked(), 1, "their number, and no list");
}

#[test]
fn a_link_that_took_a_dead_ones_name_is_given_back() {
    let node = Node::new();
    let name = spec(1).host_name;
    node.space.sh(&format!("ip link add {name} index 99 type veth peer name p; ip link set {name} up"));
    let before = node.space.sh(&format!("ip -d link show {name}"));
    node.with_host(|host| host.unwire(&off(&spec(1))).unwrap());
    assert_eq!(node.space.sh(&format!("ip -d link show {name}")), before);
}

#[test]
fn a_dead_link_ends_the_trust_in_the_dying_group() {
    fn delete(node: &Node, numbers: [u8; 2]) {
        let sandboxes = numbers.map(|_| Space::new());
        let specs = numbers.map(spec);
        let links = specs.each_ref().map(of);
        let reaped = node.with_host(|host| {
            for (spec, sandbox) in specs.iter().zip(&sandboxes) {
                host.wire(spec, &sandbox.socket(node.cookie)).unwrap();
                host.unwire(&off(spec)).unwrap();
            }
            host.reap(&links)
        });
        assert_eq!(reaped.gone.len(), 2, "{reaped:?}");
    }
    let node = Node::new();
    delete(&node, [2, 3]);
    node.space.sh("ip link add foreign index 99 type veth peer name p");
    node.space.sh(&format!("ip link set foreign group {DYING_GROUP}"));
    assert_eq!(node.with_host(|host| host.reap(&[of(&spec(1))])).gone, [spec(1).ifindex]);
    delete(&node, [4, 5]);
    node.space.sh("ip link show foreign");
}
