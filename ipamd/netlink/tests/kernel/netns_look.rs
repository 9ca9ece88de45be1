//! Looking at an attachment: the fake and the running kernel show the same, whole and after each thing that somebody
//! takes away; and a sandbox that is full does not make a look endless.

use crate::bench::{Space, spec};
use crate::netns_differential::{Pair, off, with_pair};
use ipamd_core::host_net::eni::routes;
use ipamd_core::host_net::nft::{Table, render};
use ipamd_core::kernel::{
    AttachmentView, ENI_GROUP, ENI_INET, ENI_RULE_PRIORITY, ENI_TABLE, HostKernel, HostStep, LookSpec, Mark,
    PODS_RULE_PRIORITY, PODS_TABLE, RouteView, SANDBOX_GATEWAY, WireSpec,
};
use ipamd_netlink::fake::Lost;
use ipnet::Ipv4Net;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

fn look_spec(spec: &WireSpec) -> LookSpec {
    LookSpec {
        ifindex: spec.ifindex,
        sandbox_name: spec.sandbox_name.clone(),
        addresses: vec![spec.address],
        eni_ifindex: Some(30),
        eni_table: Some(ENI_TABLE + 2),
    }
}

/// Order means nothing.
fn normal(mut view: AttachmentView) -> AttachmentView {
    view.routes.sort();
    view.neighbours.sort();
    view.rules.sort();
    view.eni_routes.sort();
    view.sandbox.addresses.sort();
    view.sandbox.routes.sort();
    view.sandbox.neighbours.sort();
    view
}

fn same_look(pair: &mut Pair<'_>, spec: &LookSpec, sandbox: usize) -> AttachmentView {
    let (socket, cookie) = &pair.sandboxes[sandbox];
    let real = normal(pair.host.look_at(spec, socket).unwrap());
    assert_eq!(real, normal(pair.fake.look_at(spec, cookie).unwrap()), "{spec:?}");
    real
}

/// The rules, an ENI's table and the nft table, as they are laid for two ENIs.
fn lay_host(pair: &mut Pair<'_>) {
    let steps = [
        HostStep::SetLink { ifindex: 30, group: ENI_GROUP + 2, inet: ENI_INET, up: true },
        HostStep::AddRule { priority: PODS_RULE_PRIORITY, table: PODS_TABLE, mark: None },
        HostStep::AddRule {
            priority: ENI_RULE_PRIORITY,
            table: ENI_TABLE + 2,
            mark: Some(Mark { value: 2, mask: 0x7f }),
        },
    ];
    steps.into_iter().for_each(|step| pair.apply(step));
    for route in routes(2, "10.9.32.0/20".parse().unwrap(), 30) {
        pair.apply(HostStep::AddEniRoute(route));
    }
    let table = Table {
        enis: BTreeMap::from([(1, Ipv4Addr::new(10, 9, 0, 1)), (2, Ipv4Addr::new(10, 9, 32, 7))]),
        vpc_cidrs: BTreeSet::from(["10.9.0.0/16".parse().unwrap()]),
        snat: true,
        block_metadata: false,
    };
    pair.apply(HostStep::ReplaceNft { text: render(&table) });
}

#[test]
fn a_look_shows_the_same() {
    with_pair(|pair, spaces| {
        let one = look_spec(&spec(1));
        let before = same_look(pair, &one, 0);
        assert_eq!(
            before,
            AttachmentView {
                rules: before.rules.clone(),
                eni_link: before.eni_link.clone(),
                ..AttachmentView::default()
            }
        );
        pair.wire(&spec(1), 0).unwrap();
        pair.wire(&spec(2), 1).unwrap();
        lay_host(pair);
        let whole = same_look(pair, &one, 0);
        assert!(whole.link.is_some() && whole.sandbox.link.is_some() && whole.eni_link.is_some());
        let counts =
            (whole.routes.len(), whole.neighbours.len(), whole.eni_routes.len(), whole.sandbox.routes.len());
        assert_eq!(counts, (1, 1, 2, 2));
        let nft = whole.nft.as_ref().unwrap();
        assert_eq!((nft.maps["from"].len(), nft.rules["steer"]), (5, 3), "{nft:?}");
        // In the wrong sandbox a link of the name is shown; the other attachment's things are its own.
        let name_alone = same_look(pair, &one, 1);
        assert_eq!(name_alone.sandbox.link.unwrap().ifindex, spec(2).ifindex);
        same_look(pair, &look_spec(&spec(2)), 1);
        same_look(pair, &LookSpec { eni_ifindex: None, eni_table: Some(ENI_TABLE + 9), ..one.clone() }, 0);
        pair.unwire(&off(&spec(2)));
        same_look(pair, &look_spec(&spec(2)), 1);
        // The sandbox dies while somebody holds its socket.
        spaces[0].sh("ip link del eth0");
        let cookie = pair.sandboxes[0].1;
        pair.fake.kill_sandbox(cookie);
        pair.fake.add_sandbox(cookie);
        same_look(pair, &one, 0);
    });
}

