//! What waits for an ENI that attaches slowly: a plugin that dies takes its demand with it, a DEL ends its ADD.

use super::{Pod, add_at_once, adds_under_way, all_alive, node, settled};
use embedded_vpc::model::Effect;
use eni_tests::node::Node;
use eni_tests::wait;
use ipamd_core::cloud::EniAttachmentStatus::Attaching;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

/// Long enough to do something in between: AWS's are of 2 to 10 s.
const SLOW: &[&str] = &["--attach-ms", "2500"];

/// A node whose primary ENI is full, and the others of that many containers.
fn full(pods: usize, release_after_ms: u64) -> (Node, Vec<Pod>, Vec<Pod>) {
    let node = node("test.3x3", 2, SLOW, release_after_ms);
    let mut all = Pod::many(2 + pods);
    let rest = all.split_off(2);
    for (answer, pod) in add_at_once(&node, &mut all).iter().zip(&mut all) {
        pod.added(answer);
    }
    (node, all, rest)
}

#[test]
fn netns_a_plugin_killed_half_way_through_an_attach_takes_its_demand_along() {
    let (node, held, mut rest) = full(1, 0);
    let waiting = rest[0].start(&node, "ADD");
    wait::until("its ENI is attaching", || node.ec2_secondaries() == [Some(Attaching)]);
    assert_eq!(adds_under_way(&node), 1);
    kill(Pid::from_raw(i32::try_from(waiting.pid()).unwrap()), Signal::SIGKILL).unwrap();
    assert_eq!(waiting.end().code, None);
    wait::until("nobody waits any more", || adds_under_way(&node) == 0);
    assert_eq!(node.ec2_secondaries(), [Some(Attaching)], "long before its ENI is there");
    // Nobody needs the ENI: it is given back as soon as it can be.
    settled(&node, 1);
    assert_eq!(node.took_effect("CreateNetworkInterface"), 1, "no ENI for nobody");
    assert_eq!(node.took_effect("DeleteNetworkInterface"), 1);
    all_alive(&node, &held);
    rest[0].add(&node);
    all_alive(&node, &rest);
}

#[test]
fn netns_of_two_that_wait_the_one_that_stays_is_served_by_the_same_eni() {
    let (node, held, mut rest) = full(3, 60_000);
    // Three wait: two ENIs of two addresses would be needed, one is once one of them is gone.
    node.delay("CreateNetworkInterface", 300, Effect::After);
    let dying = rest[0].start(&node, "ADD");
    wait::until("its ENI is created", || node.took_effect("CreateNetworkInterface") == 1);
    let staying = rest[1].start(&node, "ADD");
    wait::until("both wait", || adds_under_way(&node) == 2);
    kill(Pid::from_raw(i32::try_from(dying.pid()).unwrap()), Signal::SIGKILL).unwrap();
    dying.end();
    wait::until("one waits", || adds_under_way(&node) == 1);
    let another = rest[2].start(&node, "ADD");
    wait::until("its ENI is attaching", || node.ec2_secondaries() == [Some(Attaching)]);
    rest[1].added(&staying.end());
    rest[2].added(&another.end());
    settled(&node, 2);
    assert_eq!(node.took_effect("CreateNetworkInterface"), 1, "the dead one's place is the third's");
    all_alive(&node, &held);
    all_alive(&node, &rest);
}

#[test]
fn netns_a_del_ends_the_add_that_waits_and_nothing_is_left() {
    let (node, held, mut rest) = full(1, 60_000);
    let pod = &mut rest[0];
    let waiting = pod.start(&node, "ADD");
    wait::until("its ENI is attaching", || node.ec2_secondaries() == [Some(Attaching)]);
    pod.del(&node);
    let answer = waiting.end();
    assert_eq!(node.ec2_secondaries(), [Some(Attaching)], "both ended long before the ENI is there");
    assert_eq!(answer.error(), 11, "{}", answer.stdout);
    assert!(answer.stdout.contains("a DEL of the same attachment came"), "{}", answer.stdout);
    assert_eq!(adds_under_way(&node), 0);
    let records = node.ask("attachments");
    assert_eq!(records.as_array().map(Vec::len), Some(2), "{records}");
    assert_eq!(node.ask("status")["pool"]["allocated"], json!(2));
    // The ENI comes all the same and serves whoever comes next.
    pod.add(&node);
    assert_eq!(node.took_effect("CreateNetworkInterface"), 1);
    all_alive(&node, &held);
    all_alive(&node, &rest);
}
