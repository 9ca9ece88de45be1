//! What others change on the host: repairs by trigger and reason, fights, links that are gone, sandboxes that are dead.

use super::*;
use crate::host_net;
use crate::host_net::foreign::ReportKind;
use crate::kernel::{Alias, POD_GROUP, POD_INET, PROTOCOL, RouteAction, RouteView, RuleView, Thing, Trigger};
use std::collections::BTreeSet;

/// A node on which all is laid, with one pod per name.
pub(super) fn whole(addresses: u8, pods: &[&str]) -> Bench {
    with_pods(Bench::new(addresses), pods)
}

fn with_pods(mut bench: Bench, pods: &[&str]) -> Bench {
    bench.mends = true;
    for (number, name) in pods.iter().enumerate() {
        let number = number as u64;
        let ask = AddAsk { pod: Some(("default".into(), format!("web-{name}"))), ..ask(name, 100 + number) };
        bench.send(Event::Add { op: OpId(900 + number), ask });
        appear(&mut bench);
    }
    changed(&mut bench, Trigger::Pool);
    bench.notes.clear();
    bench.applied.clear();
    bench
}

/// The last link that was wired is on the host.
fn appear(bench: &mut Bench) {
    let spec = bench.wires.last().unwrap();
    assert!(Alias::parse(&spec.alias).is_some());
    bench.view.links.push(LinkView {
        ifindex: spec.ifindex,
        name: spec.host_name.to_string(),
        mac: Some(spec.host_mac),
        group: POD_GROUP + 1,
        alias: spec.alias.clone(),
        up: true,
        mtu: spec.mtu,
        kind: "veth".into(),
        inet: POD_INET,
    });
    let plan = host_net::plan(&bench.owner.wanted(), &bench.view);
    take(&mut bench.view, &plan);
}

fn changed(bench: &mut Bench, trigger: Trigger) {
    bench.send(Event::HostChanged(BTreeSet::from([trigger])));
}

/// The repairs that were told since the last time.
fn repairs(bench: &mut Bench) -> Vec<(Trigger, Thing, Reason)> {
    let told = std::mem::take(&mut bench.notes).into_iter().filter_map(|note| match note {
        Note::Repaired { trigger, thing, reason, .. } => Some((trigger, thing, reason)),
        _ => None,
    });
    told.collect()
}

fn state(bench: &Bench, name: &str) -> Option<AttachmentState> {
    bench.owner.attachment(&key(name)).map(|record| record.state)
}

#[test]
fn a_repair_is_told_with_what_told_of_it_and_laying_is_none() {
    let start = Bench::new(2).notes;
    let first = start.iter().skip_while(|n| !matches!(n, Note::HostApplied { .. })).skip(1);
    let mut first = first.take_while(|n| !matches!(n, Note::HostApplied { .. }));
    assert!(!first.any(|n| matches!(n, Note::Repaired { .. })), "what a start lays is no repair");
    let mut bench = whole(2, &["a"]);
    type Damage = fn(&mut HostView);
    let damages: [(Trigger, Thing, Damage); 6] = [
        (Trigger::Rule, Thing::Rule, |v| v.rules.clear()),
        (Trigger::Route, Thing::Route, |v| v.pods_routes.clear()),
        (Trigger::Nftables, Thing::Nftables, |v| v.nft = None),
        (Trigger::Neighbour, Thing::Neighbour, |v| v.neighbours.clear()),
        (Trigger::Link, Thing::Alias, |v| v.links[1].alias = "theirs".into()),
        (Trigger::Link, Thing::Mac, |v| v.links[1].mac = None),
    ];
    let before = bench.view.clone();
    for (trigger, thing, damage) in damages {
        damage(&mut bench.view);
        changed(&mut bench, trigger);
        let told = repairs(&mut bench);
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!((told[0].0, told[0].1), (trigger, thing));
        assert_eq!(bench.view, HostView { rules: bench.view.rules.clone(), ..before.clone() });
    }
    changed(&mut bench, Trigger::Link);
    assert_eq!(repairs(&mut bench), [], "nothing is wrong");
    bench.view.rules.clear();
    bench.pass(Duration::from_secs(60));
    assert_eq!(repairs(&mut bench), [(Trigger::Period, Thing::Rule, Reason::Missing)]);
}

