//! What pods send to the instance metadata service is dropped when the configuration says so, and nothing else is.

use eni_tests::cni::add;
use eni_tests::node::{Node, Options};
use eni_tests::sandbox::Sandbox;
use eni_tests::traffic::{Echo, udp};
use std::net::Ipv4Addr;

const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

/// A node with a pod on its primary ENI and one on a second, and a host that stands for the service.
fn site(config: &str) -> (Node, Echo, Vec<(Sandbox, Ipv4Addr)>) {
    let options =
        Options { instance_type: "test.2x2", secondary: 1, config: config.to_owned(), ..Options::default() };
    let mut node = Node::without_ipamd(&options);
    let internet = node.address("internet_address");
    node.sh("internet", &format!("ip addr add {METADATA}/32 dev eth0")).unwrap();
    node.sh("router", &format!("ip route add {METADATA} via {internet}")).unwrap();
    node.start_ipamd();
    node.wait_ready();
    let service = Echo::at(&node.netns("internet"), METADATA);
    let pods = ["one", "two"].map(|name| {
        let sandbox = Sandbox::new();
        let address = add(&node, name, &sandbox);
        (sandbox, address)
    });
    (node, service, pods.into())
}

fn dropped(node: &Node) -> u64 {
    let chain = node.sh("node", "nft list chain ip eni-cni metadata").unwrap();
    let words: Vec<&str> = chain.split_whitespace().collect();
    let at = words.iter().position(|word| *word == "packets").expect("a counter");
    words[at + 1].parse().unwrap()
}

#[test]
fn netns_the_metadata_service_is_kept_from_pods_on_every_eni_and_from_nobody_else() {
    let (node, service, pods) = site("[data_plane]\nblock_metadata = true\n");
    let internet = Echo::start(&node.netns("internet"));
    assert_eq!(dropped(&node), 0);
    for (sent, (sandbox, _)) in (1..).zip(&pods) {
        assert_eq!(udp(sandbox.name(), METADATA, service.port), None);
        assert_eq!(dropped(&node), sent, "it is counted");
        let seen = udp(sandbox.name(), node.address("internet_address"), internet.port);
        assert_eq!(seen, Some(node.address("node_address")), "the rest of the world is there");
    }
    assert_eq!(service.seen(), Vec::<std::net::IpAddr>::new());
    let seen = udp(&node.netns("node"), METADATA, service.port);
    assert_eq!(seen, Some(node.address("node_address")), "the node itself reaches it");
}

#[test]
fn netns_the_metadata_service_is_reached_by_default() {
    let (node, service, pods) = site("");
    for (sandbox, _) in &pods {
        let seen = udp(sandbox.name(), METADATA, service.port);
        assert_eq!(seen, Some(node.address("node_address")));
    }
    assert!(node.sh("node", "nft list chain ip eni-cni metadata").is_err());
}
