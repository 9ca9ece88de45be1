//! What pods add to the host: one link, one neighbour, one route each, and no rule.
//!
//! Owns the comparison of everything that `ip` and `nft` list before, with and after pods.

use eni_tests::cni::{add, del};
use eni_tests::node::{Node, Options};
use eni_tests::sandbox::Sandbox;
use eni_tests::wait;
use std::collections::BTreeSet;

/// Enough that a rule per pod, or per few pods, would be seen.
const PODS: usize = 20;
/// Rules of ours on a node with one ENI: the lookup of the pods table.
const RULES: usize = 1;

/// Everything that is listed, a line each, named by its list.
fn listed(node: &Node) -> BTreeSet<String> {
    let lists = [
        ("link", "ip -o link"),
        ("neighbour", "ip neigh"),
        ("route", "ip route show table all"),
        ("route6", "ip -6 route show table all"),
        ("rule", "ip rule; ip -6 rule"),
        ("address", "ip -o addr"),
        ("nft", "nft list ruleset"),
    ];
    let mut lines = BTreeSet::new();
    for (name, command) in lists {
        let text = node.sh("node", command).unwrap();
        assert!(["neighbour", "route6"].contains(&name) || !text.is_empty(), "{name} lists something");
        // The kernel gives every raised link an IPv6 multicast route.
        let ours = text.lines().filter(|line| !line.starts_with("multicast ff00::/8"));
        lines.extend(ours.enumerate().map(|(number, line)| match name {
            "nft" => format!("{name} {number} {line}"),
            "link" => format!("{name} {}", settled(line)),
            _ => format!("{name} {}", line.trim()),
        }));
    }
    lines
}

/// A link without its flags and state, which the kernel settles some time after it was raised.
fn settled(link: &str) -> String {
    let (name, rest) = link.split_once('<').expect("a link has flags");
    let (_, rest) = rest.split_once('>').expect("they end");
    let (before, rest) = rest.split_once(" state ").expect("a link has a state");
    format!("{name}{before}{}", rest.split_once(' ').map_or("", |(_, rest)| rest))
}

fn new(before: &BTreeSet<String>, after: &BTreeSet<String>) -> Vec<String> {
    assert!(before.is_subset(after), "changed: {:?}", before.difference(after).collect::<Vec<_>>());
    after.difference(before).cloned().collect()
}

fn rules(node: &Node) -> usize {
    node.sh("node", "ip rule").unwrap().lines().filter(|line| line.starts_with("512:")).count()
}

#[test]
fn guard_a_pod_adds_one_link_one_neighbour_one_route_and_no_rule() {
    let node = Node::new(&Options::default());
    let sandboxes: Vec<Sandbox> = (0..PODS).map(|_| Sandbox::new()).collect();
    let name = |n: usize| format!("c{n}");
    assert_eq!(rules(&node), RULES, "without a pod");
    let all = node.sh("node", "ip rule").unwrap().lines().count();
    let empty = listed(&node);
    let mut before = empty.clone();
    for (n, sandbox) in sandboxes.iter().enumerate() {
        let address = add(&node, &name(n), sandbox).to_string();
        let after = listed(&node);
        let mut made = new(&before, &after);
        made.sort();
        assert_eq!(made.len(), 3, "{made:?}");
        assert!(made[0].starts_with("link ") && made[0].contains(": eni"), "{made:?}");
        assert!(made[1].starts_with(&format!("neighbour {address} dev eni")), "{made:?}");
        assert!(made[1].contains("PERMANENT"), "{made:?}");
        assert!(made[2].starts_with(&format!("route {address} dev eni")), "{made:?}");
        before = after;
    }
    assert_eq!(rules(&node), RULES, "with {PODS} pods");
    assert_eq!(node.sh("node", "ip rule").unwrap().lines().count(), all, "nobody else's either");
    for (n, sandbox) in sandboxes.iter().enumerate() {
        del(&node, &name(n), &sandbox.path());
    }
    wait::until("the host is as before", || listed(&node) == empty);
}
