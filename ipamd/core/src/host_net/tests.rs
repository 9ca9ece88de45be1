//! The planner on hand-made observations: what is missing is laid, what is there is left, foreign things stay.

use super::eni::routes;
use super::model::take;
use super::*;
use crate::kernel::{
    ENI_GROUP, ENI_TABLE, FilterChain, HostAddressView, InetSettings, Mark, PODS_TABLE, RuleView,
};
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
            prefixes: Vec::new(),
            attachment: None,
        }],
        addresses: BTreeSet::from([POD, SPARE]),
        pods: vec![WantedPod {
            ifindex: POD_LINK,
            name: format!("link{POD_LINK}").parse().unwrap(),
            mac: MacAddr([2, 0, 0, 0, 0, 8]),
            alias: "eni1 1f c1 eth0 1 vpc".into(),
            eni_number: Some(1),
            addresses: BTreeSet::from([POD]),
            sandbox_mac: MacAddr([2, 0, 0, 0, 0, 9]),
        }],
        links: BTreeSet::from([POD_LINK]),
        vpc_cidrs: vec!["10.0.0.0/16".parse().unwrap()],
        snat: true,
        eni_mtu: None,
        known_links: BTreeMap::new(),
        dying: Vec::new(),
        adopt_links: true,
        block_metadata: false,
    }
}

fn rule(priority: u32, table: u32, protocol: u8) -> RuleView {
    RuleView { priority, table, protocol, mark: None, other_selector: false }
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
        rules: vec![rule(32766, 254, 2)],
        ..HostView::default()
    }
}

