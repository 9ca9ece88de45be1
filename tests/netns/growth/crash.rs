//! kill -9 of ipamd at every point of create → attach → use and of drain → detach → delete, and replies that do not tell
//! the truth: no ENI leaks, none is used twice, and whoever lives stays connected.
//!
//! A point is a state that EC2 or ipamd shows; a call that is held up before its effect, or after it, makes the state
//! last until it is seen.

use super::{Pod, add_at_once, adds_under_way, all_alive, has_state, node, nothing_dropped, settled};
use embedded_vpc::model::Effect;
use eni_tests::node::Node;
use eni_tests::wait;
use ipamd_core::cloud::EniAttachmentStatus::{Attached, Attaching, Detaching};
use serde_json::json;
use std::collections::BTreeSet;

/// ENIs attach and detach slowly enough to be seen doing it.
const SEEN: &[&str] = &["--attach-ms", "150", "--detach-ms", "150"];
/// A call is held up for so long.
const HELD_MS: u64 = 400;

/// Where ipamd is killed.
struct Point {
    name: &'static str,
    /// The call that is held up, before or after its effect.
    held: Option<(&'static str, Effect)>,
    /// Whether it is reached, where the held call has taken effect `before` times before.
    reached: fn(&Node, before: usize) -> bool,
}

impl Point {
    /// Holds the call up; how often it has taken effect before.
    fn arm(&self, node: &Node) -> usize {
        let Some((call, effect)) = self.held else { return 0 };
        node.delay(call, HELD_MS, effect);
        node.took_effect(call)
    }

