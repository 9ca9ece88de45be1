//! What STATUS answers, and when the stamp is renewed.

use super::*;
use crate::kernel::{POD_INET, PROTOCOL, RouteAction, RouteView};
use ipnet::Ipv4Net;

fn code(bench: &Bench) -> Option<Code> {
    bench.owner.health().code()
}

#[test]
fn a_node_that_never_was_ready_cannot_serve_and_one_that_was_can() {
    let never = Bench::start(2, Stored::default(), host(), true);
    assert_eq!(code(&never), Some(Code::Unavailable));
    assert_eq!(never.stamps, []);
    let ready = Bench::new(2);
    assert_eq!(code(&ready), None);
    assert!(ready.stored.node.as_ref().unwrap().was_ready, "durable at once");
    let restarting = Bench::start(2, ready.stored, HostView::default(), true);
    let mut restarting = restarting;
    assert!(!restarting.owner.health().ready, "the primary's link is not there yet");
    wait_out_the_grace(&mut restarting, None);
    assert_eq!(code(&restarting), Some(Code::Unavailable), "the data plane cannot be laid");
    restarting.view = host();
    restarting.pass(Duration::from_secs(30));
    assert_eq!((restarting.owner.health().ready, code(&restarting)), (true, None));
}

/// One pass that fails, or a few, are no reason to evict a node's pods: STATUS is this until the grace is over.
fn wait_out_the_grace(bench: &mut Bench, until: Option<Code>) {
    for _ in 0..12 {
        assert_eq!(code(bench), until, "{:?}", bench.owner.health());
        bench.pass(Duration::from_secs(5));
    }
}

#[test]
fn a_restart_whose_first_look_fails_is_not_seen() {
    let (stored, view) = with_a_pod();
    let mut bench = Bench::start_refusing(2, stored, view, true, |_| false);
    bench.hold_host = true;
    bench.pass(Duration::from_secs(60));
    let effect = bench.held.pop().unwrap();
    let cause = HostStepError { index: None, step: "look".into(), cause: "ENOBUFS".into(), gone: false };
    bench.send(Event::Done { effect: effect.id, completion: Completion::HostObserved(Err(cause)) });
    assert_eq!(code(&bench), None);
    assert!(bench.owner.health().reasons.iter().any(|r| r.contains("ENOBUFS")), "it is told");
}

#[test]
fn a_node_that_serves_and_cannot_lay_any_more_is_out_of_service_after_the_grace() {
    for (pods, wanted) in [(0, Code::Unavailable), (1, Code::Impaired)] {
        let (stored, view) = if pods == 0 { (Stored::default(), host()) } else { with_a_pod() };
        let mut bench = Bench::start(2, stored, view, false);
        let stamps = bench.stamps.len();
        bench.refuses = steps_of_nft;
        bench.pass(Duration::from_secs(60));
        assert!(!bench.owner.health().ready, "its ADDs wait at once");
        wait_out_the_grace(&mut bench, None);
        assert_eq!(code(&bench), Some(wanted), "{pods} pods: {:?}", bench.owner.health());
        let (told, now) = (bench.stamps.len(), bench.now);
        bench.pass(Duration::from_secs(30));
        assert!(told > stamps && bench.stamps.len() == told, "no stamp after {now:?}");
        bench.refuses = |_| false;
        bench.pass(Duration::from_secs(30));
        assert_eq!((bench.owner.health().ready, code(&bench)), (true, None));
    }
}

#[test]
fn a_full_pool_is_success_unless_the_operator_wants_the_letter() {
    let mut bench = Bench::new(1);
    bench.send(Event::Add { op: OpId(1), ask: ask("a", 7) });
    bench.added(1);
    assert_eq!(code(&bench), None);
    bench.owner.config.fail_when_full = true;
    assert_eq!(code(&bench), Some(Code::Unavailable));
    assert!(bench.owner.health().reasons.iter().any(|r| r.contains("status_when_full")));
    bench.send(Event::Del { op: OpId(2), key: key("a") });
    bench.pass(Duration::from_millis(200));
    bench.pass(Duration::from_secs(30));
    assert_eq!(code(&bench), None);
}

