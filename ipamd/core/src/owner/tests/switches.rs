//! What keeps the owner's hands off: the switches, and amazon-vpc-cni.

use super::*;
use crate::kernel::RuleView;

fn config() -> OwnerConfig {
    OwnerConfig { cooldown: Duration::from_secs(30), ..OwnerConfig::default() }
}

fn reasons(bench: &Bench) -> String {
    bench.owner.health().reasons.join("; ")
}

fn without_cloud(stored: Stored) -> Bench {
    Bench::start_with(OwnerConfig { no_cloud: true, ..config() }, 2, stored, host(), false, |_| false)
}

#[test]
fn no_cloud_serves_what_is_recorded_and_asks_nothing() {
    let mut bench = without_cloud(Bench::new(2).stored);
    for _ in 0..5 {
        bench.pass(Duration::from_secs(30));
    }
    assert_eq!(bench.looks, 0);
    for (op, container) in [(1, "a"), (2, "b")] {
        bench.send(Event::Add { op: OpId(op), ask: ask(container, op) });
        bench.added(op);
    }
    // Nothing more can come: that is told at once.
    bench.send(Event::Add { op: OpId(3), ask: ask("c", 3) });
    assert!(bench.error(3).to_string().contains("no-cloud is on"), "{}", bench.error(3));
    assert_eq!(bench.owner.health().code(), None);
    assert!(reasons(&bench).contains("no-cloud is on"));
}

#[test]
fn no_cloud_without_records_says_why_the_node_is_not_ready() {
    let bench = without_cloud(Stored::default());
    assert!(!bench.owner.health().ready);
    assert!(reasons(&bench).contains("no-cloud is on"), "{}", reasons(&bench));
}

#[test]
fn switches_are_set_at_run_time_and_forgotten_at_a_restart() {
    let mut bench = Bench::new(2);
    bench.send(Event::Switch { switch: Switch::NoCloud, on: true });
    bench.send(Event::Switch { switch: Switch::NoRelease, on: true });
    assert_eq!(bench.owner.switch(Switch::NoCloud), (true, false));
    assert_eq!(bench.owner.switch(Switch::NoRelease), (true, false));
    assert!(bench.owner.config.targets.no_release);
    assert!(bench.notes.contains(&Note::Switched { switch: Switch::NoCloud, on: true }));
    let looks = bench.looks;
    for _ in 0..5 {
        bench.pass(Duration::from_secs(30));
    }
    assert_eq!(bench.looks, looks);
    bench.send(Event::Switch { switch: Switch::NoCloud, on: false });
    assert_eq!((bench.looks, bench.owner.switch(Switch::NoCloud)), (looks + 1, (false, false)), "at once");
    let again = Bench::start(2, bench.stored, host(), true);
    assert_eq!(again.owner.switch(Switch::NoRelease), (false, false));
}

/// The host with a rule that amazon-vpc-cni lays for each of its pods.
fn with_peer() -> HostView {
    let to_pod = RuleView { priority: 512, table: 254, protocol: 0, mark: None, other_selector: true };
    HostView { rules: vec![to_pod], ..host() }
}

#[test]
fn nothing_is_wired_laid_or_changed_while_amazon_vpc_cni_is_active() {
    let mut bench = Bench::start(2, Stored::default(), with_peer(), false);
    bench.cloud_tells = |seen| seen.limits = InstanceLimits::new(8, 30);
    assert_eq!(bench.applied, []);
    bench.send(Event::Add { op: OpId(1), ask: ask("a", 7) });
    let error = bench.error(1);
    assert_eq!(error.code, Code::Unavailable);
    assert!(
        error.to_string().contains("amazon-vpc-cni is active") && error.to_string().contains("drain"),
        "{error}"
    );
    bench.send(Event::Del { op: OpId(2), key: key("a") });
    assert_eq!(bench.reply(2), Some(&reply::Outcome::Done), "DEL is served");
    assert_eq!(bench.owner.health().code(), Some(Code::Unavailable));
    assert!(reasons(&bench).contains("rule 512"), "{}", reasons(&bench));
    for _ in 0..4 {
        bench.pass(Duration::from_secs(30));
    }
    assert_eq!((bench.applied.len(), bench.mutations.len()), (0, 0), "the instance has room for more ENIs");
    bench.cloud_tells = |_| {};
    bench.pass(Duration::from_secs(30));
    // It is taken off the node.
    bench.view = host();
    bench.pass(Duration::from_secs(60));
    bench.send(Event::Add { op: OpId(3), ask: ask("a", 7) });
    bench.added(3);
    assert_eq!(bench.owner.health().code(), None);
}

#[test]
fn one_that_comes_later_stops_new_pods_and_those_that_run_are_kept_in_order() {
    let mut bench = Bench::new(2);
    bench.send(Event::Add { op: OpId(1), ask: ask("a", 7) });
    let link = bench.wired();
    bench.view.links.push(link);
    bench.view.peer_list = Some("/etc/cni/net.d/10-aws.conflist".into());
    bench.pass(Duration::from_secs(60));
    let steps = bench.applied.len();
    bench.send(Event::Add { op: OpId(2), ask: ask("b", 8) });
    assert!(bench.error(2).to_string().contains("10-aws.conflist"), "{}", bench.error(2));
    bench.send(Event::Add { op: OpId(3), ask: ask("a", 7) });
    bench.added(3);
    bench.pass(Duration::from_secs(60));
    assert!(bench.applied.len() > steps, "what is missing on the host is still laid");
    assert_eq!(bench.owner.health().code(), Some(Code::Unavailable));
}

#[test]
fn a_configuration_may_ignore_it() {
    let config = OwnerConfig { ignore_peer: true, ..config() };
    let mut bench = Bench::start_with(config, 2, Stored::default(), with_peer(), false, |_| false);
    bench.send(Event::Add { op: OpId(1), ask: ask("a", 7) });
    bench.added(1);
    assert_eq!(bench.owner.health().code(), None);
    assert!(reasons(&bench).contains("rule 512"), "it is told all the same: {}", reasons(&bench));
}

#[test]
fn a_host_that_lacks_something_is_told_what_to_do() {
    let refuses = |step: &HostStep| matches!(step, HostStep::AddRule { .. });
    let mut bench = Bench::start_refusing(2, Stored::default(), host(), false, refuses);
    bench.cause = "EAFNOSUPPORT: Address family not supported by protocol";
    bench.pass(Duration::from_secs(30));
    assert!(reasons(&bench).contains("CONFIG_IP_MULTIPLE_TABLES"), "{}", reasons(&bench));
}
