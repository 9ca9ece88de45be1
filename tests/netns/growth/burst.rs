//! 150 ADDs at once on an empty node: none fails, and EC2 is asked no more than it takes.

use super::{Pod, add_at_once, all_alive, capacity, settled};
use eni_tests::client;
use eni_tests::node::{Node, Options};
use eni_tests::wait;
use std::collections::BTreeMap;

const PODS: usize = 150;
/// m5.4xlarge: 8 ENIs of 29 secondary addresses. 150 containers and one warm ENI's worth are 179 addresses: seven ENIs.
const ENIS: usize = 7;
/// Per look two describes (by tag, by attachment). A look each: the start's two, one when an assign or an attachment's
/// link is there, one 2 s after the last attach if the links were not seen, and a second for what came meanwhile.
const DESCRIBES_MOST: usize = 2 * (ENIS + 6);

fn calls(node: &Node) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for entry in node.journal() {
        assert_eq!(entry.outcome, "ok", "{entry:?}");
        *counts.entry(entry.call).or_default() += 1;
    }
    counts
}

#[test]
#[allow(clippy::print_stdout)] // The figures are for who reads the log.
fn netns_150_adds_at_once_on_an_empty_node() {
    let node = Node::new(&Options {
        instance_type: "m5.4xlarge",
        secondary: 0,
        log: "info",
        poll_ms: 2000, // what a node has unless it is told otherwise
        config: capacity(1, 0),
        ..Options::default()
    });
    let mut pods = Pod::many(PODS);
    let answers = add_at_once(&node, &mut pods);
    for (pod, answer) in pods.iter_mut().zip(&answers) {
        pod.added(answer);
    }
    settled(&node, ENIS);
    let made = calls(&node);
    println!("150 ADDs at once: {made:?}");
    let of = |call: &str| made.get(call).copied().unwrap_or_default();
    assert_eq!(of("CreateNetworkInterface"), ENIS - 1, "one per ENI");
    assert_eq!(of("AttachNetworkInterface"), ENIS - 1, "one per ENI");
    assert_eq!(of("AssignPrivateIpAddresses"), 1, "the primary ENI is filled in one call");
    assert_eq!(of("DetachNetworkInterface") + of("DeleteNetworkInterface"), 0, "nothing is given back");
    assert!(of("DescribeNetworkInterfaces") <= DESCRIBES_MOST, "{made:?}");
    all_alive(&node, &pods);
    for pod in &mut pods {
        client::del(&node, &pod.id, "eth0", &pod.sandbox.path());
    }
    // 29 free addresses are the warm target: the primary has them.
    settled(&node, 1);
    wait::until("all addresses are free", || node.ask("status")["pool"]["free"] == 29);
}
