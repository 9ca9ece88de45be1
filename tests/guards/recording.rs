//! What ipamd did for a number of ADDs and then of DELs, one at a time.
//!
//! Owns the run that several guards read, and how a run is made on any node: the calls of ipamd under strace, which of them belong to which operation,
//! and the metrics before, between and after. Judges nothing.

use crate::strace::{Call, Strace};
use eni_tests::cni::Call as Cni;
use eni_tests::node::{Node, Options};
use eni_tests::sandbox::Sandbox;
use eni_tests::wait;
use std::ops::Range;
use std::sync::LazyLock;

/// How many ADDs, and how many DELs.
pub(crate) const PODS: usize = 20;

/// The counters that are compared with the calls.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counters {
    pub(crate) messages: usize,
    pub(crate) sends: usize,
    pub(crate) commits: usize,
    /// ADDs and DELs that have waited for a commit.
    pub(crate) awaited: [usize; 2],
}

/// The run.
pub(crate) struct Recording {
    /// All of ipamd's calls, in the order in which they ended.
    pub(crate) calls: Vec<Call>,
    /// By ADD: its calls, from the moment that its connection was accepted to the next one's.
    pub(crate) adds: Vec<Range<usize>>,
    /// By DEL, the same.
    pub(crate) dels: Vec<Range<usize>>,
    /// Before the first ADD, between the last ADD and the first DEL, after the last link is gone.
    pub(crate) counters: [Counters; 3],
}

/// Made once, by whichever guard comes first.
pub(crate) static RECORDING: LazyLock<Recording> = LazyLock::new(record);

fn record() -> Recording {
    // A release's level: each line of the log is a system call.
    let node = Node::new(&Options { log: "info", ..Options::default() });
    let sandboxes: Vec<Sandbox> = (0..PODS).map(|_| Sandbox::new()).collect();
    let paths: Vec<String> = sandboxes.iter().map(Sandbox::path).collect();
    record_on(&node, &paths)
}

/// Records an ADD of each of these sandboxes, then the DELs, on a node that may have others.
pub(crate) fn record_on(node: &Node, sandboxes: &[String]) -> Recording {
    let call = |verb, id: &str, netns: &str| Cni::new(node, verb).of(id, netns).pod(id).ok();
    let name = |n: usize| format!("c{n}");
    let links = || node.sh("node", "ip -br link").expect("ip lists links").matches("\neni").count();
    let records = || node.ask("attachments").as_array().map_or(0, Vec::len);
    let others = records();
    // What is made once, at the first use, is made.
    call("ADD", "first", &sandboxes[0]);
    call("DEL", "first", &sandboxes[0]);
    wait::until("nothing is under way", || {
        records() == others && links() == others && counted(node).commits >= 3
    });
    let strace = Strace::attach(node.ipamd_pid());
    let before = counted(node);
    for (n, sandbox) in sandboxes.iter().enumerate() {
        call("ADD", &name(n), sandbox);
    }
    // It ends the last ADD's calls.
    Cni::new(node, "STATUS").ok();
    let between = counted(node);
    for (n, sandbox) in sandboxes.iter().enumerate() {
        call("DEL", &name(n), sandbox);
    }
    Cni::new(node, "STATUS").ok();
    wait::until("every link is gone", || links() == others);
    wait::until("every record is gone", || records() == others);
    let after = counted(node);
    let calls = strace.end();
    let windows = connections(&calls);
    let count = sandboxes.len();
    assert_eq!(windows.len(), 2 * count + 2, "one connection per operation, and STATUS twice");
    let (adds, dels) = (windows[..count].to_vec(), windows[count + 1..=2 * count].to_vec());
    Recording { calls, adds, dels, counters: [before, between, after] }
}

fn counted(node: &Node) -> Counters {
    let read = |name: &str, label: &str| node.metric(&format!("eni_ipamd_{name}"), label) as usize;
    Counters {
        messages: read("netlink_messages_total", ""),
        sends: read("netlink_sends_total", ""),
        commits: read("store_commits_total", "ok"),
        awaited: ["verb=\"add\",phase=\"commit\"", "verb=\"del\",phase=\"commit\""]
            .map(|labels| read("operation_seconds_count", labels)),
    }
}

/// From each connection that the main loop accepted to the next.
fn connections(calls: &[Call]) -> Vec<Range<usize>> {
    let accepted = |call: &&Call| call.thread == "ipamd" && call.name == "accept4" && call.result().is_some();
    let mut begins: Vec<usize> =
        calls.iter().enumerate().filter(|(_, call)| accepted(call)).map(|(at, _)| at).collect();
    begins.push(calls.len());
    begins.windows(2).map(|pair| pair[0]..pair[1]).collect()
}

impl Recording {
    /// The calls of an operation.
    pub(crate) fn of(&self, window: &Range<usize>) -> &[Call] {
        &self.calls[window.clone()]
    }

    /// The line at which an operation was answered: its connection's descriptor is sent on once.
    pub(crate) fn answered(&self, window: &Range<usize>) -> usize {
        let calls = self.of(window);
        let connection = calls[0].result();
        let answer = calls
            .iter()
            .find(|call| call.thread == "ipamd" && call.name == "sendto" && call.descriptor() == connection);
        answer.expect("each operation is answered").ended
    }

    /// The calls from the first ADD's to the last one's, and from the first DEL's to the last one's.
    pub(crate) fn phases(&self) -> [&[Call]; 2] {
        [&self.adds, &self.dels].map(|all| &self.calls[all[0].start..all[all.len() - 1].end])
    }
}

/// What an operation costs by itself: the lowest quarter's highest. Among one at a time, the reaper's end or a look at the
/// cloud falls into some, and adds to them.
pub(crate) fn undisturbed(mut counts: Vec<usize>) -> usize {
    counts.sort_unstable();
    counts[counts.len() / 4]
}
