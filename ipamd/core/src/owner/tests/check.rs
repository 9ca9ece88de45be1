//! CHECK: its turn, its waits, its looks, and what it says.

use super::*;
use crate::host_net::{base_route, nft};
use crate::kernel::{
    AttachmentView, ENI_GROUP, ENI_INET, HostStep, LookSpec, NeighbourView, POD_INET, PODS_RULE_PRIORITY,
    PODS_TABLE, PROTOCOL, RouteAction, RouteView, RuleView, SANDBOX_GATEWAY, SandboxLinkView,
    SandboxRouteView, SandboxView, WireSpec,
};
use crate::owner::event::CheckAsk;
use eni_proto::error::Code;
use ipnet::Ipv4Net;

pub(super) fn check_ask(container: &str, cookie: u64) -> CheckAsk {
    CheckAsk {
        key: key(container),
        cookie: NetnsCookie(cookie),
        addresses: Vec::new(),
        deadline: Timestamp::from_millis(90_000),
    }
}

/// What a look shows of a sandbox that was wired so, on the host that the bench has laid.
pub(super) fn view(bench: &Bench, spec: &WireSpec) -> AttachmentView {
    let link = |ifindex, name: &str, mac, group, alias: &str, inet| LinkView {
        ifindex,
        name: name.into(),
        mac: Some(mac),
        group,
        alias: alias.into(),
        up: true,
        mtu: spec.mtu,
        kind: "veth".into(),
        inet,
    };
    let neighbour = |address, mac| NeighbourView { ifindex: spec.ifindex, address, mac, permanent: true };
    let route = RouteView {
        destination: Ipv4Net::from(spec.address),
        metric: 0,
        action: RouteAction::Device { ifindex: spec.ifindex },
        prefsrc: spec.prefsrc,
        protocol: PROTOCOL,
    };
    let rule = RuleView {
        priority: PODS_RULE_PRIORITY,
        table: PODS_TABLE,
        protocol: PROTOCOL,
        mark: None,
        other_selector: false,
    };
    let nft = bench.applied.iter().rev().find_map(|step| match step {
        HostStep::ReplaceNft { text } => Some(nft::contents(text)),
        _ => None,
    });
    AttachmentView {
        link: Some(link(
            spec.ifindex,
            spec.host_name.as_str(),
            spec.host_mac,
            spec.group,
            &spec.alias,
            POD_INET,
        )),
        eni_link: Some(link(2, "ens5", MacAddr([2, 0, 0, 0, 0, 1]), ENI_GROUP + 1, "", ENI_INET)),
        routes: vec![route, base_route(spec.address)],
        neighbours: vec![neighbour(spec.address, spec.sandbox_mac)],
        rules: vec![rule],
        eni_routes: Vec::new(),
        nft,
        sandbox: SandboxView {
            link: Some(SandboxLinkView {
                ifindex: spec.ifindex,
                name: spec.sandbox_name.to_string(),
                mac: Some(spec.sandbox_mac),
                up: true,
            }),
            addresses: vec![Ipv4Net::from(spec.address)],
            routes: vec![
                SandboxRouteView { destination: Ipv4Net::from(SANDBOX_GATEWAY), gateway: None },
                SandboxRouteView { destination: Ipv4Net::default(), gateway: Some(SANDBOX_GATEWAY) },
            ],
            neighbours: vec![neighbour(SANDBOX_GATEWAY, spec.host_mac)],
        },
    }
}

/// A bench with one live attachment, whose looks are held.
fn live() -> Bench {
    let mut bench = Bench::new(4);
    bench.hold_looks = true;
    bench.send(Event::Add { op: OpId(1), ask: ask("a", 7) });
    bench.added(1);
    // The host has it, or a pass would find it broken.
    let link = whole(&bench).link;
    bench.view.links.extend(link);
    bench
}

fn check(bench: &mut Bench, op: u64) {
    bench.send(Event::Check { op: OpId(op), ask: check_ask("a", 7) });
}

/// Ends the look that is held.
fn looked(bench: &mut Bench, seen: Result<AttachmentView, HostStepError>) {
    let at = bench.held.iter().position(|e| matches!(e.kind, EffectKind::Look(_))).expect("a look is held");
    let effect = bench.held.remove(at);
    bench.send(Event::Done { effect: effect.id, completion: Completion::Looked(seen.map(Box::new)) });
}

