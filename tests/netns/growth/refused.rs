//! A pool that cannot grow: whoever cannot be served is told so at once, with the true reason.
//!
//! "At once" is far from the plugin's deadline, which is longer than any test waits.

use super::{Pod, add_at_once, all_alive, node, nothing_dropped};
use eni_proto::client::boottime;
use eni_tests::cni::Answer;
use eni_tests::wait;
use std::time::Duration;

/// What an ADD has when its configuration does not say.
const DEADLINE: Duration = Duration::from_secs(90);

/// The error of the only one of several ADDs that was refused.
fn the_refusal(pods: &mut [Pod], answers: &[Answer]) -> serde_json::Value {
    let mut refusals = Vec::new();
    for (pod, answer) in pods.iter_mut().zip(answers) {
        if answer.code == Some(0) {
            pod.added(answer);
        } else {
            assert_eq!(answer.error(), 11, "{}", answer.stdout);
            refusals.push(answer.json());
        }
    }
    assert_eq!(refusals.len(), 1, "{refusals:?}");
    refusals.remove(0)
}

#[test]
fn netns_at_the_limit_of_the_type_one_add_too_many_is_told_so_at_once() {
    let node = node("test.2x4", 3, &[], 60_000);
    let mut pods = Pod::many(7);
    let begun = boottime();
    let answers = add_at_once(&node, &mut pods);
    assert!(boottime() - begun < DEADLINE / 3, "an ADD waited in vain");
    let error = the_refusal(&mut pods, &answers);
    let why = error["details"].as_str().unwrap();
    assert!(
        why.contains("the instance type carries 2 ENIs of 3 secondary addresses, and the node has them"),
        "{error}"
    );
    all_alive(&node, &pods);
    nothing_dropped(&node, 2);
    // One goes, the one that was refused is served.
    let refused = pods.iter().position(|pod| pod.address.is_none()).unwrap();
    pods[(refused + 1) % 7].del(&node);
    wait::until("an address is free", || node.ask("status")["pool"]["free"] == 1);
    pods[refused].add(&node);
}

#[test]
fn netns_with_the_subnet_full_an_add_is_told_ec2s_own_reason_at_once() {
    let node = node("test.3x4", 3, &[], 60_000);
    node.subnet_free(Some(1));
    let mut pods = Pod::many(4);
    let begun = boottime();
    let answers = add_at_once(&node, &mut pods);
    assert!(boottime() - begun < DEADLINE / 3, "an ADD waited in vain");
    let error = the_refusal(&mut pods, &answers);
    let why = error["details"].as_str().unwrap();
    for part in ["CreateNetworkInterface", "InsufficientFreeAddressesInSubnet", "1 free", "request id req-"] {
        assert!(why.contains(part), "{part:?} is not told: {error}");
    }
    let status = node.ask("status")["reasons"].to_string();
    assert!(status.contains("InsufficientFreeAddressesInSubnet"), "{status}");
    assert_eq!(node.ec2_enis().len(), 1, "nothing was made");
    all_alive(&node, &pods);
}
