//! What stands before the first ENI: the namespaces, the hosts around the node, and the router's table.
//!
//! Owns their links, addresses and routes, and the skeleton of the checks. Does not know ENIs: `links` hooks each in.

use super::run::{RunError, nft, script};
use crate::control::Topology;
use std::fmt::Write;
use std::net::Ipv4Addr;

/// Behind the internet gateway.
pub(super) const INTERNET: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
const INTERNET_GATEWAY: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// Whose address reaches the ENIs as it is: a client of a load balancer that keeps it.
pub(super) const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);
const CLIENT_GATEWAY: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// Outside the VPC packets are no larger; the router says so to who asks for no fragments.
const OUTSIDE_MTU: u32 = 1500;

/// A host on a link of its own at the router.
struct Host<'a> {
    netns: &'a str,
    /// The router's end.
    link: &'static str,
    address: Ipv4Addr,
    gateway: Ipv4Addr,
    mtu: u32,
    /// What it reaches by the router.
    reaches: String,
}

/// Makes the namespaces and the hosts.
pub(super) fn lay(topology: &Topology, mtu: u32) -> Result<(), RunError> {
    let Topology { node_netns, router_netns, peer_netns, internet_netns, client_netns, .. } = topology;
    for netns in [node_netns, router_netns, peer_netns, internet_netns, client_netns] {
        let mut settings = "net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1 \
                            net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0"
            .to_owned();
        if netns == node_netns || netns == router_netns {
            settings += " net.ipv4.ip_forward=1 net.ipv4.conf.all.send_redirects=0 \
                         net.ipv4.conf.default.send_redirects=0";
        }
        script(&format!(
            "ip netns add {netns}\n\
             ip -n {netns} link set lo up\n\
             nsenter --net=/run/netns/{netns} sysctl -qw {settings}\n"
        ))?;
    }
    let vpc = topology.vpc_cidr.to_string();
    let peer = topology.peer_address;
    let hosts = [
        Host {
            netns: peer_netns,
            link: "vpeer",
            address: peer,
            gateway: Ipv4Addr::from_bits((peer.to_bits() & !0xff) + 1),
            mtu,
            reaches: "default".to_owned(),
        },
        Host {
            netns: internet_netns,
            link: "vinternet",
            address: INTERNET,
            gateway: INTERNET_GATEWAY,
            mtu: OUTSIDE_MTU,
            reaches: vpc.clone(),
        },
        Host {
            netns: client_netns,
            link: "vclient",
            address: CLIENT,
            gateway: CLIENT_GATEWAY,
            mtu: OUTSIDE_MTU,
            reaches: vpc,
        },
    ];
    let mut lines = String::new();
    for Host { netns, link, address, gateway, mtu, reaches } in hosts {
        write!(
            lines,
            "ip -n {router_netns} link add {link} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {netns}\n\
             ip -n {router_netns} addr add {gateway}/24 dev {link}\n\
             ip -n {router_netns} link set {link} up\n\
             ip -n {netns} addr add {address}/24 dev eth0\n\
             ip -n {netns} link set eth0 up\n\
             ip -n {netns} route add {reaches} via {gateway}\n"
        )
        .expect("writing to a string does not fail");
    }
    script(&lines)
}

/// The source check, before everything else, and the internet gateway's: only `public` addresses have one that the
/// internet knows. An ENI's chain is in `enis` from before its first packet on.
pub(super) fn checks(topology: &Topology, public: Ipv4Addr) -> Result<(), RunError> {
    let vpc = topology.vpc_cidr;
    nft(
        &topology.router_netns,
        &format!(
            "table ip vpc {{\n\
             counter internet {{ }}\n\
             set public {{ type ipv4_addr; elements = {{ {public} }} }}\n\
             map enis {{ type ifname : verdict; }}\n\
             chain source {{\n\
             type filter hook prerouting priority -400;\n\
             iifname vmap @enis\n\
             }}\n\
             chain gateway {{\n\
             type filter hook forward priority 0;\n\
             oifname \"vinternet\" ip saddr {vpc} ip saddr != @public counter name internet drop\n\
             }}\n\
             }}\n"
        ),
    )
}
