//! A plan for several ENIs in the running kernel: what is laid, that nothing is left to do after, and that nothing is
//! left behind.

use crate::bench::{Node, PRIMARY, Space, spec};
use eni_proto::ids::MacAddr;
use ipamd_core::host_net::{self, Wanted, WantedPod, nft};
use ipamd_core::kernel::{ENI_GROUP, ENI_TABLE, HostKernel, HostStep, HostView, NFT_TABLE, PROTOCOL};
use ipamd_core::record::{EniRecord, EniState};
use ipamd_netlink::host::Host;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::atomic::Ordering;

fn eni(k: u32) -> EniRecord {
    EniRecord {
        id: format!("eni-{k}").parse().unwrap(),
        mac: MacAddr([2, 7, 0, 0, 0, k as u8]),
        device_index: k - 1,
        subnet: "subnet-1".parse().unwrap(),
        subnet_cidr: "10.9.0.0/20".parse().unwrap(),
        primary: if k == 1 { PRIMARY } else { Ipv4Addr::new(10, 9, 2, k as u8) },
        state: EniState::InUse,
        prefixes: Vec::new(),
        attachment: None,
    }
}

fn wanted(enis: &[u32]) -> Wanted {
    Wanted {
        enis: enis.iter().map(|k| eni(*k)).collect(),
        addresses: (1..4).map(|n| Ipv4Addr::new(10, 9, 1, n)).collect(),
        pods: vec![WantedPod {
            ifindex: spec(1).ifindex,
            name: spec(1).host_name,
            mac: spec(1).host_mac,
            alias: spec(1).alias,
            eni_number: Some(1),
            addresses: BTreeSet::from([spec(1).address]),
            sandbox_mac: spec(1).sandbox_mac,
        }],
        links: BTreeSet::from([spec(1).ifindex]),
        vpc_cidrs: vec!["10.9.0.0/16".parse().unwrap(), "10.9.4.0/24".parse().unwrap()],
        snat: true,
        eni_mtu: None,
        ..Wanted::default()
    }
}

/// A link for each ENI, as hardware would appear: down, without an address.
fn links(node: &Node, enis: &[u32]) {
    for k in enis {
        let (mac, index) = (eni(*k).mac, 20 + 2 * k);
        node.space.sh(&format!("ip link add ens{k} index {index} address {mac} type veth peer name p{k}"));
    }
}

/// Lays what is wanted and looks again: nothing is left to do.
fn lay(host: &mut Host, wanted: &Wanted) -> HostView {
    let steps = host_net::plan(wanted, &host.observe().unwrap());
    let steps: Vec<HostStep> = steps.into_iter().map(|planned| planned.step).collect();
    assert_eq!(host.apply(&steps), []);
    let view = host.observe().unwrap();
    assert_eq!(host_net::plan(wanted, &view), []);
    view
}

#[test]
fn three_enis_are_laid_and_one_by_one_taken_away() {
    let (node, sandbox) = (Node::new(), Space::new());
    links(&node, &[1, 2, 3]);
    let socket = sandbox.socket(node.cookie);
    node.with_host(|host| {
        host.wire(&spec(1), &socket).unwrap();
        lay(host, &wanted(&[1, 2, 3]));
        assert_rules(&node, &[2, 3]);
        for k in [2, 3] {
            let routes = node.space.sh(&format!("ip -4 route show table {}", ENI_TABLE + k));
            let routes: Vec<&str> = routes.lines().map(str::trim).collect();
            let expected = [
                format!("default via 10.9.0.1 dev ens{k} proto 236"),
                format!("10.9.0.1 dev ens{k} proto 236 scope link"),
            ];
            // A peer that is down takes the carrier, not the route.
            assert!(routes.iter().zip(&expected).all(|(r, e)| r.starts_with(e)), "{routes:?}");
            let addresses = node.space.sh(&format!("ip -4 addr show ens{k}"));
            assert!(addresses.contains(&format!("10.9.2.{k}/32")) && addresses.contains("noprefixroute"));
            assert!(
                node.space
                    .sh(&format!("ip -d link show ens{k}"))
                    .contains(&format!("group {}", ENI_GROUP + k))
            );
        }
        assert!(node.space.sh("ip -4 addr show ens1").is_empty(), "the primary's address is the system's");
        assert_eq!(node.space.sh("ip -4 route show table main"), "");
        lay(host, &wanted(&[1, 3]));
        assert_rules(&node, &[3]);
        assert!(!table(&node).contains("to2") && table(&node).contains("chain to3"));
        let view = lay(host, &wanted(&[1]));
        assert_rules(&node, &[]);
        assert_eq!((view.eni_routes.len(), view.addresses.len()), (0, 2), "loopback's and the primary");
        let groups: Vec<u32> =
            view.links.iter().filter(|l| l.name.starts_with("ens")).map(|l| l.group).collect();
        assert_eq!(groups, [ENI_GROUP + 1, 0, 0]);
    });
    assert_eq!(node.counters.nft_runs.load(Ordering::Relaxed), 3, "one per change of ENIs");
}

fn table(node: &Node) -> String {
    node.space.sh(&format!("nft list table ip {NFT_TABLE}"))
}

