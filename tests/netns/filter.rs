//! A filter table in which our rules cannot be laid: it is told, and pods are served all the same.

use eni_tests::cni::{add, del};
use eni_tests::node::{Node, Options};
use eni_tests::sandbox::Sandbox;
use eni_tests::traffic::ping;
use eni_tests::wait;

/// What nft lays and iptables-nft cannot change: the set and the chain's priority are none of its own. It lets pods' packets pass by itself.
const NATIVE: &str = "table ip filter { set blocked { type ipv4_addr; }; chain FORWARD { \
    type filter hook forward priority 10; policy drop; ip saddr @blocked drop; \
    iifname \"eni*\" accept; oifname \"eni*\" accept; }; }";

#[test]
fn netns_a_filter_table_that_iptables_cannot_change_stops_nothing() {
    let mut node = Node::without_ipamd(&Options { secondary: 5, ..Options::default() });
    node.sh("node", &format!("nft '{NATIVE}'")).unwrap();
    assert!(node.sh("node", "iptables-nft -I FORWARD -i eni+ -j ACCEPT 2>&1").is_err());
    for round in 0..2 {
        node.start_ipamd();
        node.wait_ready();
        let sandbox = Sandbox::new();
        let name = format!("c{round}");
        add(&node, &name, &sandbox);
        wait::until("it pings", || ping(sandbox.name(), node.address("peer_address"), None));
        let reasons = node.ask("status")["reasons"].to_string();
        assert!(reasons.contains("host_net") && reasons.contains("iptables-nft"), "{reasons}");
        del(&node, &name, &sandbox.path());
        node.stop_ipamd();
    }
}
