//! What runtimes and kubelets do beyond a good day: DEL three times, a runtime that is killed, a reboot.
//!
//! Owns these orders of calls; a plugin behind ours notes which came.

use crate::containerd::{Containerd, Pod};
use crate::node;
use crate::sandboxes::nothing_left;
use eni_tests::node::Node;
use eni_tests::traffic::{Connection, Echo, inside, ping};
use eni_tests::wait;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::thread;

/// Pods of the reboot.
const PODS: usize = 7;

/// The calls that a container's plugins got, as the plugin behind ours has noted them: the verb, and whether a network
/// namespace came with it.
fn calls(journal: &Path, container: &str) -> Vec<(String, bool)> {
    let text = fs::read_to_string(journal).unwrap();
    let words = text.lines().map(|line| line.splitn(3, ' ').collect::<Vec<_>>());
    let own = words.filter(|words| words[1] == container);
    own.map(|words| (words[0].to_owned(), !words[2].is_empty())).collect()
}

#[test]
fn runtime_the_three_dels_of_a_kubelet_succeed() {
    let node = node(2);
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("journal");
    let containerd = Containerd::with(&node, &[Containerd::noting(&journal)]);
    let (pod, other) = (containerd.run("one"), containerd.run("two"));
    let cri = containerd.cri();
    // The pod is deleted; a minute later the kubelet collects its sandbox.
    cri.stop_pod_sandbox(&pod.id).unwrap();
    wait::until("its address is free", || node.ask("status")["pool"]["free"] == 1);
    assert_eq!(containerd.run("three").address, pod.address);
    cri.stop_pod_sandbox(&pod.id).unwrap();
    cri.remove_pod_sandbox(&pod.id).unwrap();
    let [add, del] = ["ADD", "DEL"].map(str::to_owned);
    assert_eq!(
        calls(&journal, &pod.id),
        [(add, true), (del.clone(), true), (del.clone(), false), (del, false)]
    );
    let lists = cri.list_pod_sandbox().unwrap();
    assert_eq!(lists.iter().filter(|sandbox| sandbox.state == 0).count(), 2);
    assert!(ping(&other.netns, pod.address, None), "the late DELs took nothing from the next holder");
    containerd.remove_all();
    nothing_left(&node);
}

#[test]
fn runtime_a_killed_containerd_comes_back_to_live_pods() {
    let node = node(3);
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("journal");
    let mut containerd = Containerd::with(&node, &[Containerd::noting(&journal)]);
    let pods: Vec<Pod> = ["one", "two"].map(|name| containerd.run(name)).into();
    let server = Echo::start(&pods[1].netns);
    let (target, port) = (pods[1].address, server.port);
    let mut open = inside(&pods[0].netns, move || Connection::open(target, port)).expect("it connects");
    let before = fs::read_to_string(&journal).unwrap();
    containerd.kill();
    assert!(open.exchange(100_000), "without a runtime");
    assert!(ping(&pods[0].netns, node.address("peer_address"), None));
    containerd.spawn();
    for pod in &pods {
        assert_eq!(containerd.pod(&pod.id).address, pod.address, "it reports what it did before");
        assert!(ping(&pod.netns, node.address("peer_address"), None));
    }
    assert!(open.exchange(100_000));
    assert_eq!(fs::read_to_string(&journal).unwrap(), before, "nobody called a plugin");
    let third = containerd.run("three");
    assert!(ping(&third.netns, pods[0].address, None));
    containerd.remove_all();
    nothing_left(&node);
}

/// The kubelet starts: it takes every old sandbox away and makes a new one for each pod, all at once.
fn after_the_reboot(node: &Node, containerd: &Containerd) {
    let old = containerd.cri().list_pod_sandbox().unwrap();
    assert_eq!(old.len(), PODS);
    assert!(old.iter().all(|sandbox| sandbox.state != 0), "{old:?}");
    let pods: Vec<Pod> = thread::scope(|scope| {
        let started = old.iter().map(|sandbox| {
            let name = &sandbox.metadata.as_ref().unwrap().name;
            let stopped = scope.spawn(move || containerd.cri().stop_pod_sandbox(&sandbox.id));
            (scope.spawn(move || containerd.try_run(name, 1)), stopped, &sandbox.id)
        });
        let started: Vec<_> = started.collect();
        let ended = started.into_iter().map(|(run, stopped, id)| {
            let pod = run.join().unwrap().unwrap_or_else(|refused| panic!("{refused}"));
            stopped.join().unwrap().unwrap();
            containerd.remove(id);
            pod
        });
        ended.collect()
    });
    let held: BTreeSet<_> = pods.iter().map(|pod| pod.address).collect();
    assert_eq!(held.len(), PODS, "an address has two holders");
    for pod in &pods {
        assert!(ping(&pod.netns, node.address("peer_address"), None), "{pod:?}");
        assert!(ping(&pod.netns, pods[0].address, None), "{pod:?}");
    }
    assert_eq!(containerd.cri().list_pod_sandbox().unwrap().len(), PODS);
    containerd.remove_all();
    nothing_left(node);
    assert_eq!(node.drops("v1"), 0);
}

#[test]
fn runtime_a_reboot_leaks_no_address() {
    // Old and new ones have room together: whichever comes first.
    let mut node = node(2 * PODS as u32);
    let mut containerd = Containerd::start(&node);
    for n in 0..PODS {
        containerd.run(&format!("pod{n}"));
    }
    node.forget();
    containerd.reboot();
    node.start_ipamd();
    node.wait_ready();
    after_the_reboot(&node, &containerd);
}

#[test]
fn runtime_sandboxes_that_died_with_the_runtime_leak_no_address() {
    // As after a reboot, but ipamd and its records live.
    let node = node(2 * PODS as u32);
    let mut containerd = Containerd::start(&node);
    for n in 0..PODS {
        containerd.run(&format!("pod{n}"));
    }
    containerd.reboot();
    after_the_reboot(&node, &containerd);
}
