//! A host as far as the planner sees it: what a plan's steps make of it; and that any plan, once taken, leaves nothing
//! to do.

use super::eni::gateway;
use super::*;
use crate::kernel::{ENI_TABLE, EniRouteView, HostAddressView, Mark, RuleView};
use crate::record::EniState;
use proptest::prelude::*;

/// What a plan's steps make of a host.
pub(crate) fn take(view: &mut HostView, plan: &[Planned]) {
    for planned in plan {
        step(view, &planned.step);
    }
}

fn step(view: &mut HostView, step: &HostStep) {
    let up = |view: &HostView, index: u32| view.links.iter().any(|l| l.ifindex == index && l.up);
    match step {
        HostStep::AddRule { priority, table, mark } => {
            let (priority, table, mark) = (*priority, *table, *mark);
            let rule = RuleView { priority, table, protocol: PROTOCOL, mark, other_selector: false };
            if !view.rules.contains(&rule) {
                view.rules.push(rule);
            }
        }
        HostStep::DeleteRule { priority, table, mark } => {
            let fits = |r: &RuleView| {
                let marked = mark.is_none() || r.mark == *mark;
                r.priority == *priority && r.table == *table && r.protocol == PROTOCOL && marked
            };
            if let Some(first) = view.rules.iter().position(fits) {
                view.rules.remove(first);
            }
        }
        HostStep::AddRoute(route) => {
            view.pods_routes.retain(|r| r.destination != route.destination || r.metric != route.metric);
            view.pods_routes.push(*route);
        }
        HostStep::DeleteRoute(route) => view.pods_routes.retain(|r| r != route),
        HostStep::SetLink { ifindex, group, inet, up } => {
            let link = view.links.iter_mut().find(|l| l.ifindex == *ifindex).unwrap();
            (link.group, link.inet, link.up) = (*group, *inet, link.up || *up);
        }
        HostStep::SetAlias { ifindex, alias } => {
            view.links.iter_mut().find(|l| l.ifindex == *ifindex).unwrap().alias.clone_from(alias);
        }
        HostStep::SetMac { ifindex, mac } => {
            view.links.iter_mut().find(|l| l.ifindex == *ifindex).unwrap().mac = Some(*mac);
        }
        HostStep::SetName { ifindex, name } => {
            view.links.iter_mut().find(|l| l.ifindex == *ifindex).unwrap().name.clone_from(name);
        }
        HostStep::DeleteMainRoute(route) => view.main_routes.retain(|r| r != route),
        HostStep::SetMtu { ifindex, mtu } => {
            view.links.iter_mut().find(|l| l.ifindex == *ifindex).unwrap().mtu = *mtu;
        }
        HostStep::AddAddress(address) => view.addresses.push(*address),
        HostStep::DeleteAddress(address) => view.addresses.retain(|a| a != address),
        HostStep::AddEniRoute(route) => {
            assert!(up(view, route.ifindex), "a route by a link that is down");
            let hop =
                |r: &EniRouteView| r.table == route.table && Some(r.destination.addr()) == route.gateway;
            assert!(
                route.gateway.is_none() || view.eni_routes.iter().any(hop),
                "a route by an unknown next hop"
            );
            let place = |r: &EniRouteView| (r.table, r.destination, r.metric);
            view.eni_routes.retain(|r| place(r) != place(route));
            view.eni_routes.push(*route);
        }
        HostStep::DeleteEniRoute(route) => view.eni_routes.retain(|r| r != route),
        HostStep::SetNeighbour(neighbour) => {
            view.neighbours.retain(|n| n.ifindex != neighbour.ifindex || n.address != neighbour.address);
            view.neighbours.push(*neighbour);
        }
        HostStep::ReplaceNft { text } => view.nft = Some(text.clone()),
        HostStep::AcceptForward(chain) => view.forward = Forward::Drops { chain: *chain, accepted: true },
    }
}

/// Every mark that the nft table gives has its rule, and every rule's table a default route.
fn nothing_is_steered_into_the_void(view: &HostView) {
    let ours = view.rules.iter().filter(|r| r.protocol == PROTOCOL && r.priority == 1536);
    for rule in ours.clone() {
        let default = |r: &EniRouteView| r.table == rule.table && r.destination.prefix_len() == 0;
        assert!(view.eni_routes.iter().any(default), "{rule:?} looks up an empty table");
    }
    for k in 2..32 {
        let marked = view.nft.as_ref().is_some_and(|text| text.contains(&format!("chain to{k} ")));
        let rule = |r: &RuleView| r.mark == Some(Mark { value: k, mask: 0x7f }) && r.table == ENI_TABLE + k;
        assert!(!marked || ours.clone().any(rule), "nft marks for ENI {k} and no rule looks at it");
    }
}

