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
    assert_eq!(bench.error(100).code, Code::TryAgainLater);
    bench.send(Event::Add { op: OpId(101), ask: ask("a", 100) });
    bench.added(101);
    assert_whole(&bench);
    assert_eq!(bench.owner.health().code(), None);

    lose_the_file(&mut bench);
    bench.send(Event::Del { op: OpId(102), key: key("a") });
    assert_eq!(bench.error(102).code, Code::TryAgainLater);
    bench.send(Event::Del { op: OpId(103), key: key("a") });
    assert_eq!(bench.reply(103), Some(&reply::Outcome::Done));
    assert_whole(&bench);
}

#[test]
fn a_new_file_is_written_whole_when_nobody_asks_and_tried_again_until_it_is() {
    let mut bench = Bench::new(4);
    for n in 0..3 {
        bench.send(Event::Add { op: OpId(n), ask: ask(&format!("c{n}"), n) });
    }
    lose_the_file(&mut bench);
    bench.send(Event::Del { op: OpId(3), key: key("c0") });
    bench.commit_error = true;
    bench.pass(Duration::from_secs(1));
    bench.pass(Duration::from_secs(1));
    assert_eq!(bench.stored, Stored::default(), "the disk is full again");
    bench.commit_error = false;
    bench.pass(Duration::from_secs(1));
    assert_whole(&bench);
}