#[test]
fn what_somebody_takes_away_is_seen_the_same() {
    with_pair(|pair, spaces| {
        lay_host(pair);
        let inside = |pair: &mut Pair<'_>, n: u8, sandbox: usize, line: &str, lost: Lost| {
            pair.wire(&spec(n), sandbox).unwrap();
            let whole = same_look(pair, &look_spec(&spec(n)), sandbox);
            spaces[sandbox].sh(line);
            let cookie = pair.sandboxes[sandbox].1;
            pair.fake.lose(cookie, spec(n).ifindex, lost);
            let left = same_look(pair, &look_spec(&spec(n)), sandbox);
            assert_ne!(left.sandbox, whole.sandbox, "{line}");
            spaces[sandbox].sh("ip link del eth0");
            pair.fake.delete_link(spec(n).ifindex);
        };
        inside(pair, 1, 0, "ip addr flush dev eth0", Lost::Address);
        let route = |text: &str| Lost::Route(text.parse::<Ipv4Net>().unwrap());
        inside(pair, 2, 1, "ip route del default", route("0.0.0.0/0"));
        inside(pair, 3, 2, "ip neigh del 169.254.1.1 dev eth0", Lost::Neighbour);
        assert_eq!(SANDBOX_GATEWAY.to_string(), "169.254.1.1");
        inside(pair, 4, 0, "ip link set eth0 down", Lost::Up);
        pair.wire(&spec(5), 1).unwrap();
        let five = look_spec(&spec(5));
        pair.host_sh(&format!("ip neigh flush nud permanent dev {}", spec(5).host_name));
        pair.fake.lose_neighbours(spec(5).ifindex);
        assert!(same_look(pair, &five, 1).neighbours.is_empty());
        pair.host_sh(&format!("ip route del {} table {PODS_TABLE}", spec(5).address));
        let route = pair.fake.observe().unwrap().pods_routes.into_iter().find(|r: &RouteView| r.metric == 0);
        pair.fake.apply(&[HostStep::DeleteRoute(route.unwrap())]);
        assert!(same_look(pair, &five, 1).routes.is_empty());
        pair.host_sh("nft flush ruleset");
        pair.fake.lose_nft();
        assert_eq!(same_look(pair, &five, 1).nft, None);
    });
}

#[test]
fn a_part_of_the_nft_table_that_is_gone_is_seen() {
    with_pair(|pair, _| {
        pair.wire(&spec(1), 0).unwrap();
        lay_host(pair);
        let look = |pair: &mut Pair<'_>, line: &str| {
            pair.host_sh(line);
            let (socket, _) = &pair.sandboxes[0];
            pair.host.look_at(&look_spec(&spec(1)), socket).unwrap().nft.unwrap()
        };
        let group = ipamd_core::kernel::POD_GROUP + 1;
        let left = look(pair, &format!("nft delete element ip eni-cni from '{{ {group} }}'"));
        assert_eq!((left.maps["from"].get(&group), left.maps["from"].len()), (None, 4));
        let left = look(pair, "nft flush chain ip eni-cni steer");
        assert_eq!(left.rules.get("steer"), None);
        assert_eq!(left.maps["known"].len(), 2, "the rest is as it was");
    });
}

#[test]
fn a_full_sandbox_ends_a_look_with_an_error() {
    with_pair(|pair, spaces| {
        pair.wire(&spec(1), 0).unwrap();
        fill(&spaces[0], 100_000);
        let (socket, _) = &pair.sandboxes[0];
        let error = pair.host.look_at(&look_spec(&spec(1)), socket).expect_err("too much");
        assert!(error.cause.contains("more than can be looked at"), "{error}");
        // The thread's own socket is none the worse for it.
        pair.host.observe().unwrap();
    });
}

/// Routes without number by eth0.
fn fill(space: &Space, count: u32) {
    let line = format!(
        "for i in $(seq {count}); do echo \"route add 11.$((i / 65536)).$((i / 256 % 256)).$((i % 256)) dev eth0\"; done | ip -batch -"
    );
    space.sh(&line);
}