fn whole(bench: &Bench) -> AttachmentView {
    view(bench, bench.wires.last().expect("a wire"))
}

fn differs(bench: &Bench, op: u64, words: &str) {
    let error = bench.error(op);
    assert_eq!(error.code, Code::Differs, "{error}");
    assert!(error.to_string().contains(words), "{words:?} is not in {error}");
}

#[test]
fn a_check_right_after_its_add_is_well_and_changes_nothing() {
    let mut bench = live();
    let stored = bench.stored.clone();
    check(&mut bench, 2);
    let EffectKind::Look(spec) = &bench.held[0].kind else { panic!("a look") };
    let wired = &bench.wires[0];
    let (ifindex, addresses) = (wired.ifindex, vec![wired.address]);
    let sandbox_name = wired.sandbox_name.clone();
    let asked = LookSpec { ifindex, sandbox_name, addresses, eni_ifindex: Some(2), eni_table: None };
    assert_eq!(**spec, asked, "the primary has no table of its own");
    assert_eq!(bench.held[0].op, Some(OpId(2)), "in the sandbox of the operation");
    let seen = whole(&bench);
    looked(&mut bench, Ok(seen));
    assert_eq!(bench.reply(2), Some(&reply::Outcome::Done));
    assert_eq!(bench.stored, stored);
}

#[test]
fn what_differs_is_said_and_a_failed_look_is_no_difference() {
    let mut bench = live();
    check(&mut bench, 2);
    let mut seen = whole(&bench);
    seen.sandbox.addresses.clear();
    looked(&mut bench, Ok(seen));
    let address = bench.wires[0].address;
    differs(&bench, 2, &format!("the sandbox's address: expected {address}/32, found none"));
    check(&mut bench, 3);
    let cause = HostStepError { index: None, step: "look".into(), cause: "ENOBUFS".into(), gone: false };
    looked(&mut bench, Err(cause));
    assert_eq!(bench.error(3).code, Code::TryAgainLater);
    assert!(bench.error(3).to_string().contains("ENOBUFS"));
}

#[test]
fn the_records_are_compared_too() {
    let mut bench = live();
    bench.send(Event::Check { op: OpId(2), ask: check_ask("never", 7) });
    differs(&bench, 2, "the record: expected one that is live, found none");
    bench.send(Event::Check { op: OpId(3), ask: check_ask("a", 9) });
    differs(&bench, 3, "the sandbox: expected the network namespace 7, found the network namespace 9");
    let addresses = vec![Ipv4Addr::new(10, 0, 1, 99)];
    bench.send(Event::Check { op: OpId(4), ask: CheckAsk { addresses, ..check_ask("a", 7) } });
    let seen = whole(&bench);
    looked(&mut bench, Ok(seen));
    differs(&bench, 4, "the address in prevResult: expected 10.0.1.20, found 10.0.1.99");
    // One among several that later plugins have added is well.
    let addresses = vec![Ipv4Addr::new(10, 0, 1, 99), Ipv4Addr::new(10, 0, 1, 20)];
    bench.send(Event::Check { op: OpId(5), ask: CheckAsk { addresses, ..check_ask("a", 7) } });
    let seen = whole(&bench);
    looked(&mut bench, Ok(seen));
    assert_eq!(bench.reply(5), Some(&reply::Outcome::Done));
}

#[test]
fn a_check_waits_for_the_add_of_its_key() {
    let mut bench = Bench::new(4);
    (bench.hold_wires, bench.hold_looks) = (true, true);
    bench.send(Event::Add { op: OpId(1), ask: ask("a", 7) });
    check(&mut bench, 2);
    assert_eq!(bench.held.len(), 1, "the wire alone");
    bench.release_wires();
    bench.added(1);
    let seen = whole(&bench);
    looked(&mut bench, Ok(seen));
    assert_eq!(bench.reply(2), Some(&reply::Outcome::Done));
}

