//! Each thing that is missing or wrong is named, with what was expected and what was found; nothing else is.

use super::*;
use crate::kernel::{
    DYING_GROUP, EniRouteView, FIRST_IFINDEX, HostView, InetSettings, LinkView, SandboxLinkView, SandboxView,
};
use crate::record::AttachmentState;
use crate::time::Timestamp;
use eni_proto::cni::AddResult;
use eni_proto::ids::{AttachmentKey, BootId, NetnsCookie};
use eni_proto::request::Mode;
use std::collections::BTreeSet;

const IFINDEX: u32 = FIRST_IFINDEX + 1;
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 5);
const PRIMARY: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 10);
const ALIAS: &str = "eni1 7 a eth0 1 vpc";
const ENI_LINK: u32 = 3;

fn record() -> AttachmentRecord {
    AttachmentRecord {
        key: AttachmentKey {
            network: "vpc".parse().unwrap(),
            container: "a".parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
        },
        generation: 1,
        state: AttachmentState::Live,
        mode: Mode::Shared,
        addresses: BTreeSet::from([ADDRESS]),
        eni: "eni-2".parse().unwrap(),
        netns_cookie: NetnsCookie(7),
        netns: "/run/netns/a".into(),
        host_ifindex: IFINDEX,
        host_link: "eni00000000001".parse().unwrap(),
        host_mac: MacAddr([2, 0, 0, 0, 0, 1]),
        sandbox_mac: MacAddr([2, 0, 0, 0, 0, 2]),
        mtu: 1500,
        pod: None,
        created: Timestamp::ZERO,
        boot: BootId::new("boot"),
        claimed_by: None,
        first_seen: None,
        netns_seen: false,
        result: AddResult::default(),
    }
}

/// Of an attachment on ENI `number` of three.
fn expected(number: u32) -> Expected {
    let table = nft::Table {
        enis: (1..=3).map(|k| (k, Ipv4Addr::new(10, 0, k as u8, 10))).collect(),
        vpc_cidrs: BTreeSet::from(["10.0.0.0/16".parse().unwrap()]),
        snat: true,
        block_metadata: false,
    };
    Expected {
        record: Arc::new(record()),
        alias: ALIAS.into(),
        eni: Some(ExpectedEni {
            number,
            mac: MacAddr([2, 0, 0, 0, 1, 2]),
            ifindex: Some(ENI_LINK),
            subnet_cidr: "10.0.2.0/24".parse().unwrap(),
        }),
        nft: Some(nft_part(&table, number)),
        prefsrc: Some(PRIMARY),
    }
}

/// What is there when nothing is wrong.
fn whole(number: u32) -> AttachmentView {
    let link = |ifindex, name: &str, mac, group, alias: &str, inet| LinkView {
        ifindex,
        name: name.into(),
        mac: Some(mac),
        group,
        alias: alias.into(),
        up: true,
        mtu: 1500,
        kind: "veth".into(),
        inet,
    };
    let record = record();
    let rule =
        |priority, table, mark| RuleView { priority, table, protocol: PROTOCOL, mark, other_selector: false };
    let neighbour = |address, mac| NeighbourView { ifindex: IFINDEX, address, mac, permanent: true };
    let mark = Some(Mark { value: number, mask: MARK_MASK });
    let table = nft::Table {
        enis: (1..=3).map(|k| (k, Ipv4Addr::new(10, 0, k as u8, 10))).collect(),
        vpc_cidrs: BTreeSet::new(),
        snat: true,
        block_metadata: false,
    };
    AttachmentView {
        link: Some(link(IFINDEX, "eni00000000001", record.host_mac, POD_GROUP + number, ALIAS, POD_INET)),
        eni_link: Some(link(ENI_LINK, "ens6", MacAddr([2, 0, 0, 0, 1, 2]), ENI_GROUP + number, "", ENI_INET)),
        routes: vec![
            crate::host_net::base_route(ADDRESS),
            RouteView {
                destination: Ipv4Net::from(ADDRESS),
                metric: 0,
                action: RouteAction::Device { ifindex: IFINDEX },
                prefsrc: Some(PRIMARY),
                protocol: PROTOCOL,
            },
        ],
        neighbours: vec![neighbour(ADDRESS, record.sandbox_mac)],
        rules: vec![
            rule(PODS_RULE_PRIORITY, PODS_TABLE, None),
            rule(ENI_RULE_PRIORITY, ENI_TABLE + number, mark),
        ],
        eni_routes: eni::routes(number, "10.0.2.0/24".parse().unwrap(), ENI_LINK).to_vec(),
        nft: Some(nft::contents(&nft::render(&table))),
        sandbox: SandboxView {
            link: Some(SandboxLinkView {
                ifindex: IFINDEX,
                name: "eth0".into(),
                mac: Some(record.sandbox_mac),
                up: true,
            }),
            addresses: vec![Ipv4Net::from(ADDRESS)],
            routes: vec![
                SandboxRouteView { destination: Ipv4Net::from(SANDBOX_GATEWAY), gateway: None },
                SandboxRouteView { destination: Ipv4Net::default(), gateway: Some(SANDBOX_GATEWAY) },
            ],
            neighbours: vec![neighbour(SANDBOX_GATEWAY, record.host_mac)],
        },
    }
}

