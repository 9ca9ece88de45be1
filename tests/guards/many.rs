//! The counts with several ENIs and with a thousand pods: what an ADD and a DEL cost does not grow, rules and runs of
//! nft go with ENIs and not with pods.
//!
//! Owns one node of 8 ENIs, measured empty and with the pods, and small ones of 3.

use crate::netlink::{self, ADD_MESSAGES_MOST, DEL_MESSAGES_MOST};
use crate::recording::{Recording, record_on, undisturbed};
use crate::strace::Call;
use crate::syscalls::{self, ADD_MOST, DEL_MOST};
use eni_proto::reply::Outcome;
use eni_tests::client;
use eni_tests::cni::Call as Cni;
use eni_tests::node::{Node, Options};
use eni_tests::sandbox::Bare;
use eni_tests::wait;
use std::ops::Range;
use std::sync::LazyLock;

/// The pods that are there.
const PRESENT: usize = 1000;
/// The ADDs and DELs that are counted on a node.
const MEASURED: usize = 24;
/// An operation changes two tables, attachments and addresses: a tree of a thousand records is a level deeper, and a
/// commit writes a page more of it.
const STORE_DEEPER: usize = 3;
/// At a time.
const CALLERS: usize = 4;

fn secondaries(node: &Node) -> usize {
    let enis = node.ask("enis");
    let laid =
        enis.as_array().unwrap().iter().filter(|eni| eni["state"] == "in_use" && !eni["link"].is_null());
    laid.count() - 1
}

/// Rules of ours: the lookup of the pods table, and the marks'.
fn rules(node: &Node) -> usize {
    let rules = node.sh("node", "ip rule").unwrap();
    rules.lines().filter(|line| line.starts_with("512:") || line.starts_with("1536:")).count()
}

fn all_rules(node: &Node) -> usize {
    node.sh("node", "ip rule; ip -6 rule").unwrap().lines().count()
}

fn nft_runs(node: &Node) -> usize {
    node.metric("eni_ipamd_nft_runs_total", "") as usize
}

fn paths(sandboxes: &[Bare]) -> Vec<String> {
    sandboxes.iter().map(Bare::path).collect()
}

/// A node that has, from the start, so many addresses that it needs all its ENIs, and gives none back.
fn full_node(instance_type: &'static str, secondary: u32, minimum_ip: u32) -> Node {
    let config = format!("[capacity]\nwarm_enis = 0\nminimum_ip = {minimum_ip}\nno_release = true\n");
    let node = Node::new(&Options { instance_type, secondary, config, log: "info", ..Options::default() });
    wait::until("every address is free", || {
        node.ask("status")["pool"]["free"].as_u64() >= Some(u64::from(minimum_ip))
    });
    node
}

/// What the node was like, and what an ADD and a DEL cost there.
struct Measured {
    secondaries: usize,
    rules: usize,
    all_rules: usize,
    nft_runs: usize,
    iptables_runs: usize,
    recording: Recording,
}

fn measure(node: &Node, sandboxes: &[Bare]) -> Measured {
    let recording = record_on(node, &paths(sandboxes));
    Measured {
        secondaries: secondaries(node),
        rules: rules(node),
        all_rules: all_rules(node),
        nft_runs: nft_runs(node),
        iptables_runs: node.metric("eni_ipamd_iptables_runs_total", "") as usize,
        recording,
    }
}

/// Empty, and with the pods.
static MANY: LazyLock<[Measured; 2]> = LazyLock::new(|| {
    let node = full_node("bench.8x150", 149, 1100);
    wait::until("every ENI is laid", || secondaries(&node) == 7 && rules(&node) == 8);
    let present = Bare::many(PRESENT);
    let measured = Bare::many(MEASURED);
    let empty = measure(&node, &measured);
    let parts: Vec<(usize, &[Bare])> = present.chunks(PRESENT / CALLERS).enumerate().collect();
    std::thread::scope(|scope| {
        for (caller, part) in parts {
            let node = &node;
            scope.spawn(move || {
                for (n, sandbox) in part.iter().enumerate() {
                    let id = format!("p{caller}-{n}");
                    let added = client::add(node, &id, "eth0", &sandbox.path(), sandbox.socket());
                    assert!(matches!(added, Outcome::Added(_)), "{added:?}");
                }
            });
        }
    });
    [empty, measure(&node, &measured)]
});

