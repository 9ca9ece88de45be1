//! What a sandbox is known by: its network namespace's cookie, and neither its path nor its inode.
//!
//! Owns the two ways to be misled: a daemon that cannot see the mounts of namespaces, and a namespace made anew under the
//! path and the inode of one that is gone.

use crate::crowd::{Crowd, is_ready, records, sound};
use crate::node;
use eni_tests::cni::{Call, add, del};
use eni_tests::node::{Node, Options};
use eni_tests::programs::sh;
use eni_tests::sandbox::Sandbox;
use eni_tests::wait;
use serde_json::{Value, json};
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;

const PRIVATE: &[&str] = &["unshare", "--mount", "--propagation", "private"];

#[test]
fn crash_a_daemon_in_a_private_mount_namespace_frees_nothing_alive() {
    let mut node = Node::without_ipamd(&Options { describe_ms: 1000, ..Options::default() });
    node.start_ipamd_by(PRIVATE);
    node.wait_ready();
    // To this ipamd their paths are plain empty files, or nothing at all.
    let crowd = Crowd::new(&node, 3);
    for round in 0..2 {
        if round > 0 {
            node.kill_ipamd();
            node.start_ipamd_by(PRIVATE);
        }
        wait::until("it serves", || is_ready(&node));
        let passes = node.metric("eni_ipamd_reconciler_passes_total", "eni_sync");
        wait::until("every reconciler had another turn", || {
            node.metric("eni_ipamd_reconciler_passes_total", "eni_sync") > passes
        });
        crowd.recorded(&node, "seen from elsewhere");
        crowd.talks("seen from elsewhere");
        sound(&node, 29, "seen from elsewhere");
    }
    let sandbox = Sandbox::new();
    add(&node, "more", &sandbox);
    del(&node, "more", &sandbox.path());
    sound(&node, 29, "after another came and went");
}

#[test]
fn crash_a_daemon_that_sees_no_namespace_gives_no_address_of_a_deleted_link_away() {
    let mut node = Node::without_ipamd(&Options { secondary: 2, ..Options::default() });
    node.start_ipamd_by(PRIVATE);
    node.wait_ready();
    let sandboxes = [Sandbox::new(), Sandbox::new(), Sandbox::new()];
    for (name, sandbox) in ["c0", "c1"].iter().zip(&sandboxes) {
        add(&node, name, sandbox);
    }
    let broken = records(&node).into_iter().find(|r| r["container"] == "c0").unwrap();
    node.sh("node", &format!("ip link del {}", broken["host_link"].as_str().unwrap())).unwrap();
    let is_broken =
        |node: &Node| records(node).iter().any(|r| r["container"] == "c0" && r["state"] == "broken");
    wait::until("it is told", || is_broken(&node));
    // The pool is full, and to this ipamd nothing is at the path of the one that has lost its link.
    let full = || Call::new(&node, "ADD").of("c2", &sandboxes[2].path()).run();
    for _ in 0..3 {
        let answer = full();
        assert_eq!(answer.error(), 11, "{}", answer.stdout);
        assert!(is_broken(&node), "its sandbox lives");
    }
    let gc = json!({ "cniVersion": "1.1.0", "name": "vpc", "type": "eni-cni", "socket": node.socket(),
        "cni.dev/valid-attachments": [] });
    assert_eq!(Call::new(&node, "GC").stdin(gc.to_string().as_bytes()).run().code, Some(0));
    assert!(is_broken(&node), "nor does a GC that names nobody free it");
    del(&node, "c0", &sandboxes[0].path());
    assert!(!is_broken(&node), "its DEL does");
}

/// Makes a namespace anew under a name until it has the inode of the one before: the kernel gives the lowest that is free.
/// Those that have another one are held meanwhile. False when somebody else has taken it.
fn with_inode(name: &str, inode: u64) -> bool {
    let path = format!("/run/netns/{name}");
    let mut held = Vec::new();
    for _ in 0..10 {
        sh(&format!("ip netns add {name}"));
        if fs::metadata(&path).unwrap().ino() == inode {
            return true;
        }
        held.push(fs::File::open(&path).unwrap());
        sh(&format!("ip netns del {name}"));
    }
    false
}

/// A container whose namespace died by itself, and one anew with its path and inode: its address and cookie, and the
/// namespace.
fn reused(node: &Node) -> Option<(Ipv4Addr, Value, Sandbox)> {
    let sandbox = Sandbox::new();
    let address = add(node, "c1", &sandbox);
    let cookie = records(node)[0]["netns_cookie"].clone();
    let inode = fs::metadata(sandbox.path()).unwrap().ino();
    sh(&format!("ip netns del {}", sandbox.name()));
    wait::until("its link is gone", || !node.sh("node", "ip -br link").unwrap().contains("eni"));
    if with_inode(sandbox.name(), inode) {
        return Some((address, cookie, sandbox));
    }
    del(node, "c1", "");
    wait::until("it is gone", || records(node).is_empty());
    None
}

#[test]
fn crash_a_namespace_made_anew_with_a_reused_inode_is_told_from_the_old_one() {
    let node = node(5);
    // Other tests make namespaces, too.
    let (first, before, sandbox) = (0..50).find_map(|_| reused(&node)).expect("an inode comes back");
    assert_eq!(sandbox.address("eth0"), None, "this one has nothing");
    let again = Call::new(&node, "ADD").of("c1", &sandbox.path()).pod("c1").ok().address();
    assert_eq!(sandbox.address("eth0"), Some(again), "it was wired, not taken for the old one");
    assert_ne!(again, first, "the old one's address is not given out before it is reaped");
    wait::until("one record, of the new one", || {
        let all = records(&node);
        all.len() == 1 && all[0]["netns_cookie"] != before
    });
    assert!(eni_tests::traffic::ping(sandbox.name(), node.address("peer_address"), None));
    sound(&node, 5, "with a new one of the same inode");
}