fn differences(change: impl FnOnce(&mut AttachmentView)) -> Vec<String> {
    let mut view = whole(2);
    change(&mut view);
    expected(2).compare(&view).iter().map(ToString::to_string).collect()
}

#[test]
fn what_is_whole_does_not_differ() {
    assert_eq!(differences(|_| {}), Vec::<String>::new());
    // The primary ENI has neither rule nor table of its own.
    let mut view = whole(1);
    view.rules.truncate(1);
    view.eni_routes.clear();
    assert_eq!(expected(1).compare(&view), []);
}

#[test]
fn what_later_plugins_add_and_what_the_kernel_refuses_is_no_difference() {
    let found = differences(|view| {
        view.sandbox.addresses.push("192.168.7.7/24".parse().unwrap());
        let more = SandboxRouteView { destination: "192.168.7.0/24".parse().unwrap(), gateway: None };
        view.sandbox.routes.push(more);
        view.routes[1].prefsrc = None;
        view.rules.push(RuleView { priority: 100, ..view.rules[0] });
        let nft = view.nft.as_mut().unwrap();
        nft.maps.get_mut("from").unwrap().insert(DYING_GROUP + 99, "drop".into());
    });
    assert_eq!(found, Vec::<String>::new());
}

/// Something that is done to what is whole, and the one difference that it makes.
type Case = (fn(&mut AttachmentView), &'static str);

#[test]
fn each_single_thing_is_named_with_expected_and_found() {
    let cases: &[Case] = &[
        (|v| v.link = None, "the host link: expected eni00000000001 with index 268435457, found none"),
        (
            |v| v.link.as_mut().unwrap().name = "x".into(),
            "the host link's name: expected eni00000000001, found x",
        ),
        (
            |v| v.link.as_mut().unwrap().alias.clear(),
            "the host link's alias: expected \"eni1 7 a eth0 1 vpc\", found \"\"",
        ),
        (|v| v.link.as_mut().unwrap().group = 0, "the host link's group: expected 0xec10202, found 0x0"),
        (
            |v| v.link.as_mut().unwrap().mac = None,
            "the host link's MAC: expected 02:00:00:00:00:01, found none",
        ),
        (|v| v.link.as_mut().unwrap().up = false, "the host link: expected up, found down"),
        (
            |v| v.link.as_mut().unwrap().inet = InetSettings { rp_filter: 0, ..POD_INET },
            "the host link's settings: expected forwarding 1 rp_filter 1 send_redirects 0, found forwarding 1 rp_filter 0 send_redirects 0",
        ),
        (
            |v| v.neighbours.clear(),
            "the host's neighbour 10.0.2.5: expected 02:00:00:00:00:02, permanent, found none",
        ),
        (
            |v| v.neighbours[0].permanent = false,
            "the host's neighbour 10.0.2.5: expected 02:00:00:00:00:02, permanent, found 02:00:00:00:00:02",
        ),
        (
            |v| v.routes.truncate(1),
            "the host route: expected 10.0.2.5/32 by link 268435457 from 10.0.1.10 metric 0 protocol 236, found 10.0.2.5/32 unreachable metric 4096 protocol 236",
        ),
        (|v| v.sandbox.link = None, "the sandbox's link: expected eth0 with index 268435457, found none"),
        (
            |v| v.sandbox.link.as_mut().unwrap().name = "old".into(),
            "the sandbox's link: expected eth0 with index 268435457, found old with index 268435457",
        ),
        (
            |v| v.sandbox.link.as_mut().unwrap().ifindex = 9,
            "the sandbox's link: expected eth0 with index 268435457, found eth0 with index 9",
        ),
        (|v| v.sandbox.link.as_mut().unwrap().up = false, "the sandbox's link: expected up, found down"),
        (
            |v| v.sandbox.addresses = vec!["10.0.2.5/24".parse().unwrap()],
            "the sandbox's address: expected 10.0.2.5/32, found 10.0.2.5/24",
        ),
        (
            |v| v.sandbox.routes.retain(|r| r.gateway.is_some()),
            "the sandbox's route to its next hop: expected 169.254.1.1/32 on the link, found none",
        ),
        (
            |v| v.sandbox.routes[1].gateway = Some(PRIMARY),
            "the sandbox's default route: expected 0.0.0.0/0 via 169.254.1.1, found 0.0.0.0/0 via 10.0.1.10",
        ),
        (
            |v| v.sandbox.neighbours[0].mac = MacAddr([2; 6]),
            "the sandbox's neighbour 169.254.1.1: expected 02:00:00:00:00:01, permanent, found 02:02:02:02:02:02, permanent",
        ),
        (
            |v| v.rules.retain(|r| r.mark.is_some()),
            "the rule of the pods table: expected 512: lookup 0xec10000 protocol 236, found none",
        ),
        (
            |v| v.rules[1].mark = None,
            "the rule of ENI 2: expected 1536: fwmark 0x2/0x7f lookup 0xec10102 protocol 236, found 1536: lookup 0xec10102 protocol 236",
        ),
        (|v| v.eni_link = None, "the link of ENI 2: expected one with the MAC 02:00:00:00:01:02, found none"),
        (
            |v| v.eni_link.as_mut().unwrap().group = 0,
            "the link's group of ENI 2: expected 0xec10102, found 0x0",
        ),
        (|v| v.eni_link.as_mut().unwrap().up = false, "the link of ENI 2: expected up, found down"),
        (
            |v| v.eni_routes.truncate(1),
            "the route of ENI 2: expected 0.0.0.0/0 via 10.0.2.1 by link 3 in table 0xec10102, found none",
        ),
        (|v| v.nft = None, "the nft table: expected table ip eni-cni, found none"),
        (
            |v| drop(v.nft.as_mut().unwrap().maps.get_mut("from").unwrap().remove(&(POD_GROUP + 2))),
            "the element 0xec10202 of the nft map from: expected goto pod2, found none",
        ),
        (
            |v| v.nft.as_mut().unwrap().rules.retain(|chain, _| chain != "steer"),
            "the rules of the nft chain steer: expected 3, found 0",
        ),
    ];
    for (change, difference) in cases {
        assert_eq!(differences(change), [*difference]);
    }
}

#[test]
fn what_is_not_known_is_not_compared() {
    let mut view = whole(2);
    view.rules.truncate(1);
    (view.eni_link, view.nft) = (None, None);
    view.eni_routes = Vec::<EniRouteView>::new();
    view.link.as_mut().unwrap().group = POD_GROUP + 9;
    let expected = Expected { eni: None, nft: None, ..expected(2) };
    assert_eq!(expected.compare(&view), []);
    assert_eq!((expected.spec().eni_table, expected.spec().eni_ifindex), (None, None));
}

#[test]
fn what_the_planner_lays_is_what_is_expected() {
    // The other way round: a host on which the planner finds nothing to do has the pod's route, neighbour and group.
    let view = whole(2);
    let host = HostView {
        links: view.link.iter().cloned().collect(),
        pods_routes: view.routes.clone(),
        neighbours: view.neighbours.clone(),
        rules: view.rules[..1].to_vec(),
        ..HostView::default()
    };
    let record = record();
    let pod = crate::host_net::WantedPod {
        ifindex: IFINDEX,
        name: record.host_link.clone(),
        mac: record.host_mac,
        alias: view.link.as_ref().map_or_else(String::new, |link| link.alias.clone()),
        eni_number: Some(2),
        addresses: record.addresses.clone(),
        sandbox_mac: record.sandbox_mac,
    };
    let wanted = crate::host_net::Wanted {
        addresses: record.addresses.clone(),
        pods: vec![pod],
        links: BTreeSet::from([IFINDEX]),
        ..crate::host_net::Wanted::default()
    };
    assert_eq!(crate::host_net::plan(&wanted, &host), []);
}

#[test]
fn a_long_list_is_cut() {
    assert_eq!(listed(Vec::<u8>::new()), "none");
    assert_eq!(listed([1, 2]), "1 and 2");
    assert_eq!(listed(1..=9), "1, 2, 3, 4 and 5 more");
}
