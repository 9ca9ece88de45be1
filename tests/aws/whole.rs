//! The whole ipamd on a foreign EC2: its binary with the SDK, found by the standard environment variables, in a node's
//! network namespace; moto and the metadata service in the same one.
//!
//! Owns that links appear where moto attaches ENIs. The router behind them is the embedded VPC's and knows nothing of
//! moto: packets are proved between node and containers alone.

use crate::imds::{Imds, Interface};
use crate::moto::{Instance, Moto, first};
use eni_tests::cni::{add, del};
use eni_tests::node::{Node, Options};
use eni_tests::programs::aws_python;
use eni_tests::sandbox::Sandbox;
use eni_tests::traffic::{inside, ping};
use eni_tests::wait;
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};
use std::process::Command;

/// The SDK's own words are many.
const QUIET: &str = "ipamd=debug,info";

/// An ENI as moto describes it.
#[derive(Debug, Clone, PartialEq)]
struct Eni {
    id: String,
    mac: String,
    primary: Ipv4Addr,
    all: BTreeSet<Ipv4Addr>,
    device: u32,
}

/// A node whose EC2 is moto.
struct Site {
    node: Node,
    moto: Moto,
    instance: Instance,
    imds: Imds,
}

impl Site {
    fn new() -> Site {
        let mut node = Node::without_ipamd(&Options { secondary: 0, log: QUIET, ..Options::default() });
        let netns = node.netns("node");
        node.sh("node", "ip link set lo up").unwrap();
        let mut python = Command::new("nsenter");
        python
            .arg(format!("--net=/run/netns/{netns}"))
            .args(["setpriv", "--pdeathsig", "KILL"])
            .arg(aws_python());
        let moto = Moto::with(python, Some(&netns));
        let instance = moto.run_instance();
        let primary = enis(&moto, &instance).remove(0);
        // The node's primary link becomes moto's primary ENI.
        let shown =
            node.sh("node", &format!("ip -o -4 addr show to {}", node.address("node_address"))).unwrap();
        let link = shown.split_whitespace().nth(1).unwrap();
        let line = format!(
            "ip link set dev {link} address {}; ip addr add {}/20 dev {link}",
            primary.mac, primary.primary
        );
        node.sh("node", &line).unwrap();
        let own = primary.primary.to_string();
        let interface = Interface {
            mac: &primary.mac,
            id: &primary.id,
            device: 0,
            addresses: &[&own],
            prefixes: &[],
            subnet: "172.31.0.0/20",
            vpc: &["172.31.0.0/16"],
        };
        let listener = inside(&netns, || TcpListener::bind("127.0.0.1:0").unwrap());
        let imds = Imds::on(listener, instance.id.as_str(), "m5.large", &interface);
        node.configure("[cloud]\n", "[cloud]\nkind = \"ec2\"\n");
        let ec2 = format!("AWS_ENDPOINT_URL_EC2={}", moto.url());
        let metadata = format!("AWS_EC2_METADATA_SERVICE_ENDPOINT={}", imds.url());
        node.start_ipamd_by(&["env", &ec2, &metadata]);
        Site { node, moto, instance, imds }
    }

    /// Lays the links of the ENIs that moto has attached since: what the hypervisor does.
    fn plug(&self) {
        for eni in enis(&self.moto, &self.instance).iter().filter(|eni| eni.device > 0) {
            let (name, far) = (format!("ens{}", 5 + eni.device), format!("far{}", eni.device));
            let line = format!(
                "ip link show {name} >/dev/null 2>&1 || ip link add {name} address {} type veth peer name {far}; \
                 ip link set {far} up",
                eni.mac
            );
            self.node.sh("node", &line).unwrap();
        }
    }
}

fn enis(moto: &Moto, instance: &Instance) -> Vec<Eni> {
    let look = "Action=DescribeNetworkInterfaces&Version=2016-11-15";
    let filter = format!("{look}&Filter.1.Name=attachment.instance-id&Filter.1.Value.1={}", instance.id);
    let listed = moto.ask(&filter);
    let ids = listed.split("<networkInterfaceId>").skip(1).map(|rest| rest.split('<').next().unwrap());
    let each = ids.map(|id| {
        let one = moto.ask(&format!("{look}&NetworkInterfaceId.1={id}"));
        let addresses = one.split("<privateIpAddress>").skip(1).map(|rest| rest.split('<').next().unwrap());
        Eni {
            id: id.to_owned(),
            mac: first(&one, "macAddress"),
            primary: first(&one, "privateIpAddress").parse().unwrap(),
            all: addresses.map(|address| address.parse().unwrap()).collect(),
            device: first(&one, "deviceIndex").parse().unwrap(),
        }
    });
    let mut enis: Vec<Eni> = each.collect();
    enis.sort_by_key(|eni| eni.device);
    enis
}

#[test]
fn the_whole_ipamd_on_a_foreign_ec2() {
    let site = Site::new();
    let node = &site.node;
    node.wait_ready();
    let sandboxes: Vec<Sandbox> = (0..12).map(|_| Sandbox::new()).collect();
    let mut given = BTreeSet::new();
    for (number, sandbox) in sandboxes.iter().enumerate() {
        // A primary ENI of an m5.large carries nine; the next ENI is attached before they are all held.
        if number == 8 {
            wait::until("a second ENI is attached", || enis(&site.moto, &site.instance).len() > 1);
            site.plug();
        }
        let address = add(node, &format!("c{number}"), sandbox);
        assert!(given.insert(address), "{address} is given twice");
        wait::until("the node reaches it", || ping(&node.netns("node"), address, None));
    }
    let told = enis(&site.moto, &site.instance);
    let secondary: BTreeSet<Ipv4Addr> = told
        .iter()
        .flat_map(|eni| eni.all.iter().copied().filter(|address| *address != eni.primary))
        .collect();
    assert!(given.is_subset(&secondary), "{given:?} are all containers': {told:?}");
    assert!(given.iter().filter(|address| told[1].all.contains(*address)).count() >= 3, "of both ENIs");
    assert!(site.imds.asked().iter().any(|key| key.ends_with("local-ipv4s")), "the metadata are asked, too");
    for (number, sandbox) in sandboxes.iter().enumerate() {
        del(node, &format!("c{number}"), &sandbox.path());
    }
    wait::until("nobody holds an address", || node.ask("attachments") == serde_json::json!([]));
}

#[test]
fn it_starts_and_says_so_while_metadata_and_ec2_are_away() {
    let mut node = Node::without_ipamd(&Options { secondary: 0, log: QUIET, ..Options::default() });
    node.configure("[cloud]\n", "[cloud]\nkind = \"ec2\"\nimds_endpoint = \"http://127.0.0.1:9\"\n");
    node.start_ipamd();
    wait::until("status tells of it", || {
        node.ipamctl(&["status"]).is_err_and(|(_, said)| !said.contains("not reached"))
            && node.log().contains("GET /latest/meta-data/")
    });
    // A DEL of what it never knew is served.
    del(&node, "c0", "");
    assert_eq!(node.terminate_ipamd(), Some(0));
}
