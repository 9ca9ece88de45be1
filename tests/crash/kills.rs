//! kill -9 of the daemon and of the plugin: nothing is lost, nothing half-made stays.

use crate::crowd::{Crowd, sound};
use crate::node;
use eni_tests::cni::{Call, add, del};
use eni_tests::node::{Node, Options};
use eni_tests::sandbox::Sandbox;
use eni_tests::traffic::ping;
use eni_tests::wait;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;

/// Everything of ours is gone from the node: links, routes of pods, records.
fn nothing_left(node: &Node) {
    wait::until("every record is gone", || node.ask("attachments") == json!([]));
    assert!(!node.sh("node", "ip -br link").unwrap().contains("eni"), "a link stayed");
    let routes = node.sh("node", "ip route show table 247529472").unwrap();
    assert!(!routes.contains("dev"), "a route stayed: {routes}");
    let pool = node.ask("status")["pool"].clone();
    assert_eq!((&pool["allocated"], &pool["cooling"]), (&json!(0), &json!(0)), "{pool}");
}

#[test]
fn crash_a_daemon_killed_among_adds_loses_nothing() {
    let mut node = node(29);
    let sandboxes: Vec<Sandbox> = (0..12).map(|_| Sandbox::new()).collect();
    let name = |n: usize| format!("c{n}");
    for round in 0..3 {
        let calls = sandboxes
            .iter()
            .enumerate()
            .map(|(n, s)| Call::new(&node, "ADD").of(&name(n), &s.path()).start());
        let running: Vec<_> = calls.collect();
        node.kill_ipamd();
        node.start_ipamd();
        let answers: Vec<_> = running.into_iter().map(eni_tests::cni::Running::end).collect();
        let mut held = BTreeSet::new();
        for (sandbox, answer) in sandboxes.iter().zip(&answers) {
            assert_eq!(answer.code, Some(0), "round {round}: {}", answer.stdout);
            assert_eq!(sandbox.address("eth0"), Some(answer.address()), "round {round}");
            assert!(held.insert(answer.address()), "{} has two holders", answer.address());
            assert!(ping(sandbox.name(), node.address("peer_address"), None), "round {round}");
        }
        for (n, sandbox) in sandboxes.iter().enumerate() {
            del(&node, &name(n), &sandbox.path());
        }
        nothing_left(&node);
    }
    assert_eq!(node.drops("v1"), 0);
}

#[test]
fn crash_a_stream_of_adds_does_not_notice_restarts() {
    let mut node = node(29);
    for n in 0..20 {
        if n % 5 == 2 {
            node.stop_ipamd();
            node.start_ipamd();
        }
        if n % 5 == 4 {
            node.kill_ipamd();
            node.start_ipamd();
        }
        let sandbox = Sandbox::new();
        add(&node, &format!("c{n}"), &sandbox);
        del(&node, &format!("c{n}"), &sandbox.path());
    }
    nothing_left(&node);
}

/// ADDs that are under way when ipamd is ended by a signal, and another one is started: every one succeeds. How many
/// plugins waited for their answer at that moment.
fn signalled_among_adds(node: &mut Node, signal: Signal, round: usize) -> usize {
    let sandboxes: Vec<Sandbox> = (0..16).map(|_| Sandbox::new()).collect();
    let name = |n: usize| format!("s{round}-{n}");
    let calls =
        sandboxes.iter().enumerate().map(|(n, s)| Call::new(node, "ADD").of(&name(n), &s.path()).start());
    // They come all at once: ipamd is held until the last has connected.
    node.signal_ipamd(Signal::SIGSTOP);
    let mut running: Vec<_> = calls.collect();
    wait::until("all have connected", || {
        let sockets =
            node.sh("node", &format!("grep -c {}/cni.sock /proc/net/unix", node.run_dir().display()));
        sockets.is_ok_and(|count| count.trim().parse::<usize>().is_ok_and(|count| count > 16))
    });
    node.signal_ipamd(Signal::SIGCONT);
    while node.http("GET", "/v1/attachments").1.contains("\"data\":[]") {}
    node.signal_ipamd(signal);
    let waiting = running.iter_mut().map(|call| usize::from(!call.has_ended())).sum();
    node.stop_ipamd();
    node.start_ipamd();
    let mut held = BTreeSet::new();
    for (sandbox, running) in sandboxes.iter().zip(running) {
        let answer = running.end();
        assert_eq!(answer.code, Some(0), "{signal}: {}", answer.stdout);
        assert_eq!(sandbox.address("eth0"), Some(answer.address()), "{signal}");
        assert!(held.insert(answer.address()), "{} has two holders", answer.address());
    }
    node.wait_ready();
    for (n, sandbox) in sandboxes.iter().enumerate() {
        del(node, &name(n), &sandbox.path());
    }
    nothing_left(node);
    waiting
}

#[test]
fn crash_adds_in_flight_survive_sigterm_and_kill() {
    // What was half-made cools for a moment: there are addresses for all of them twice.
    let options = Options { instance_type: "m5.24xlarge", secondary: 49, ..Options::default() };
    let mut node = Node::new(&options);
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let waiting: usize = (0..3).map(|round| signalled_among_adds(&mut node, signal, round)).sum();
        assert!(waiting > 0, "{signal} came among them");
    }
    assert!(node.log().contains("whole=true"), "SIGTERM was an orderly end");
}

