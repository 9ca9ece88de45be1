//! The planner on hand-made observations: what is missing is laid, what is there is left, foreign things stay.

use super::*;
use crate::kernel::{HostAddressView, InetSettings, RuleView};
use crate::record::EniState;

const PRIMARY: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 10);
const POD: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 20);
const SPARE: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 21);
const POD_LINK: u32 = 0x1000_0001;

fn wanted() -> Wanted {
    Wanted {
        enis: vec![EniRecord {
            id: "eni-1".parse().unwrap(),
            mac: MacAddr([2, 0, 0, 0, 0, 1]),
            device_index: 0,
            subnet: "subnet-1".parse().unwrap(),
            subnet_cidr: "10.0.1.0/24".parse().unwrap(),
            primary: PRIMARY,
            state: EniState::InUse,
        }],
        addresses: BTreeSet::from([POD, SPARE]),
        pods: vec![WantedPod {
            ifindex: POD_LINK,
            eni_number: 1,
            addresses: BTreeSet::from([POD]),
            sandbox_mac: MacAddr([2, 0, 0, 0, 0, 9]),
        }],
        links: BTreeSet::from([POD_LINK]),
        vpc_cidrs: vec!["10.0.0.0/16".parse().unwrap()],
        snat: true,
    }
}

fn link(ifindex: u32, mac: u8) -> LinkView {
    LinkView {
        ifindex,
        name: format!("link{ifindex}"),
        mac: Some(MacAddr([2, 0, 0, 0, 0, mac])),
        group: 0,
        alias: String::new(),
        up: true,
        mtu: 9001,
        kind: "veth".into(),
        inet: InetSettings::default(),
    }
}

/// A host on which nothing of ours is laid.
fn bare() -> HostView {
    let mut pod = link(POD_LINK, 8);
    pod.alias = "eni1 1f c1 eth0 1 vpc".into();
    HostView {
        links: vec![link(2, 1), pod],
        addresses: vec![HostAddressView { ifindex: 2, address: "10.0.1.10/24".parse().unwrap() }],
        rules: vec![RuleView { priority: 32766, table: 254, protocol: 2, catch_all: true }],
        ..HostView::default()
    }
}

/// What a plan's steps make of a host.
fn take(view: &mut HostView, plan: &[Planned]) {
    for planned in plan {
        match &planned.step {
            HostStep::AddRule { priority, table } => view.rules.push(RuleView {
                priority: *priority,
                table: *table,
                protocol: PROTOCOL,
                catch_all: true,
            }),
            HostStep::DeleteRule { priority, table } => {
                view.rules.retain(|r| r.priority != *priority || r.table != *table || r.protocol != PROTOCOL);
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
            HostStep::SetNeighbour(neighbour) => {
                view.neighbours.retain(|n| n.ifindex != neighbour.ifindex || n.address != neighbour.address);
                view.neighbours.push(*neighbour);
            }
            HostStep::ReplaceNft { text } => view.nft = Some(text.clone()),
        }
    }
}

#[test]
fn a_bare_host_gets_everything_and_then_nothing_more() {
    let mut view = bare();
    let first = plan(&wanted(), &view);
    assert!(first.iter().any(|p| p.step == HostStep::AddRule { priority: 512, table: PODS_TABLE }));
    assert!(first.iter().any(|p| p.step == HostStep::AddRoute(base_route(SPARE))));
    take(&mut view, &first);
    assert_eq!(plan(&wanted(), &view), [], "a plan that was carried out leaves nothing to do");
    let pod = view.pods_routes.iter().find(|r| r.metric == 0).unwrap();
    assert_eq!(pod.prefsrc, Some(PRIMARY));
}

#[test]
fn each_thing_that_is_lost_is_laid_again() {
    let mut whole = bare();
    let first = plan(&wanted(), &whole);
    take(&mut whole, &first);
    let breaks: [fn(&mut HostView); 7] = [
        |v| v.rules.retain(|r| r.protocol != PROTOCOL),
        |v| v.pods_routes.clear(),
        |v| v.neighbours.clear(),
        |v| v.nft = None,
        |v| v.links[0].group = 0,
        |v| v.links[1].inet.rp_filter = 0,
        |v| v.links[1].up = false,
    ];
    for (number, damage) in breaks.into_iter().enumerate() {
        let mut view = whole.clone();
        damage(&mut view);
        let repair = plan(&wanted(), &view);
        assert!(!repair.is_empty(), "damage {number} is not seen");
        take(&mut view, &repair);
        assert_eq!(view.links, whole.links, "damage {number}");
        assert_eq!(plan(&wanted(), &view), [], "damage {number}");
    }
}

#[test]
fn what_nobody_needs_goes_and_foreign_routes_and_rules_stay() {
    let mut view = bare();
    let first = plan(&wanted(), &view);
    take(&mut view, &first);
    let stale = base_route(Ipv4Addr::new(10, 0, 1, 99));
    let orphan = RouteView { action: RouteAction::Device { ifindex: 77 }, metric: 0, ..stale };
    let foreign = RouteView { protocol: 4, ..stale };
    view.pods_routes.extend([stale, orphan, foreign]);
    let old_rule = RuleView { priority: 100, table: 7, protocol: PROTOCOL, catch_all: true };
    let foreign_rule = RuleView { priority: 100, table: 8, protocol: 4, catch_all: true };
    view.rules.extend([old_rule, foreign_rule.clone()]);
    let steps = plan(&wanted(), &view);
    assert_eq!(steps.len(), 3, "{steps:?}");
    take(&mut view, &steps);
    assert!(view.pods_routes.contains(&foreign) && view.rules.contains(&foreign_rule));
    assert!(!view.pods_routes.contains(&stale) && !view.pods_routes.contains(&orphan));
}

#[test]
fn a_dying_link_is_never_repaired() {
    let mut view = bare();
    view.links[1].group = DYING_GROUP;
    let steps = plan(&wanted(), &view);
    assert!(
        !steps.iter().any(|p| matches!(&p.step, HostStep::SetLink { ifindex, .. } if *ifindex == POD_LINK))
    );
    assert!(!steps.iter().any(|p| matches!(&p.step, HostStep::AddRoute(r) if r.metric == 0)));
}

#[test]
fn without_its_address_on_the_host_the_primary_is_no_preferred_source() {
    let mut view = bare();
    view.addresses.clear();
    let steps = plan(&wanted(), &view);
    let route = steps.iter().find_map(|p| match &p.step {
        HostStep::AddRoute(route) if route.metric == 0 => Some(route),
        _ => None,
    });
    assert_eq!(route.unwrap().prefsrc, None);
}
