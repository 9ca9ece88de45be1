//! Truths that come late or in parts: nothing is taken from a container on one of them.

use crate::node::Node;
use embedded_vpc::model::{Gap, GapKind, Lags};
use ipamd_core::capacity::{PoolMode, Targets};
use ipamd_core::owner::OwnerConfig;
use std::time::Duration;

const SECONDS: fn(u64) -> Duration = Duration::from_secs;

fn serve(node: &mut Node, name: &str, count: usize) {
    for n in 0..count {
        node.add(&format!("{name}{n}"));
    }
    node.until(SECONDS(30), "served", |node| node.unanswered() == 0);
    node.addresses();
}

/// amazon-vpc-cni-k8s #3824, #3887 and their kin: metadata that leaves out an ENI or its addresses took them from pods.
#[test]
fn scenario_metadata_in_parts_takes_nothing_from_anybody() {
    let mut node = Node::new("m5.large", 9, |_| {});
    node.settled();
    serve(&mut node, "c", 12);
    node.settled();
    let (held, enis) = (node.addresses(), node.world.stored.enis.len());
    for kind in [GapKind::MetadataEni, GapKind::MetadataAddresses] {
        for eni in node.world.ec2.enis().iter().map(|eni| eni.id.clone()).collect::<Vec<_>>() {
            let (now, gap) = (node.now, Gap { eni, kind, for_ms: Some(300_000) });
            node.ec2().set_gap(gap, now);
        }
    }
    node.pass(SECONDS(240));
    assert_eq!(node.world.stored.enis.len(), enis);
    assert_eq!(node.world.stored.attachments.len(), held.len());
    assert!(node.world.stored.enis.iter().all(|eni| eni.state.is_laid()), "none is lost or given back");
    serve(&mut node, "more", 3);
}

/// A describe that does not tell of a new ENI for seconds: it is neither forgotten nor made twice.
#[test]
fn scenario_describes_that_lag_behind_make_no_second_eni_and_lose_none() {
    let mut node = Node::new("m5.large", 9, |_| {});
    node.pass(SECONDS(60));
    node.ec2().set_lags(Lags { describe_ms: 4_000, describe_primary_ms: 4_000, ..Lags::default() });
    for n in 0..14 {
        node.add(&format!("c{n}"));
    }
    node.pass(SECONDS(60));
    node.settled();
    assert_eq!(node.addresses().len(), 14, "{}", node.journal());
    let at_ec2: Vec<_> = node.world.ec2.enis().iter().map(|eni| eni.id.clone()).collect();
    assert_eq!(at_ec2.len(), 3, "{}", node.journal());
    assert!(at_ec2.iter().all(|id| node.world.stored.enis.iter().any(|eni| eni.id == *id)));
}

/// amazon-vpc-cni-k8s #2749, #3264: a subnet without a whole /28 gives single addresses.
#[test]
fn scenario_a_fragmented_subnet_gives_single_addresses() {
    let usual = OwnerConfig::default();
    let targets = Targets { mode: PoolMode::Prefixes, ..usual.targets };
    let mut node = Node::with(OwnerConfig { targets, ..usual }, "m5.large", 0, |_| {});
    node.ec2().set_fragmented(true);
    node.settled();
    serve(&mut node, "c", 6);
    assert!(node.world.ec2.enis().iter().all(|eni| eni.prefixes.is_empty()));
    node.ec2().set_fragmented(false);
    node.pass(SECONDS(900));
    serve(&mut node, "d", 20);
    assert!(node.world.ec2.enis().iter().any(|eni| !eni.prefixes.is_empty()), "{}", node.journal());
}

/// EC2 takes an address away while a container has it: the container keeps it, and nobody else gets it.
#[test]
fn scenario_an_address_that_ec2_loses_stays_its_holders_and_goes_to_nobody_else() {
    let mut node = Node::new("m5.large", 9, |_| {});
    node.settled();
    serve(&mut node, "c", 3);
    let lost = node.addresses()["c0"];
    let eni = node.world.ec2.enis()[0].id.clone();
    let unassign = ipamd_core::cloud::Mutation::Unassign { eni, addresses: vec![lost], prefixes: Vec::new() };
    let now = node.now;
    node.ec2().mutate(&unassign, None, now).unwrap();
    node.pass(SECONDS(120));
    assert!(
        node.world.stored.attachments.iter().any(|record| record.addresses.contains(&lost)),
        "it is kept"
    );
    node.del("c0");
    node.pass(SECONDS(120));
    serve(&mut node, "d", 8);
    assert!(node.addresses().values().all(|address| *address != lost));
}