#[test]
fn the_stamp_is_renewed_by_round_trips_and_says_when_they_began() {
    let mut bench = Bench::new(2);
    let ready = bench.now;
    assert_eq!(bench.stamps, [ready], "at once");
    bench.pass(Duration::from_secs(9));
    assert_eq!(bench.stamps.len(), 1);
    bench.pass(Duration::from_secs(1));
    assert_eq!(bench.stamps, [ready, bench.now]);
    bench.hold_commits = true;
    let begun = bench.now + Duration::from_secs(10);
    bench.pass(Duration::from_secs(10));
    bench.pass(Duration::from_secs(5));
    assert_eq!(bench.stamps.len(), 2, "its round trip has not ended");
    bench.release_commits();
    assert_eq!(bench.stamps[2], begun);
    bench.send(Event::Drain);
    assert_eq!(bench.owner.next_deadline(), None, "an ipamd that ends does not promise anything any more");
}

#[test]
fn a_store_that_does_not_answer_within_the_grace_takes_the_node_out_of_service() {
    let mut bench = Bench::new(2);
    bench.hold_commits = true;
    for _ in 0..7 {
        assert_eq!(code(&bench), None);
        bench.pass(Duration::from_secs(10));
    }
    assert_eq!(code(&bench), Some(Code::Unavailable));
    let reasons = bench.owner.health().reasons.join("; ");
    assert!(reasons.contains("the store has not answered for 60 s"), "{reasons}");
    assert_eq!(bench.stamps.len(), 1);
    bench.release_commits();
    assert_eq!(code(&bench), None);
}

#[test]
fn a_store_that_fails_is_told_and_asked_again_soon() {
    let mut bench = Bench::new(2);
    bench.commit_error = true;
    bench.pass(Duration::from_secs(10));
    assert_eq!(code(&bench), Some(Code::Unavailable));
    assert_eq!(bench.stamps.len(), 1, "the stamp must not say more than STATUS does");
    bench.commit_error = false;
    bench.pass(Duration::from_secs(1));
    assert_eq!((code(&bench), bench.stamps.len()), (None, 2));
}

/// What is stored of a node with a live pod on its only ENI, and the host with its link.
fn with_a_pod() -> (Stored, HostView) {
    let mut bench = Bench::new(2);
    bench.send(Event::Add { op: OpId(1), ask: ask("a", 7) });
    bench.added(1);
    bench.pass(Duration::from_secs(1));
    let spec = bench.wires[0].clone();
    let mut view = host();
    view.links.push(LinkView {
        ifindex: spec.ifindex,
        name: spec.host_name.to_string(),
        mac: Some(spec.host_mac),
        group: spec.group,
        alias: spec.alias.clone(),
        up: true,
        mtu: spec.mtu,
        kind: "veth".into(),
        inet: POD_INET,
    });
    view.pods_routes.push(RouteView {
        destination: Ipv4Net::from(spec.address),
        metric: 0,
        action: RouteAction::Device { ifindex: spec.ifindex },
        prefsrc: spec.prefsrc,
        protocol: PROTOCOL,
    });
    (bench.stored, view)
}

#[test]
fn a_failed_step_that_pods_which_run_need_is_51_and_others_are_not() {
    let (stored, view) = with_a_pod();
    type Refused = fn(&HostStep) -> bool;
    let steps: [(Refused, Option<Code>); 5] = [
        (|step| matches!(step, HostStep::ReplaceNft { .. }), Some(Code::Impaired)),
        (|step| matches!(step, HostStep::AddRule { .. }), Some(Code::Impaired)),
        // What one pod lacks is told, and the node serves the others.
        (|step| matches!(step, HostStep::SetNeighbour(_)), None),
        // A base route under a pod's own: nothing that runs lacks it.
        (|step| matches!(step, HostStep::AddRoute(_)), None),
        (|_| false, None),
    ];
    for (number, (step, wanted)) in steps.into_iter().enumerate() {
        let mut bench = Bench::start_refusing(2, stored.clone(), view.clone(), true, step);
        wait_out_the_grace(&mut bench, None);
        assert!(
            bench.applied.iter().any(step) || wanted.is_none(),
            "case {number} is planned: {:?}",
            bench.applied
        );
        let health = bench.owner.health();
        assert_eq!(health.code(), wanted, "case {number}: {health:?}");
        let told = health.reasons.iter().any(|r| r.contains("lack a part of their steering"));
        assert_eq!(told, number < 3, "case {number}: {health:?}");
    }
    // Without a pod that runs there is nothing to be impaired.
    let empty = Stored { attachments: Vec::new(), ..stored };
    let mut bench = Bench::start_refusing(2, empty, host(), true, steps_of_nft);
    wait_out_the_grace(&mut bench, None);
    assert_eq!(code(&bench), Some(Code::Unavailable));
}

fn steps_of_nft(step: &HostStep) -> bool {
    matches!(step, HostStep::ReplaceNft { .. })
}
