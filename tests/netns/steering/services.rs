//! The paths to a service: NodePorts by every address of the node, ClusterIPs from pods and node.
//!
//! Owns the services and the list of paths; a VPC host stands for a pod of another node.

use super::probe::{Ask, PORT, Path, Server};
use super::site::{Site, only};
use super::stand_in::Service;
use std::net::Ipv4Addr;

/// Where services lead to, each in its own number of a port and of a ClusterIP.
struct Endpoint<'a> {
    name: String,
    address: Ipv4Addr,
    server: &'a Server,
    number: u8,
}

impl Endpoint<'_> {
    fn cluster_ip(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 96, 0, 10 + self.number)
    }

    /// Without masquerade, as traffic policy Local.
    fn node_port(&self) -> u16 {
        30_000 + u16::from(self.number)
    }

    /// With masquerade, as traffic policy Cluster.
    fn masquerading_port(&self) -> u16 {
        31_000 + u16::from(self.number)
    }
}

const CLUSTER_PORT: u16 = 80;

fn endpoints(site: &Site) -> Vec<Endpoint<'_>> {
    let pods = site.servers().into_iter().enumerate();
    let pods = pods.map(|(n, pod)| (format!("pod({n})"), pod.address, &pod.server));
    let others = [
        ("hostNetwork", site.primary, &site.at_node),
        ("remote", site.peer(), &site.at_peer),
        ("off-VPC", site.internet(), &site.at_internet),
    ];
    let all = pods.chain(others.map(|(name, address, server)| (name.to_owned(), address, server)));
    (1..)
        .zip(all)
        .map(|(number, (name, address, server))| Endpoint { name, address, server, number })
        .collect()
}

/// The services: a ClusterIP and two NodePorts per endpoint.
pub(super) fn services(site: &Site) -> Vec<Service> {
    let mut services = Vec::new();
    for endpoint in endpoints(site) {
        let to = (endpoint.address, endpoint.server.port);
        let service = |cluster_ip, port, masquerade| Service { cluster_ip, port, endpoint: to, masquerade };
        services.push(service(Some(endpoint.cluster_ip()), CLUSTER_PORT, false));
        services.push(service(None, endpoint.node_port(), false));
        services.push(service(None, endpoint.masquerading_port(), true));
    }
    services
}

/// Ways in for a connection that stays open.
pub(super) struct Sample {
    /// The third ENI's own address, and the NodePort there of a pod on it.
    pub(super) own: Ipv4Addr,
    pub(super) port: u16,
    /// The ClusterIP of the VPC's host.
    pub(super) remote: Ipv4Addr,
}

/// A NodePort and a ClusterIP of the services.
pub(super) fn sample(site: &Site) -> Sample {
    let endpoints = endpoints(site);
    let find = |name: &str| endpoints.iter().find(|e| e.name == name).expect("an endpoint");
    let own = site.own[&site.enis[2]].0;
    Sample { own, port: find("pod(2)").node_port(), remote: find("remote").cluster_ip() }
}

/// The client asks for a NodePort by the primary's address; its endpoint is a pod on the second ENI.
pub(super) fn by_primary_to_second(site: &Site) -> Ask {
    site.from("client", site.primary, endpoints(site)[1].node_port())
}

/// Every path to them, by TCP and UDP.
pub(super) fn paths(site: &Site) -> Vec<Path<'_>> {
    let mut paths = Vec::new();
    node_ports(site, &mut paths);
    cluster_ips(site, &mut paths);
    paths.into_iter().map(|path| only(PORT, path)).collect()
}

fn node_ports<'a>(site: &'a Site, paths: &mut Vec<Path<'a>>) {
    let own = site.own.iter().map(|(eni, (address, _))| (*eni, *address));
    for (eni, via) in std::iter::once((1, site.primary)).chain(own) {
        // The internet knows the primary's address alone.
        let askers = [("peer", site.peer()), ("client", site.client()), ("internet", site.internet())];
        let askers = if eni == 1 { &askers[..] } else { &askers[..2] };
        for (role, asker) in askers {
            for endpoint in endpoints(site) {
                let local = !["remote", "off-VPC"].contains(&endpoint.name.as_str());
                let mut push = |kind, port, source| {
                    let name = format!("{role} → NodePort by ENI {eni} → {} {kind}", endpoint.name);
                    let ask = site.from(role, via, port);
                    paths.push(Path { name, protocols: PORT, ask, server: endpoint.server, source });
                };
                if local {
                    push("unchanged", endpoint.node_port(), *asker);
                }
                let masqueraded = match endpoint.name.as_str() {
                    // It does not leave the node: nothing to masquerade.
                    "hostNetwork" => *asker,
                    // Onward by the ENI that it came in by.
                    "remote" => via,
                    _ => site.primary,
                };
                push("masqueraded", endpoint.masquerading_port(), masqueraded);
            }
        }
    }
}

fn cluster_ips<'a>(site: &'a Site, paths: &mut Vec<Path<'a>>) {
    for endpoint in endpoints(site) {
        let off = endpoint.name == "off-VPC";
        let mut push = |from: String, ask, source| {
            let name = format!("{from} → {}", endpoint.name);
            paths.push(Path { name, protocols: PORT, ask, server: endpoint.server, source });
        };
        for (from, pod) in site.clients().into_iter().enumerate() {
            let source = if off { site.primary } else { pod.address };
            let ask = |to, port| site.of_pod(pod, to, port);
            push(format!("pod({from}) → ClusterIP"), ask(endpoint.cluster_ip(), CLUSTER_PORT), source);
            let by_node = ask(site.primary, endpoint.node_port());
            push(format!("pod({from}) → NodePort by the primary"), by_node, source);
        }
        let node = site.from("node", endpoint.cluster_ip(), CLUSTER_PORT);
        push("node → ClusterIP".to_owned(), node, site.primary);
    }
    for (endpoint, pod) in endpoints(site).into_iter().zip(site.servers()) {
        let ask = site.of_pod(pod, endpoint.cluster_ip(), CLUSTER_PORT);
        let name = format!("{} → ClusterIP → itself", endpoint.name);
        paths.push(Path { name, protocols: PORT, ask, server: endpoint.server, source: site.primary });
    }
}