#[test]
fn while_the_node_does_not_serve_a_check_waits_until_its_deadline_and_a_del_ends_it() {
    let stored = live().stored;
    let mut bench =
        Bench::start_refusing(4, stored, host(), true, |step| matches!(step, HostStep::AddRule { .. }));
    bench.hold_looks = true;
    assert!(!bench.owner.health().ready);
    check(&mut bench, 2);
    bench.pass(Duration::from_secs(88));
    assert_eq!(bench.reply(2), None, "it waits");
    check(&mut bench, 3);
    bench.send(Event::Del { op: OpId(4), key: key("a") });
    for op in [2, 3] {
        assert_eq!(bench.error(op).code, Code::TryAgainLater);
        assert!(bench.error(op).to_string().contains("DEL"), "{}", bench.error(op));
    }
    assert_eq!(bench.reply(4), Some(&reply::Outcome::Done), "a DEL waits for no gate");
    check(&mut bench, 5);
    bench.pass(Duration::from_secs(2));
    assert_eq!(bench.error(5).code, Code::TryAgainLater);
    let text = bench.error(5).to_string();
    assert!(text.contains("not be checked in time") && text.contains("not laid yet"), "{text}");
}

#[test]
fn what_a_pass_is_about_to_lay_is_looked_at_again_when_the_pass_has_ended() {
    let mut bench = live();
    check(&mut bench, 2);
    // A pass over the host begins and ends while the look is under way: the rule was missing in between.
    bench.owner.driver.wake(bench.owner.reconcilers.host_net, bench.now);
    bench.send(Event::Wake);
    let mut seen = whole(&bench);
    seen.rules.clear();
    looked(&mut bench, Ok(seen.clone()));
    assert_eq!(bench.reply(2), None, "looked at again");
    let right = whole(&bench);
    looked(&mut bench, Ok(right));
    assert_eq!(bench.reply(2), Some(&reply::Outcome::Done));
    // While a pass runs, its end is waited for.
    check(&mut bench, 3);
    bench.hold_host = true;
    bench.owner.driver.wake(bench.owner.reconcilers.host_net, bench.now);
    bench.send(Event::Wake);
    looked(&mut bench, Ok(seen.clone()));
    assert!(!bench.held.iter().any(|e| matches!(e.kind, EffectKind::Look(_))), "not before its end");
    bench.release_host();
    looked(&mut bench, Ok(seen.clone()));
    differs(&bench, 3, "the rule of the pods table: expected 512:");
    // However many passes: there is an end to it.
    check(&mut bench, 4);
    let mut looks = 0;
    while bench.reply(4).is_none() {
        bench.owner.driver.wake(bench.owner.reconcilers.host_net, bench.now);
        bench.send(Event::Wake);
        looked(&mut bench, Ok(seen.clone()));
        looks += 1;
    }
    assert_eq!(looks, 4);
}

#[test]
fn a_plugin_that_goes_away_ends_its_check_and_harms_nothing() {
    let mut bench = live();
    check(&mut bench, 2);
    bench.send(Event::Hangup { op: OpId(2) });
    bench.send(Event::Del { op: OpId(3), key: key("a") });
    assert_eq!(bench.reply(3), None, "the look is not over");
    let seen = whole(&bench);
    looked(&mut bench, Ok(seen));
    assert_eq!(bench.replies.iter().find(|(op, _)| *op == OpId(2)), Some(&(OpId(2), None)));
    assert_eq!(bench.reply(3), Some(&reply::Outcome::Done));
    check(&mut bench, 4);
    differs(&bench, 4, "the record");
}

#[test]
fn an_end_that_comes_while_it_is_looked_at_is_said() {
    let mut bench = live();
    check(&mut bench, 2);
    bench.send(Event::Unread { op: OpId(1), key: key("a") });
    let seen = whole(&bench);
    looked(&mut bench, Ok(seen));
    differs(&bench, 2, "the record: expected one that is live, found one that is being deleted");
}

#[test]
fn a_shutdown_closes_a_check_that_waits_so_that_its_plugin_asks_the_next() {
    let stored = live().stored;
    let mut bench =
        Bench::start_refusing(4, stored, host(), true, |step| matches!(step, HostStep::AddRule { .. }));
    check(&mut bench, 2);
    bench.send(Event::Drain);
    assert_eq!(bench.replies.last(), Some(&(OpId(2), None)));
    assert!(bench.owner.checks.is_empty());
}