#[test]
fn what_the_pool_needs_anew_is_no_repair_and_what_was_lost_beside_it_is() {
    let mut bench = whole(2, &["a"]);
    bench.addresses = 3;
    bench.view.rules.clear();
    bench.pass(Duration::from_secs(30));
    let told = repairs(&mut bench);
    assert_eq!(told, [(Trigger::Pool, Thing::Rule, Reason::Missing)], "{:?}", bench.applied);
    assert!(bench.applied.len() > 1, "a base route was laid: {:?}", bench.applied);
}

#[test]
fn who_undoes_a_repair_each_time_is_told_and_waited_out() {
    let mut bench = whole(2, &["a"]);
    for _ in 0..40 {
        bench.view.rules.clear();
        changed(&mut bench, Trigger::Rule);
    }
    let made = repairs(&mut bench).len();
    assert!((8..12).contains(&made), "the driver's wait bounds it: {made}");
    let health = bench.owner.health();
    assert!(health.ready && health.reasons.iter().any(|r| r.contains("undoes")), "{:?}", health.reasons);
    assert_eq!(bench.owner.host_reports()[ReportKind::Contested.name()], 1);
    for _ in 0..4 {
        bench.pass(Duration::from_secs(40));
    }
    assert_eq!(bench.owner.host_reports()[ReportKind::Contested.name()], 0, "it is given up, all is well");
    assert!(!bench.owner.health().reasons.iter().any(|r| r.contains("undoes")));
}

#[test]
fn a_fight_over_one_thing_keeps_nothing_else_waiting() {
    let mut bench = whole(2, &["a"]);
    for _ in 0..12 {
        bench.view.rules.clear();
        changed(&mut bench, Trigger::Rule);
    }
    for _ in 0..5 {
        bench.view.rules.clear();
        while bench.view.rules.is_empty() {
            bench.pass(Duration::from_millis(500));
        }
    }
    bench.view.rules.clear();
    changed(&mut bench, Trigger::Rule);
    bench.pass(Duration::from_secs(2));
    assert!(bench.view.rules.is_empty(), "it is waited out");
    let waits = bench.now;
    bench.notes.clear();
    bench.view.pods_routes.clear();
    changed(&mut bench, Trigger::Route);
    changed(&mut bench, Trigger::Rule);
    while !bench.view.pods_routes.iter().any(|r| matches!(r.action, RouteAction::Device { .. })) {
        bench.pass(Duration::from_millis(50));
    }
    assert!(bench.now - waits <= Duration::from_secs(1));
    assert!(
        repairs(&mut bench)
            .iter()
            .any(|(trigger, thing, _)| (*trigger, *thing) == (Trigger::Route, Thing::Route))
    );
}

#[test]
fn what_was_broken_of_an_add_that_is_being_recorded_is_repaired_when_it_is() {
    let mut bench = whole(2, &["a"]);
    bench.hold_commits = true;
    bench.send(Event::Add { op: OpId(1), ask: ask("b", 9) });
    let spec = bench.wires.last().unwrap().clone();
    let links = bench.view.links.len();
    appear(&mut bench);
    assert_eq!(bench.view.links.len(), links + 1);
    let to_pod = |route: &RouteView| route.action == RouteAction::Device { ifindex: spec.ifindex };
    assert!(!bench.view.pods_routes.iter().any(to_pod), "somebody has flushed it");
    bench.applied.clear();
    changed(&mut bench, Trigger::Route);
    assert_eq!(bench.reply(1), None);
    assert!(!bench.view.pods_routes.iter().any(to_pod), "it is not judged while it is made");
    bench.release_commits();
    bench.added(1);
    assert!(bench.view.pods_routes.iter().any(to_pod), "without any further event: {:?}", bench.applied);
    let told = repairs(&mut bench);
    assert!(told.contains(&(Trigger::Route, Thing::Route, Reason::Missing)), "{told:?}");
    // Nobody changed anything meanwhile: nothing is looked at.
    bench.hold_host = true;
    bench.send(Event::Del { op: OpId(2), key: key("b") });
    bench.held.clear();
    bench.send(Event::Add { op: OpId(3), ask: ask("c", 10) });
    assert!(bench.held.is_empty(), "{:?}", bench.held);
}

