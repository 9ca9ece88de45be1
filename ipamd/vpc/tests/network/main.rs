//! The program itself: ENIs come and go as links, and packets meet the router that a VPC has.
//!
//! Needs root. Owns its namespaces, by names that carry its process id, and takes them away.

mod http;
mod vpc;

use embedded_vpc::control::{Answer, Request};
use embedded_vpc::model::OtherEni;
use ipamd_core::cloud::{EniAttachmentStatus, EniObservation, Mutated, Mutation};
use std::collections::BTreeMap;
use vpc::{Vpc, until};

/// Brings an ENI's link up, and answers from its addresses by it: what ipamd does.
fn steer(vpc: &Vpc, eni: &EniObservation, link: &str) {
    let gateway = vpc.topology.gateway;
    let mut lines = format!(
        "link set {link} up\n\
         route add {gateway}/32 dev {link} scope link table 100\n\
         route add default via {gateway} dev {link} table 100\n"
    );
    for address in eni.all_addresses() {
        lines += &format!("addr add {address}/32 dev lo\nrule add from {address} lookup 100\n");
    }
    vpc.ip("node", &lines);
}

#[test]
fn netns_an_eni_comes_carries_packets_and_goes() {
    let vpc = Vpc::new(&[
        "--instance-type",
        "test.4x6",
        "--secondary",
        "1",
        "--attach-ms",
        "300",
        "--detach-ms",
        "300",
    ]);
    let eni = vpc.created(2);
    vpc.mutated(&vpc.attach(&eni.id, 1));
    assert_eq!(vpc.status(&eni.id), Some(EniAttachmentStatus::Attaching));
    assert!(!vpc.has_link("node", "ens6"), "it is on its way");
    until("it is attached", || vpc.status(&eni.id) == Some(EniAttachmentStatus::Attached));
    let shown = vpc.ip("node", "-o addr show dev ens6\nlink show dev ens6\n");
    assert!(shown.contains(&format!("link/ether {}", eni.mac)), "{shown}");
    assert!(shown.contains("state DOWN") && !shown.contains("inet "), "bare: {shown}");
    assert!(shown.contains("mtu 9001"), "{shown}");

    steer(&vpc, &eni, "ens6");
    let topology = &vpc.topology;
    let (peer, client) = (topology.peer_address, topology.client_address);
    for address in eni.all_addresses() {
        assert!(vpc.pings("node", &["-I", &address.to_string(), &peer.to_string()]), "{address} to the peer");
        assert!(vpc.pings("peer", &[&address.to_string()]), "the peer to {address}");
        assert!(vpc.pings("client", &[&address.to_string()]), "the client to {address}");
        assert!(
            vpc.pings("node", &["-I", &address.to_string(), &client.to_string()]),
            "{address} to the client"
        );
    }
    assert!(vpc.drops().values().all(|&packets| packets == 0), "{:?}", vpc.drops());

    vpc.mutated(&Mutation::Detach { eni: eni.id.clone(), attachment: None });
    assert_eq!(vpc.status(&eni.id), Some(EniAttachmentStatus::Detaching));
    until("it is available", || vpc.status(&eni.id).is_none());
    assert!(!vpc.has_link("node", "ens6") && !vpc.has_link("router", "v2"), "its link is gone before");
    assert_eq!(vpc.ip("router", &format!("route show {}\n", eni.primary.unwrap())), "");
    assert!(vpc.drops().contains_key("v2"), "its count stays");
    vpc.mutated(&Mutation::Delete { eni: eni.id.clone() });

    let next = vpc.created(0);
    assert_ne!(next.mac, eni.mac);
    vpc.attached(&next, 1);
    assert!(vpc.ip("node", "link show dev ens6\n").contains(&next.mac.to_string()), "another in its place");
}

