//! Input that is refused: the right code, one clear message that names what is wrong, nothing changed.

use crate::node;
use eni_tests::cni::{Answer, Call};
use eni_tests::node::Node;
use eni_tests::programs::plugin;
use eni_tests::sandbox::Sandbox;
use serde_json::json;
use std::io::Write;
use std::process::{Command, Stdio};

pub(crate) fn refused(answer: &Answer, code: u64, words: &[&str]) {
    assert_eq!(answer.error(), code, "{}", answer.stdout);
    for word in words {
        assert!(answer.stdout.contains(word), "{word:?} is not named: {}", answer.stdout);
    }
}

pub(crate) fn unchanged(node: &Node) {
    // A refused ADD that had been begun is undone; the reaper takes its record a moment later.
    eni_tests::wait::until("no attachment is left", || node.ask("attachments") == json!([]));
    assert_eq!(node.ask("status")["pool"]["allocated"], 0);
}

#[test]
fn cni_bad_environment_and_configuration_are_named() {
    let node = node(2);
    let sandbox = Sandbox::new();
    let add = || Call::new(&node, "ADD").of("c1", &sandbox.path());
    let missing = add().env("CNI_CONTAINERID", "").env("CNI_IFNAME", "").env("CNI_PATH", "").run();
    refused(&missing, 4, &["CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"]);
    for (name, value) in [
        ("CNI_CONTAINERID", "-c"),
        ("CNI_CONTAINERID", "a b"),
        ("CNI_IFNAME", "0123456789abcdef"),
        ("CNI_IFNAME", "a/b"),
        ("CNI_IFNAME", ".."),
        ("CNI_IFNAME", "eth%d"),
        ("CNI_IFNAME", "\u{e0}"),
        ("CNI_ARGS", "A=1;B"),
        ("CNI_ARGS", "A=1=2"),
    ] {
        refused(&add().env(name, value).run(), 4, &[name]);
    }
    for verb in ["FLY", "add"] {
        refused(&add().env("CNI_COMMAND", verb).run(), 4, &[verb, "ADD, DEL, CHECK, GC, STATUS, VERSION"]);
    }
    for version in ["0.2.0", "2.0.0", "1.0"] {
        refused(&add().conf("cniVersion", json!(version)).run(), 1, &[version, "0.3.1, 0.4.0, 1.0.0, 1.1.0"]);
    }
    refused(&add().stdin(b"{\"cniVersion\":").run(), 6, &["JSON"]);
    refused(&add().stdin(b"[]").run(), 7, &["object"]);
    refused(&add().conf("name", json!("a b")).run(), 7, &["name"]);
    refused(&add().conf("mtu", json!(5)).run(), 7, &["mtu", "576"]);
    refused(&add().conf("deadline_ms", json!("1")).run(), 7, &["deadline_ms"]);
    refused(&add().conf("mode", json!("exclusive")).run(), 2, &["mode", "exclusive", "shared"]);
    let long = "n".repeat(180);
    refused(&add().conf("name", json!(long)).run(), 4, &["180"]);
    // There can be no such attachment, and a DEL that fails would keep its pod for ever.
    let deleted = Call::new(&node, "DEL").of("c1", &sandbox.path()).conf("name", json!(long)).run();
    assert_eq!((deleted.code, deleted.stdout.as_str()), (Some(0), ""), "{}", deleted.stderr);
    unchanged(&node);
}

#[test]
fn cni_bad_sandboxes_are_refused_before_anything_is_done() {
    let node = node(2);
    let own = format!("/run/netns/{}", node.netns("node"));
    refused(&Call::new(&node, "ADD").of("c1", &own).run(), 8, &["itself runs in"]);
    // A DEL's sandbox may be gone, and the number that its path goes by another's: it is a DEL all the same.
    for (container, allowed) in [("c8", "0"), ("c9", "1")] {
        let sandbox = Sandbox::new();
        eni_tests::cni::add(&node, container, &sandbox);
        sandbox.die();
        let del = Call::new(&node, "DEL").of(container, &own).env("CNI_NETNS_OVERRIDE", allowed);
        del.ok();
        unchanged(&node);
    }
    refused(&Call::new(&node, "ADD").of("c1", "/run/netns/never-was").run(), 8, &["never-was"]);
    refused(&Call::new(&node, "ADD").of("c1", "/etc/hostname").run(), 8, &["not a namespace"]);
    refused(&Call::new(&node, "ADD").of("c1", "/proc/self/ns/uts").run(), 8, &["entered"]);
    let sandbox = Sandbox::new();
    sandbox.sh("ip link add eth0 type veth peer name other").unwrap();
    let before = sandbox.sh("ip -d link show eth0").unwrap();
    refused(&Call::new(&node, "ADD").of("c1", &sandbox.path()).run(), 4, &["eth0", "already"]);
    assert_eq!(sandbox.sh("ip -d link show eth0").unwrap(), before);
    unchanged(&node);
}

