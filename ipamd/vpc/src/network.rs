//! The network behind the model: namespaces, links, routes and the source check, by iproute2 and nft.
//!
//! Owns four namespaces of a common prefix: the node, the VPC's router, a peer host elsewhere in the VPC, and an
//! "internet" host. The router knows which ENI owns an address (permanent neighbours: nobody answers ARP for secondary
//! addresses), answers ARP for the subnet's gateway, drops and counts what an ENI sends that does not own its source,
//! and what leaves the VPC with an address that no public one maps to. The machine's own namespace stays as it is. Does
//! not decide which ENI has what: the model does.

mod run;

use crate::control::Topology;
use crate::model::Ec2;
use ipamd_core::cloud::EniObservation;
pub use run::RunError;
use run::{nft, read_nft, script};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::Ipv4Addr;

/// What the network is made with.
#[derive(Debug, Clone)]
pub struct Options {
    /// The prefix of its namespaces' names: several can stand side by side.
    pub prefix: String,
    /// The control socket, for the topology.
    pub control: String,
    /// The MTU inside the VPC, in bytes.
    pub mtu: u32,
}

/// The network; taken away by [`Network::remove`].
#[derive(Debug, Clone)]
pub struct Network {
    prefix: String,
    topology: Topology,
}

const ROLES: [&str; 4] = ["node", "router", "peer", "internet"];
const INTERNET: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
const INTERNET_GATEWAY: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const INTERNET_MTU: u32 = 1500;

impl Network {
    /// Lays the network; what was laid is taken away again when a step fails.
    pub fn lay(options: &Options, ec2: &Ec2) -> Result<Network, RunError> {
        let eni = &ec2.enis()[0];
        let setup = ec2.setup();
        let peer_subnet = setup.vpc_cidr.broadcast().to_bits() & !0xff;
        let name = |role: &str| format!("{}-{role}", options.prefix);
        let topology = Topology {
            control: options.control.clone(),
            node_netns: name("node"),
            router_netns: name("router"),
            peer_netns: name("peer"),
            internet_netns: name("internet"),
            vpc_cidr: setup.vpc_cidr,
            gateway: Ipv4Addr::from_bits(setup.subnet.network().to_bits() + 1),
            node_address: eni.primary,
            peer_address: Ipv4Addr::from_bits(peer_subnet + 10),
            internet_address: INTERNET,
            node_link: "ens5".to_owned(),
        };
        let network = Network { prefix: options.prefix.clone(), topology };
        let laid = network
            .hosts(options.mtu)
            .and_then(|()| network.attach(eni, options.mtu))
            .and_then(|()| network.checks(ec2.enis()));
        match laid {
            Ok(()) => Ok(network),
            Err(error) => {
                network.remove();
                Err(error)
            }
        }
    }

    /// Names and addresses.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// Takes everything away; what is gone already is fine.
    pub fn remove(&self) {
        remove(&self.prefix);
    }

    /// The namespaces, the router's links to the peer and to the internet.
    fn hosts(&self, mtu: u32) -> Result<(), RunError> {
        let Topology { router_netns: r, peer_netns: p, internet_netns: i, node_netns: n, .. } =
            &self.topology;
        let Topology { peer_address, vpc_cidr, .. } = &self.topology;
        let peer_gateway = Ipv4Addr::from_bits((peer_address.to_bits() & !0xff) + 1);
        for netns in [n, r, p, i] {
            script(&format!("ip netns add {netns}\nip -n {netns} link set lo up\n"))?;
            script(&format!(
                "nsenter --net=/run/netns/{netns} sysctl -qw net.ipv6.conf.all.disable_ipv6=1 \
                 net.ipv6.conf.default.disable_ipv6=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0\n"
            ))?;
        }
        for netns in [n, r] {
            script(&format!(
                "nsenter --net=/run/netns/{netns} sysctl -qw net.ipv4.ip_forward=1 \
                 net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.default.send_redirects=0\n"
            ))?;
        }
        script(&format!(
            "ip -n {r} link add vpeer mtu {mtu} type veth peer name eth0 mtu {mtu} netns {p}\n\
             ip -n {r} addr add {peer_gateway}/24 dev vpeer\n\
             ip -n {r} link set vpeer up\n\
             ip -n {p} addr add {peer_address}/24 dev eth0\n\
             ip -n {p} link set eth0 up\n\
             ip -n {p} route add default via {peer_gateway}\n\
             ip -n {r} link add vinternet mtu {INTERNET_MTU} type veth peer name eth0 mtu {INTERNET_MTU} netns {i}\n\
             ip -n {r} addr add {INTERNET_GATEWAY}/24 dev vinternet\n\
             ip -n {r} link set vinternet up\n\
             ip -n {i} addr add {INTERNET}/24 dev eth0\n\
             ip -n {i} link set eth0 up\n\
             ip -n {i} route add {vpc_cidr} via {INTERNET_GATEWAY}\n"
        ))
    }

