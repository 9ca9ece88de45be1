//! A sandbox that sends with an address that is not its own reaches nobody.

use crate::node;
use eni_tests::cni::add;
use eni_tests::sandbox::Sandbox;
use eni_tests::traffic::{Echo, inside, ping};
use std::net::{Ipv4Addr, UdpSocket};

#[test]
fn netns_forged_sources_reach_nobody_whatever_all_rp_filter_is() {
    let node = node(5);
    let (one, two, three) = (Sandbox::new(), Sandbox::new(), Sandbox::new());
    let own = add(&node, "one", &one);
    let neighbour = add(&node, "two", &two);
    let other = add(&node, "three", &three);
    let free = Ipv4Addr::new(10, 0, 1, 14);
    for forged in [neighbour, free] {
        one.sh(&format!("ip addr add {forged}/32 dev eth0")).unwrap();
    }
    let primary = node.address("node_address");
    // Where, its namespace, its address, and the source that it must see.
    let targets = [
        ("peer", node.netns("peer"), node.address("peer_address"), own),
        ("node", node.netns("node"), primary, own),
        ("other sandbox", three.name().to_owned(), other, own),
        ("internet", node.netns("internet"), node.address("internet_address"), primary),
    ];
    let servers: Vec<Echo> = targets.iter().map(|(_, netns, ..)| Echo::start(netns)).collect();
    for all in [0, 1, 2] {
        node.sh("node", &format!("sysctl -qw net.ipv4.conf.all.rp_filter={all}")).unwrap();
        for ((role, _, target, source), server) in targets.iter().zip(&servers) {
            assert!(ping(one.name(), *target, Some(own)), "its own address works (all.rp_filter {all})");
            server.seen();
            for forged in [neighbour, free] {
                let (target, port) = (*target, server.port);
                inside(one.name(), move || {
                    let socket = UdpSocket::bind((forged, 0)).expect("the sandbox has the address");
                    socket.send_to(b"forged", (target, port)).expect("it is sent");
                });
                // What was sent later with the right source has arrived: the forged one would have, too.
                let (target, port) = (target, port);
                let answered = inside(one.name(), move || {
                    let socket = UdpSocket::bind((own, 0)).expect("its own address");
                    socket.set_read_timeout(Some(std::time::Duration::from_secs(2))).expect("a time-out");
                    socket.send_to(b"own", (target, port)).expect("it is sent");
                    socket.recv_from(&mut [0; 64]).is_ok()
                });
                assert!(answered);
                assert_eq!(server.seen(), [*source], "{forged} reached the {role} (all.rp_filter {all})");
            }
        }
    }
    assert_eq!(node.drops("v1"), 0, "forged packets do not even leave the node");
}