#[test]
fn crash_adds_that_wait_survive_sigterm_and_kill() {
    let mut node = Node::without_ipamd(&Options { secondary: 9, ..Options::default() });
    // Nothing is known of the cloud: every ADD waits.
    node.cloud_fault("InstanceIdentity", "InternalError", 1_000_000);
    node.start_ipamd();
    let sandboxes: Vec<Sandbox> = (0..4).map(|_| Sandbox::new()).collect();
    let calls = sandboxes
        .iter()
        .enumerate()
        .map(|(n, s)| Call::new(&node, "ADD").of(&format!("w{n}"), &s.path()).start());
    let running: Vec<_> = calls.collect();
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        wait::until("all wait", || {
            node.ipamctl(&["--output", "json", "status"]).err().is_none_or(|(code, _)| code == Some(1))
                && node.metric("eni_ipamd_adds_under_way", "") >= 4.0
        });
        node.signal_ipamd(signal);
        node.stop_ipamd();
        node.start_ipamd();
    }
    wait::until("all wait again", || {
        node.run_dir().join("debug.sock").exists()
            && node.ipamctl(&["enis"]).is_ok()
            && node.metric("eni_ipamd_adds_under_way", "") >= 4.0
    });
    node.cloud_fault("InstanceIdentity", "", 0);
    for (sandbox, running) in sandboxes.iter().zip(running) {
        let answer = running.end();
        assert_eq!(answer.code, Some(0), "{}", answer.stdout);
        assert_eq!(sandbox.address("eth0"), Some(answer.address()));
    }
}

/// Runs a verb with its plugin killed at each of its system calls in turn, each time for a container of its own; `judge`
/// is asked what became of it, with what `prepare` said of it, its state in ipamd's records (`dying` only when no other
/// record of it is left) and whether the plugin ended well.
fn kill_at_each_call(
    node: &Node,
    sandbox: &Sandbox,
    verb: &str,
    prepare: impl Fn(&str) -> Option<Ipv4Addr>,
    judge: impl Fn(Option<Ipv4Addr>, Option<&str>, bool) -> bool,
) {
    let crowd = Crowd::new(node, 2);
    let mut finished = 0;
    for number in 1..80 {
        let id = format!("{}{number}", verb.to_lowercase());
        let held = prepare(&id);
        let inject = format!("inject=all:signal=KILL:when={number}");
        let answer = Call::new(node, verb)
            .of(&id, &sandbox.path())
            .by(&["strace", "-qq", "-o", "/dev/null", "-e", &inject])
            .run();
        let ended = answer.code == Some(0);
        finished += u32::from(ended);
        let state = || {
            let all = node.ask("attachments");
            let mut own: Vec<&Value> = all.as_array()?.iter().filter(|a| a["container"] == id).collect();
            own.sort_by_key(|one| one["state"] == "dying");
            own.first()?["state"].as_str().map(str::to_owned)
        };
        wait::until("all or nothing", || judge(held, state().as_deref(), ended));
        // Asked again it succeeds, whatever the first one has left.
        Call::new(node, verb).of(&id, &sandbox.path()).ok();
        del(node, &id, &sandbox.path());
        wait::until("taken off", || sandbox.address("eth0").is_none());
        crowd.talks(&id);
        if finished > 2 {
            break;
        }
    }
    assert!(finished > 2, "the last kills come after the plugin's last system call");
    crowd.recorded(node, verb);
    sound(node, 29, verb);
}

#[test]
fn crash_a_plugin_killed_at_any_system_call_of_del_leaves_all_or_nothing() {
    let node = node(29);
    let sandbox = Sandbox::new();
    let prepare = |id: &str| Some(add(&node, id, &sandbox));
    // As it was, with its address; or taken off, to the end: ipamd does not need the plugin for that.
    kill_at_each_call(&node, &sandbox, "DEL", prepare, |held, state, ended| {
        assert!(!ended || matches!(state, None | Some("dying")), "it was answered");
        match state {
            Some("live") => sandbox.address("eth0") == held,
            Some(_) => false,
            None => sandbox.address("eth0").is_none(),
        }
    });
}

#[test]
fn crash_a_plugin_killed_at_any_system_call_leaves_all_or_nothing() {
    let node = node(29);
    let sandbox = Sandbox::new();
    let whole =
        Call::new(&node, "ADD").of("c0", &sandbox.path()).by(&["strace", "-qq", "-o", "/dev/null"]).ok();
    assert_eq!(sandbox.address("eth0"), Some(whole.address()));
    del(&node, "c0", &sandbox.path());
    // Whole, and its address in the sandbox; or undone, and nothing in the sandbox.
    kill_at_each_call(
        &node,
        &sandbox,
        "ADD",
        |_| None,
        |_, state, _| match state {
            Some("live") => sandbox.address("eth0").is_some(),
            Some("adding" | "broken") => false,
            _ => sandbox.address("eth0").is_none(),
        },
    );
}