#[test]
fn a_bare_host_gets_everything_and_then_nothing_more() {
    let mut view = bare();
    let first = plan(&wanted(), &view);
    assert!(
        first.iter().any(|p| p.step == HostStep::AddRule { priority: 512, table: PODS_TABLE, mark: None })
    );
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
    let old_rule = rule(100, 7, PROTOCOL);
    let foreign_rule = rule(100, 8, 4);
    view.rules.extend([old_rule, foreign_rule]);
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

/// A secondary ENI: number `k`, link `k + 1`, MAC and primary address of `k`.
fn secondary(k: u8) -> EniRecord {
    EniRecord {
        id: format!("eni-{k}").parse().unwrap(),
        mac: MacAddr([2, 0, 0, 0, 1, k]),
        device_index: u32::from(k) - 1,
        subnet: "subnet-2".parse().unwrap(),
        subnet_cidr: "10.0.2.0/24".parse().unwrap(),
        primary: Ipv4Addr::new(10, 0, 2, k),
        state: EniState::InUse,
        prefixes: Vec::new(),
        attachment: None,
    }
}

fn secondary_link(k: u8) -> LinkView {
    LinkView { mac: Some(secondary(k).mac), up: false, kind: String::new(), ..link(u32::from(k) + 1, 0) }
}

fn steps(plan: &[Planned]) -> Vec<&HostStep> {
    plan.iter().map(|p| &p.step).collect()
}

fn at(plan: &[Planned], is_it: impl Fn(&HostStep) -> bool) -> usize {
    plan.iter().position(|p| is_it(&p.step)).expect("the step is planned")
}

/// A host with two secondary ENIs laid.
fn three() -> (Wanted, HostView) {
    let (mut wanted, mut view) = (wanted(), bare());
    wanted.enis.extend([secondary(2), secondary(3)]);
    view.links.extend([secondary_link(2), secondary_link(3)]);
    let first = plan(&wanted, &view);
    take(&mut view, &first);
    (wanted, view)
}

#[test]
fn a_secondary_enis_table_comes_before_its_rule_and_nft_last() {
    let (mut wanted, mut view) = (wanted(), bare());
    let first = plan(&wanted, &view);
    take(&mut view, &first);
    wanted.enis.push(secondary(2));
    assert_eq!(plan(&wanted, &view), [], "its link is not there yet: nothing is steered to it");
    view.links.push(secondary_link(2));
    let second = plan(&wanted, &view);
    let [gateway, default] = routes(2, "10.0.2.0/24".parse().unwrap(), 3);
    assert_eq!((gateway.destination, gateway.gateway), ("10.0.2.1/32".parse().unwrap(), None));
    let mark = Some(Mark { value: 2, mask: 0x7f });
    let expected = [
        HostStep::SetLink { ifindex: 3, group: ENI_GROUP + 2, inet: crate::kernel::ENI_INET, up: true },
        HostStep::AddAddress(HostAddressView { ifindex: 3, address: "10.0.2.2/32".parse().unwrap() }),
        HostStep::AddEniRoute(gateway),
        HostStep::AddEniRoute(default),
        HostStep::AddRule { priority: 1536, table: ENI_TABLE + 2, mark },
    ];
    assert_eq!(steps(&second)[..5], expected.iter().collect::<Vec<_>>());
    assert!(matches!(&second[5].step, HostStep::ReplaceNft { text } if text.contains("goto to2")));
    assert_eq!(second.len(), 6);
}

#[test]
fn an_eni_that_is_gone_leaves_nft_then_rule_then_routes_then_address() {
    let (mut wanted, mut view) = three();
    wanted.enis.retain(|e| e.number() != 2);
    let second = plan(&wanted, &view);
    let order = [
        at(
            &second,
            |s| matches!(s, HostStep::ReplaceNft { text } if !text.contains("to2") && text.contains("to3")),
        ),
        at(&second, |s| matches!(s, HostStep::DeleteRule { table, .. } if *table == ENI_TABLE + 2)),
        at(&second, |s| matches!(s, HostStep::DeleteEniRoute(_))),
        at(&second, |s| matches!(s, HostStep::DeleteAddress(a) if a.ifindex == 3)),
        at(&second, |s| matches!(s, HostStep::SetLink { ifindex: 3, group: 0, .. })),
    ];
    assert!(order.is_sorted(), "{order:?}");
    assert!(second[1..].iter().all(|p| p.reason == Reason::Unneeded));
    take(&mut view, &second);
    assert_eq!(plan(&wanted, &view), []);
    assert!(view.eni_routes.iter().all(|r| r.table == ENI_TABLE + 3) && view.addresses.len() == 2);
    view.addresses.push(HostAddressView { ifindex: 3, address: "10.0.2.9/32".parse().unwrap() });
    assert_eq!(plan(&wanted, &view), [], "a link that was let go of is not ours any more");
}

#[test]
fn what_is_lost_of_a_secondary_eni_is_laid_again() {
    let (wanted, whole) = three();
    assert_eq!(plan(&wanted, &whole), []);
    let breaks: [fn(&mut HostView); 7] = [
        |v| v.rules.retain(|r| r.table != ENI_TABLE + 3),
        |v| {
            let rule = v.rules.iter_mut().find(|r| r.table == ENI_TABLE + 2).unwrap();
            rule.mark = Some(Mark { value: 2, mask: 0xff });
        },
        |v| v.eni_routes.clear(),
        |v| v.eni_routes[1].gateway = Some(Ipv4Addr::new(10, 0, 2, 254)),
        |v| v.eni_routes[0].destination = "10.0.2.254/32".parse().unwrap(),
        |v| v.addresses.retain(|a| a.ifindex != 3),
        |v| v.links[2].group = 0,
    ];
    for (number, damage) in breaks.into_iter().enumerate() {
        let mut view = whole.clone();
        damage(&mut view);
        let repair = plan(&wanted, &view);
        assert!(
            !repair.iter().any(|p| matches!(p.step, HostStep::ReplaceNft { .. })),
            "damage {number} runs nft"
        );
        take(&mut view, &repair);
        assert_eq!(plan(&wanted, &view), [], "damage {number}");
        assert!(view.rules.len() == whole.rules.len() && view.eni_routes.len() == whole.eni_routes.len());
    }
}

#[test]
fn while_the_primary_is_not_known_nothing_of_the_others_is_taken_away() {
    let (_, view) = three();
    let (mut pods, links) = (wanted().pods, wanted().links);
    pods[0].eni_number = None;
    let unknown = Wanted { pods, links, ..Wanted::default() };
    assert_eq!(plan(&unknown, &view), [], "not even a base route");
}

#[test]
fn an_mtu_is_set_when_it_is_asked_for_and_never_on_the_primary() {
    let (mut wanted, view) = three();
    wanted.eni_mtu = Some(9000);
    let plan = plan(&wanted, &view);
    let expected = [3, 4].map(|ifindex| HostStep::SetMtu { ifindex, mtu: 9000 });
    assert_eq!(steps(&plan), expected.iter().collect::<Vec<_>>());
}

#[test]
fn a_dropping_forward_policy_gets_accepts_once() {
    let (wanted, mut view) = three();
    view.forward = Forward::Drops { chain: FilterChain::DockerUser, accepted: false };
    let first = plan(&wanted, &view);
    assert_eq!(steps(&first), [&HostStep::AcceptForward(FilterChain::DockerUser)]);
    take(&mut view, &first);
    for forward in [view.forward, Forward::Open, Forward::Legacy, Forward::Unknown] {
        assert_eq!(plan(&wanted, &HostView { forward, ..view.clone() }), []);
    }
}

#[test]
fn what_shares_an_enis_mac_is_not_its_link() {
    let mut view = bare();
    let hardware = LinkView { kind: String::new(), ..link(40, 1) };
    let vlan = LinkView { kind: "vlan".into(), ..link(1, 1) };
    view.links.extend([hardware, vlan]);
    assert_eq!(find_links(&wanted(), &view).values().next().unwrap().0, 40);
    for one in &mut view.links {
        one.alias = "uplink".into();
    }
    assert_eq!(find_links(&wanted(), &view).values().next().unwrap().0, 40, "an alias hides nothing");
}

#[test]
fn what_others_do_to_a_pods_link_is_undone_and_another_attachments_link_is_left() {
    let mut whole = bare();
    let first = plan(&wanted(), &whole);
    take(&mut whole, &first);
    let changes: [fn(&mut LinkView); 4] = [
        |l| l.alias = "theirs".into(),
        |l| l.mac = Some(MacAddr([2, 7, 7, 7, 7, 7])),
        |l| l.name = "theirs0".into(),
        |l| l.group = ENI_GROUP + 3,
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let mut view = whole.clone();
        change(&mut view.links[1]);
        let repair = plan(&wanted(), &view);
        assert_eq!(repair.len(), 1, "{number}: {repair:?}");
        take(&mut view, &repair);
        assert_eq!(view, whole, "{number}");
    }
    let mut view = whole.clone();
    view.links[1].alias = "eni1 1f c2 eth0 2 vpc".into();
    assert_eq!(plan(&wanted(), &view).len(), 1, "an alias can be copied, its MAC says whose it is");
    view.links[1].mac = Some(MacAddr([2, 7, 7, 7, 7, 7]));
    assert_eq!(plan(&wanted(), &view), [], "its number is another's by now");
    let gone = |view: &HostView| {
        let pod = wanted().pods.remove(0);
        sight(pod.ifindex, &pod.alias, pod.name.as_str(), pod.mac, view) == LinkSight::Gone
    };
    assert!(gone(&view) && !gone(&whole));
    view.links[1].alias = String::new();
    (view.links[1].name, view.links[1].mac) = ("theirs0".into(), None);
    assert!(!gone(&view), "changed in everything it is not taken for gone");
}

#[test]
fn a_dying_link_gets_its_alias_back_and_nothing_else() {
    let (mut all, mut view) = (wanted(), bare());
    let first = plan(&all, &view);
    take(&mut view, &first);
    all.dying = std::mem::take(&mut all.pods);
    let link = &mut view.links[1];
    (link.group, link.inet, link.alias) = (DYING_GROUP, InetSettings::default(), "theirs".into());
    let repair = plan(&all, &view);
    let alias = all.dying[0].alias.clone();
    assert_eq!(steps(&repair), [&HostStep::SetAlias { ifindex: POD_LINK, alias }]);
    view.links[1].alias = String::new();
    assert_eq!(plan(&all, &view), [], "one that never had one is known by its name");
}

#[test]
fn an_eni_whose_mac_was_changed_is_known_by_its_number() {
    let (mut wanted, whole) = three();
    let links = find_links(&wanted, &whole);
    wanted.known_links = links.into_iter().map(|(mac, (ifindex, _))| (mac, ifindex)).collect();
    let mut view = whole.clone();
    view.links[2].mac = Some(MacAddr([2, 7, 7, 7, 7, 7]));
    let repair = plan(&wanted, &view);
    assert_eq!(steps(&repair), [&HostStep::SetMac { ifindex: 3, mac: secondary(2).mac }]);
    // Changed while ipamd was down: no number is known, its group tells.
    let restarted = Wanted { known_links: BTreeMap::new(), ..wanted.clone() };
    let repair = plan(&restarted, &view);
    assert_eq!(steps(&repair), [&HostStep::SetMac { ifindex: 3, mac: secondary(2).mac }]);
    // Which of two it is nobody can tell.
    view.links.push(LinkView { group: view.links[2].group, ..link(77, 77) });
    assert!(!find_links(&restarted, &view).contains_key(&secondary(2).mac));
    // An ENI's link in a pod's group is an ENI's all the same.
    view = whole.clone();
    view.links[2].group = POD_GROUP + 1;
    let repair = plan(&wanted, &view);
    assert!(matches!(steps(&repair)[..], [HostStep::SetLink { ifindex: 3, .. }]), "{repair:?}");
}

#[test]
fn foreign_additions_are_taken_off_secondary_enis_alone() {
    let (mut wanted, whole) = three();
    let on = |ifindex| HostAddressView { ifindex, address: Ipv4Net::new_assert(SPARE, 24) };
    let connected = crate::kernel::EniRouteView {
        table: 254,
        destination: "10.0.2.0/24".parse().unwrap(),
        gateway: None,
        ifindex: 3,
        metric: 0,
        protocol: 2,
    };
    let by_gateway = crate::kernel::EniRouteView { gateway: Some(PRIMARY), ..connected };
    let mut view = whole.clone();
    view.addresses.extend([on(3), on(2)]);
    view.main_routes.extend([connected, by_gateway]);
    let repair = plan(&wanted, &view);
    let expected = [HostStep::DeleteAddress(on(3)), HostStep::DeleteMainRoute(connected)];
    assert_eq!(steps(&repair), expected.iter().collect::<Vec<_>>());
    assert!(repair.iter().all(|p| p.reason == Reason::Foreign));
    let told = foreign::reports(&wanted, &view);
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(foreign::withheld(&wanted, &view), BTreeSet::from([SPARE]));
    wanted.adopt_links = false;
    assert_eq!(plan(&wanted, &view), [], "it may be switched off");
    assert_eq!(foreign::reports(&wanted, &view).len(), 3);
}

#[test]
fn rules_that_come_before_ours_are_told_and_left() {
    let (wanted, mut view) = three();
    let selecting = |priority, mark| RuleView { mark, other_selector: true, ..rule(priority, 100, 4) };
    view.rules.extend([
        selecting(100, None),
        selecting(1536, None),
        selecting(9, Some(Mark { value: 0x200, mask: 0xf00 })),
        rule(100, 255, 2),
        rule(2000, 100, 4),
    ]);
    assert_eq!(plan(&wanted, &view), []);
    let told = foreign::reports(&wanted, &view);
    assert!(told.len() == 2 && told[0].text.contains("rule 100 "), "{told:?}");
    view.globals =
        Some(crate::kernel::GlobalSettings { forwarding: false, send_redirects: true, rp_filter: 2 });
    view.others.push("another CNI".into());
    let kinds: Vec<foreign::ReportKind> = foreign::reports(&wanted, &view).iter().map(|r| r.kind).collect();
    use foreign::ReportKind::{Cni, Rule, Setting};
    assert_eq!(kinds, [Rule, Rule, Setting, Setting, Setting, Cni]);
}

#[test]
fn a_repair_is_what_was_wanted_before_too() {
    let (before, whole) = three();
    let mut wanted = before.clone();
    wanted.addresses.insert(Ipv4Addr::new(10, 0, 1, 99));
    let mut view = whole.clone();
    view.rules.retain(|r| r.priority != 512);
    let plan = plan(&wanted, &view);
    assert_eq!(plan.len(), 2);
    let made = repairs(&wanted, &before, &view, &plan);
    assert!(
        matches!(made[..], [Planned { step: HostStep::AddRule { .. }, reason: Reason::Missing }]),
        "{made:?}"
    );
    assert_eq!(repairs(&wanted, &wanted.clone(), &view, &plan), plan);
}
