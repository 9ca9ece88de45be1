//! GC: versions, absent, null, empty, full and partial lists, and that only what is proven gone is freed.

use crate::bad_input::refused;
use crate::node;
use eni_tests::cni::{Answer, Call, add, del};
use eni_tests::node::Node;
use eni_tests::sandbox::Sandbox;
use eni_tests::wait;
use serde_json::{Value, json};
use std::collections::BTreeSet;

const VALID: &str = "cni.dev/valid-attachments";

fn gc(node: &Node) -> Call {
    Call::new(node, "GC").conf("cniVersion", json!("1.1.0"))
}

/// GC of a network with a list; null is written, too.
fn gc_of(node: &Node, network: &str, valid: &Value) -> Call {
    let conf = json!({
        "cniVersion": "1.1.0", "name": network, "type": "eni-cni", "socket": node.socket(), VALID: valid,
    });
    gc(node).stdin(conf.to_string().as_bytes())
}

fn attachment(container: &str) -> Value {
    json!({ "containerID": container, "ifname": "eth0" })
}

fn well(answer: &Answer) {
    assert_eq!(answer.code, Some(0), "{}{}", answer.stdout, answer.stderr);
    assert_eq!(answer.stdout, "", "GC prints nothing");
}

/// The containers that have an attachment which is not dying.
fn held(node: &Node) -> BTreeSet<String> {
    let all = node.ask("attachments");
    let alive = all.as_array().unwrap().iter().filter(|a| a["state"] != "dying");
    alive.map(|a| a["container"].as_str().unwrap().to_owned()).collect()
}

fn named(containers: &[&str]) -> BTreeSet<String> {
    containers.iter().map(|c| (*c).to_owned()).collect()
}

/// A sandbox dies, and the kernel has removed the host link that led to it.
fn die(node: &Node, sandbox: Sandbox, container: &str) {
    let all = node.ask("attachments");
    let told = all.as_array().unwrap().iter().find(|a| a["container"] == container).unwrap();
    let link = told["host_link"].as_str().unwrap().to_owned();
    sandbox.die();
    wait::until("its host link is gone", || node.sh("node", &format!("ip link show {link}")).is_err());
}

#[test]
fn cni_gc_frees_what_is_not_named_and_proven_gone_and_nothing_else() {
    let node = node(9);
    let [a, b, c, d] = std::array::from_fn(|_| Sandbox::new());
    for (container, sandbox) in [("ABC-a", &a), ("b", &b), ("c", &c)] {
        add(&node, container, sandbox);
    }
    Call::new(&node, "ADD").of("d", &d.path()).conf("name", json!("other")).ok();
    let all = named(&["ABC-a", "b", "c", "d"]);
    die(&node, b, "b");
    let full = json!([attachment("ABC-a"), attachment("b"), attachment("c"), attachment("unknown")]);
    well(&gc_of(&node, "vpc", &full).run());
    assert_eq!(held(&node), all, "what is named is kept, whatever its sandbox; d is of another network");
    // Refused, and nothing is freed: an absent list, a bad one, an older version.
    let absent = gc(&node).run();
    refused(&absent, 7, &["cni.dev/valid-attachments is absent", "null or []"]);
    assert_eq!(absent.json()["cniVersion"], "1.1.0");
    for bad in [json!({}), json!("none"), json!([attachment("ABC-a"), attachment("-")]), json!(["c"])] {
        refused(&gc_of(&node, "vpc", &bad).run(), 7, &["cni.dev/valid-attachments"]);
    }
    let bad = json!([attachment("c"), { "containerID": "c", "ifname": "a/b" }]);
    refused(&gc_of(&node, "vpc", &bad).run(), 7, &["[1]", "a/b"]);
    for version in ["0.3.1", "0.4.0", "1.0.0"] {
        let older = gc(&node).conf("cniVersion", json!(version)).conf(VALID, json!([]));
        refused(&older.run(), 1, &["GC", "1.1.0", version]);
    }
    refused(&gc(&node).conf(VALID, json!([])).env("CNI_PATH", "").run(), 4, &["CNI_PATH"]);
    refused(&gc(&node).stdin(b"{").run(), 6, &["JSON"]);
    assert_eq!(held(&node), all);
    // Partly named: b is gone, c lives.
    well(&gc_of(&node, "vpc", &json!([attachment("ABC-a")])).run());
    assert_eq!(held(&node), named(&["ABC-a", "c", "d"]), "committed before it is answered");
    let count = |label: &str| node.metric("eni_ipamd_gc_unnamed_total", label);
    assert_eq!((count("freed"), count("kept")), (1.0, 1.0));
    assert_eq!(node.metric("eni_ipamd_unnamed_attachments", ""), 1.0);
    wait::until("the log says why c was kept", || {
        let log = node.log();
        log.lines().any(|l| l.contains("vpc/c/eth0") && l.contains("kept") && l.contains("namespace lives"))
    });
    // Nobody is named, by null and by an empty list; by the name that libcni had for the list before.
    for nobody in [Value::Null, json!([])] {
        well(&gc_of(&node, "vpc", &nobody).run());
    }
    well(&gc(&node).conf("cni.dev/attachments", json!([])).run());
    assert_eq!(held(&node), named(&["ABC-a", "c", "d"]), "they live");
    assert_eq!((a.address("eth0").is_some(), c.address("eth0").is_some()), (true, true));
    // Two networks: each list speaks of its own.
    die(&node, d, "d");
    well(&gc_of(&node, "vpc", &json!([])).run());
    assert_eq!(held(&node), named(&["ABC-a", "c", "d"]));
    well(&gc_of(&node, "other", &Value::Null).run());
    assert_eq!(held(&node), named(&["ABC-a", "c"]));
    // libcni deletes what it has cached and the runtime does not name, then collects.
    del(&node, "c", &c.path());
    del(&node, "never-was", "");
    well(&gc_of(&node, "vpc", &json!([attachment("ABC-a")])).run());
    assert_eq!(held(&node), named(&["ABC-a"]));
    wait::until("the addresses are free again", || node.ask("status")["pool"]["free"] == 8);
}

#[test]
fn cni_gc_races_with_adds_and_restarts_and_takes_nothing_alive() {
    let mut node = node(9);
    let sandboxes: Vec<Sandbox> = (0..4).map(|_| Sandbox::new()).collect();
    let name = |n: usize| format!("c{n}");
    let adds: Vec<_> = sandboxes
        .iter()
        .enumerate()
        .map(|(n, s)| Call::new(&node, "ADD").of(&name(n), &s.path()).pod(&name(n)).start())
        .collect();
    let sweeps: Vec<_> = (0..4).map(|_| gc_of(&node, "vpc", &json!([])).start()).collect();
    sweeps.into_iter().for_each(|gc| well(&gc.end()));
    for running in adds {
        let answer = running.end();
        assert_eq!(answer.code, Some(0), "{}", answer.stdout);
    }
    node.stop_ipamd();
    let waiting = gc_of(&node, "vpc", &json!([])).start();
    node.start_ipamd();
    well(&waiting.end());
    assert_eq!(held(&node).len(), 4);
    assert!(sandboxes.iter().all(|s| s.address("eth0").is_some()));
}