    fn kill(&self, node: &mut Node, before: usize) {
        wait::until(self.name, || (self.reached)(node, before));
        node.kill_ipamd();
    }
}

const GROWING: &[Point] = &[
    Point {
        name: "the create has not reached EC2",
        held: Some(("CreateNetworkInterface", Effect::Before)),
        reached: |node, _| adds_under_way(node) == 1,
    },
    Point {
        name: "created, and the answer is on its way",
        held: Some(("CreateNetworkInterface", Effect::After)),
        reached: |node, before| node.took_effect("CreateNetworkInterface") > before,
    },
    Point {
        name: "created, and the attach has not reached EC2",
        held: Some(("AttachNetworkInterface", Effect::Before)),
        reached: |node, _| has_state(node, "attaching") && node.ec2_secondaries() == [None],
    },
    Point {
        name: "attaching, and the answer is on its way",
        held: Some(("AttachNetworkInterface", Effect::After)),
        reached: |node, before| node.took_effect("AttachNetworkInterface") > before,
    },
    Point { name: "attaching", held: None, reached: |node, _| node.ec2_secondaries() == [Some(Attaching)] },
    Point { name: "attached", held: None, reached: |node, _| node.ec2_secondaries() == [Some(Attached)] },
    Point {
        name: "in use",
        held: None,
        reached: |node, _| node.ask("attachments").as_array().is_some_and(|all| all.len() == 3),
    },
];

const GIVING_BACK: &[Point] = &[
    Point { name: "draining", held: None, reached: |node, _| has_state(node, "draining") },
    Point {
        name: "the detach has not reached EC2",
        held: Some(("DetachNetworkInterface", Effect::Before)),
        reached: |node, _| has_state(node, "detaching") && node.ec2_secondaries() == [Some(Attached)],
    },
    Point {
        name: "detaching, and the answer is on its way",
        held: Some(("DetachNetworkInterface", Effect::After)),
        reached: |node, before| node.took_effect("DetachNetworkInterface") > before,
    },
    Point { name: "detaching", held: None, reached: |node, _| node.ec2_secondaries() == [Some(Detaching)] },
    Point {
        name: "detached, and the delete has not reached EC2",
        held: Some(("DeleteNetworkInterface", Effect::Before)),
        reached: |node, _| node.ec2_secondaries() == [None],
    },
    Point {
        name: "deleted, and the answer is on its way",
        held: Some(("DeleteNetworkInterface", Effect::After)),
        reached: |node, before| node.took_effect("DeleteNetworkInterface") > before,
    },
    Point { name: "deleted", held: None, reached: |node, _| node.ec2_enis().len() == 1 },
];

/// A node whose primary ENI is full, with its containers, and one more that a second ENI is needed for. What is not
/// needed is given back at once.
fn full() -> (Node, Vec<Pod>, Pod) {
    let node = node("test.3x3", 2, SEEN, 0);
    let mut pods = Pod::many(3);
    let more = pods.pop().unwrap();
    for (answer, pod) in add_at_once(&node, &mut pods).iter().zip(&mut pods) {
        pod.added(answer);
    }
    (node, pods, more)
}

/// How many ENIs there were beside the primary, by what took effect: each was created, attached, detached and deleted
/// once.
fn enis_made(node: &Node) -> usize {
    let made = ["Create", "Attach", "Detach", "Delete"].map(|verb| {
        let call = format!("{verb}NetworkInterface");
        // A create that is repeated with its token answers the ENI that it made before.
        let taken = node.journal().into_iter().filter(|entry| entry.call == call && entry.outcome == "ok");
        let parameters: BTreeSet<String> = taken.map(|entry| entry.parameters).collect();
        parameters.len()
    });
    assert_eq!(made, [made[0]; 4], "ENIs that were created, attached, detached, deleted");
    made[0]
}

#[test]
fn netns_ipamd_killed_at_every_point_of_create_attach_use() {
    let (mut node, held, mut more) = full();
    let mut made = 0;
    for point in GROWING {
        let before = point.arm(&node);
        let adding = more.start(&node, "ADD");
        point.kill(&mut node, before);
        node.start_ipamd();
        node.wait_ready();
        more.added(&adding.end());
        settled(&node, 2);
        all_alive(&node, &held);
        all_alive(&node, std::slice::from_ref(&more));
        more.del(&node);
        settled(&node, 1);
        let now = enis_made(&node);
        // An ENI that comes while its ADD's plugin is between two tries is nobody's, and is given back.
        assert!((made + 1..=made + 2).contains(&now), "{}: {made} ENIs, then {now}", point.name);
        made = now;
    }
    all_alive(&node, &held);
    nothing_dropped(&node, 2);
}

#[test]
fn netns_ipamd_killed_at_every_point_of_drain_detach_delete() {
    let (mut node, held, mut more) = full();
    for (round, point) in GIVING_BACK.iter().enumerate() {
        more.add(&node);
        wait::until("its ENI is drained", || has_state(&node, "draining"));
        if point.name == "draining" {
            node.restart_ipamd();
            all_alive(&node, std::slice::from_ref(&more));
        }
        let before = point.arm(&node);
        more.del(&node);
        if point.name != "draining" {
            point.kill(&mut node, before);
            node.start_ipamd();
            node.wait_ready();
        }
        settled(&node, 1);
        assert_eq!(enis_made(&node), round + 1, "{}", point.name);
        assert_eq!(node.ask("status")["pool"]["allocated"], json!(2));
        all_alive(&node, &held);
    }
    nothing_dropped(&node, 2);
}

#[test]
fn netns_replies_that_do_not_tell_the_truth_leak_nothing() {
    let (node, held, mut more) = full();
    let calls = ["Create", "Attach", "Detach", "Delete"].map(|verb| format!("{verb}NetworkInterface"));
    for (round, call) in calls.iter().enumerate() {
        // EC2: the request may have succeeded all the same.
        node.lose_reply(call, "InternalError");
        more.add(&node);
        settled(&node, 2);
        all_alive(&node, std::slice::from_ref(&more));
        more.del(&node);
        settled(&node, 1);
        assert_eq!(enis_made(&node), round + 1, "{call}");
    }
    let refused: Vec<_> = node.journal().into_iter().filter(|entry| entry.outcome != "ok").collect();
    assert!(refused.is_empty(), "what is not known is looked at, not asked for again: {refused:?}");
    all_alive(&node, &held);
    nothing_dropped(&node, 2);
}
