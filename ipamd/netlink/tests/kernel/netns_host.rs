//! Steps on the host, looking at it, and nft.

use crate::bench::{Node, PRIMARY, Space, spec};
use eni_proto::ids::MacAddr;
use ipamd_core::kernel::{
    ENI_GROUP, ENI_INET, HostKernel, HostStep, Mark, NFT_TABLE, NeighbourView, PODS_RULE_PRIORITY,
    PODS_TABLE, PROTOCOL, RouteAction, RouteView, RuleView,
};
use std::net::Ipv4Addr;

fn catch_all(rule: &RuleView) -> bool {
    rule.mark.is_none() && !rule.other_selector
}

fn base(n: u8) -> RouteView {
    RouteView {
        destination: format!("10.9.1.{n}/32").parse().unwrap(),
        metric: 4096,
        action: RouteAction::Unreachable,
        prefsrc: None,
        protocol: PROTOCOL,
    }
}

#[test]
fn every_step_may_be_taken_twice() {
    let node = Node::new();
    node.space.sh("ip link add ens5 index 9 type veth peer name p");
    let mac = MacAddr([2, 0, 0, 0, 0, 9]);
    let neighbour = NeighbourView { ifindex: 9, address: Ipv4Addr::new(10, 9, 1, 9), mac, permanent: true };
    let wide = RouteView { destination: "10.9.2.0/28".parse().unwrap(), ..base(0) };
    let device = RouteView {
        metric: 0,
        action: RouteAction::Device { ifindex: 9 },
        prefsrc: Some(Ipv4Addr::new(10, 99, 99, 99)),
        ..base(1)
    };
    let lay = [
        HostStep::AddRule { priority: PODS_RULE_PRIORITY, table: PODS_TABLE, mark: None },
        HostStep::AddRoute(base(1)),
        HostStep::AddRoute(wide),
        HostStep::SetLink { ifindex: 9, group: ENI_GROUP + 1, inet: ENI_INET, up: true },
        HostStep::AddRoute(device),
        HostStep::SetNeighbour(neighbour),
    ];
    node.with_host(|host| {
        for _ in 0..2 {
            assert_eq!(host.apply(&lay), []);
        }
        let view = host.observe().unwrap();
        let mut routes = view.pods_routes.clone();
        routes.sort();
        let mut wanted = vec![base(1), wide, RouteView { prefsrc: None, ..device }];
        wanted.sort();
        assert_eq!(routes, wanted);
        let ours: Vec<_> = view.rules.iter().filter(|r| r.protocol == PROTOCOL).collect();
        assert_eq!(
            (ours.len(), ours[0].priority, ours[0].table, catch_all(ours[0])),
            (1, 512, PODS_TABLE, true)
        );
        let link = view.links.iter().find(|l| l.ifindex == 9).unwrap();
        assert_eq!((link.group, link.inet, link.up), (ENI_GROUP + 1, ENI_INET, true));
        assert!(
            node.space.sh("ip neigh show dev ens5").contains("10.9.1.9 lladdr 02:00:00:00:00:09 PERMANENT")
        );

        let take = [
            HostStep::DeleteRule { priority: PODS_RULE_PRIORITY, table: PODS_TABLE, mark: None },
            HostStep::DeleteRoute(base(1)),
            HostStep::DeleteRoute(wide),
        ];
        for _ in 0..2 {
            assert_eq!(host.apply(&take), []);
        }
        let view = host.observe().unwrap();
        assert_eq!(view.pods_routes, [RouteView { prefsrc: None, ..device }]);
        assert!(view.rules.iter().all(|r| r.protocol != PROTOCOL));
    });
}

#[test]
fn a_foreign_rule_of_the_same_priority_stays() {
    let node = Node::new();
    node.space.sh(&format!("ip rule add prio {PODS_RULE_PRIORITY} lookup {PODS_TABLE} protocol 99"));
    node.space.sh(&format!("ip route add unreachable 10.9.1.1 table {PODS_TABLE} metric 4096 protocol 99"));
    let delete = [
        HostStep::DeleteRule { priority: PODS_RULE_PRIORITY, table: PODS_TABLE, mark: None },
        HostStep::DeleteRoute(base(1)),
    ];
    let view = node.with_host(|host| {
        assert_eq!(host.apply(&delete), []);
        host.observe().unwrap()
    });
    assert!(view.rules.iter().any(|r| r.priority == PODS_RULE_PRIORITY && r.protocol == 99));
    assert_eq!(view.pods_routes.iter().map(|r| r.protocol).collect::<Vec<_>>(), [99]);
}

