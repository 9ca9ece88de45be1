//! The pool as a runtime meets it: many sandboxes at once on a node that grows, and none left.
//!
//! Owns these nodes. Ports of the node by Debian's portmap come here, too: they are a plugin of the same list.

use crate::containerd::{Containerd, Pod};
use crate::node;
use crate::sandboxes::nothing_left;
use eni_tests::node::{Node, Options};
use eni_tests::traffic::{inside, ping, spawn};
use eni_tests::wait;
use serde_json::json;
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Duration;

/// More than two ENIs of the instance type carry.
const AT_ONCE: usize = 30;

#[test]
fn runtime_thirty_sandboxes_at_once_while_enis_come() {
    let options = Options { instance_type: "m5.xlarge", secondary: 4, log: "info", ..Options::default() };
    let node = Node::new(&options);
    let containerd = Containerd::start(&node);
    let pods: Vec<Pod> = thread::scope(|scope| {
        let runs: Vec<_> = (0..AT_ONCE)
            .map(|n| format!("pod{n}"))
            .map(|name| {
                let containerd = &containerd;
                scope.spawn(move || containerd.run(&name))
            })
            .collect();
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    });
    let held: BTreeSet<_> = pods.iter().map(|pod| pod.address).collect();
    assert_eq!(held.len(), AT_ONCE, "an address has two holders");
    assert!(node.ec2_enis().len() >= 3, "ENIs grew");
    for pod in &pods {
        assert!(ping(&pod.netns, node.address("peer_address"), None), "{pod:?}");
    }
    assert_eq!(node.all_drops().values().sum::<u64>(), 0, "{:?}", node.all_drops());
    thread::scope(|scope| {
        for pod in &pods {
            let containerd = &containerd;
            scope.spawn(move || containerd.remove(&pod.id));
        }
    });
    assert_eq!(containerd.cri().list_pod_sandbox().unwrap(), []);
    nothing_left(&node);
}

#[test]
fn runtime_a_full_pool_is_told_with_its_reason_and_costs_nothing() {
    let node = node(2);
    let containerd = Containerd::start(&node);
    let pods = ["one", "two"].map(|name| containerd.run(name));
    let refused = containerd.try_run("three", 0).unwrap_err();
    let why = "the instance type carries 1 ENIs of 2 secondary addresses, and the node has them";
    assert!(refused.message.contains("eni-cni") && refused.message.contains(why), "{refused}");
    assert!(ping(&pods[0].netns, pods[1].address, None), "who is there goes on");
    containerd.remove(&pods[0].id);
    wait::until("its address is free", || node.ask("status")["pool"]["free"] == 1);
    assert_eq!(containerd.try_run("three", 1).unwrap().address, pods[0].address);
    containerd.remove_all();
    nothing_left(&node);
}

/// Says "pod" to whoever connects.
fn serve(netns: &str, port: u16) {
    let (ready, started) = sync_channel(1);
    spawn(netns, move || {
        let listener =
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).expect("the port is free in a new sandbox");
        ready.send(()).expect("the starter waits");
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(b"pod");
        }
    });
    started.recv().expect("the server starts");
}

/// What is said by whom listens there.
fn told(netns: &str, target: Ipv4Addr, port: u16) -> Option<String> {
    inside(netns, move || {
        let patience = Duration::from_secs(2);
        let mut stream = TcpStream::connect_timeout(&SocketAddr::from((target, port)), patience).ok()?;
        stream.set_read_timeout(Some(patience)).ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        Some(text)
    })
}

#[test]
fn runtime_a_hosts_port_leads_to_its_pod_by_debians_portmap() {
    let node = node(3);
    let portmap = json!({ "type": "portmap", "snat": true, "capabilities": { "portMappings": true } });
    let containerd = Containerd::with(&node, &[portmap]);
    let pod = containerd.run_with_port("web", 8080, 80);
    let plain = containerd.run("plain");
    serve(&pod.netns, 80);
    let host = node.address("node_address");
    for from in [node.netns("peer"), plain.netns.clone(), node.netns("node")] {
        assert_eq!(told(&from, host, 8080).as_deref(), Some("pod"), "from {from}");
    }
    containerd.remove(&pod.id);
    assert_eq!(told(&node.netns("peer"), host, 8080), None);
    let rules = node.sh("node", "iptables-save").unwrap();
    assert!(!rules.contains(&pod.address.to_string()), "portmap leaves nothing: {rules}");
    containerd.remove_all();
    nothing_left(&node);
    assert_eq!(node.drops("v1"), 0);
}
