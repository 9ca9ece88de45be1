//! The network behind the model: namespaces, links, routes and the source check, by iproute2 and nft.
//!
//! Owns five namespaces of a common prefix: the node, the VPC's router, a peer host elsewhere in the VPC, an
//! "internet" host behind the internet gateway, and a client whose address reaches the ENIs as it is. The router knows
//! which ENI owns an address, answers ARP for the subnet's gateway on every ENI, drops and counts what an ENI sends
//! that does not own its source, and what leaves by the internet gateway with an address that no public one maps to.
//! The machine's own namespace stays as it is. Does not decide which ENI has what: the model does.

mod hosts;
mod links;
mod run;

use crate::control::Topology;
use crate::model::Ec2;
use ipamd_core::cloud::EniObservation;
pub use links::Links;
use links::{Link, Site};
use nix::sched::{CloneFlags, setns};
pub use run::RunError;
use run::{ip_batch, nft, read_nft, script};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::thread;

/// The metadata service's address (EC2 user guide, "Access instance metadata for an EC2 instance").
const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

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
    mtu: u32,
    topology: Topology,
}

const ROLES: [&str; 5] = ["node", "router", "peer", "internet", "client"];

impl Network {
    /// Lays the network, with the primary ENI as an image's DHCP leaves it; what was laid is taken away again when a
    /// step fails.
    pub fn lay(options: &Options, ec2: &Ec2) -> Result<(Network, Links), RunError> {
        let setup = ec2.setup();
        let primary = &ec2.enis()[0];
        let node_address = primary.primary.unwrap_or(Ipv4Addr::UNSPECIFIED);
        let peer_subnet = setup.vpc_cidr.broadcast().to_bits() & !0xff;
        let name = |role: &str| format!("{}-{role}", options.prefix);
        let topology = Topology {
            control: options.control.clone(),
            node_netns: name("node"),
            router_netns: name("router"),
            peer_netns: name("peer"),
            internet_netns: name("internet"),
            client_netns: name("client"),
            vpc_cidr: setup.vpc_cidr,
            gateway: Ipv4Addr::from_bits(setup.subnet.network().to_bits() + 1),
            node_address,
            peer_address: Ipv4Addr::from_bits(peer_subnet + 10),
            internet_address: hosts::INTERNET,
            client_address: hosts::CLIENT,
            node_link: "ens5".to_owned(),
            ec2_endpoint: None,
            imds_endpoint: None,
            node_endpoint: None,
        };
        let network = Network { prefix: options.prefix.clone(), mtu: options.mtu, topology };
        let mut links = Links::default();
        let laid = hosts::lay(&network.topology, options.mtu)
            .and_then(|()| hosts::checks(&network.topology, node_address))
            .and_then(|()| network.show(&mut links, ec2.enis()))
            .and_then(|()| network.start_primary(primary.subnet_cidr.prefix_len()));
        match laid {
            Ok(()) => Ok((network, links)),
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

    /// Listens on the metadata service's own address, on the router: there the node reaches it, and what the node
    /// routes, as any address outside.
    pub fn listen(&self) -> io::Result<TcpListener> {
        let router = self.topology.router_netns.clone();
        ip_batch(&router, &format!("addr add {METADATA}/32 dev lo\n")).map_err(io::Error::other)?;
        // The thread ends in the router's namespace, and with it nothing is left there but the socket.
        let bind = move || {
            let netns = File::open(format!("/run/netns/{router}"))?;
            setns(netns, CloneFlags::CLONE_NEWNET)?;
            TcpListener::bind((METADATA, 80))
        };
        thread::spawn(bind).join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
    }

    /// Tells where HTTP is served.
    pub fn tell_endpoints(&mut self, served: SocketAddr) {
        let endpoint = format!("http://{served}");
        self.topology.ec2_endpoint = Some(endpoint.clone());
        self.topology.imds_endpoint = Some(endpoint);
        self.topology.node_endpoint = Some(format!("http://{METADATA}"));
    }

    /// Takes everything away; what is gone already is fine.
    pub fn remove(&self) {
        remove(&self.prefix);
    }

    /// Makes the links those of the ENIs given, and the router's knowledge of addresses theirs: a new one appears in
    /// the node's namespace, down and without an address; one that is not among them vanishes.
    pub fn show(&self, links: &mut Links, enis: &[EniObservation]) -> Result<(), RunError> {
        let wanted = Links(enis.iter().filter_map(|e| Some((e.id.clone(), Link::of(e)?))).collect());
        let Topology { router_netns, node_netns, gateway, .. } = &self.topology;
        let site = Site { node_netns, gateway: *gateway, mtu: self.mtu };
        let steps = links::plan(links, &wanted, &site);
        if !steps.checks.is_empty() {
            nft(router_netns, &steps.checks)?;
        }
        if !steps.routes.is_empty()
            && let Err(error) = ip_batch(router_netns, &steps.routes)
        {
            for made in &steps.made {
                // It may not have come so far.
                let _ = ip_batch(router_netns, &format!("link del {made}\n"));
            }
            // Links that go go first: those are gone.
            links.0.retain(|id, _| wanted.0.contains_key(id));
            return Err(error);
        }
        *links = wanted;
        Ok(())
    }

    /// What DHCP does for the primary ENI when an instance boots.
    fn start_primary(&self, length: u8) -> Result<(), RunError> {
        let Topology { node_netns, gateway, node_link, node_address: primary, .. } = &self.topology;
        ip_batch(
            node_netns,
            &format!(
                "addr add {primary}/{length} dev {node_link}\n\
                 link set {node_link} up\n\
                 route add default via {gateway}\n"
            ),
        )
    }

    /// Dropped packets, by counter; the counter of an ENI's device index stays when the ENI goes.
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