#[test]
fn a_link_that_is_gone_breaks_its_attachment_and_frees_nothing() {
    let mut bench = whole(2, &["a", "b"]);
    let link = bench.wires[0].ifindex;
    let there = bench.view.clone();
    bench.view.links.retain(|l| l.ifindex != link);
    // A look that was begun before somebody else's ADD says nothing of that one.
    changed(&mut bench, Trigger::Link);
    assert_eq!(state(&bench, "a"), Some(AttachmentState::Broken));
    assert_eq!(state(&bench, "b"), Some(AttachmentState::Live));
    assert!(bench.stored.attachments.iter().any(|r| r.state == AttachmentState::Broken), "it is committed");
    assert_eq!(bench.owner.counts(bench.now).allocated, 2);
    assert!(bench.notes.iter().any(|n| matches!(n, Note::Broken { trigger: Trigger::Link, .. })));
    bench.view = there;
    changed(&mut bench, Trigger::Link);
    assert_eq!(state(&bench, "a"), Some(AttachmentState::Broken), "a number is used once");
    bench.send(Event::Del { op: OpId(1), key: key("a") });
    assert_eq!(bench.reply(1), Some(&reply::Outcome::Done));
}

#[test]
fn a_link_that_was_changed_in_all_but_its_group_is_repaired() {
    let mut bench = whole(2, &["a"]);
    let before = bench.view.clone();
    let link = bench.view.links.last_mut().unwrap();
    (link.name, link.alias, link.mac) = ("theirs".into(), "theirs".into(), None);
    changed(&mut bench, Trigger::Link);
    assert_eq!(bench.view, before);
    let told: BTreeSet<Thing> = repairs(&mut bench).into_iter().map(|(_, thing, _)| thing).collect();
    assert_eq!(told, BTreeSet::from([Thing::Alias, Thing::Mac, Thing::Name]));
}

#[test]
fn a_link_that_was_changed_in_everything_is_neither_broken_nor_touched_and_told() {
    let mut bench = whole(2, &["a"]);
    let link = bench.view.links.last_mut().unwrap();
    (link.name, link.alias, link.mac, link.group) = ("theirs".into(), String::new(), None, 0);
    bench.view.rules.push(RuleView {
        priority: 100,
        table: 100,
        protocol: 4,
        mark: None,
        other_selector: true,
    });
    changed(&mut bench, Trigger::Link);
    assert_eq!(state(&bench, "a"), Some(AttachmentState::Live));
    assert!(bench.applied.is_empty(), "{:?}", bench.applied);
    let reports = bench.owner.host_reports();
    assert_eq!((reports[ReportKind::Rule.name()], reports[ReportKind::Link.name()]), (1, 1));
    assert!(bench.owner.health().reasons.iter().any(|r| r.contains("link theirs")), "it is told");
}

#[test]
fn a_link_that_was_given_anothers_alias_is_still_its_own() {
    let mut bench = whole(2, &["a", "b"]);
    let [first, second] = [0, 1].map(|n| bench.wires[n].clone());
    let link = bench.view.links.iter_mut().find(|l| l.ifindex == first.ifindex).unwrap();
    link.alias.clone_from(&second.alias);
    changed(&mut bench, Trigger::Link);
    assert_eq!(state(&bench, "a"), Some(AttachmentState::Live), "its MAC says whose it is");
    let link = bench.view.links.iter().find(|l| l.ifindex == first.ifindex).unwrap();
    assert_eq!(link.alias, first.alias, "and it has its own again");
}

