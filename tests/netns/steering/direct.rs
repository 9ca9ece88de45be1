//! The paths to an address itself: between pods, node, VPC, internet and a client outside.
//!
//! Owns the list, and what an address that nobody holds answers.

use super::probe::{self, Path, Protocol};
use super::site::{EXCLUDED, METADATA, Site, only, path};
use eni_tests::traffic::spawn;
use nix::errno::Errno;

/// Every path to an address, by ICMP, TCP and UDP.
pub(super) fn paths(site: &Site) -> Vec<Path<'_>> {
    let mut paths = Vec::new();
    from_pods(site, &mut paths);
    to_pods(site, &mut paths);
    of_the_node(site, &mut paths);
    paths
}

fn from_pods<'a>(site: &'a Site, paths: &mut Vec<Path<'a>>) {
    for (from, pod) in site.clients().into_iter().enumerate() {
        for (to, other) in site.servers().into_iter().enumerate() {
            let ask = site.of_pod(pod, other.address, 0);
            paths.push(path(format!("pod({from}) → pod({to})"), ask, &other.server, pod.address));
        }
        let ask = |to| site.of_pod(pod, to, 0);
        let source = pod.address;
        paths.push(path(format!("pod({from}) → node's primary"), ask(site.primary), &site.at_node, source));
        for (eni, (own, server)) in &site.own {
            paths.push(path(format!("pod({from}) → ENI {eni}'s own address"), ask(*own), server, source));
        }
        let hosts = [
            ("VPC host", site.peer(), &site.at_peer, source),
            ("excluded CIDR", EXCLUDED, &site.at_excluded, source),
            ("internet", site.internet(), &site.at_internet, site.primary),
            ("IMDS", METADATA, &site.at_metadata, site.primary),
        ];
        for (name, to, server, source) in hosts {
            paths.push(path(format!("pod({from}) → {name}"), ask(to), server, source));
        }
    }
}

fn to_pods<'a>(site: &'a Site, paths: &mut Vec<Path<'a>>) {
    for (to, pod) in site.servers().into_iter().enumerate() {
        let ask = |role| site.from(role, pod.address, 0);
        let sources = [("node", site.primary), ("peer", site.peer()), ("client", site.client())];
        for (role, source) in sources {
            paths.push(path(format!("{role} → pod({to})"), ask(role), &pod.server, source));
        }
        let mut excluded = ask("peer");
        excluded.bound = Some(EXCLUDED);
        paths.push(path(format!("excluded CIDR → pod({to})"), excluded, &pod.server, EXCLUDED));
        for (eni, (own, _)) in &site.own {
            let mut bound = ask("node");
            bound.bound = Some(*own);
            paths.push(path(format!("node bound to ENI {eni}'s → pod({to})"), bound, &pod.server, *own));
        }
    }
}

fn of_the_node<'a>(site: &'a Site, paths: &mut Vec<Path<'a>>) {
    let (primary, peer, internet, client) = (site.primary, site.peer(), site.internet(), site.client());
    let mut push = |name: &str, role, to, server, source| {
        paths.push(path(name.to_owned(), site.from(role, to, 0), server, source));
    };
    push("node → VPC host", "node", peer, &site.at_peer, primary);
    push("node → internet", "node", internet, &site.at_internet, primary);
    push("node → IMDS", "node", METADATA, &site.at_metadata, primary);
    push("VPC host → node's primary", "peer", primary, &site.at_node, peer);
    push("client → node's primary", "client", primary, &site.at_node, client);
    push("internet → node's primary", "internet", primary, &site.at_node, internet);
    for (eni, (own, server)) in &site.own {
        push(&format!("VPC host → ENI {eni}'s own address"), "peer", *own, server, peer);
        push(&format!("client → ENI {eni}'s own address"), "client", *own, server, client);
    }
    for (eni, (own, _)) in &site.own {
        // A UDP server that is bound to no address answers from the primary's: no rule set mends that.
        let name = format!("VPC host → ENI {eni}'s own address, server unbound");
        let unbound = path(name, site.from("peer", *own, 0), &site.at_node, peer);
        paths.push(only(&[Protocol::Tcp], unbound));
        let mut ask = site.from("node", peer, 0);
        ask.bound = Some(*own);
        paths.push(path(format!("node bound to ENI {eni}'s → VPC host"), ask, &site.at_peer, *own));
    }
}

/// Whoever asks for an address that nobody holds is told so, by every protocol.
pub(super) fn unheld(site: &Site) {
    let unheld = site.unheld();
    // Of these answers the kernel gives an asker a burst of five and then one a second, and half of that when ICMP's own
    // limit counts them too: once in a test.
    site.node.sh("node", "sysctl -qw net.ipv4.icmp_ratelimit=0").unwrap();
    let pods = site.clients().into_iter().map(|pod| site.of_pod(pod, unheld, 7));
    let askers = pods.chain(["node", "peer", "client"].map(|role| site.from(role, unheld, 7)));
    // At once: TCP's first answer comes while the connecting still holds the socket, so it is the second that ends it.
    let threads =
        askers.map(|ask| (ask.netns.clone(), spawn(&ask.netns.clone(), move || probe::errors(&ask))));
    for (netns, thread) in threads.collect::<Vec<_>>() {
        for (protocol, errno) in thread.join().expect("a client") {
            assert_eq!(errno, Some(Errno::EHOSTUNREACH), "{netns} asks {unheld} by {protocol:?}");
        }
    }
}