    /// The primary ENI appears on the node, as an image's DHCP leaves it.
    fn attach(&self, eni: &EniObservation, mtu: u32) -> Result<(), RunError> {
        let Topology { router_netns: r, node_netns: n, gateway, node_link, .. } = &self.topology;
        let (mac, primary) = (eni.mac, eni.primary);
        let prefix = eni.subnet_cidr.prefix_len();
        let mut lines = format!(
            "ip -n {r} link add v1 mtu {mtu} type veth peer name {node_link} mtu {mtu} address {mac} netns {n}\n\
             ip -n {r} addr add {gateway}/32 dev v1\n\
             ip -n {r} link set v1 up\n\
             ip -n {n} addr add {primary}/{prefix} dev {node_link}\n\
             ip -n {n} link set {node_link} up\n\
             ip -n {n} route add default via {gateway}\n"
        );
        let mut batch = String::new();
        for address in std::iter::once(&primary).chain(&eni.secondary) {
            writeln!(batch, "route add {address}/32 dev v1").expect("writing to a string does not fail");
            writeln!(batch, "neigh add {address} lladdr {mac} dev v1 nud permanent")
                .expect("writing to a string does not fail");
        }
        write!(lines, "ip -n {r} -batch - <<'BATCH'\n{batch}BATCH\n")
            .expect("writing to a string does not fail");
        script(&lines)
    }

    /// The router's source check, before everything else, and the internet gateway's.
    fn checks(&self, enis: &[EniObservation]) -> Result<(), RunError> {
        let list = |addresses: &mut dyn Iterator<Item = &Ipv4Addr>| {
            addresses.map(ToString::to_string).collect::<Vec<_>>().join(", ")
        };
        let owned = list(&mut enis.iter().flat_map(|e| std::iter::once(&e.primary).chain(&e.secondary)));
        let public = list(&mut enis.iter().map(|e| &e.primary));
        let vpc = self.topology.vpc_cidr;
        nft(
            &self.topology.router_netns,
            &format!(
                "table ip vpc {{\n\
                 counter v1 {{ }}\n\
                 counter internet {{ }}\n\
                 set v1 {{ type ipv4_addr; elements = {{ {owned} }} }}\n\
                 set public {{ type ipv4_addr; elements = {{ {public} }} }}\n\
                 chain source {{\n\
                 type filter hook prerouting priority -400;\n\
                 iifname \"v1\" ip saddr != @v1 counter name v1 drop\n\
                 }}\n\
                 chain gateway {{\n\
                 type filter hook forward priority 0;\n\
                 oifname \"vinternet\" ip saddr {vpc} ip saddr != @public counter name internet drop\n\
                 }}\n\
                 }}\n"
            ),
        )
    }

    /// Dropped packets, by counter.
    pub fn drops(&self) -> Result<BTreeMap<String, u64>, RunError> {
        let listed = read_nft(&self.topology.router_netns, &["list", "counters", "table", "ip", "vpc"])?;
        let counters = listed["nftables"].as_array().into_iter().flatten().filter_map(|item| {
            let counter = item.get("counter")?;
            Some((counter["name"].as_str()?.to_owned(), counter["packets"].as_u64()?))
        });
        Ok(counters.collect())
    }
}

/// Takes away every namespace of a prefix.
pub fn remove(prefix: &str) {
    for role in ROLES {
        // Gone already is what is wanted.
        let _ = script(&format!("ip netns del {prefix}-{role}\n"));
    }
}