#[test]
fn failures_are_told_and_the_rest_goes_on() {
    let node = Node::new();
    let missing = HostStep::SetLink { ifindex: 4000, group: 1, inet: ENI_INET, up: true };
    let steps = [missing, HostStep::ReplaceNft { text: "nonsense".into() }, HostStep::AddRoute(base(1))];
    let (errors, view) = node.with_host(|host| (host.apply(&steps), host.observe().unwrap()));
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert!(errors[0].step.contains("4000") && errors[0].cause.contains("ENODEV"), "{:?}", errors[0]);
    assert!(errors[1].cause.contains("syntax error"), "{:?}", errors[1]);
    assert_eq!((view.pods_routes.len(), view.nft), (1, None));
}

#[test]
fn more_steps_than_one_send_takes() {
    let node = Node::new();
    let steps: Vec<HostStep> = (0..=199).map(|n| HostStep::AddRoute(base(n))).collect();
    node.with_host(|host| {
        assert_eq!(host.apply(&steps), []);
        assert_eq!(host.observe().unwrap().pods_routes.len(), 200);
    });
}

#[test]
fn the_nft_text_is_known_while_the_table_is_the_one_that_was_laid() {
    let node = Node::new();
    let text = format!(
        "add table ip {NFT_TABLE}\ndelete table ip {NFT_TABLE}\ntable ip {NFT_TABLE} {{\n chain c {{\n }}\n}}\n"
    );
    let step = [HostStep::ReplaceNft { text: text.clone() }];
    node.with_host(|host| {
        assert_eq!(host.observe().unwrap().nft, None);
        let mut other = host.sibling().unwrap();
        assert_eq!(host.apply(&step), []);
        assert_eq!(host.observe().unwrap().nft.as_ref(), Some(&text));
        assert_eq!(other.observe().unwrap().nft.as_ref(), Some(&text), "known to every handle");
        node.space.sh("nft flush ruleset");
        assert_eq!(host.observe().unwrap().nft, None);
        assert_eq!(host.apply(&step), []);
        node.space.sh(&format!("nft delete table ip {NFT_TABLE}; nft add table ip {NFT_TABLE}"));
        assert_eq!(host.observe().unwrap().nft, None, "made anew by somebody else");
    });
}

#[test]
fn a_link_with_foreign_attributes_does_not_spoil_the_view() {
    let (node, sandbox) = (Node::new(), Space::new());
    node.space.sh("ip link add br0 type bridge; ip link add vx type vxlan id 7 dstport 4789 dev lo; ip tuntap add t0 mode tun; ip link set br0 up; ip addr add 10.77.0.1/24 dev br0; ip rule add fwmark 4 lookup 100; ip rule add iif br0 lookup 101; ip rule add not from 1.2.3.4 lookup 102");
    let socket = sandbox.socket(node.cookie);
    let view = node.with_host(|host| {
        host.wire(&spec(1), &socket).unwrap();
        host.observe().unwrap()
    });
    for name in ["br0", "vx", "t0", "lo"] {
        assert!(view.links.iter().any(|l| l.name == name), "{name}");
    }
    assert!(view.addresses.iter().any(|a| a.address == "10.77.0.1/24".parse().unwrap()));
    assert!(view.addresses.iter().any(|a| a.address.addr() == PRIMARY));
    for table in [100, 101, 102] {
        assert!(!catch_all(view.rules.iter().find(|r| r.table == table).unwrap()), "{table}");
    }
    assert!(catch_all(view.rules.iter().find(|r| r.table == 254).unwrap()));
    let by_mark = view.rules.iter().find(|r| r.table == 100).unwrap();
    assert_eq!((by_mark.mark, by_mark.other_selector), (Some(Mark { value: 4, mask: u32::MAX }), false));
}