/// ENI `k` in one of two bodies: another ENI may come in the place of one that left.
fn eni(k: u32, body: u8) -> EniRecord {
    EniRecord {
        id: format!("eni-{k}-{body}").parse().unwrap(),
        mac: MacAddr([2, 0, 0, 0, body, k as u8]),
        device_index: k - 1,
        subnet: "subnet-1".parse().unwrap(),
        subnet_cidr: format!("10.{body}.0.0/20").parse().unwrap(),
        primary: Ipv4Addr::new(10, body, 1, k as u8),
        state: EniState::InUse,
        prefixes: Vec::new(),
        attachment: None,
    }
}

fn link(ifindex: u32, mac: MacAddr, alias: &str) -> LinkView {
    LinkView {
        ifindex,
        name: format!("l{ifindex}"),
        mac: Some(mac),
        group: 0,
        alias: alias.to_owned(),
        up: false,
        mtu: 1500,
        kind: "veth".into(),
        inet: InetSettings::default(),
    }
}

/// A host with the links of every ENI and pod that may be wanted, nothing of ours on it.
fn host() -> HostView {
    let mut view = HostView::default();
    for body in 0..2 {
        for k in 1..16 {
            view.links.push(link(2 + k * 2 + u32::from(body), eni(k, body).mac, ""));
        }
    }
    for pod in 0..8 {
        view.links.push(link(100 + pod, MacAddr([2, 9, 0, 0, 0, pod as u8]), "eni1 1f c eth0 1 vpc"));
    }
    let primary = Ipv4Net::from(eni(1, 0).primary);
    view.addresses.push(HostAddressView { ifindex: 4, address: primary });
    view
}

fn any_wanted() -> impl Strategy<Value = Wanted> {
    let secondaries = proptest::collection::btree_map(2u32..16, 0u8..2, 0..6);
    let pods = proptest::collection::btree_map(0u32..8, 1u32..16, 0..8);
    let cidrs = proptest::collection::vec(0u8..4, 0..4);
    (secondaries, pods, cidrs, any::<bool>(), proptest::option::of(1500u32..1503)).prop_map(
        |(secondaries, pods, cidrs, snat, eni_mtu)| {
            let address = |pod: u32| Ipv4Addr::new(10, 0, 9, pod as u8);
            let pod = |(pod, k): (u32, u32)| WantedPod {
                ifindex: 100 + pod,
                name: format!("l{}", 100 + pod).parse().unwrap(),
                mac: MacAddr([2, 9, 0, 0, 0, pod as u8]),
                alias: "eni1 1f c eth0 1 vpc".into(),
                eni_number: (k > 1).then_some(k),
                addresses: BTreeSet::from([address(pod)]),
                sandbox_mac: MacAddr([2, 8, 0, 0, 0, pod as u8]),
            };
            let enis = std::iter::once((1, 0)).chain(secondaries);
            let pods: Vec<WantedPod> = pods.into_iter().map(pod).collect();
            Wanted {
                enis: enis.map(|(k, body)| eni(k, body)).collect(),
                addresses: (0..8).map(address).collect(),
                links: pods.iter().map(|p| p.ifindex).collect(),
                pods,
                vpc_cidrs: cidrs.into_iter().map(|n| format!("10.{n}.0.0/16").parse().unwrap()).collect(),
                snat,
                eni_mtu,
                known_links: BTreeMap::new(),
                dying: Vec::new(),
                adopt_links: true,
                block_metadata: false,
            }
        },
    )
}

proptest! {
    /// From any state that plans have made to any other: one plan is enough, and on the way nothing is steered into
    /// the void.
    #[test]
    fn a_plan_that_was_taken_leaves_nothing_to_do(changes in proptest::collection::vec(any_wanted(), 1..6)) {
        let mut view = host();
        for wanted in changes {
            let first = plan(&wanted, &view);
            for planned in &first {
                step(&mut view, &planned.step);
                nothing_is_steered_into_the_void(&view);
            }
            prop_assert_eq!(plan(&wanted, &view), []);
            let laid = wanted.enis.iter().filter(|e| e.device_index > 0).count();
            prop_assert_eq!(view.eni_routes.len(), 2 * laid);
            prop_assert_eq!(view.rules.len(), 1 + laid);
            let hops = view.eni_routes.iter().filter_map(|r| r.gateway);
            let known: Vec<Ipv4Addr> = wanted.enis.iter().map(|e| gateway(e.subnet_cidr)).collect();
            prop_assert!(hops.into_iter().all(|hop| known.contains(&hop)));
        }
    }
}