#[test]
fn netns_assigned_addresses_are_known_at_once_and_unassigned_ones_no_more() {
    let vpc = Vpc::new(&[
        "--instance-type",
        "test.4x6",
        "--secondary",
        "1",
        "--attach-ms",
        "0",
        "--detach-ms",
        "0",
    ]);
    let mut eni = vpc.created(1);
    vpc.attached(&eni, 1);
    let Mutated::Assigned(new) =
        vpc.mutated(&Mutation::Assign { eni: eni.id.clone(), count: 2, prefixes: 0 })
    else {
        panic!()
    };
    assert_eq!(new.len(), 2);
    eni.secondary.extend(&new);
    steer(&vpc, &eni, "ens6");
    let peer = vpc.topology.peer_address.to_string();
    let (kept, gone) = (new[0].to_string(), new[1].to_string());
    for address in [&kept, &gone] {
        assert!(vpc.pings("peer", &[address]) && vpc.pings("node", &["-I", address, &peer]), "{address}");
    }
    vpc.mutated(&Mutation::Unassign { eni: eni.id.clone(), addresses: vec![new[1]], prefixes: Vec::new() });
    assert!(!vpc.pings("peer", &[&gone]), "nobody owns it");
    assert_eq!(vpc.drops()["v2"], 0);
    assert!(!vpc.pings("node", &["-I", &gone, &peer]), "nor may anybody send with it");
    assert_eq!(vpc.drops()["v2"], 1);
    assert!(vpc.pings("peer", &[&kept]), "the other stays");
    let primary = vpc.enis()[0].clone();
    let Mutated::Assigned(on_primary) =
        vpc.mutated(&Mutation::Assign { eni: primary.id, count: 1, prefixes: 0 })
    else {
        panic!()
    };
    vpc.ip("node", &format!("addr add {}/32 dev lo\n", on_primary[0]));
    assert!(vpc.pings("peer", &[&on_primary[0].to_string()]), "the primary grows as well");
}

#[test]
fn netns_wrong_sources_are_dropped_and_counted_by_eni() {
    let vpc = Vpc::new(&["--instance-type", "test.4x6", "--secondary", "1", "--attach-ms", "0"]);
    let eni = vpc.created(1);
    vpc.attached(&eni, 1);
    steer(&vpc, &eni, "ens6");
    let topology = &vpc.topology;
    let (peer, internet) = (topology.peer_address.to_string(), topology.internet_address.to_string());
    let address = eni.secondary[0].to_string();
    assert!(vpc.pings("node", &[&internet]), "the primary address is public");
    assert!(!vpc.pings("node", &["-I", &address, &internet]), "no other is");
    assert_eq!((vpc.drops()["internet"], vpc.drops()["v1"], vpc.drops()["v2"]), (1, 0, 0));
    // One rule less, and it leaves by the primary ENI.
    vpc.ip("node", &format!("rule del from {address} lookup 100\n"));
    assert!(!vpc.pings("node", &["-I", &address, &peer]));
    assert_eq!((vpc.drops()["v1"], vpc.drops()["v2"]), (1, 0));
    // The primary's address by the second ENI.
    let node = topology.node_address.to_string();
    vpc.ip("node", &format!("rule add from {node} lookup 100\n"));
    assert!(!vpc.pings("node", &["-I", &node, &peer]));
    assert_eq!((vpc.drops()["v1"], vpc.drops()["v2"]), (1, 1));
}

#[test]
fn netns_the_router_tells_what_is_too_big_for_the_internet() {
    let vpc = Vpc::new(&["--instance-type", "test.4x6", "--secondary", "0"]);
    let (internet, peer) = (vpc.topology.internet_address.to_string(), vpc.topology.peer_address.to_string());
    assert!(vpc.pings("node", &["-M", "do", "-s", "8973", &peer]), "9001 bytes inside the VPC");
    assert!(vpc.pings("node", &["-M", "do", "-s", "1472", &internet]), "1500 bytes outside");
    assert!(!vpc.pings("node", &["-M", "do", "-s", "1473", &internet]), "and no more");
    let route = vpc.ip("node", &format!("route get {internet}\n"));
    assert!(route.contains("mtu 1500"), "the node was told: {route}");
}

