//! Bursts of ADDs on an empty node: nobody fails, and EC2 is asked no more than it takes.

use crate::node::Node;
use ipamd_core::capacity::{PoolMode, Targets};
use ipamd_core::owner::OwnerConfig;
use std::collections::BTreeSet;
use std::time::Duration;

/// 150 containers on m5.4xlarge: 8 ENIs of 29 secondary addresses.
const PODS: usize = 150;

/// All of them at once on a new node of this configuration: everybody gets an address, and EC2 is asked at most so often for
/// each hundred of them, from when the node is ready until it is settled again.
#[allow(clippy::print_stdout, reason = "the journal is for who reads the log")]
fn burst(config: OwnerConfig, most: usize) {
    let mut node = Node::with(config, "m5.4xlarge", 0, |_| {});
    node.settled();
    let before = node.world.ec2.journal().count();
    for n in 0..PODS {
        node.add(&format!("c{n}"));
    }
    node.until(Duration::from_secs(10), "every ADD is answered", |node| node.unanswered() == 0);
    let addresses: BTreeSet<_> = node.addresses().into_values().collect();
    assert_eq!(addresses.len(), PODS, "an address each");
    node.settled();
    let journal: Vec<_> = node.world.ec2.journal().skip(before).collect();
    let asked = journal.iter().filter(|entry| !entry.call.starts_with("Instance")).count();
    println!("{PODS} ADDs at once, {asked} calls of EC2:\n{}", node.journal());
    assert!(asked * 100 <= most * PODS, "{asked} calls for {PODS} containers");
}

#[test]
fn scenario_150_adds_at_once_on_a_new_m5_4xlarge() {
    burst(OwnerConfig::default(), 14);
}

#[test]
fn scenario_150_adds_at_once_with_prefixes() {
    let usual = OwnerConfig::default();
    let targets = Targets { mode: PoolMode::Prefixes, ..usual.targets };
    burst(OwnerConfig { targets, ..usual }, 6);
}

#[test]
fn scenario_a_client_gives_up_at_5_s_of_a_10_s_attach_and_takes_its_demand_along() {
    let mut node = Node::new("m5.large", 9, |setup| setup.attach_ms = 10_000);
    node.settled();
    let room = node.world.ec2.enis().iter().map(|eni| eni.secondary.len()).sum::<usize>();
    for n in 0..room {
        node.add(&format!("c{n}"));
    }
    node.until(Duration::from_secs(30), "they are served", |node| node.unanswered() == 0);
    node.add("late");
    node.pass(Duration::from_secs(5));
    if node.unanswered() == 1 {
        node.hang_up("late");
    }
    node.pass(Duration::from_secs(120));
    assert!(node.world.ec2.enis().len() <= 3, "m5.large carries 3 ENIs");
    assert_eq!(node.answers.len(), room + 1);
}
