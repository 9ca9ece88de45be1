//! The node grows to what its containers need and gives back what they do not, against a strict EC2.
//!
//! Owns what the cases share: nodes whose numbers are small, containers in bare sandboxes, and what must hold whenever
//! nothing is under way: EC2's ENIs and ipamd's are the same, and every container's packets arrive.

mod burst;
mod crash;
mod others;
mod refused;
mod waits;

use eni_tests::cni::{Answer, Call, Running};
use eni_tests::node::{Node, Options};
use eni_tests::sandbox::Bare;
use eni_tests::traffic::ping;
use eni_tests::wait;
use ipamd_core::cloud::EniAttachmentStatus;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// The configuration's part: so many warm ENIs, and ENIs too many are drained after so long.
fn capacity(warm_enis: u32, release_after_ms: u64) -> String {
    format!("[capacity]\nwarm_enis = {warm_enis}\nrelease_after_ms = {release_after_ms}\n")
}

/// A node without warm targets whose primary ENI is full at boot.
fn node(
    instance_type: &'static str,
    secondary: u32,
    vpc_args: &'static [&'static str],
    release_after_ms: u64,
) -> Node {
    let config = capacity(0, release_after_ms);
    Node::new(&Options { instance_type, secondary, vpc_args, config, ..Options::default() })
}

/// A container by the real plugin.
struct Pod {
    id: String,
    sandbox: Bare,
    address: Option<Ipv4Addr>,
}

impl Pod {
    fn many(count: usize) -> Vec<Pod> {
        let name = |(n, sandbox)| Pod { id: format!("c{n}"), sandbox, address: None };
        Bare::many(count).into_iter().enumerate().map(name).collect()
    }

    fn start(&self, node: &Node, verb: &str) -> Running {
        Call::new(node, verb).of(&self.id, &self.sandbox.path()).pod(&self.id).start()
    }

    /// Its ADD has ended, well.
    fn added(&mut self, answer: &Answer) {
        assert_eq!(answer.code, Some(0), "ADD of {}: {}", self.id, answer.stdout);
        self.address = Some(answer.address());
    }

    fn add(&mut self, node: &Node) {
        let answer = self.start(node, "ADD").end();
        self.added(&answer);
    }

    fn del(&mut self, node: &Node) {
        let answer = self.start(node, "DEL").end();
        assert_eq!(answer.code, Some(0), "DEL of {}: {}", self.id, answer.stdout);
        self.address = None;
    }
}

/// Starts the ADDs of all at once, and ends them.
fn add_at_once(node: &Node, pods: &mut [Pod]) -> Vec<Answer> {
    let running: Vec<Running> = pods.iter().map(|pod| pod.start(node, "ADD")).collect();
    running.into_iter().map(Running::end).collect()
}

/// Every container's packets reach the VPC and come back, by an ENI that may carry them; no address has two holders.
fn all_alive(node: &Node, pods: &[Pod]) {
    let live: Vec<&Pod> = pods.iter().filter(|pod| pod.address.is_some()).collect();
    let held: BTreeSet<Option<Ipv4Addr>> = live.iter().map(|pod| pod.address).collect();
    assert_eq!(held.len(), live.len(), "an address has two holders");
    for pod in live {
        // The host end's queue starts a moment after it is up: on a busy machine the answer to a first packet is lost.
        let reached = || ping(&pod.sandbox.path(), node.address("peer_address"), None);
        assert!(reached() || reached(), "{} is cut off", pod.id);
    }
}

/// ipamd's ENIs and their states.
fn ipamds_enis(node: &Node) -> BTreeMap<String, String> {
    let enis = node.ask("enis");
    let text = |value: &serde_json::Value| value.as_str().expect("a text").to_owned();
    let enis = enis.as_array().expect("a list").iter();
    enis.map(|eni| (text(&eni["id"]), text(&eni["state"]))).collect()
}

/// Whether ipamd shows an ENI in this state.
fn has_state(node: &Node, state: &str) -> bool {
    ipamds_enis(node).values().any(|has| has == state)
}

/// Waits until EC2 has that many ENIs, all attached, and ipamd the same, all in use (or in use until their containers
/// are gone).
fn settled(node: &Node, count: usize) {
    wait::until(&format!("{count} ENIs at EC2 and the same in the pool"), || {
        let enis = node.ec2_enis();
        let attached = |status: &EniAttachmentStatus| *status == EniAttachmentStatus::Attached;
        let all = enis.iter().all(|e| e.attachment.as_ref().is_some_and(|a| attached(&a.status)));
        let known = ipamds_enis(node);
        let same = enis.iter().map(|e| e.id.to_string()).collect::<BTreeSet<_>>()
            == known.keys().cloned().collect::<BTreeSet<_>>();
        let used = known.values().all(|state| ["in_use", "draining"].contains(&state.as_str()));
        enis.len() == count && all && same && used
    });
}

/// ADDs that wait or run.
fn adds_under_way(node: &Node) -> usize {
    node.metric("eni_ipamd_adds_under_way", "") as usize
}

/// Nothing was sent by an ENI that may not carry it.
fn nothing_dropped(node: &Node, enis: u32) {
    let drops: Vec<u64> = (1..=enis).map(|n| node.drops(&format!("v{n}"))).collect();
    assert_eq!(drops.iter().sum::<u64>(), 0, "dropped by ENI: {drops:?}");
}
