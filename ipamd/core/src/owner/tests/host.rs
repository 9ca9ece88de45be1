//! Steps on the host's network that keep failing: what they are not about is served all the same.

use super::*;
use crate::kernel::{
    ENI_TABLE, FIRST_IFINDEX, FilterChain, Forward, PODS_TABLE, RouteAction, RouteView, Thing, Trigger,
};
use crate::record::EniRecord;
use std::collections::BTreeSet;

/// What is stored of a node with the ENIs 1 and 2, and two addresses on each; the addresses of the second are
/// 10.0.2.20 and 10.0.2.21, and its link's index is 3.
fn two_enis() -> (Stored, HostView) {
    let mut stored = Bench::new(2).stored;
    let mut view = host();
    let first = stored.enis[0].clone();
    let second = EniRecord {
        id: "eni-2".parse().unwrap(),
        mac: MacAddr([2, 0, 0, 0, 0, 2]),
        device_index: 1,
        subnet_cidr: "10.0.2.0/24".parse().unwrap(),
        primary: Ipv4Addr::new(10, 0, 2, 10),
        ..first
    };
    for mut record in stored.addresses.clone() {
        record.address = Ipv4Addr::new(10, 0, 2, record.address.octets()[3]);
        record.eni = second.id.clone();
        stored.addresses.push(record);
    }
    let link = LinkView { ifindex: 3, name: "ens6".into(), mac: Some(second.mac), ..view.links[0].clone() };
    view.links.push(link);
    stored.enis.push(second);
    (stored, view)
}

/// A start on two ENIs where the kernel refuses these steps for ever.
fn refusing(refuses: fn(&HostStep) -> bool) -> Bench {
    let (stored, mut view) = two_enis();
    view.forward = Forward::Drops { chain: FilterChain::Forward, accepted: false };
    let bench = Bench::start_refusing(2, stored, view, true, refuses);
    let reasons = bench.owner.health().reasons;
    assert!(reasons.iter().any(|r| r.contains("steps failed")), "it is told and tried again: {reasons:?}");
    bench
}

/// The addresses that ADDs get, until none is left.
fn served(bench: &mut Bench) -> Vec<String> {
    let mut got = Vec::new();
    for n in 0..4 {
        bench.send(Event::Add { op: OpId(n), ask: ask(&format!("c{n}"), n) });
        if let Some(reply::Outcome::Added(result)) = bench.reply(n) {
            got.push(result.ips[0].address.split('/').next().unwrap().to_owned());
        }
    }
    got.sort();
    got
}

#[test]
fn a_filter_table_that_cannot_be_changed_stops_nothing() {
    let mut bench = refusing(|step| matches!(step, HostStep::AcceptForward(_)));
    assert!(bench.owner.health().ready);
    assert_eq!(served(&mut bench), ["10.0.1.20", "10.0.1.21", "10.0.2.20", "10.0.2.21"]);
}

#[test]
fn an_address_whose_base_route_is_refused_is_not_given_out() {
    let is_it = |step: &HostStep| {
        let address = Ipv4Addr::new(10, 0, 1, 20);
        matches!(step, HostStep::AddRoute(r) if r.action == RouteAction::Unreachable && r.destination.addr() == address)
    };
    assert_eq!(served(&mut refusing(is_it)), ["10.0.1.21", "10.0.2.20", "10.0.2.21"]);
}

#[test]
fn a_secondary_eni_that_cannot_be_laid_serves_nothing_and_the_others_do() {
    let steps: [fn(&HostStep) -> bool; 4] = [
        |step| matches!(step, HostStep::SetLink { ifindex: 3, .. }),
        |step| matches!(step, HostStep::AddAddress(own) if own.ifindex == 3),
        |step| matches!(step, HostStep::AddEniRoute(route) if route.table == ENI_TABLE + 2),
        |step| matches!(step, HostStep::AddRule { table, .. } if *table == ENI_TABLE + 2),
    ];
    for step in steps {
        assert_eq!(served(&mut refusing(step)), ["10.0.1.20", "10.0.1.21"]);
    }
}

#[test]
fn what_every_pod_needs_comes_first() {
    let steps: [fn(&HostStep) -> bool; 3] = [
        |step| matches!(step, HostStep::ReplaceNft { .. }),
        |step| matches!(step, HostStep::AddRule { table: PODS_TABLE, .. }),
        |step| matches!(step, HostStep::SetLink { ifindex: 2, .. }),
    ];
    for step in steps {
        let mut bench = refusing(step);
        assert!(!bench.owner.health().ready);
        assert_eq!(served(&mut bench), [""; 0]);
    }
}

#[test]
fn a_node_that_serves_stops_when_what_every_pod_needs_cannot_be_laid_any_more() {
    let steps: [fn(&HostStep) -> bool; 2] = [
        |step| matches!(step, HostStep::ReplaceNft { .. }),
        |step| matches!(step, HostStep::AddRule { table: PODS_TABLE, .. }),
    ];
    for step in steps {
        let mut bench = Bench::new(4);
        bench.send(Event::Add { op: OpId(1), ask: ask("a", 7) });
        bench.added(1);
        bench.refuses = step;
        bench.send(Event::HostChanged(BTreeSet::from([Trigger::Nftables])));
        assert!(!bench.owner.health().ready);
        bench.send(Event::Add { op: OpId(2), ask: ask("b", 8) });
        bench.send(Event::Add { op: OpId(3), ask: ask("a", 7) });
        assert_eq!((bench.reply(2), bench.reply(3)), (None, None), "its packets would go the wrong way");
        bench.refuses = |_| false;
        bench.pass(Duration::from_secs(3));
        assert!(bench.owner.health().ready);
        bench.added(2);
        bench.added(3);
    }
}

