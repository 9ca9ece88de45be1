//! EC2 that does not answer: what runs goes on, what is free is given out, and nothing is forgotten.

use crate::node::Node;
use ipamd_core::record::AttachmentState;
use std::collections::BTreeSet;
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn scenario_ec2_is_down_for_an_hour_of_churn() {
    let mut node = Node::new("m5.large", 9, |_| {});
    node.settled();
    let before = node.world.ec2.enis().to_vec();
    node.away = true;
    // Five pods at a time come and go, from the addresses that are there.
    for round in 0..60 {
        for n in 0..5 {
            node.add(&format!("r{round}-{n}"));
        }
        node.until(Duration::from_secs(5), "served from what is free", |node| node.unanswered() == 0);
        assert_eq!(node.addresses().values().collect::<BTreeSet<_>>().len(), 5);
        for n in 0..5 {
            node.del(&format!("r{round}-{n}"));
        }
        node.pass(HOUR / 60);
    }
    node.away = false;
    node.pass(Duration::from_secs(120));
    assert_eq!(node.world.ec2.enis(), before, "nothing was given up on answers that did not come");
    assert_eq!(node.world.stored.attachments.len(), 0);
}

#[test]
fn scenario_ipamd_starts_while_ec2_is_away_and_serves_what_it_has() {
    let mut node = Node::new("m5.large", 9, |_| {});
    node.settled();
    node.add("old");
    node.until(Duration::from_secs(5), "served", |node| node.unanswered() == 0);
    let kept = node.addresses()["old"];
    node.away = true;
    node.restart();
    node.add("new");
    node.until(Duration::from_secs(5), "served without EC2", |node| node.unanswered() == 0);
    assert_ne!(node.addresses()["new"], kept);
    let live = |node: &Node| {
        node.world.stored.attachments.iter().filter(|a| a.state == AttachmentState::Live).count()
    };
    node.until(Duration::from_secs(5), "both are recorded", |node| live(node) == 2);
}
