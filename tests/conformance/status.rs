//! STATUS, a row for each state that a node can be in. Its failure takes the node out of service, so what it says when
//! ipamd does not answer matters as much as what ipamd says.

use eni_tests::cni::{Call, Running};
use eni_tests::held::Held;
use eni_tests::node::{Node, Options};
use eni_tests::sandbox::Sandbox;
use eni_tests::wait;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

/// STATUS of a node; it gives up after a second instead of two.
fn status(node: &Node) -> Call {
    Call::new(node, "STATUS").conf("deadline_ms", json!(1000))
}

fn stamp_of(node: &Node) -> std::path::PathBuf {
    node.run_dir().join("stamp.json")
}

/// STATUS where nobody listens, beside this stamp.
fn beside(node: &Node, stamp: Option<&str>) -> (TempDir, Running) {
    let folder = tempfile::tempdir().unwrap();
    if let Some(stamp) = stamp {
        fs::write(folder.path().join("stamp.json"), stamp).unwrap();
    }
    let call = status(node).conf("socket", json!(folder.path().join("cni.sock")));
    let running = call.start();
    (folder, running)
}

#[test]
fn cni_status_of_an_ipamd_that_is_gone_is_what_its_stamp_says() {
    let mut node = crate::node(5);
    wait::until("the stamp is there", || stamp_of(&node).exists());
    node.kill_ipamd();
    let text = fs::read_to_string(stamp_of(&node)).unwrap();
    let stamp: Value = serde_json::from_str(&text).unwrap();
    let changed = |key: &str, value: Value| {
        let mut stamp = stamp.clone();
        stamp[key] = value;
        stamp.to_string()
    };
    let killed = status(&node).start();
    let rows = [
        (Some(changed("grace_ms", json!(0))), "may be silent for 0 s"),
        (Some(changed("renewed_ns", json!(1))), "last known to serve"),
        (Some(changed("boot", json!("another"))), "never ready since this boot"),
        (Some("half a stamp".to_owned()), "cannot be read"),
        (None, "never ready since this boot"),
    ];
    let running: Vec<_> =
        rows.iter().map(|(stamp, words)| (beside(&node, stamp.as_deref()), words)).collect();
    assert_eq!(killed.end().code, Some(0), "killed, and within its grace");
    for ((folder, call), words) in running {
        let answer = call.end();
        assert_eq!(answer.error(), 50, "{words}");
        let socket = folder.path().join("cni.sock").display().to_string();
        for word in [words, "systemctl", &socket] {
            assert!(answer.stdout.contains(word), "{word:?} is not in {}", answer.stdout);
        }
    }
    // A restart is not seen, whoever is faster.
    node.start_ipamd();
    assert_eq!(Call::new(&node, "STATUS").run().code, Some(0), "restarting");
    node.wait_ready();
    assert_eq!(status(&node).run().code, Some(0), "ready again");
}

#[test]
fn cni_status_of_an_ipamd_that_is_stuck_fails_after_its_grace_and_not_before() {
    let node = Node::new(&Options { secondary: 5, status_grace_ms: 60_000, ..Options::default() });
    wait::until("the stamp is there", || stamp_of(&node).exists());
    node.signal_ipamd(Signal::SIGSTOP);
    let hung = status(&node).start();
    // Meanwhile another node, with a short grace, whose store alone is stuck: ipamd itself knows and tells.
    let short = Node::new(&Options { secondary: 5, status_grace_ms: 1000, ..Options::default() });
    let renewed = || fs::read_to_string(stamp_of(&short)).unwrap_or_default();
    wait::until("the stamp is there", || !renewed().is_empty());
    let first = renewed();
    wait::until("the stamp is renewed", || renewed() != first);
    let held = Held::thread(short.ipamd_pid(), "store");
    let failed = |words: &str| {
        let answer = status(&short).run();
        answer.code == Some(1) && answer.error() == 50 && answer.stdout.contains(words)
    };
    wait::until("STATUS tells of the store", || failed("the store has not answered"));
    assert_eq!(short.ask("status")["cni_status"], 50);
    drop(held);
    wait::until("STATUS is 0 again", || status(&short).run().code == Some(0));
    short.signal_ipamd(Signal::SIGSTOP);
    wait::until("STATUS tells of the silence", || failed("last known to serve"));
    short.signal_ipamd(Signal::SIGCONT);
    wait::until("STATUS is 0 again", || status(&short).run().code == Some(0));
    assert_eq!(hung.end().code, Some(0), "hung, and within its grace");
    node.signal_ipamd(Signal::SIGCONT);
}

#[test]
fn cni_status_of_an_ipamd_that_no_plugin_finds_fails_after_its_grace() {
    let node = Node::new(&Options { secondary: 5, status_grace_ms: 1000, ..Options::default() });
    wait::until("the stamp is there", || stamp_of(&node).exists());
    // It lives and all its parts work, but its socket's name is gone.
    fs::remove_file(node.socket()).unwrap();
    wait::until("STATUS tells of the silence", || {
        let answer = status(&node).run();
        answer.code == Some(1) && answer.error() == 50 && answer.stdout.contains("last known to serve")
    });
    assert_eq!(node.ask("status")["cni_status"], 0, "it knows of nothing wrong");
    let told =
        |log: &str| log.contains("the stamp is not renewed") && log.contains("cni.sock does not answer");
    wait::until("the log tells why", || told(&node.log()));
}

#[test]
fn cni_status_of_a_full_node_fails_only_where_the_operator_wants_it() {
    let mut node = crate::node(1);
    let sandbox = Sandbox::new();
    eni_tests::cni::add(&node, "c1", &sandbox);
    Call::new(&node, "STATUS").ok();
    node.stop_ipamd();
    node.configure("status_when_full = \"ok\"", "status_when_full = \"fail\"");
    node.start_ipamd();
    node.wait_ready();
    let answer = Call::new(&node, "STATUS").run();
    assert_eq!(answer.error(), 50);
    assert!(answer.stdout.contains("no address is free"), "{}", answer.stdout);
    eni_tests::cni::del(&node, "c1", &sandbox.path());
    wait::until("STATUS is 0", || Call::new(&node, "STATUS").run().code == Some(0));
}

#[test]
fn cni_a_node_that_was_never_ready_leaves_no_stamp() {
    let mut node = Node::without_ipamd(&Options::default());
    node.cloud_fault("InstanceIdentity", "InternalError", 1_000_000);
    node.start_ipamd();
    wait::until("ipamd answers", || node.ipamctl(&["status"]).is_err_and(|(code, _)| code == Some(1)));
    node.kill_ipamd();
    assert!(!Path::new(&stamp_of(&node)).exists());
    let answer = status(&node).run();
    assert_eq!(answer.error(), 50);
    assert!(answer.stdout.contains("never ready"), "{}", answer.stdout);
}