#[test]
fn an_address_on_the_primarys_link_is_kept_out_of_use_until_it_is_taken_off() {
    let mut bench = whole(2, &["a"]);
    let free = Ipv4Addr::new(10, 0, 1, 21);
    bench.view.addresses.push(HostAddressView { ifindex: 2, address: ipnet::Ipv4Net::from(free) });
    changed(&mut bench, Trigger::Address);
    let counts = bench.owner.counts(bench.now);
    assert_eq!((counts.free, counts.quarantined), (0, 1));
    assert!(bench.owner.health().reasons.iter().any(|r| r.contains("10.0.1.21")));
    bench.view.addresses.pop();
    changed(&mut bench, Trigger::Address);
    let counts = bench.owner.counts(bench.now);
    assert_eq!((counts.free, counts.quarantined), (1, 0));
    assert!(bench.view.pods_routes.iter().all(|r| r.protocol == PROTOCOL));
}

/// Every pod's link is gone; its path says this.
fn dead(addresses: u8, pods: &[&str], sight: PathSight) -> Bench {
    dead_of(whole(addresses, pods), pods, sight)
}

fn dead_of(mut bench: Bench, pods: &[&str], sight: PathSight) -> Bench {
    bench.paths = pods.iter().map(|name| (key(name), sight)).collect();
    bench.view.links.truncate(1);
    changed(&mut bench, Trigger::Link);
    assert!(pods.iter().all(|name| state(&bench, name) == Some(AttachmentState::Broken)));
    bench
}

#[test]
fn a_full_pool_takes_the_address_of_a_dead_sandbox_and_of_no_other() {
    let mut bench = dead(2, &["a", "b"], PathSight::Absent);
    bench.send(Event::Add { op: OpId(1), ask: ask("c", 9) });
    assert_eq!(bench.reply(1), None, "it waits for the cooldown");
    bench.pass(Duration::from_millis(200));
    bench.pass(Duration::from_secs(30));
    bench.added(1);
    let left = bench.owner.attachments();
    let broken = left.iter().filter(|r| r.state == AttachmentState::Broken).count();
    assert_eq!(broken, 1, "no more than is needed");
    let mut bench = dead(2, &["a", "b"], PathSight::Namespace);
    bench.send(Event::Add { op: OpId(1), ask: ask("c", 9) });
    assert_eq!(bench.error(1).code, Code::TryAgainLater, "both may live");
    // One of them dies later; nobody tells.
    bench.paths.insert(key("b"), PathSight::Absent);
    bench.send(Event::Add { op: OpId(2), ask: ask("c", 9) });
    bench.pass(Duration::from_millis(200));
    bench.pass(Duration::from_secs(30));
    bench.added(2);
    assert_eq!(state(&bench, "a"), Some(AttachmentState::Broken));
}

