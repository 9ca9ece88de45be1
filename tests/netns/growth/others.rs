//! What somebody else does at EC2: an ENI detached behind our back, a right that is missing, a subnet that is almost
//! full.

use super::{Pod, add_at_once, all_alive, node};
use embedded_vpc::control::Request;
use eni_proto::client::boottime;
use eni_tests::node::{Node, Options};
use eni_tests::wait;
use ipamd_core::cloud::Mutation;
use std::time::Duration;

/// Far below what an ADD may wait.
const AT_ONCE: Duration = Duration::from_secs(30);

#[test]
fn netns_an_eni_that_somebody_detached_serves_nobody_and_what_it_held_is_kept() {
    let config = super::capacity(0, 60_000);
    let more = Options { describe_ms: 1_000, config, ..Options::default() };
    let node = Node::new(&Options { instance_type: "test.3x4", secondary: 3, ..more });
    let mut pods = Pod::many(6);
    for pod in &mut pods[..4] {
        pod.add(&node);
    }
    let ours = |state: &str| {
        let enis = node.ask("enis");
        enis.as_array().into_iter().flatten().filter(|e| e["state"] == state).count()
    };
    wait::until("the second ENI is in use", || ours("in_use") == 2);
    // The fourth container lives on the second ENI: it is cut off by the detach, its address stays with it.
    let second = node.ec2_enis()[1].id.clone();
    node.inspect(&Request::Mutate(Mutation::Detach { eni: second.clone(), attachment: None }));
    wait::until("it is lost", || ours("lost") == 1);
    let held = node.ask("attachments");
    let fourth = pods[3].address.unwrap().to_string();
    assert!(held.as_array().unwrap().iter().any(|a| a["addresses"][0] == fourth.as_str()), "{held}");
    // The next one comes up on an ENI that is there.
    pods[4].add(&node);
    let peer = node.address("peer_address");
    assert!(eni_tests::traffic::ping(&pods[4].sandbox.path(), peer, None), "it talks");
    // With its last container it goes from EC2, too.
    pods[3].del(&node);
    wait::until("the lost ENI is deleted", || node.ec2_enis().iter().all(|e| e.id != second));
    pods[5].add(&node);
    let alive: Vec<Pod> = pods.into_iter().enumerate().filter(|(n, _)| *n != 3).map(|(_, pod)| pod).collect();
    all_alive(&node, &alive);
}

#[test]
fn netns_a_right_that_is_missing_is_told_at_once_and_leaves_no_eni() {
    let node = node("test.3x4", 3, &[], 60_000);
    node.cloud_fault("AttachNetworkInterface", "UnauthorizedOperation", 1);
    let mut pods = Pod::many(4);
    let begun = boottime();
    let answers = add_at_once(&node, &mut pods);
    assert!(boottime().saturating_sub(begun) < AT_ONCE, "an ADD waited in vain");
    let refused: Vec<_> = answers.iter().filter(|a| a.code != Some(0)).collect();
    assert_eq!(refused.len(), 1);
    assert!(refused[0].stdout.contains("UnauthorizedOperation"), "{}", refused[0].stdout);
    assert!(node.ask("status")["reasons"].to_string().contains("UnauthorizedOperation"));
    wait::until("what was created is deleted again", || node.ec2_enis().len() == 1);
}

#[test]
fn netns_the_last_addresses_of_a_subnet_are_used() {
    let node = node("test.1x9", 2, &[], 60_000);
    node.subnet_free(Some(3));
    let mut pods = Pod::many(5);
    for (pod, answer) in add_at_once(&node, &mut pods).iter().enumerate() {
        pods[pod].added(answer);
    }
    all_alive(&node, &pods);
}
