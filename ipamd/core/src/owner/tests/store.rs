//! A store that does not take what it is given, or is not the one that memory knows.

use super::*;

#[test]
fn a_del_that_cannot_be_recorded_fails_and_the_next_one_records_it() {
    let mut bench = Bench::new(4);
    bench.send(Event::Add { op: OpId(1), ask: ask("a", 7) });
    bench.commit_error = true;
    bench.send(Event::Del { op: OpId(2), key: key("a") });
    assert_eq!(bench.error(2).code, Code::TryAgainLater);
    bench.send(Event::Del { op: OpId(3), key: key("a") });
    assert_eq!(bench.error(3).code, Code::TryAgainLater, "success needs its record");
    assert_eq!(bench.owner.health().code(), Some(Code::Unavailable));
    bench.commit_error = false;
    bench.send(Event::Del { op: OpId(4), key: key("a") });
    assert_eq!(bench.reply(4), Some(&reply::Outcome::Done));
    assert_eq!(bench.stored.attachments[0].state, AttachmentState::Dying);
    assert_eq!(bench.owner.health().code(), None);
}

#[test]
fn an_add_that_cannot_be_recorded_is_undone() {
    let mut bench = Bench::new(4);
    bench.commit_error = true;
    bench.send(Event::Add { op: OpId(1), ask: ask("a", 7) });
    assert!(bench.error(1).to_string().contains("disk full"));
    assert!(bench.owner.attachment(&key("a")).is_none());
}

/// The file vanished: what is there now is new and empty.
fn lose_the_file(bench: &mut Bench) {
    bench.stored = Stored::default();
    bench.blank = true;
}

/// Everything that memory knows is stored.
fn assert_whole(bench: &Bench) {
    let stored = &bench.stored;
    assert!(stored.node.is_some());
    assert_eq!(stored.enis.len(), bench.owner.pool().enis().count());
    assert_eq!(stored.addresses.len(), bench.owner.pool().addresses().count());
    assert_eq!(stored.attachments.len(), bench.owner.attachment_total());
}

#[test]
fn into_a_file_that_is_new_everything_is_written_before_a_reply() {
    let mut bench = Bench::new(200);
    for n in 0..100 {
        bench.send(Event::Add { op: OpId(n), ask: ask(&format!("c{n}"), n) });
        bench.added(n);
    }
    lose_the_file(&mut bench);
    bench.send(Event::Add { op: OpId(100), ask: ask("a", 100) });
    bench.added(100);
    assert_whole(&bench);
    assert_eq!(bench.owner.health().code(), None);

    lose_the_file(&mut bench);
    bench.send(Event::Del { op: OpId(102), key: key("a") });
    assert_eq!(bench.reply(102), Some(&reply::Outcome::Done));
    assert_whole(&bench);
    assert_eq!(bench.stored.attachments.iter().filter(|a| a.state == AttachmentState::Dying).count(), 1);
}

#[test]
fn a_new_file_that_takes_nothing_fails_what_waits_for_it_once() {
    let mut bench = Bench::new(4);
    lose_the_file(&mut bench);
    bench.commit_error = true;
    bench.send(Event::Add { op: OpId(1), ask: ask("a", 1) });
    assert_eq!(bench.error(1).code, Code::TryAgainLater);
    bench.commit_error = false;
    bench.send(Event::Add { op: OpId(2), ask: ask("a", 1) });
    bench.added(2);
    assert_whole(&bench);
}

#[test]
fn without_a_reserve_only_what_needs_no_new_record_is_served() {
    let mut bench = Bench::new(4);
    for n in 1..3 {
        bench.send(Event::Add { op: OpId(n), ask: ask(&format!("c{n}"), n) });
    }
    bench.send(Event::StoreReserve(Some("the disk is full".into())));
    assert!(bench.owner.health().code().is_some());
    bench.send(Event::Add { op: OpId(3), ask: ask("c3", 3) });
    let error = bench.error(3);
    assert_eq!(error.code, Code::TryAgainLater);
    assert!(error.to_string().contains("the disk is full"), "{error}");
    bench.send(Event::Add { op: OpId(4), ask: ask("c1", 1) });
    bench.added(4);
    bench.send(Event::Del { op: OpId(5), key: key("c2") });
    assert_eq!(bench.reply(5), Some(&reply::Outcome::Done));
    // One for another sandbox takes the old one off, and is refused.
    bench.send(Event::Add { op: OpId(6), ask: ask("c1", 6) });
    assert_eq!(bench.error(6).code, Code::TryAgainLater);
    bench.send(Event::StoreReserve(None));
    bench.send(Event::Add { op: OpId(7), ask: ask("c3", 3) });
    bench.added(7);
    assert!(bench.owner.health().code().is_none());
}

#[test]
fn whoever_waits_is_told_when_the_disk_is_full() {
    let mut bench = Bench::start(4, Stored::default(), host(), true);
    bench.send(Event::Add { op: OpId(1), ask: ask("a", 1) });
    assert_eq!(bench.reply(1), None, "it waits for the first address");
    bench.send(Event::StoreReserve(Some("the disk is full".into())));
    assert!(bench.error(1).to_string().contains("the disk is full"));
}

#[test]
fn a_new_file_is_written_whole_when_nobody_asks_and_tried_again_until_it_is() {
    let mut bench = Bench::new(4);
    for n in 0..3 {
        bench.send(Event::Add { op: OpId(n), ask: ask(&format!("c{n}"), n) });
    }
    lose_the_file(&mut bench);
    bench.commit_error = true;
    bench.send(Event::Del { op: OpId(3), key: key("c0") });
    assert_eq!(bench.error(3).code, Code::TryAgainLater);
    bench.pass(Duration::from_secs(1));
    bench.pass(Duration::from_secs(1));
    assert_eq!(bench.stored, Stored::default(), "the disk is full again");
    bench.commit_error = false;
    bench.pass(Duration::from_secs(1));
    assert_whole(&bench);
}
