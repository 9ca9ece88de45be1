//! The leak of a failing chain: a plugin behind ours fails ADD and DEL, so that ours never gets its DEL.
//!
//! Owns the order in which a kubelet tries again: a sandbox of a new id each time, the failed ones collected meanwhile.

use crate::containerd::Containerd;
use crate::node;
use eni_tests::node::Node;
use eni_tests::traffic::ping;
use eni_tests::wait;
use serde_json::json;
use std::fs;
use std::path::Path;

/// So often a kubelet tries.
const ATTEMPTS: u32 = 50;
/// So many addresses there are: far fewer.
const ADDRESSES: u32 = 5;

/// A node and a containerd whose list fails while the file is there.
fn failing_chain(failing: &Path) -> (Node, Containerd) {
    let node = node(ADDRESSES);
    fs::write(failing, "").unwrap();
    let chained = json!({ "type": "chained-plugin", "fail_while": failing });
    let containerd = Containerd::with(&node, &[chained]);
    (node, containerd)
}

fn all_free(node: &Node) {
    wait::until("every address is free", || node.ask("status")["pool"]["free"] == ADDRESSES);
}

#[test]
fn runtime_a_chain_that_is_mended_gives_every_address_back() {
    let folder = tempfile::tempdir().unwrap();
    let failing = folder.path().join("failing");
    let (node, containerd) = failing_chain(&failing);
    for attempt in 0..ADDRESSES {
        let refused = containerd.try_run("pod", attempt).unwrap_err();
        assert!(refused.message.contains("as it was told to"), "attempt {attempt}: {refused}");
    }
    // Their clean-up failed with the chain: containerd keeps them with their namespaces, and so their addresses.
    assert_eq!(containerd.cri().list_pod_sandbox().unwrap().len(), ADDRESSES as usize);
    assert_eq!(containerd.namespaces(), ADDRESSES as usize);
    fs::remove_file(&failing).unwrap();
    containerd.remove_all();
    assert_eq!(containerd.namespaces(), 0);
    all_free(&node);
    let pod = containerd.run("pod");
    assert!(ping(&pod.netns, node.address("peer_address"), None));
    containerd.remove_all();
    all_free(&node);
}

#[test]
fn runtime_a_chain_that_fails_add_and_del_fifty_times_loses_no_address() {
    let folder = tempfile::tempdir().unwrap();
    let failing = folder.path().join("failing");
    let (node, containerd) = failing_chain(&failing);
    for attempt in 0..ATTEMPTS {
        let refused = containerd.try_run("pod", attempt).unwrap_err();
        assert!(refused.message.contains("as it was told to"), "attempt {attempt}: {refused}");
        // A newer containerd drops the sandbox with its namespace; this one keeps it. No DEL reaches our plugin.
        containerd.lose_namespaces();
    }
    fs::remove_file(&failing).unwrap();
    let pods: Vec<_> = (0..ADDRESSES).map(|n| containerd.run(&format!("well{n}"))).collect();
    for pod in &pods {
        assert!(ping(&pod.netns, node.address("peer_address"), None), "{pod:?}");
    }
    containerd.remove_all();
    all_free(&node);
}