#[test]
fn cni_a_megabyte_of_annotations_and_upper_case_ids_are_legal() {
    let node = node(2);
    let sandbox = Sandbox::new();
    let annotations = json!({ "kubectl.kubernetes.io/last-applied-configuration": "x".repeat(1 << 20) });
    let config = json!({ "io.kubernetes.cri.pod-annotations": annotations });
    Call::new(&node, "ADD").of("ABC-Def_1.2", &sandbox.path()).conf("runtimeConfig", config).ok();
    assert_eq!(node.ask("attachments")[0]["container"], "ABC-Def_1.2");
    let too_much = vec![b' '; 5 << 20];
    refused(&Call::new(&node, "DEL").of("c2", "").stdin(&too_much).run(), 6, &["limit"]);
    // Those of our own prefix travel: a quarter of a megabyte is the most.
    let own = json!({ "io.kubernetes.cri.pod-annotations": { "eni-cni.io/x": "y".repeat(300 << 10) } });
    let call = Call::new(&node, "ADD").of("c2", &sandbox.path()).conf("runtimeConfig", own);
    refused(&call.run(), 7, &["too large", "eni-cni.io/"]);
}

#[test]
fn cni_an_error_has_the_version_that_was_asked_for() {
    let node = node(2);
    let sandbox = Sandbox::new();
    for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        for verb in ["ADD", "DEL"] {
            let call = || Call::new(&node, verb).of("c1", &sandbox.path()).conf("cniVersion", json!(version));
            let own = format!("/run/netns/{}", node.netns("node"));
            let mut cases = vec![
                (call().env("CNI_CONTAINERID", "-c"), 4),
                (call().env("CNI_IFNAME", "a/b"), 4),
                (call().conf("name", json!("a b")), 7),
            ];
            if verb == "ADD" {
                cases.extend([
                    (call().env("CNI_NETNS", &own), 8),
                    (call().env("CNI_NETNS", "/run/netns/never-was"), 8),
                    (call().conf("name", json!("n".repeat(180))), 4),
                    (call().conf("mtu", json!(5)), 7),
                    (call().conf("mode", json!("exclusive")), 2),
                ]);
            }
            for (call, code) in cases {
                let answer = call.run();
                refused(&answer, code, &[]);
                let error = answer.json();
                let told = &error["cniVersion"];
                // Where the environment is refused, the configuration was not read.
                let wanted =
                    if answer.stdout.contains("CNI_CONTAINERID:") || answer.stdout.contains("CNI_IFNAME:") {
                        "1.0.0"
                    } else {
                        version
                    };
                assert_eq!(told, wanted, "{verb} {}", answer.stdout);
                assert!(error["msg"].as_str().is_some_and(|msg| !msg.is_empty()), "{error}");
            }
        }
    }
    let newer = Call::new(&node, "ADD").of("c1", &sandbox.path()).conf("cniVersion", json!("2.0.0")).run();
    refused(&newer, 1, &["2.0.0"]);
    unchanged(&node);
}

#[test]
fn cni_a_caller_that_is_not_root_is_told_so() {
    let node = node(2);
    let folder = tempfile::Builder::new().prefix("eni-copy-").tempdir().unwrap();
    let copy = folder.path().join("eni-cni");
    std::fs::copy(plugin(), &copy).unwrap();
    eni_tests::programs::sh(&format!("chmod 755 {} {}", folder.path().display(), copy.display()));
    let mut child = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&copy)
        .env("CNI_COMMAND", "ADD")
        .env("CNI_CONTAINERID", "c1")
        .env("CNI_NETNS", "/run/netns/x")
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", "/x")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let _ = child.stdin.take().unwrap().write_all(b"{}");
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("\"code\":4") && text.contains("root"), "{text}");
    unchanged(&node);
}
