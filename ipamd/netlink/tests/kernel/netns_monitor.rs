//! What the monitor is told by the running kernel: nothing of our own calls, and of others' what the fake tells.

use crate::bench::{Node, Space, spec};
use eni_proto::ids::{MacAddr, NetnsCookie};
use ipamd_core::kernel::{
    ENI_GROUP, ENI_INET, HostKernel, HostStep, NFT_TABLE, PODS_RULE_PRIORITY, PODS_TABLE, ReapLink, RuleView,
    Thing, Trigger, UnwireSpec,
};
use ipamd_netlink::fake::FakeKernel;
use ipamd_netlink::host::Host;
use ipamd_netlink::monitor::Monitor;
use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

/// What is told, on a thread that lives as long as its namespace's tests.
struct Told<'a> {
    node: &'a Node,
    events: Receiver<BTreeSet<Trigger>>,
    fences: u32,
}

impl Told<'_> {
    fn new<'a>(node: &'a Node, host: &Host) -> Told<'a> {
        let mut monitor = Monitor::open(host).unwrap();
        let (tell, events) = sync_channel(64);
        std::thread::spawn(
            move || while monitor.wait_for_changes().is_ok_and(|told| tell.send(told).is_ok()) {},
        );
        Told { node, events, fences: 0 }
    }

    /// What was told up to now: whatever comes before a change that is told in any case.
    fn all(&mut self) -> BTreeSet<Trigger> {
        self.fences += 1;
        self.node.space.sh(&format!("ip addr add 192.0.2.{}/32 dev lo", self.fences));
        let mut told = BTreeSet::new();
        while !told.contains(&Trigger::Address) {
            told.extend(self.events.recv_timeout(Duration::from_secs(10)).expect("the fence is told"));
        }
        told.remove(&Trigger::Address);
        told
    }
}

const TEXT: &str = "table ip eni-cni {\n chain c {\n  counter\n }\n}\n";

fn replace() -> HostStep {
    HostStep::ReplaceNft { text: format!("add table ip {NFT_TABLE}\ndelete table ip {NFT_TABLE}\n{TEXT}") }
}

/// An ENI, the rule, the nft table: what a start lays.
fn lay(kernel: &mut impl HostKernel) {
    let steps = [
        HostStep::SetLink { ifindex: 9, group: ENI_GROUP + 2, inet: ENI_INET, up: true },
        HostStep::AddRule { priority: PODS_RULE_PRIORITY, table: PODS_TABLE, mark: None },
        replace(),
    ];
    assert_eq!(kernel.apply(&steps), []);
}

#[test]
fn our_own_calls_are_not_told() {
    let (node, sandbox) = (Node::new(), Space::new());
    node.space.sh("ip link add ens6 index 9 type veth peer name p");
    let socket = sandbox.socket(node.cookie);
    node.with_host(|host| {
        let mut told = Told::new(&node, host);
        lay(host);
        assert_eq!(told.all(), BTreeSet::from([Trigger::Link]), "a link that becomes an ENI's, once");
        let spec = spec(1);
        host.wire(&spec, &socket).unwrap();
        assert_eq!(told.all(), BTreeSet::new(), "an ADD");
        let off = UnwireSpec {
            host_name: spec.host_name.clone(),
            ifindex: spec.ifindex,
            addresses: vec![spec.address],
        };
        host.unwire(&off).unwrap();
        assert_eq!(told.all(), BTreeSet::new(), "a DEL");
        let link = ReapLink { ifindex: spec.ifindex, alias: spec.alias, addresses: vec![spec.address] };
        assert_eq!(host.reap(&[link]).gone.len(), 1);
        assert_eq!(told.all(), BTreeSet::new(), "the reaper");
        assert_eq!(host.apply(&[replace()]), []);
        assert_eq!(told.all(), BTreeSet::new(), "our nft table");
        assert!(host.observe().unwrap().nft.is_some());
    });
}

