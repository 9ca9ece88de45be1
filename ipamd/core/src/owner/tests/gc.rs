//! The verb GC: what is marked, freed and kept, and when it is answered.

use super::*;
use crate::gc::Kept;
use crate::owner::event::GcAsk;
use eni_proto::error::Code;
use eni_proto::reply::Collected;
use eni_proto::request::ValidAttachment;

fn gc(bench: &mut Bench, op: u64, network: &str, containers: &[&str]) {
    let valid = |container: &&str| ValidAttachment {
        container: container.parse().unwrap(),
        ifname: "eth0".parse().unwrap(),
    };
    let ask = GcAsk { network: network.parse().unwrap(), valid: containers.iter().map(valid).collect() };
    bench.send(Event::Gc { op: OpId(op), ask });
}

fn collected(bench: &Bench, op: u64) -> (u32, u32) {
    match bench.reply(op) {
        Some(reply::Outcome::Collected(Collected { freed, kept })) => (*freed, *kept),
        other => panic!("{other:?}"),
    }
}

/// Three live attachments, a, b and c; the link of b is gone.
fn three() -> Bench {
    let mut bench = Bench::new(4);
    for (op, container) in [(1, "a"), (2, "b"), (3, "c")] {
        bench.send(Event::Add { op: OpId(op), ask: ask(container, op) });
        bench.added(op);
    }
    let links = bench.wires.iter().filter(|w| w.address != bench.wires[1].address).map(|wire| LinkView {
        ifindex: wire.ifindex,
        name: wire.host_name.to_string(),
        mac: Some(wire.host_mac),
        group: wire.group,
        alias: wire.alias.clone(),
        up: true,
        mtu: wire.mtu,
        kind: "veth".into(),
        inet: InetSettings::default(),
    });
    bench.view.links.extend(links.collect::<Vec<_>>());
    bench.paths.insert(key("b"), PathSight::Absent);
    bench
}

#[test]
fn what_has_lost_its_link_is_kept_while_its_path_does_not_say_that_it_is_gone() {
    for sight in [PathSight::Namespace, PathSight::Unknown] {
        let mut bench = three();
        bench.paths.insert(key("b"), sight);
        gc(&mut bench, 10, "vpc", &["a", "c"]);
        assert_eq!(collected(&bench, 10), (0, 1));
        assert_eq!(kept(&bench), [("b".to_owned(), Kept::Path(sight))]);
        assert_eq!(live(&bench), ["a", "b", "c"]);
        bench.paths.insert(key("b"), PathSight::Absent);
        gc(&mut bench, 11, "vpc", &["a", "c"]);
        assert_eq!(collected(&bench, 11), (1, 0), "it has died since");
    }
}

#[test]
fn what_was_never_seen_at_its_path_is_kept_however_often_nothing_is_there() {
    let mut bench = Bench::new(4);
    bench.wired_path = PathSight::Absent;
    bench.send(Event::Add { op: OpId(1), ask: ask("b", 1) });
    bench.paths.insert(key("b"), PathSight::Absent);
    gc(&mut bench, 10, "vpc", &[]);
    assert_eq!(collected(&bench, 10), (0, 1));
    assert_eq!(live(&bench), ["b"]);
}

fn live(bench: &Bench) -> Vec<String> {
    let alive = |r: &&std::sync::Arc<crate::record::AttachmentRecord>| r.state != AttachmentState::Dying;
    bench.owner.attachments().iter().filter(alive).map(|r| r.key.container.to_string()).collect()
}

fn kept(bench: &Bench) -> Vec<(String, Kept)> {
    let last = bench.notes.iter().rev().find_map(|note| match note {
        Note::Collected { kept, .. } => Some(kept),
        _ => None,
    });
    last.unwrap().iter().map(|(id, why)| (id.key.container.to_string(), why.clone())).collect()
}

