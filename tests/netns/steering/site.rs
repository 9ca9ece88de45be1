//! A node with pods on three ENIs, and a server wherever a path ends.
//!
//! Owns the node, its sandboxes and what stands around it beside the embedded VPC's own hosts: the metadata service's
//! address at a host outside the VPC, and a network that the configuration excludes from SNAT.

use super::probe::{ALL, Ask, Path, Protocol, Server};
use eni_tests::cni::{add, del};
use eni_tests::node::{Node, Options};
use eni_tests::sandbox::Sandbox;
use eni_tests::wait;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// The metadata service; the internet host stands for it.
pub(super) const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// A host of an excluded network, behind the VPC's own host.
pub(super) const EXCLUDED: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 10);

pub(super) struct Pod {
    pub(super) name: String,
    pub(super) sandbox: Sandbox,
    pub(super) address: Ipv4Addr,
    /// Its ENI's number: device index + 1.
    pub(super) eni: u32,
    pub(super) server: Server,
}

pub(super) struct Site {
    pub(super) node: Node,
    pub(super) pods: Vec<Pod>,
    /// The numbers of the three ENIs that the paths go over; the first is the primary's.
    pub(super) enis: [u32; 3],
    pub(super) primary: Ipv4Addr,
    /// The secondary ENIs' own addresses, and a server of the node bound to each.
    pub(super) own: BTreeMap<u32, (Ipv4Addr, Server)>,
    pub(super) at_node: Server,
    pub(super) at_peer: Server,
    pub(super) at_internet: Server,
    pub(super) at_metadata: Server,
    pub(super) at_excluded: Server,
    next: u32,
}

impl Site {
    /// ENIs of three secondary addresses each; one of the third's is held by nobody.
    pub(super) fn new(instance_type: &'static str, config: &str) -> Site {
        let node = Node::without_ipamd(&options(instance_type, config));
        Site::on(node)
    }

    /// The same on a node that ipamd has not been started on.
    pub(super) fn on(mut node: Node) -> Site {
        let peer = node.address("peer_address");
        node.sh("internet", &format!("ip addr add {METADATA}/32 dev eth0")).unwrap();
        node.sh("peer", &format!("ip addr add {EXCLUDED}/32 dev eth0")).unwrap();
        let internet = node.address("internet_address");
        let routes = format!("ip route add {METADATA} via {internet}; ip route add {EXCLUDED} via {peer}");
        node.sh("router", &routes).unwrap();
        node.start_ipamd();
        node.wait_ready();
        let [at_node, at_peer, at_internet] =
            ["node", "peer", "internet"].map(|role| Server::start(&node.netns(role)));
        let at_metadata = Server::at(&node.netns("internet"), METADATA);
        let at_excluded = Server::at(&node.netns("peer"), EXCLUDED);
        let mut site = Site {
            primary: node.address("node_address"),
            pods: Vec::new(),
            enis: [1, 2, 3],
            own: BTreeMap::new(),
            at_node,
            at_peer,
            at_internet,
            at_metadata,
            at_excluded,
            next: 0,
            node,
        };
        for _ in 0..8 {
            site.add();
        }
        site.go_over([1, 2, 3]);
        site
    }

    /// One more pod, wherever it comes to be.
    pub(super) fn add(&mut self) {
        let name = format!("p{}", self.next);
        self.next += 1;
        let sandbox = Sandbox::new();
        let address = add(&self.node, &name, &sandbox);
        let server = Server::start(sandbox.name());
        let held = attachment(&self.node, &name);
        let eni = rows(&self.node, "enis").into_iter().find(|e| e["id"] == held["eni"]).expect("its ENI");
        self.pods.push(Pod { name, sandbox, address, eni: number(&eni), server });
    }

    /// Every pod of an ENI goes.
    pub(super) fn clear(&mut self, eni: u32) {
        let (gone, kept) = std::mem::take(&mut self.pods).into_iter().partition(|pod| pod.eni == eni);
        self.pods = kept;
        let gone: Vec<Pod> = gone;
        for pod in gone {
            del(&self.node, &pod.name, &pod.sandbox.path());
        }
    }

    /// From now on the paths go over these ENIs, each of which has two pods.
    pub(super) fn go_over(&mut self, enis: [u32; 3]) {
        self.enis = enis;
        self.pods.iter().for_each(|pod| self.wait_up(&pod.name, &pod.sandbox));
        self.own.clear();
        for eni in rows(&self.node, "enis").iter().filter(|e| enis[1..].contains(&number(e))) {
            let own = eni["primary"].as_str().and_then(|a| a.parse().ok()).expect("its own address");
            self.own.insert(number(eni), (own, Server::at(&self.node.netns("node"), own)));
        }
        for eni in enis {
            assert!(self.on_eni(eni).count() >= 2, "two pods on ENI {eni}");
        }
    }

