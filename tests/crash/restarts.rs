//! Upgrades: `stop; start` and `--take-over`, again and again under a stream of ADDs and DELs.
//!
//! Owns the stream. No call of it may fail, and whoever lived before lives after, by the same connection.

use crate::crowd::{Crowd, is_ready, sound};
use crate::node;
use eni_tests::cni::Call;
use eni_tests::node::Node;
use eni_tests::sandbox::Sandbox;
use eni_tests::wait;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Calls one after the other until told to end; how many ADDs were made while `stream` ran.
struct Stream {
    end: AtomicBool,
    made: AtomicUsize,
}

impl Stream {
    fn run(&self, add: &Call, del: &Call) {
        while !self.end.load(Ordering::Relaxed) {
            for call in [add, del] {
                let answer = call.run();
                assert_eq!(answer.code, Some(0), "a call of the stream failed: {}", answer.stdout);
            }
            self.made.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until `count` more have been made.
    fn more(&self, count: usize) {
        let before = self.made.load(Ordering::Relaxed);
        wait::until("the stream goes on", || self.made.load(Ordering::Relaxed) >= before + count);
    }
}

/// Ends the stream, also when the test fails.
struct End<'a>(&'a Stream);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.end.store(true, Ordering::Relaxed);
    }
}

/// Runs `upgrade` some times while two streams run.
fn under_a_stream(mut upgrade: impl FnMut(&mut Node)) {
    let mut node = node(29);
    let crowd = Crowd::new(&node, 3);
    let stream = Stream { end: AtomicBool::new(false), made: AtomicUsize::new(0) };
    let sandboxes = [Sandbox::new(), Sandbox::new()];
    let calls: Vec<[Call; 2]> = sandboxes
        .iter()
        .enumerate()
        .map(|(n, s)| ["ADD", "DEL"].map(|verb| Call::new(&node, verb).of(&format!("s{n}"), &s.path())))
        .collect();
    std::thread::scope(|scope| {
        let stream = &stream;
        let started = calls.iter().map(|[add, del]| scope.spawn(move || stream.run(add, del)));
        let running: Vec<_> = started.collect();
        let end = End(stream);
        for round in 0..6 {
            stream.more(1);
            upgrade(&mut node);
            wait::until("the next one serves", || is_ready(&node));
            let when = format!("after upgrade {round}");
            crowd.talks(&when);
            crowd.recorded(&node, &when);
        }
        drop(end);
        for thread in running {
            thread.join().expect("no call of the stream failed");
        }
    });
    sound(&node, 29, "at the end");
    let log = node.log();
    assert_eq!(log.matches("whole=true").count(), 6, "each was an orderly end: {log}");
    assert_eq!(node.drops("v1"), 0);
}

#[test]
fn crash_stop_and_start_keep_every_attachment_and_fail_no_call() {
    under_a_stream(|node| {
        node.stop_ipamd();
        node.start_ipamd();
    });
}

#[test]
fn crash_a_take_over_keeps_every_attachment_and_fails_no_call() {
    under_a_stream(|node| {
        let mut before = node.start_another(&["--take-over"]).expect("one ran");
        assert_eq!(before.wait().unwrap().code(), Some(0), "it ended in order");
    });
}
