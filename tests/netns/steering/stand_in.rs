//! A stand-in for kube-proxy: the rules that it lays for a few services, in its nft form and in its iptables form.
//!
//! Owns both texts, after kube-proxy's own: DNAT before the routing decision, the bit 0x4000 on what is to be
//! masqueraded, the masquerading after it, and in the iptables form KUBE-FORWARD. Each service has TCP and UDP.

use eni_tests::node::Node;
use std::fmt::Write;
use std::net::Ipv4Addr;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Nft,
    Iptables,
}

/// A service of one endpoint.
#[derive(Debug, Clone)]
pub(super) struct Service {
    /// The ClusterIP; none: a NodePort.
    pub(super) cluster_ip: Option<Ipv4Addr>,
    pub(super) port: u16,
    pub(super) endpoint: (Ipv4Addr, u16),
    /// Masquerade whatever comes in, as NodePorts of traffic policy Cluster are. A pod that reaches itself always is.
    pub(super) masquerade: bool,
}

const WRITES: &str = "writing to a string does not fail";

/// Lays the services in the node's namespace; in the nft form instead of those that an earlier call has laid.
pub(super) fn lay(node: &Node, form: Form, services: &[Service]) {
    let (program, text) = match form {
        Form::Nft => ("nft -f -", nft(services)),
        Form::Iptables => ("iptables-nft-restore --noflush", iptables(services)),
    };
    node.sh("node", &format!("{program} <<'END'\n{text}END\n")).unwrap();
}

/// Takes the nft form away.
pub(super) fn remove_nft(node: &Node) {
    node.sh("node", "nft delete table ip kube-proxy").unwrap();
}

fn nft(services: &[Service]) -> String {
    let mut text = "add table ip kube-proxy\n\
         delete table ip kube-proxy\n\
         table ip kube-proxy {\n\
         chain mark-for-masquerade { meta mark set meta mark or 0x4000; }\n\
         chain masquerading {\n\
         meta mark and 0x4000 == 0 return\n\
         meta mark set meta mark xor 0x4000\n\
         masquerade fully-random\n\
         }\n"
    .to_owned();
    let (mut ips, mut ports) = (Vec::new(), Vec::new());
    for (number, service) in services.iter().enumerate() {
        let Service { cluster_ip, port, endpoint: (to, target), masquerade } = service;
        for protocol in ["tcp", "udp"] {
            let name = format!("service-{number}-{protocol}");
            let always = if *masquerade { "jump mark-for-masquerade\n" } else { "" };
            write!(
                text,
                "chain {name} {{\n{always}\
                 ip saddr {to} jump mark-for-masquerade\n\
                 meta l4proto {protocol} dnat to {to}:{target}\n}}\n"
            )
            .expect(WRITES);
            match cluster_ip {
                Some(ip) => ips.push(format!("{ip} . {protocol} . {port} : goto {name}")),
                None => ports.push(format!("{protocol} . {port} : goto {name}")),
            }
        }
    }
    write!(
        text,
        "map service-ips {{ type ipv4_addr . inet_proto . inet_service : verdict; elements = {{ {} }}; }}\n\
         map service-nodeports {{ type inet_proto . inet_service : verdict; elements = {{ {} }}; }}\n\
         chain services {{\n\
         ip daddr . meta l4proto . th dport vmap @service-ips\n\
         fib daddr type local ip daddr != 127.0.0.0/8 meta l4proto . th dport vmap @service-nodeports\n\
         }}\n\
         chain nat-prerouting {{ type nat hook prerouting priority dstnat; jump services; }}\n\
         chain nat-output {{ type nat hook output priority -100; jump services; }}\n\
         chain nat-postrouting {{ type nat hook postrouting priority srcnat; jump masquerading; }}\n\
         }}\n",
        ips.join(", "),
        ports.join(", ")
    )
    .expect(WRITES);
    text
}

fn iptables(services: &[Service]) -> String {
    let mut chains = String::new();
    let mut rules = String::new();
    for (number, service) in services.iter().enumerate() {
        let Service { cluster_ip, port, endpoint: (to, target), masquerade } = service;
        for protocol in ["tcp", "udp"] {
            let name = format!("KUBE-SVC-{number}-{}", protocol.to_uppercase());
            writeln!(chains, ":{name} - [0:0]").expect(WRITES);
            match cluster_ip {
                Some(ip) => write!(rules, "-A KUBE-SERVICES -d {ip}/32 "),
                None => write!(rules, "-A KUBE-NODEPORTS "),
            }
            .expect(WRITES);
            writeln!(rules, "-p {protocol} -m {protocol} --dport {port} -j {name}").expect(WRITES);
            if *masquerade {
                writeln!(rules, "-A {name} -j KUBE-MARK-MASQ").expect(WRITES);
            }
            write!(
                rules,
                "-A {name} -s {to}/32 -j KUBE-MARK-MASQ\n\
                 -A {name} -p {protocol} -m {protocol} -j DNAT --to-destination {to}:{target}\n"
            )
            .expect(WRITES);
        }
    }
    format!(
        "*nat\n\
         :KUBE-SERVICES - [0:0]\n:KUBE-NODEPORTS - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n:KUBE-POSTROUTING - [0:0]\n\
         {chains}\
         -A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING\n\
         -A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000\n\
         -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
         -A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0\n\
         -A KUBE-POSTROUTING -j MASQUERADE --random-fully\n\
         {rules}\
         -A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\n\
         COMMIT\n\
         *filter\n\
         :KUBE-FORWARD - [0:0]\n\
         -I FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD\n\
         -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP\n\
         -A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT\n\
         -A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
         COMMIT\n"
    )
}