/// The rule of the pods table and one per secondary ENI, and no other.
fn assert_rules(node: &Node, secondary: &[u32]) {
    let all = node.space.sh("ip -4 rule show");
    let ours = all.lines().filter(|line| line.contains("proto 236"));
    let mut expected = vec!["512: from all lookup 247529472 proto 236".to_owned()];
    expected.extend(
        secondary
            .iter()
            .map(|k| format!("1536: from all fwmark {k:#x}/0x7f lookup {} proto 236", ENI_TABLE + k)),
    );
    let ours: Vec<String> = ours.map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(ours, expected);
}

#[test]
fn what_others_break_is_mended_without_nft() {
    let node = Node::new();
    links(&node, &[1, 2]);
    let wanted = wanted(&[1, 2]);
    node.with_host(|host| {
        let whole = lay(host, &wanted);
        let runs = node.counters.nft_runs.load(Ordering::Relaxed);
        let rule = format!("fwmark 2/0x7f lookup {} priority 1536", ENI_TABLE + 2);
        for damage in [
            "ip link set ens2 down".to_owned(),
            "ip link set ens2 group 0".to_owned(),
            "ip addr flush dev ens2".to_owned(),
            format!("ip route flush table {}", ENI_TABLE + 2),
            format!("ip rule del {rule}"),
            format!("ip rule add fwmark 2 lookup {} priority 1536 protocol {PROTOCOL}", ENI_TABLE + 2),
            format!("ip rule add fwmark 9/0x7f lookup {} priority 1536 protocol {PROTOCOL}", ENI_TABLE + 9),
            format!("ip route add 10.7.0.0/16 dev ens2 table {} protocol {PROTOCOL}", ENI_TABLE + 9),
        ] {
            node.space.sh(&damage);
            assert_ne!(host_net::plan(&wanted, &host.observe().unwrap()), [], "{damage}: not seen");
            let sorted = |mut view: HostView| {
                view.rules.sort();
                view.eni_routes.sort();
                (view.rules, view.eni_routes, view.addresses, view.links)
            };
            assert_eq!(sorted(lay(host, &wanted)), sorted(whole.clone()), "{damage}");
        }
        assert_eq!(node.counters.nft_runs.load(Ordering::Relaxed), runs);
    });
}

#[test]
fn an_eni_in_the_place_of_another_takes_its_table_over() {
    let node = Node::new();
    links(&node, &[1, 2, 3]);
    node.with_host(|host| {
        lay(host, &wanted(&[1, 2]));
        let mut other = wanted(&[1]);
        other.enis.push(EniRecord { device_index: 1, ..eni(3) });
        let view = lay(host, &other);
        assert_eq!(view.eni_routes.len(), 2);
        assert!(
            view.eni_routes.iter().all(|r| r.table == ENI_TABLE + 2 && r.ifindex == 26),
            "{:?}",
            view.eni_routes
        );
    });
}

#[test]
fn the_text_of_any_number_of_enis_loads() {
    let node = Node::new();
    node.with_host(|host| {
        for (count, snat) in (1..=15).chain([31]).flat_map(|count| [(count, true), (count, false)]) {
            let enis = (1..=count).map(|k| (k, Ipv4Addr::new(10, 9, 3, k as u8))).collect();
            let cidrs = ["10.9.0.0/16", "10.9.1.0/24", "10.10.0.0/16"];
            let cidrs = cidrs.iter().take(count as usize - 1).map(|cidr| cidr.parse().unwrap()).collect();
            let text = nft::render(&nft::Table { enis, vpc_cidrs: cidrs, snat, block_metadata: snat });
            assert_eq!(host.apply(&[HostStep::ReplaceNft { text }]), [], "{count} ENIs");
            let marks = (2..=count).all(|k| table(&node).contains(&format!("chain to{k} {{")));
            assert!(marks, "{count} ENIs");
        }
    });
}

#[test]
fn a_text_that_is_refused_leaves_the_old_table() {
    let node = Node::new();
    links(&node, &[1, 2]);
    node.with_host(|host| {
        lay(host, &wanted(&[1, 2]));
        let before = table(&node);
        let text = host.observe().unwrap().nft.unwrap();
        // Well-formed, and refused by the kernel alone: a chain that jumps to itself.
        let bad = text.replace(" chain answer2 {\n", " chain answer2 {\n  jump answer2\n");
        assert_ne!(bad, text);
        let errors = host.apply(&[HostStep::ReplaceNft { text: bad }]);
        assert!(errors.len() == 1 && errors[0].cause.contains("nft ended with"), "{errors:?}");
        assert_eq!(table(&node), before);
        lay(host, &wanted(&[1, 2]));
    });
}

#[test]
fn one_failing_step_does_not_stop_the_others() {
    let node = Node::new();
    links(&node, &[1, 2]);
    let mut wanted = wanted(&[1, 2]);
    // More than a veth takes.
    wanted.eni_mtu = Some(70_000);
    node.with_host(|host| {
        let steps = host_net::plan(&wanted, &host.observe().unwrap());
        let steps: Vec<HostStep> = steps.into_iter().map(|planned| planned.step).collect();
        let errors = host.apply(&steps);
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].step.contains("MTU 70000") && errors[0].cause.contains("EINVAL"), "{errors:?}");
        wanted.eni_mtu = None;
        assert_eq!(host_net::plan(&wanted, &host.observe().unwrap()), []);
        wanted.eni_mtu = Some(4000);
        let view = lay(host, &wanted);
        assert_eq!(view.links.iter().find(|l| l.name == "ens2").unwrap().mtu, 4000);
    });
}
