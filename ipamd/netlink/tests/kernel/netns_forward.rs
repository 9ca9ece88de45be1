//! The filter table's FORWARD: seen, and our two accepts laid once, where they belong, and again after a flush.

use crate::bench::Node;
use ipamd_core::kernel::{FilterChain, Forward, HostKernel, HostStep};
use ipamd_netlink::host::Host;
use std::sync::atomic::Ordering;

const DOCKER: FilterChain = FilterChain::DockerUser;

fn rules(node: &Node, chain: &str) -> Vec<String> {
    node.space.sh(&format!("iptables-nft -S {chain} 2>/dev/null")).lines().map(str::to_owned).collect()
}

fn forward(host: &mut Host) -> Forward {
    host.observe().unwrap().forward
}

fn accept(host: &mut Host, chain: FilterChain) {
    assert_eq!(host.apply(&[HostStep::AcceptForward(chain)]), []);
}

#[test]
fn accepts_are_laid_once_and_again_after_a_flush() {
    let node = Node::new();
    node.space.sh("iptables-nft -P FORWARD DROP");
    node.with_host(|host| {
        let chain = FilterChain::Forward;
        for _ in 0..2 {
            assert_eq!(forward(host), Forward::Drops { chain, accepted: false });
            accept(host, chain);
            accept(host, chain);
            assert_eq!(forward(host), Forward::Drops { chain, accepted: true });
            let expected = [
                "-P FORWARD DROP",
                "-A FORWARD -o eni+ -m comment --comment eni-cni -j ACCEPT",
                "-A FORWARD -i eni+ -m comment --comment eni-cni -j ACCEPT",
            ];
            assert_eq!(rules(&node, "FORWARD"), expected);
            node.space.sh("iptables-nft -F FORWARD");
        }
        node.space.sh("iptables-nft -I FORWARD -i eni+ -m comment --comment eni-cni -j ACCEPT");
        assert_eq!(forward(host), Forward::Drops { chain, accepted: false }, "one of two");
        accept(host, chain);
        assert_eq!(rules(&node, "FORWARD").len(), 3, "the other alone was laid");
    });
}

#[test]
fn dockerds_chain_is_used_while_forward_jumps_to_it() {
    let node = Node::new();
    node.space.sh("iptables-nft -P FORWARD DROP; iptables-nft -N DOCKER-USER");
    node.with_host(|host| {
        assert_eq!(forward(host), Forward::Drops { chain: FilterChain::Forward, accepted: false });
        node.space.sh("iptables-nft -I FORWARD -j DOCKER-USER; iptables-nft -A DOCKER-USER -j RETURN");
        assert_eq!(forward(host), Forward::Drops { chain: DOCKER, accepted: false });
        accept(host, DOCKER);
        assert_eq!(forward(host), Forward::Drops { chain: DOCKER, accepted: true });
        let laid = rules(&node, "DOCKER-USER");
        assert!(
            laid[1].contains("eni+") && laid[2].contains("eni+") && laid[3].ends_with("RETURN"),
            "{laid:?}"
        );
    });
}

#[test]
fn an_open_policy_costs_no_run_of_iptables() {
    let node = Node::new();
    node.with_host(|host| assert_eq!(forward(host), Forward::Open, "no table at all"));
    node.space.sh("iptables-nft -P FORWARD ACCEPT");
    node.with_host(|host| assert_eq!(forward(host), Forward::Open));
    assert_eq!(node.counters.iptables_runs.load(Ordering::Relaxed), 0);
}

#[test]
fn a_chain_that_is_not_there_is_told() {
    let node = Node::new();
    let errors = node.with_host(|host| host.apply(&[HostStep::AcceptForward(DOCKER)]));
    assert!(
        errors[0].to_string().contains("DOCKER-USER") && errors[0].cause.contains("iptables-nft"),
        "{errors:?}"
    );
}

#[test]
fn a_legacy_table_that_drops_is_told() {
    let node = Node::new();
    // Kernels that were built without it have nothing to tell.
    if !node.space.try_sh("iptables-legacy -P FORWARD DROP").status.success() {
        return;
    }
    node.with_host(|host| {
        assert_eq!(forward(host), Forward::Legacy);
        node.space
            .sh("iptables-legacy -A FORWARD -i eni+ -j ACCEPT; iptables-legacy -A FORWARD -o eni+ -j ACCEPT");
        assert_eq!(forward(host), Forward::Open);
        node.space.sh("iptables-legacy -F FORWARD; iptables-nft -P FORWARD DROP");
        let chain = FilterChain::Forward;
        assert_eq!(forward(host), Forward::Drops { chain, accepted: false }, "what we can mend comes first");
        accept(host, chain);
        assert_eq!(forward(host), Forward::Legacy);
    });
}