#[test]
fn what_is_not_named_and_has_lost_its_link_is_freed_and_the_rest_is_kept() {
    let mut bench = three();
    gc(&mut bench, 10, "vpc", &["a", "unknown"]);
    assert_eq!(collected(&bench, 10), (1, 1));
    assert_eq!(live(&bench), ["a", "c"]);
    assert_eq!(kept(&bench), [("c".to_owned(), Kept::Lives)]);
    assert_eq!(bench.owner.unnamed_attachments(), 1, "c is marked");
    // The link's number may be somebody else's: nothing is taken off by it, and the address cools.
    assert_eq!(bench.owner.counts(bench.now).cooling, 1);
    gc(&mut bench, 11, "vpc", &["a", "c"]);
    assert_eq!(collected(&bench, 11), (0, 0));
    assert_eq!(bench.owner.unnamed_attachments(), 0, "and unmarked");
}

#[test]
fn an_empty_list_frees_nothing_that_lives_and_another_network_nothing_at_all() {
    let mut bench = three();
    gc(&mut bench, 10, "other", &[]);
    assert_eq!(collected(&bench, 10), (0, 0));
    assert_eq!(live(&bench).len(), 3);
    gc(&mut bench, 11, "vpc", &[]);
    assert_eq!(collected(&bench, 11), (1, 2));
    assert_eq!(live(&bench), ["a", "c"]);
}

#[test]
fn a_failed_look_frees_nothing_and_is_an_error() {
    let mut bench = three();
    bench.hold_host = true;
    gc(&mut bench, 10, "vpc", &[]);
    let effect = bench.held.pop().unwrap();
    let cause = HostStepError { index: None, step: "look".into(), cause: "ENOBUFS".into(), gone: false };
    bench.send(Event::Done { effect: effect.id, completion: Completion::HostObserved(Err(cause)) });
    assert_eq!(bench.error(10).code, Code::TryAgainLater);
    assert!(bench.error(10).to_string().contains("ENOBUFS"), "{}", bench.error(10));
    assert_eq!(live(&bench).len(), 3);
    assert!(kept(&bench).iter().all(|(_, why)| matches!(why, Kept::NotSeen(_))));
}

#[test]
fn what_is_under_way_is_kept_also_when_it_begins_during_the_look() {
    let mut bench = three();
    (bench.hold_wires, bench.hold_host) = (true, true);
    bench.send(Event::Add { op: OpId(4), ask: ask("d", 4) });
    gc(&mut bench, 10, "vpc", &["a", "c"]);
    // b is asked for again, in another sandbox, before the look has ended.
    bench.send(Event::Add { op: OpId(5), ask: ask("b", 5) });
    bench.release_host();
    assert_eq!(collected(&bench, 10), (0, 1), "d; the new b is not the one that was looked for");
    assert_eq!(kept(&bench), [("d".to_owned(), Kept::UnderWay)]);
    bench.release_wires();
    bench.added(4);
}

#[test]
fn it_is_answered_after_its_commit_and_says_when_that_failed() {
    let mut bench = three();
    bench.commit_error = true;
    gc(&mut bench, 10, "vpc", &["a", "c"]);
    assert_eq!(bench.error(10).code, Code::TryAgainLater);
    assert!(bench.error(10).to_string().contains("disk full"), "{}", bench.error(10));
    bench.commit_error = false;
    bench.pass(Duration::from_secs(2));
    assert!(bench.stored.attachments.iter().all(|r| r.key != key("b") || r.state == AttachmentState::Dying));
}

#[test]
fn a_del_of_one_that_is_being_freed_does_not_take_the_answer_away() {
    let mut bench = three();
    bench.hold_commits = true;
    gc(&mut bench, 10, "vpc", &["a", "c"]);
    bench.send(Event::Del { op: OpId(11), key: key("b") });
    assert_eq!((bench.reply(10), bench.reply(11)), (None, None));
    bench.release_commits();
    assert_eq!(collected(&bench, 10), (1, 0));
    assert_eq!(bench.reply(11), Some(&reply::Outcome::Done));
}