/// Messages, sends and system calls per ADD, then per DEL; the system calls without the store's, and the store's. Of
/// each the one of `pick`.
fn costs(recording: &Recording, pick: fn(Vec<usize>) -> usize) -> [[usize; 4]; 2] {
    [&recording.adds, &recording.dels].map(|windows: &Vec<Range<usize>>| {
        let per = |count: &dyn Fn(&[Call]) -> usize| {
            pick(windows.iter().map(|window| count(recording.of(window))).collect())
        };
        let store = |calls: &[Call]| calls.iter().filter(|call| call.thread == "store").count();
        [
            per(&|calls| netlink::count(calls, "netlink-").0),
            per(&|calls| netlink::count(calls, "netlink-").1),
            per(&|calls| syscalls::count(calls) - store(calls)),
            per(&store),
        ]
    })
}

#[test]
fn guard_a_thousand_pods_change_nothing_of_what_an_add_and_a_del_cost() {
    let [empty, full] = &*MANY;
    let before = costs(&empty.recording, undisturbed);
    // What grows with the pods grows for each: the least tells it, however busy the machine is.
    let after = costs(&full.recording, |counts| counts.into_iter().min().unwrap());
    println!("0 pods, ADD and DEL [messages, sends, system calls, the store's]: {before:?}");
    println!("{PRESENT} pods, the same: {after:?}");
    for ([messages, sends, calls, store], now) in before.into_iter().zip(after) {
        assert_eq!((messages, sends), (now[0], now[1]), "netlink messages and sends");
        assert!(now[2] <= calls + 1, "{calls} system calls, then {}", now[2]);
        assert!(now[3] <= store + STORE_DEEPER, "{store} system calls of the store, then {}", now[3]);
    }
}

#[test]
fn guard_rules_and_nft_go_with_enis_and_not_with_pods() {
    let [empty, full] = &*MANY;
    assert_eq!((empty.secondaries, full.secondaries), (7, 7));
    assert_eq!(empty.rules, 1 + 7, "ip rules");
    assert_eq!((full.rules, full.all_rules), (empty.rules, empty.all_rules), "with {PRESENT} pods");
    println!("runs of nft for 8 ENIs: {}, of iptables: {}", empty.nft_runs, empty.iptables_runs);
    // ENIs that come at once share a run.
    assert!((2..=1 + 7).contains(&empty.nft_runs), "{} runs of nft for 7 ENIs that came", empty.nft_runs);
    assert_eq!(full.nft_runs, empty.nft_runs, "none for a pod");
    assert_eq!(full.iptables_runs, empty.iptables_runs, "none for a pod");
}

#[test]
fn guard_the_counts_hold_with_three_enis() {
    let node = full_node("test.3x12", 11, 33);
    wait::until("every ENI is laid", || secondaries(&node) == 2 && rules(&node) == 3);
    let measured = measure(&node, &Bare::many(MEASURED));
    let [add, del] = costs(&measured.recording, undisturbed);
    println!("3 ENIs, ADD and DEL [messages, sends, system calls, the store's]: {add:?}, {del:?}");
    assert!(add[0] <= ADD_MESSAGES_MOST && del[0] <= DEL_MESSAGES_MOST, "{add:?} {del:?}");
    assert!(add[2] + add[3] <= ADD_MOST && del[2] + del[3] <= DEL_MOST, "{add:?} {del:?}");
    assert_eq!((measured.secondaries, measured.rules), (2, 3));
}

#[test]
fn guard_one_run_of_nft_per_change_of_the_enis() {
    let config = "[capacity]\nwarm_enis = 0\nrelease_after_ms = 0\n".to_owned();
    let options = Options { instance_type: "test.3x2", secondary: 1, config, ..Options::default() };
    let node = Node::new(&options);
    let sandboxes = Bare::many(3);
    let call = |verb, n: usize| Cni::new(&node, verb).of(&format!("c{n}"), &sandboxes[n].path()).ok();
    call("ADD", 0);
    assert_eq!((rules(&node), nft_runs(&node)), (1, 1), "the start's");
    // Each needs an ENI of its own; with it go a rule and a run.
    for n in 1..3 {
        call("ADD", n);
        assert_eq!((rules(&node), nft_runs(&node)), (1 + n, 1 + n));
    }
    for (n, rest) in [(2, 2), (1, 1)] {
        call("DEL", n);
        wait::until("its ENI is given back", || node.ec2_enis().len() == rest);
        wait::until("its rule is gone", || rules(&node) == rest);
        assert_eq!(nft_runs(&node), 1 + 2 + (3 - rest));
    }
}
