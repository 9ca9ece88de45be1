//! What EC2 refuses: the ADD that waits is told why, in EC2's words, and the node goes on when it can.

use crate::node::Node;
use ipamd_core::capacity::Targets;
use ipamd_core::owner::OwnerConfig;
use std::time::Duration;

const SECONDS: fn(u64) -> Duration = Duration::from_secs;

/// A node that keeps nothing warm and whose one ENI is full: the next ADD needs something of EC2.
fn full() -> Node {
    let usual = OwnerConfig::default();
    let targets = Targets { warm_enis: 0, ..usual.targets };
    let mut node = Node::with(OwnerConfig { targets, ..usual }, "m5.large", 9, |_| {});
    node.settled();
    serve(&mut node, "c", 9);
    node
}

/// So many ADDs, all of them served.
fn serve(node: &mut Node, name: &str, count: usize) {
    for n in 0..count {
        node.add(&format!("{name}{n}"));
    }
    node.until(SECONDS(30), "served", |node| node.unanswered() == 0);
    node.addresses();
}

/// The next ADD is refused at once, with all of these words; after `wait` and with nothing in the way another is served.
fn told_and_served_again(node: &mut Node, words: &[&str], wait: Duration) {
    node.add("told");
    node.until(SECONDS(2), "told at once", |node| node.unanswered() == 0);
    for word in words {
        assert!(node.error("told").contains(word), "{word}: {}", node.error("told"));
    }
    node.answers.remove("told");
    node.pass(wait);
    serve(node, "again", 1);
}

#[test]
fn scenario_a_full_subnet_is_told_in_ec2s_words_and_served_once_it_has_room() {
    let mut node = Node::new("m5.large", 9, |_| {});
    node.ec2().set_subnet_free(Some(0));
    node.settled();
    serve(&mut node, "c", 9);
    node.add("told");
    node.until(SECONDS(2), "told at once", |node| node.unanswered() == 0);
    assert!(node.error("told").contains("InsufficientFreeAddressesInSubnet"), "{}", node.error("told"));
    node.answers.remove("told");
    node.ec2().set_subnet_free(None);
    node.pass(SECONDS(31));
    serve(&mut node, "again", 1);
}

#[test]
fn scenario_a_throttled_account_is_asked_less_and_served() {
    let mut node = full();
    node.refuse("CreateNetworkInterface", "RequestLimitExceeded", 1);
    told_and_served_again(&mut node, &["RequestLimitExceeded"], SECONDS(6));
}

#[test]
fn scenario_quotas_of_account_and_region_are_told() {
    let mut node = full();
    node.refuse("CreateNetworkInterface", "NetworkInterfaceLimitExceeded", 1);
    told_and_served_again(&mut node, &["NetworkInterfaceLimitExceeded"], SECONDS(31));
}

#[test]
fn scenario_an_instance_that_has_all_it_carries_says_so() {
    let mut node = full();
    serve(&mut node, "second", 9);
    serve(&mut node, "third", 9);
    node.add("told");
    node.until(SECONDS(2), "told at once", |node| node.unanswered() == 0);
    assert!(node.error("told").contains("carries 3 ENIs"), "{}", node.error("told"));
}

#[test]
fn scenario_a_create_whose_answer_is_lost_makes_one_eni() {
    let mut node = full();
    let before = node.world.ec2.enis().len();
    node.lose_answer("CreateNetworkInterface");
    node.add("waits");
    node.until(SECONDS(10), "served by the repeated create", |node| node.unanswered() == 0);
    node.addresses();
    node.settled();
    assert_eq!(node.world.ec2.enis().len(), before + 1, "{}", node.journal());
}

/// kill -9 after every single step of a growth and of a shrink: no ENI is left that nobody knows, none twice.
#[test]
fn scenario_a_crash_at_every_point_of_growth_and_shrink_leaks_no_eni() {
    let mut points = 0;
    for point in 0.. {
        let mut node = full();
        node.add("grows");
        let mut whole = node.steps(point) < point;
        node.restart();
        node.settled();
        node.pass(SECONDS(120));
        node.settled();
        known(&node, point);
        for n in 0..9 {
            node.del(&format!("c{n}"));
        }
        node.del("grows");
        node.until(SECONDS(60), "released", |node| node.world.stored.attachments.is_empty());
        node.pass(SECONDS(30));
        whole &= node.steps(point) < point;
        node.restart();
        node.pass(SECONDS(600));
        node.settled();
        known(&node, point);
        points = point;
        if whole || point > 120 {
            break;
        }
    }
    assert!(points > 40, "{points} points");
}

fn known(node: &Node, point: usize) {
    let at_ec2: Vec<_> = node.world.ec2.enis().iter().map(|eni| eni.id.clone()).collect();
    let mut stored: Vec<_> = node.world.stored.enis.iter().map(|eni| eni.id.clone()).collect();
    stored.sort();
    let mut sorted = at_ec2.clone();
    sorted.sort();
    assert_eq!(sorted, stored, "point {point}: EC2 and the store differ\n{}", node.journal());
    assert!(node.world.ec2.enis().iter().all(|eni| eni.attachment.is_some()), "point {point}");
}
