//! What a kubelet asks for on a good day: sandboxes come with addresses, talk, stop and are removed.

use crate::containerd::Containerd;
use crate::node;
use eni_tests::node::Node;
use eni_tests::traffic::ping;
use eni_tests::wait;
use serde_json::json;

/// Every address is free again, and nothing of ours is left.
pub(crate) fn nothing_left(node: &Node) {
    wait::until("every record is gone", || node.ask("attachments") == json!([]));
    let pool = node.ask("status")["pool"].clone();
    assert_eq!((&pool["allocated"], &pool["cooling"]), (&json!(0), &json!(0)), "{pool}");
    assert!(!node.sh("node", "ip -br link").unwrap().contains("eni"), "a link stayed");
}

#[test]
fn runtime_sandboxes_get_addresses_talk_stop_and_are_removed() {
    let node = node(5);
    let containerd = Containerd::start(&node);
    let version = containerd.cri().version().unwrap();
    assert_eq!(version.runtime_name, "containerd");
    println!("containerd {}", version.runtime_version);
    let pods: Vec<_> = ["one", "two", "three"].map(|name| containerd.run(name)).into();
    let attachments = node.ask("attachments");
    for pod in &pods {
        let record = attachments.as_array().unwrap().iter().find(|a| a["container"] == pod.id.as_str());
        let record = record.unwrap_or_else(|| panic!("no record of {}: {attachments}", pod.id));
        assert_eq!(record["addresses"], json!([pod.address.to_string()]), "what CRI reports");
        assert!(ping(&pod.netns, node.address("peer_address"), None), "{pod:?} to the VPC");
        assert!(ping(&pod.netns, node.address("internet_address"), None), "{pod:?} to the internet");
        assert!(ping(&node.netns("peer"), pod.address, None), "the VPC to {pod:?}");
        for other in &pods {
            assert!(ping(&pod.netns, other.address, None), "{pod:?} to {other:?}");
        }
    }
    containerd.remove(&pods[0].id);
    assert!(ping(&pods[1].netns, pods[2].address, None), "the others go on");
    containerd.remove_all();
    nothing_left(&node);
    assert_eq!(node.drops("v1"), 0);
}
