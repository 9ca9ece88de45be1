//! DELs that were written down: done once, never against what is newer, and before an ADD is given what is there.

use super::*;
use crate::tombstone::Dropped;

fn buried(container: &str, asked: Timestamp, cookie: Option<u64>) -> Buried {
    Buried { key: key(container), cookie: cookie.map(NetnsCookie), asked, boot: BootId::new("boot-1") }
}

/// A node on which `a` was added in the sandbox 7, a second ago.
fn bench() -> Bench {
    let mut bench = Bench::new(4);
    bench.send(Event::Add { op: OpId(1), ask: ask("a", 7) });
    bench.added(1);
    bench.pass(Duration::from_secs(1));
    bench
}

fn is_live(bench: &Bench) -> bool {
    bench.owner.attachment(&key("a")).is_some()
}

#[test]
fn a_tombstone_is_a_del_that_is_answered_after_its_commit() {
    for cookie in [None, Some(7)] {
        let mut bench = bench();
        let tombstone = buried("a", bench.now, cookie);
        bench.hold_commits = true;
        bench.send(Event::Tombstone { op: OpId(2), tombstone: tombstone.clone() });
        assert_eq!(bench.reply(2), None, "its file must stay until then");
        bench.release_commits();
        assert_eq!(bench.reply(2), Some(&reply::Outcome::Done));
        assert!(!is_live(&bench));
        assert_eq!(bench.stored.attachments[0].state, AttachmentState::Dying);
        bench.send(Event::Tombstone { op: OpId(3), tombstone });
        assert_eq!(bench.reply(3), Some(&reply::Outcome::Done), "a second time there is nothing to do");
    }
}

#[test]
fn what_was_written_down_takes_no_waiters_place() {
    let mut bench = bench();
    bench.owner.config.max_waiters = 1;
    bench.hold_commits = true;
    let tombstone = buried("a", bench.now, None);
    bench.send(Event::Tombstone { op: OpId(2), tombstone });
    bench.send(Event::Add { op: OpId(3), ask: ask("b", 8) });
    bench.send(Event::Add { op: OpId(4), ask: ask("c", 9) });
    assert!(bench.error(4).to_string().contains("1 operations are under way"), "an ADD does");
    bench.release_commits();
    bench.added(3);
}

#[test]
fn what_a_tombstone_does_not_mean_is_left_alone() {
    let later = Timestamp::from_millis(1_000_000);
    for (asked, cookie, boot, why) in [
        (Timestamp::from_millis(999), None, "boot-1", Dropped::Older),
        (Timestamp::from_millis(999), Some(7), "boot-1", Dropped::Older),
        (Timestamp::from_millis(1500), Some(8), "boot-1", Dropped::OtherSandbox),
        (Timestamp::from_millis(1500), Some(7), "boot-0", Dropped::OtherBoot),
        (later, Some(7), "boot-1", Dropped::FromTheFuture),
    ] {
        let mut bench = bench();
        let tombstone = Buried { boot: BootId::new(boot), ..buried("a", asked, cookie) };
        let outcome = bench.owner.handle(Event::Tombstone { op: OpId(2), tombstone }, bench.now);
        assert!(outcome.notes.contains(&Note::Tombstone { key: key("a"), dropped: Some(why) }));
        bench.settle(outcome);
        assert_eq!(bench.reply(2), Some(&reply::Outcome::Done), "{why}: it may be unlinked");
        assert!(is_live(&bench), "{why}");
    }
}

#[test]
fn a_tombstone_whose_commit_fails_stays() {
    let mut bench = bench();
    let tombstone = buried("a", bench.now, None);
    bench.commit_error = true;
    bench.send(Event::Tombstone { op: OpId(2), tombstone: tombstone.clone() });
    assert_eq!(bench.error(2).code, Code::TryAgainLater);
    bench.send(Event::Tombstone { op: OpId(3), tombstone: tombstone.clone() });
    assert_eq!(bench.error(3).code, Code::TryAgainLater, "that it is dying is not durable yet");
    bench.commit_error = false;
    bench.send(Event::Tombstone { op: OpId(4), tombstone });
    assert_eq!(bench.reply(4), Some(&reply::Outcome::Done));
    assert_eq!(bench.stored.attachments[0].state, AttachmentState::Dying);
}

#[test]
fn an_add_of_what_is_there_asks_the_spool_and_what_was_deleted_is_made_anew() {
    let mut bench = bench();
    let first = bench.added(1).ips[0].address.clone();
    bench.spool = Ok(Some(buried("a", bench.now, Some(7))));
    bench.send(Event::Add { op: OpId(2), ask: ask("a", 7) });
    let second = bench.added(2).ips[0].address.clone();
    assert_ne!(second, first, "the old address cools");
    // Its file is found a moment later, and is older than what was made.
    let late = bench.spool.clone().unwrap().unwrap();
    bench.pass(Duration::from_secs(1));
    bench.send(Event::Tombstone { op: OpId(3), tombstone: late });
    assert_eq!(bench.reply(3), Some(&reply::Outcome::Done));
    assert!(is_live(&bench));
    bench.send(Event::Add { op: OpId(4), ask: ask("a", 7) });
    assert_eq!(bench.added(4).ips[0].address, second, "it is the recorded one again");
}

#[test]
fn an_add_of_what_is_there_is_refused_while_the_spool_cannot_be_read() {
    let mut bench = bench();
    bench.spool = Err("EIO".to_owned());
    bench.send(Event::Add { op: OpId(2), ask: ask("a", 7) });
    assert_eq!(bench.error(2).code, Code::TryAgainLater);
    assert!(bench.error(2).to_string().contains("EIO"));
    assert!(is_live(&bench), "unknown is not deleted");
    bench.send(Event::Add { op: OpId(3), ask: ask("b", 8) });
    bench.added(3);
}

#[test]
fn a_tombstone_waits_for_the_add_that_is_being_wired_and_spares_it() {
    let mut bench = Bench::new(4);
    bench.hold_wires = true;
    bench.send(Event::Add { op: OpId(1), ask: ask("a", 7) });
    let tombstone = buried("a", Timestamp::from_millis(10), None);
    bench.send(Event::Tombstone { op: OpId(2), tombstone });
    assert_eq!(bench.reply(2), None);
    bench.release_wires();
    bench.added(1);
    assert_eq!(bench.reply(2), Some(&reply::Outcome::Done));
    assert!(is_live(&bench));
}

#[test]
fn a_plugin_that_goes_away_while_the_spool_is_asked_gets_nothing() {
    let mut bench = bench();
    let outcome = bench.owner.handle(Event::Add { op: OpId(2), ask: ask("a", 7) }, bench.now);
    let asked = outcome.effects.iter().find(|e| matches!(e.kind, EffectKind::Consult(_))).unwrap().id;
    bench.send(Event::Hangup { op: OpId(2) });
    bench.send(Event::Done { effect: asked, completion: Completion::Consulted(Ok(None)) });
    assert_eq!(bench.replies.last(), Some(&(OpId(2), None)));
    assert!(is_live(&bench), "what an earlier ADD was answered stays");
}