#[test]
fn a_step_that_keeps_failing_does_not_keep_new_addresses_waiting() {
    let mut view = host();
    view.forward = Forward::Drops { chain: FilterChain::Forward, accepted: false };
    let refuses = |step: &HostStep| matches!(step, HostStep::AcceptForward(_));
    let mut bench = Bench::start_refusing(2, Stored::default(), view, false, refuses);
    // The back-off is long by now.
    for _ in 0..40 {
        bench.pass(Duration::from_secs(3));
    }
    bench.addresses = 3;
    while bench.owner.pool().addresses().count() < 3 {
        bench.pass(Duration::from_secs(1));
    }
    assert_eq!(bench.owner.pool().available(), 3);
}

/// Everything but these steps is laid, and their back-off is long by now.
fn failing_for_long(stored: Stored, mut view: HostView, refuses: fn(&HostStep) -> bool) -> Bench {
    view.forward = Forward::Drops { chain: FilterChain::Forward, accepted: false };
    let mut bench = Bench::start_refusing(2, stored, view, true, refuses);
    bench.mends = true;
    bench.send(Event::HostChanged(BTreeSet::from([Trigger::Link])));
    for _ in 0..40 {
        bench.pass(Duration::from_secs(3));
    }
    assert!(!bench.view.rules.is_empty());
    bench.notes.clear();
    bench
}

/// How long it takes until all rules are there again.
fn mends_rules(bench: &mut Bench) -> Duration {
    let (before, since) = (bench.view.rules.clone(), bench.now);
    bench.view.rules.clear();
    bench.send(Event::HostChanged(BTreeSet::from([Trigger::Rule])));
    while bench.view.rules.len() < before.len() {
        bench.pass(Duration::from_millis(50));
    }
    bench.now - since
}

#[test]
fn a_step_that_keeps_failing_keeps_no_repair_waiting_and_it_is_counted() {
    let refuses = |step: &HostStep| matches!(step, HostStep::AcceptForward(_));
    let (stored, view) = two_enis();
    let mut bench = failing_for_long(stored, view, refuses);
    for _ in 0..3 {
        assert!(mends_rules(&mut bench) <= Duration::from_millis(1_050));
    }
    let told = |n: &Note| matches!(n, Note::Repaired { trigger: Trigger::Rule, thing: Thing::Rule, .. });
    assert_eq!(bench.notes.iter().filter(|n| told(n)).count(), 3, "{:?}", bench.notes);
}

#[test]
fn an_eni_without_a_link_keeps_no_repair_waiting_and_coming_it_is_none() {
    let (stored, mut view) = two_enis();
    let link = view.links.pop().unwrap();
    let mut bench = failing_for_long(stored, view, |_| false);
    assert!(mends_rules(&mut bench) <= Duration::from_millis(1_050));
    let rules = |bench: &mut Bench| {
        let notes = std::mem::take(&mut bench.notes);
        notes.iter().filter(|n| matches!(n, Note::Repaired { thing: Thing::Rule, .. })).count()
    };
    assert_eq!(rules(&mut bench), 1);
    bench.view.links.push(link);
    bench.pass(Duration::from_secs(40));
    assert!(bench.view.rules.iter().any(|rule| rule.table == ENI_TABLE + 2), "{:?}", bench.view.rules);
    assert_eq!(rules(&mut bench), 0, "what is laid for the first time is no repair");
}

#[test]
fn a_sandbox_that_dies_between_look_and_step_is_no_failure() {
    let damages: [fn(&mut HostView); 4] = [
        |view| view.pods_routes.clear(),
        |view| view.neighbours.clear(),
        |view| view.links.last_mut().unwrap().up = false,
        |view| view.links.last_mut().unwrap().alias = "theirs".into(),
    ];
    for damage in damages {
        for gone in [true, false] {
            let mut bench = super::watch::whole(2, &["a"]);
            let link = bench.wires[0].ifindex;
            damage(&mut bench.view);
            bench.hold_host = true;
            bench.send(Event::HostChanged(BTreeSet::from([Trigger::Overrun])));
            // It is gone when the steps are taken: the kernel refuses those on it.
            (bench.gone, bench.mends) = (gone, false);
            bench.refuses = |step| {
                let to_pod = |route: &RouteView| matches!(route.action, RouteAction::Device { .. });
                match step {
                    HostStep::AddRoute(route) => to_pod(route),
                    HostStep::SetNeighbour(_) | HostStep::SetAlias { .. } => true,
                    HostStep::SetLink { ifindex, .. } => *ifindex >= FIRST_IFINDEX,
                    _ => false,
                }
            };
            bench.release_host();
            let failed = bench.notes.iter().any(|note| matches!(note, Note::PassFailed { .. }));
            assert_eq!(failed, !gone, "{:?}", bench.applied);
            assert!(!gone || !bench.owner.health().steering_broken);
            let counted =
                |note: &Note| matches!(note, Note::Repaired { thing, .. } if *thing != Thing::Route);
            assert!(!bench.notes.iter().any(counted), "{:?}", bench.notes);
            bench.view.links.retain(|l| l.ifindex != link);
            bench.send(Event::HostChanged(BTreeSet::from([Trigger::Link])));
            bench.pass(Duration::from_secs(2));
            assert_eq!(bench.owner.attachment(&key("a")).unwrap().state, AttachmentState::Broken);
        }
    }
}