#[test]
fn what_others_do_is_told_as_the_fake_tells_it() {
    let (node, sandbox) = (Node::new(), Space::new());
    node.space.sh("ip link add ens6 index 9 type veth peer name p");
    let socket = sandbox.socket(node.cookie);
    let mut fake = FakeKernel::new();
    fake.add_link(of_ens6());
    fake.add_sandbox(NetnsCookie(7));
    node.with_host(|host| {
        let mut told = Told::new(&node, host);
        lay(host);
        lay(&mut fake);
        host.wire(&spec(1), &socket).unwrap();
        fake.wire(&spec(1), &NetnsCookie(7)).unwrap();
        told.all();
        fake.take_told();
        let (pod, index) = (spec(1).host_name, spec(1).ifindex);
        type Damage = fn(&mut FakeKernel, u32);
        let damages: [(String, Damage); 8] = [
            ("ip rule flush protocol 236".into(), |fake, _| fake.flush(Thing::Rule)),
            (format!("ip route flush table {PODS_TABLE}"), |fake, _| fake.flush(Thing::Route)),
            ("ip neigh flush nud permanent".into(), |fake, _| fake.flush(Thing::Neighbour)),
            ("nft flush ruleset".into(), |fake, _| fake.flush(Thing::Nftables)),
            ("ip rule add priority 100 lookup 100".into(), |fake, _| fake.add_rule(foreign_rule())),
            (format!("ip link set {pod} alias theirs"), |fake, pod| {
                assert!(fake.change_link(pod, |link| link.alias = "theirs".into()));
            }),
            ("ip link set ens6 address 02:07:07:07:07:07".into(), |fake, _| {
                assert!(fake.change_link(9, |link| link.mac = Some(MacAddr([2, 7, 7, 7, 7, 7]))));
            }),
            ("ip link set ens6 down".into(), |fake, _| {
                assert!(fake.change_link(9, |link| link.up = false));
            }),
        ];
        for (line, damage) in damages {
            node.space.sh(&line);
            damage(&mut fake, index);
            assert_eq!(told.all(), fake.take_told(), "{line}");
        }
        let address = spec(1).address;
        let line = format!("ip neigh replace {address} lladdr 02:07:07:07:07:08 dev {pod} nud permanent");
        node.space.sh(&line);
        assert_eq!(told.all(), BTreeSet::from([Trigger::Neighbour]), "{line}");
        node.space.sh("ip neigh replace 10.9.9.9 lladdr 02:07:07:07:07:08 dev ens6 nud permanent");
        assert_eq!(told.all(), BTreeSet::new(), "a neighbour on another link");
        assert_eq!(host.observe().unwrap().nft, None);
        drop(socket);
        drop(sandbox);
        fake.kill_sandbox(NetnsCookie(7));
        let gone = || node.space.ip("link").as_array().unwrap().iter().all(|l| l["ifindex"] != index);
        while !gone() {}
        assert!(told.all().is_superset(&fake.take_told()), "a sandbox that dies");
    });
}

#[test]
fn a_part_of_our_nft_table_that_others_change_is_not_known_any_more() {
    let node = Node::new();
    node.with_host(|host| {
        let mut told = Told::new(&node, host);
        for line in
            ["nft flush table ip eni-cni", "nft add rule ip eni-cni c accept", "nft add table ip theirs"]
        {
            assert_eq!(host.apply(&[replace()]), []);
            assert_eq!(told.all(), BTreeSet::new());
            node.space.sh(line);
            let ours = line.contains("eni-cni");
            assert_eq!(told.all(), ours.then_some(Trigger::Nftables).into_iter().collect(), "{line}");
            assert_eq!(host.observe().unwrap().nft.is_none(), ours, "{line}");
        }
        // What the filter table does with pods' packets may have changed.
        node.space.sh("nft 'add table ip filter; add chain ip filter FORWARD'");
        assert_eq!(told.all(), BTreeSet::from([Trigger::Nftables]));
        node.space.sh("nft add rule ip filter FORWARD counter");
        assert_eq!(told.all(), BTreeSet::new(), "one rule more changes nothing for what no rule takes");
    });
}

fn foreign_rule() -> RuleView {
    RuleView { priority: 100, table: 100, protocol: 3, mark: None, other_selector: false }
}

fn of_ens6() -> ipamd_core::kernel::LinkView {
    ipamd_core::kernel::LinkView {
        ifindex: 9,
        name: "ens6".into(),
        mac: Some(MacAddr([2, 0, 0, 0, 0, 9])),
        group: 0,
        alias: String::new(),
        up: true,
        mtu: 1500,
        kind: "veth".into(),
        inet: ipamd_core::kernel::InetSettings::default(),
    }
}