#[test]
fn a_path_that_says_nothing_frees_nothing() {
    // No namespace was ever seen there: to this ipamd nothing is at any path.
    let mut unseen = Bench::new(2);
    unseen.wired_path = PathSight::Absent;
    let mut unseen = dead_of(with_pods(unseen, &["a", "b"]), &["a", "b"], PathSight::Absent);
    let mut unknown = dead(2, &["a", "b"], PathSight::Unknown);
    for bench in [&mut unseen, &mut unknown] {
        bench.send(Event::Add { op: OpId(1), ask: ask("c", 9) });
        assert_eq!(bench.error(1).code, Code::TryAgainLater, "both may live");
        let left = bench.owner.attachments();
        assert!(left.iter().all(|r| r.state == AttachmentState::Broken) && left.len() == 2, "{left:?}");
    }
    // Seen there later, and then no more.
    unseen.paths = ["a", "b"].map(|name| (key(name), PathSight::Namespace)).into();
    unseen.send(Event::Add { op: OpId(2), ask: ask("c", 9) });
    assert_eq!(unseen.error(2).code, Code::TryAgainLater);
    unseen.pass(Duration::from_secs(2));
    assert!(unseen.stored.attachments.iter().all(|r| r.netns_seen), "it is durable");
    unseen.paths = ["a", "b"].map(|name| (key(name), PathSight::Absent)).into();
    unseen.send(Event::Add { op: OpId(3), ask: ask("c", 9) });
    unseen.pass(Duration::from_millis(200));
    unseen.pass(Duration::from_secs(30));
    unseen.added(3);
}

#[test]
fn an_add_that_waits_for_the_node_to_serve_takes_nothing_of_the_dead() {
    let mut bench = dead(4, &["a", "b"], PathSight::Namespace);
    bench.paths = ["a", "b"].map(|name| (key(name), PathSight::Absent)).into();
    bench.refuses = |step| matches!(step, HostStep::ReplaceNft { .. });
    bench.view.nft = None;
    changed(&mut bench, Trigger::Nftables);
    assert!(!bench.owner.health().ready);
    bench.send(Event::Add { op: OpId(1), ask: ask("c", 9) });
    // A third link goes: the paths are asked.
    let asked = ["a", "b"].map(|name| bench.owner.attachment(&key(name)).unwrap().id());
    for id in asked {
        bench.owner.evidence.suspect(id);
    }
    bench.pass(Duration::from_millis(1));
    assert_eq!(bench.reply(1), None);
    assert_eq!(state(&bench, "a").and(state(&bench, "b")), Some(AttachmentState::Broken), "two are free");
}

#[test]
fn the_same_pod_again_makes_the_dead_one_way() {
    let mut bench = dead(4, &["a", "b"], PathSight::Absent);
    let name = bench.wires[0].host_name.clone();
    let again = AddAsk { pod: Some(("default".into(), "web-a".into())), ..ask("a2", 9) };
    bench.send(Event::Add { op: OpId(1), ask: again });
    bench.added(1);
    assert_eq!(bench.wires.last().unwrap().host_name, name, "with its link's name");
    assert_eq!(state(&bench, "a"), None);
    assert_eq!(state(&bench, "b"), Some(AttachmentState::Broken));
}

#[test]
fn an_add_into_the_sandbox_of_a_broken_one_makes_it_way_whatever_its_path_says() {
    let mut bench = dead(4, &["a", "b"], PathSight::Namespace);
    bench.send(Event::Add { op: OpId(1), ask: ask("x", 100) });
    bench.added(1);
    assert_eq!((state(&bench, "a"), state(&bench, "b")), (None, Some(AttachmentState::Broken)));
    let replaced = AddAsk { netns: "/run/netns/b".into(), ..ask("y", 300) };
    bench.send(Event::Add { op: OpId(2), ask: replaced });
    bench.added(2);
    assert_eq!(state(&bench, "b"), None, "another namespace is at its path");
}

#[test]
fn a_del_of_what_an_add_undoes_ends_both() {
    let mut bench = dead(4, &["a"], PathSight::Absent);
    bench.commit_error = true;
    let again = AddAsk { pod: Some(("default".into(), "web-a".into())), ..ask("a2", 9) };
    bench.send(Event::Add { op: OpId(1), ask: again.clone() });
    assert!(matches!(bench.reply(1), Some(reply::Outcome::Failed(_))), "not recorded");
    bench.commit_error = false;
    bench.send(Event::Del { op: OpId(2), key: key("a") });
    assert_eq!(bench.reply(2), Some(&reply::Outcome::Done));
    bench.send(Event::Add { op: OpId(3), ask: again });
    bench.added(3);
}