#[test]
fn netns_the_largest_instance_is_filled_while_others_are_answered() {
    let vpc = Vpc::new(&["--instance-type", "bench.8x150", "--secondary", "149", "--attach-ms", "0"]);
    let enis: Vec<EniObservation> = (0..7).map(|_| vpc.created(149)).collect();
    for (eni, device_index) in enis.iter().zip(1..) {
        vpc.mutated(&vpc.attach(&eni.id, device_index));
        assert_eq!(vpc.enis().len(), 8, "this does not wait for the links");
    }
    until("all are attached", || {
        enis.iter().all(|eni| vpc.status(&eni.id) == Some(EniAttachmentStatus::Attached))
    });
    let neighbours = vpc.ip("router", "neigh show nud permanent\n");
    assert_eq!(neighbours.lines().count(), 8 * 150);
    let last = &enis[6];
    steer(&vpc, &EniObservation { secondary: vec![last.secondary[148]], ..last.clone() }, "ens12");
    assert!(vpc.pings("peer", &[&last.secondary[148].to_string()]));
    for eni in &enis {
        vpc.mutated(&Mutation::Detach { eni: eni.id.clone(), attachment: None });
    }
    until("all are available", || enis.iter().all(|eni| vpc.status(&eni.id).is_none()));
    let links = vpc.ip("node", "-o link show\n");
    assert_eq!(links.lines().filter(|line| line.contains(": ens")).count(), 1, "{links}");
    let Answer::Calls(calls) = vpc.ask(&Request::Calls) else { panic!() };
    assert_eq!((calls["CreateNetworkInterface"], calls["AttachNetworkInterface"]), (7, 7));
}

#[test]
fn netns_a_prefix_is_the_enis_with_all_of_its_addresses() {
    let vpc = Vpc::new(&[
        "--instance-type",
        "test.4x6p",
        "--secondary",
        "1",
        "--attach-ms",
        "0",
        "--detach-ms",
        "0",
    ]);
    let mut eni = vpc.created(0);
    vpc.attached(&eni, 1);
    let Mutated::AssignedPrefixes(prefixes) =
        vpc.mutated(&Mutation::Assign { eni: eni.id.clone(), count: 0, prefixes: 1 })
    else {
        panic!()
    };
    eni.prefixes.clone_from(&prefixes);
    steer(&vpc, &eni, "ens6");
    let peer = vpc.topology.peer_address.to_string();
    let all: Vec<String> = eni.for_containers().map(|address| address.to_string()).collect();
    assert_eq!(all.len(), 16);
    for address in [&all[0], &all[7], &all[15]] {
        assert!(vpc.pings("peer", &[address]) && vpc.pings("node", &["-I", address, &peer]), "{address}");
    }
    assert_eq!(vpc.drops()["v2"], 0);
    let unassign = Mutation::Unassign { eni: eni.id.clone(), addresses: Vec::new(), prefixes };
    vpc.mutated(&unassign);
    for address in [&all[0], &all[15]] {
        assert!(!vpc.pings("peer", &[address]), "{address}: nobody owns it");
    }
    assert!(!vpc.pings("node", &["-I", &all[0], &peer]));
    assert_eq!(vpc.drops()["v2"], 1, "nor may anybody send with it");
}

#[test]
fn netns_enis_of_others_have_links_but_what_carries_no_addresses() {
    let vpc = Vpc::new(&["--instance-type", "test.4x6", "--secondary", "0"]);
    let other = |device_index, network_card, kind: &str| {
        let request = Request::AddOther(OtherEni {
            device_index: Some(device_index),
            network_card,
            kind: kind.to_owned(),
            tags: BTreeMap::new(),
            secondary: 0,
            prefixes: 0,
            delete_on_termination: true,
        });
        let Answer::Added(eni) = vpc.ask(&request) else { panic!() };
        eni
    };
    let (trunk, bare, far) = (other(1, 0, "trunk"), other(2, 0, "efa-only"), other(1, 1, "interface"));
    assert!(vpc.has_link("node", "ens6") && !vpc.has_link("node", "ens7"));
    assert!(vpc.has_link("node", "ens38"), "of the second card");
    let enis = vpc.enis();
    assert_eq!(enis[1..].iter().map(|e| &e.id).collect::<Vec<_>>(), [&trunk, &bare, &far]);
    assert!(vpc.ip("node", "link show dev ens38\n").contains(&enis[3].mac.to_string()));
    let Answer::Mutated(_) = vpc.ask(&Request::ForceDetach { eni: far }) else { panic!() };
    until("it is gone", || !vpc.has_link("node", "ens38"));
}
