//! The nft texts of the forwarding worlds.
//!
//! Owns the rule that switches conntrack on, and a stand-in for kube-proxy. The steering table is ipamd's own text.

use ipamd_core::host_net::nft;
use std::fmt::Write;
use std::net::Ipv4Addr;

/// What the steering table depends on.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    /// The ENIs' own addresses; the first is the primary's.
    pub(crate) enis: Vec<Ipv4Addr>,
    /// The VPC's CIDR.
    pub(crate) vpc: &'static str,
}

/// A NAT rule that needs conntrack: an empty nat chain leaves it off.
pub(crate) fn conntrack(node: &Node) -> String {
    let (primary, vpc) = (node.enis[0], node.vpc);
    format!(
        "table ip nat-on {{\n chain out {{\n  type nat hook postrouting priority srcnat + 10;\n  \
         oifname \"eth0\" ip daddr != {vpc} ip saddr != {primary} fib saddr type != local snat to {primary} \
         fully-random\n }}\n}}\n"
    )
}

/// Our table, as ipamd renders it.
pub(crate) fn steering(node: &Node) -> String {
    let enis = (1..).zip(node.enis.iter().copied()).collect();
    let cidr = node.vpc.parse().expect("a CIDR");
    nft::render(&nft::Table { enis, vpc_cidrs: [cidr].into(), snat: true, block_metadata: false })
}

/// A stand-in for kube-proxy's nft mode: verdict maps over all services, a chain for each, and its filter chains, which
/// every forwarded packet passes.
pub(crate) fn services(count: usize) -> String {
    let address = |n: usize| Ipv4Addr::from_bits(Ipv4Addr::new(172, 20, 0, 0).to_bits() + n as u32);
    let (mut addresses, mut verdicts, mut chains) = (String::new(), String::new(), String::new());
    for n in 1..=count {
        let to = address(n);
        write!(addresses, "{to},").expect("a string");
        write!(verdicts, "{to} . tcp . 80 : goto service-{n},").expect("a string");
        write!(
            chains,
            " chain endpoint-{n} {{\n  ip saddr 10.0.99.9 jump mark-for-masquerade\n  meta l4proto tcp dnat to \
             10.0.99.9:8080\n }}\n chain service-{n} {{\n  ip daddr {to} tcp dport 80 ip saddr != 10.0.0.0/8 jump \
             mark-for-masquerade\n  numgen random mod 1 vmap {{ 0 : goto endpoint-{n} }}\n }}\n"
        )
        .expect("a string");
    }
    format!(
        "table ip kube-proxy {{\n set cluster-ips {{ type ipv4_addr; elements = {{ {addresses} }}; }}\n set \
         nodeport-ips {{ type ipv4_addr; elements = {{ 10.0.1.10 }}; }}\n map no-endpoint-services {{ type ipv4_addr . \
         inet_proto . inet_service : verdict; }}\n map firewall-ips {{ type ipv4_addr . inet_proto . inet_service : \
         verdict; }}\n map service-nodeports {{ type inet_proto . inet_service : verdict; }}\n chain \
         mark-for-masquerade {{\n  mark set mark or 0x4000\n }}\n{chains} map service-ips {{ type ipv4_addr . \
         inet_proto . inet_service : verdict; elements = {{ {verdicts} }}; }}\n chain services {{\n  ip daddr . meta \
         l4proto . th dport vmap @service-ips\n  ip daddr @nodeport-ips fib daddr type local meta l4proto . th dport \
         vmap @service-nodeports\n }}\n chain masquerading {{\n  mark and 0x4000 == 0 return\n  mark set mark xor \
         0x4000\n  masquerade fully-random\n }}\n chain endpoints-check {{\n  ip daddr . meta l4proto . th dport vmap \
         @no-endpoint-services\n }}\n chain cluster-ips-check {{\n  ip daddr @cluster-ips reject\n }}\n chain \
         firewall-check {{\n  ip daddr . meta l4proto . th dport vmap @firewall-ips\n }}\n chain \
         filter-prerouting-pre-dnat {{\n  type filter hook prerouting priority dstnat - 10;\n  ct state new jump \
         firewall-check\n }}\n chain filter-forward {{\n  type filter hook forward priority -110;\n  ct state \
         new jump endpoints-check\n  ct state new jump cluster-ips-check\n }}\n chain filter-input {{\n  type filter \
         hook input priority -110;\n  ct state new jump endpoints-check\n }}\n chain filter-output-post-dnat \
         {{\n  type filter hook output priority -90;\n  ct state new jump firewall-check\n }}\n chain nat-prerouting \
         {{\n  type nat hook prerouting priority dstnat;\n  jump services\n }}\n chain nat-output {{\n  type nat hook \
         output priority -100;\n  jump services\n }}\n chain nat-postrouting {{\n  type nat hook postrouting priority \
         srcnat;\n  jump masquerading\n }}\n}}\ntable ip filter {{\n chain FORWARD {{\n  type filter hook forward \
         priority filter; policy accept;\n  ct state invalid drop\n }}\n}}\n"
    )
}
