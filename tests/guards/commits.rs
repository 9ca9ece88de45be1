//! Commits: one awaited per ADD and per DEL, one transaction for all that wait.
//!
//! Owns nothing but these counts. That a transaction is durable is proved where the store is.

use crate::recording::{PODS, RECORDING, undisturbed};
use crate::strace::Call;
use eni_tests::cni::Call as Cni;
use eni_tests::held::Held;
use eni_tests::node::{Node, Options};
use eni_tests::sandbox::Sandbox;
use eni_tests::wait;
use std::ops::Range;

/// How many ADDs wait for the held store. With the round trip that renews the stamp, which may be among them, 16.
const HELD: usize = 15;

/// Transactions among the store's calls between two lines: redb writes its file's header, at offset 0, once in each.
fn transactions(calls: &[Call], from: usize, to: usize) -> usize {
    let header = |call: &&Call| {
        let written = call.thread == "store" && call.name == "pwrite64" && call.text.contains(", 0)");
        written && call.began >= from && call.ended <= to
    };
    calls.iter().filter(header).count()
}

/// The transactions between an operation's arrival and its answer.
fn awaited(window: &Range<usize>) -> usize {
    let calls = RECORDING.of(window);
    transactions(calls, calls[0].began, RECORDING.answered(window))
}

#[test]
fn guard_each_add_and_del_awaits_one_commit() {
    for (verb, windows) in [("ADD", &RECORDING.adds), ("DEL", &RECORDING.dels)] {
        let counts: Vec<usize> = windows.iter().map(awaited).collect();
        println!("{verb}: transactions before the answer: {counts:?}");
        assert!(counts.iter().all(|count| *count > 0), "{verb}: answered before its commit: {counts:?}");
        // A record that was reaped meanwhile, or is behind for a second, is written by itself.
        assert_eq!(undisturbed(counts), 1, "{verb}");
    }
}

#[test]
fn guard_the_metrics_count_the_commits() {
    let [before, between, after] = RECORDING.counters;
    let [adds, dels] = RECORDING.phases();
    let rest = &RECORDING.calls[RECORDING.dels[0].start..];
    let transactions = |calls| transactions(calls, 0, usize::MAX);
    let (counted, of_adds) = (between.commits - before.commits, transactions(adds));
    // `live` of the last ADD may be written by itself before or after the counter is read.
    assert!((of_adds..=of_adds + 1).contains(&counted), "{counted} counted, {of_adds} seen");
    let (counted, of_dels, all) = (after.commits - between.commits, transactions(dels), transactions(rest));
    assert!((of_dels..=all + 1).contains(&counted), "{counted} counted, {of_dels} to {all} seen");
    assert_eq!([0, 1].map(|n| after.awaited[n] - before.awaited[n]), [PODS, PODS], "each once, for a commit");
}

/// The histogram of batches by transaction: transactions, batches, and by upper bound.
fn batches(node: &Node) -> (usize, usize, [usize; 3]) {
    let read = |what: &str, label: &str| {
        node.metric(&format!("eni_ipamd_store_commit_batches_{what}"), label) as usize
    };
    let upto = ["1.0", "8.0", "16.0"].map(|bound| read("bucket", &format!("le=\"{bound}\"")));
    (read("count", ""), read("sum", ""), upto)
}

#[test]
fn guard_what_waits_for_the_store_is_one_transaction() {
    let node = Node::new(&Options::default());
    let sandboxes: Vec<Sandbox> = (0..HELD).map(|_| Sandbox::new()).collect();
    let before = batches(&node);
    let held = Held::thread(node.ipamd_pid(), "store");
    let calls = sandboxes.iter().enumerate();
    let running: Vec<_> =
        calls.map(|(n, s)| Cni::new(&node, "ADD").of(&format!("c{n}"), &s.path()).start()).collect();
    // A commit is queued before its wiring is: where a link is, its record waits.
    wait::until("every link is there", || {
        node.sh("node", "ip -br link").unwrap().lines().filter(|line| line.starts_with("eni")).count() == HELD
    });
    assert_eq!(batches(&node).0, before.0, "the store is held, and the rest goes on");
    drop(held);
    for call in running {
        let answer = call.end();
        assert_eq!(answer.code, Some(0), "{}", answer.stdout);
    }
    let after = batches(&node);
    let (transactions, batches) = (after.0 - before.0, after.1 - before.1);
    let [single, upto_8, upto_16] = [0, 1, 2].map(|n| after.2[n] - before.2[n]);
    // What is not awaited may follow, a batch each.
    assert_eq!((upto_8, upto_16), (single, single + 1), "one transaction carries 9 to 16 batches");
    assert_eq!(transactions, single + 1, "and it carries all of them");
    let with_a_pulse = single + HELD + 1;
    assert!(
        (single + HELD..=with_a_pulse).contains(&batches),
        "{batches} batches in {transactions} transactions"
    );
}