    /// Waits until both ends of a container's link carry packets. The kernel does that by itself a moment after the
    /// second end was set up, and drops what is sent before: TCP would try again, a ping would not.
    pub(super) fn wait_up(&self, container: &str, sandbox: &Sandbox) {
        let host = host_link(&self.node, container);
        let up = |shown: String| shown.contains(" UP ");
        wait::until(&format!("the link of {container} is up"), || {
            up(sandbox.sh("ip -br link show dev eth0").unwrap())
                && up(self.node.sh("node", &format!("ip -br link show dev {host}")).unwrap())
        });
    }

    pub(super) fn on_eni(&self, eni: u32) -> impl Iterator<Item = &Pod> {
        self.pods.iter().filter(move |pod| pod.eni == eni)
    }

    /// One pod on each ENI: the clients.
    pub(super) fn clients(&self) -> [&Pod; 3] {
        self.enis.map(|eni| self.on_eni(eni).next().expect("a pod"))
    }

    /// Another pod on each ENI: the servers.
    pub(super) fn servers(&self) -> [&Pod; 3] {
        self.enis.map(|eni| self.on_eni(eni).nth(1).expect("a second pod"))
    }

    /// The name of a pod's link on the host.
    pub(super) fn host_link(&self, pod: &Pod) -> String {
        host_link(&self.node, &pod.name)
    }

    /// An address that an ENI has and no pod holds.
    pub(super) fn unheld(&self) -> Ipv4Addr {
        let rows = self.node.ask("pool")["addresses"].as_array().cloned().unwrap_or_default();
        let free = rows.iter().find(|a| a["state"] == "free").expect("a free address");
        free["address"].as_str().and_then(|a| a.parse().ok()).expect("an address")
    }

    pub(super) fn peer(&self) -> Ipv4Addr {
        self.node.address("peer_address")
    }

    pub(super) fn internet(&self) -> Ipv4Addr {
        self.node.address("internet_address")
    }

    pub(super) fn client(&self) -> Ipv4Addr {
        self.node.address("client_address")
    }

    /// What every source check has dropped, of ENIs that are gone too; it must be nothing.
    pub(super) fn assert_no_drops(&self, when: &str) {
        let counts = self.node.all_drops();
        assert!(counts.len() > 3, "one per ENI and the gateway's: {counts:?}");
        let wrong: Vec<_> = counts.into_iter().filter(|(_, count)| *count > 0).collect();
        assert!(wrong.is_empty(), "{when}: packets left with a wrong source: {wrong:?}");
    }

    pub(super) fn of_pod(&self, pod: &Pod, to: Ipv4Addr, port: u16) -> Ask {
        Ask { netns: pod.sandbox.name().to_owned(), bound: None, to, port }
    }

    pub(super) fn from(&self, role: &str, to: Ipv4Addr, port: u16) -> Ask {
        Ask { netns: self.node.netns(role), bound: None, to, port }
    }
}

/// A path to a server's own port.
pub(super) fn path<'a>(name: String, mut ask: Ask, server: &'a Server, source: Ipv4Addr) -> Path<'a> {
    ask.port = server.port;
    Path { name, protocols: ALL, ask, server, source }
}

/// The same by some protocols alone.
pub(super) fn only<'a>(protocols: &'static [Protocol], path: Path<'a>) -> Path<'a> {
    Path { protocols, ..path }
}

/// A node whose ENIs have three addresses for pods each.
pub(super) fn options(instance_type: &'static str, config: &str) -> Options {
    Options {
        instance_type,
        secondary: 3,
        config: format!("[data_plane]\nextra_vpc_cidrs = [\"192.168.50.0/24\"]\n{config}"),
        ..Options::default()
    }
}

fn rows(node: &Node, what: &str) -> Vec<Value> {
    node.ask(what).as_array().cloned().unwrap_or_default()
}

fn attachment(node: &Node, container: &str) -> Value {
    let found = rows(node, "attachments").into_iter().find(|a| a["container"] == container);
    found.unwrap_or_else(|| panic!("no attachment of {container}"))
}

fn host_link(node: &Node, container: &str) -> String {
    attachment(node, container)["host_link"].as_str().expect("a link").to_owned()
}

fn number(eni: &Value) -> u32 {
    let index = eni["device_index"].as_u64().expect("a device index");
    u32::try_from(index).expect("a small number") + 1
}
