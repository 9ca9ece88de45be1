//! VERSION, STATUS, and what each verb says without a daemon.

use crate::node;
use eni_tests::cni::Call;
use eni_tests::node::{Node, Options};
use eni_tests::programs::plugin;
use eni_tests::sandbox::Sandbox;
use eni_tests::wait;
use serde_json::json;
use std::io::Read;
use std::process::{Command, Stdio};

#[test]
fn cni_version_needs_no_daemon_and_does_not_read_stdin() {
    let mut child = Command::new(plugin())
        .env_clear()
        .env("CNI_COMMAND", "VERSION")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // stdin stays open: a plugin that reads it would hang.
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(child.wait().unwrap().success());
    let answer: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(answer["supportedVersions"], json!(["0.3.1", "0.4.0", "1.0.0", "1.1.0"]));
    let about = Command::new(plugin()).env_clear().stdin(Stdio::null()).output().unwrap();
    assert!(about.status.success() && about.stdout.is_empty() && !about.stderr.is_empty());
}

#[test]
fn cni_without_a_daemon_each_verb_says_what_to_check() {
    let node = Node::without_ipamd(&Options::default());
    let sandbox = Sandbox::new();
    // No ipamd was ever there, so no spool either: where a DEL cannot be written down it fails. Each is tried again until its
    // deadline; side by side, so that they are waited for once.
    let soon = |verb: &str| {
        let call = Call::new(&node, verb).of("c1", &sandbox.path()).conf("deadline_ms", json!(1000));
        call.conf("cniVersion", json!("1.1.0"))
    };
    let del = Call::new(&node, "DEL").of("c1", &sandbox.path()).start();
    let status = Call::new(&node, "STATUS").start();
    let check = soon("CHECK").conf("prevResult", json!({ "cniVersion": "1.1.0" })).start();
    let gc = soon("GC").conf("cni.dev/valid-attachments", json!([])).start();
    let add = soon("ADD").start();
    for (answer, code) in [(del, 11), (status, 50), (check, 11), (gc, 11), (add, 11)] {
        let answer = answer.end();
        assert_eq!(answer.error(), code);
        let text = answer.stdout;
        assert!(text.contains(&node.socket()) && text.contains("systemctl"), "{text}");
    }
    assert_eq!(sandbox.address("eth0"), None);
}

#[test]
fn cni_status_is_zero_when_ready_and_50_when_it_never_was() {
    let mut node = Node::without_ipamd(&Options::default());
    node.cloud_fault("InstanceIdentity", "InternalError", 1_000_000);
    node.start_ipamd();
    wait::until("ipamd answers", || node.ipamctl(&["status"]).is_err_and(|(code, _)| code == Some(1)));
    let status = Call::new(&node, "STATUS").run();
    assert_eq!(status.error(), 50);
    assert!(status.stdout.contains("InternalError"), "{}", status.stdout);
    node.cloud_fault("InstanceIdentity", "", 0);
    wait::until("STATUS is 0", || Call::new(&node, "STATUS").run().code == Some(0));
}

#[test]
fn cni_an_add_waits_for_a_daemon_that_is_restarting() {
    let mut node = node(5);
    let sandbox = Sandbox::new();
    node.stop_ipamd();
    let waiting = Call::new(&node, "ADD").of("c1", &sandbox.path()).start();
    node.start_ipamd();
    let answer = waiting.end();
    assert_eq!(answer.code, Some(0), "{}", answer.stdout);
}

#[test]
fn cni_stored_addresses_are_served_while_the_cloud_is_away() {
    let mut node = node(5);
    node.stop_ipamd();
    node.cloud_fault("InstanceIdentity", "InternalError", 1_000_000);
    node.start_ipamd();
    let sandbox = Sandbox::new();
    Call::new(&node, "ADD").of("c1", &sandbox.path()).ok();
    Call::new(&node, "STATUS").ok();
}

#[test]
fn ctl_tables_json_and_exit_codes() {
    let mut node = node(3);
    let sandbox = Sandbox::new();
    eni_tests::cni::add(&node, "web-1", &sandbox);
    let attachments = node.ipamctl(&["attachments", "--pod", "web"]).unwrap();
    assert!(attachments.contains("default/web-1") && attachments.starts_with("CONTAINER"), "{attachments}");
    assert_eq!(node.ipamctl(&["attachments", "--pod", "nobody"]).unwrap(), "no attachments\n");
    assert!(node.ipamctl(&["pool", "--state", "free"]).unwrap().lines().count() == 3);
    assert!(node.ipamctl(&["enis"]).unwrap().contains("ens5"));
    assert_eq!(node.ask("enis")[0]["counts"]["allocated"], 1);
    assert_eq!(node.http("POST", "/v1/pool").0, 405);
    assert!(node.http("GET", "/nothing").1.contains("/v1/status"), "the routes are named");
    assert!(node.metric("eni_ipamd_operations_total", "add") >= 1.0);
    let (code, text) = node.ipamctl(&["fly"]).unwrap_err();
    assert!(code == Some(2) && text.contains("fly"), "{text}");
    node.stop_ipamd();
    let (code, text) = node.ipamctl(&["status"]).unwrap_err();
    assert!(code == Some(3) && text.contains("debug.sock"), "{text}");
}
