//! One forwarding world: a node with three ENIs, two pods with traffic, and routes for as many as are said to be there.
//!
//! Owns the namespaces and what lies in them. Every case has a world of its own that is never changed again: a namespace
//! that ever had an ip rule pays for it in every packet for good, so "no rules" must never have had one.

use super::Steering;
use super::tables::{self, Node};
use crate::bench::netlink::{Batch, End, MAIN, Route, Rule, Socket};
use crate::bench::pods::{inside, make_netns, remove_netns};
use ipamd_core::kernel::{ENI_GROUP, POD_GROUP};
use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 1);
/// A host elsewhere in the VPC.
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 1);
const ENIS: [Ipv4Addr; 3] =
    [Ipv4Addr::new(10, 0, 1, 10), Ipv4Addr::new(10, 0, 1, 20), Ipv4Addr::new(10, 0, 1, 30)];
const DEFAULT: (Ipv4Addr, u8) = (Ipv4Addr::UNSPECIFIED, 0);
const PODS: u32 = 500;
/// The kernel's own table of local addresses.
const LOCAL: u32 = 255;
/// Table T_K is this plus K.
const TABLES: u32 = 100;
const INSIDE: u32 = 3;
const SERVICES: usize = 1000;
const SINK: u16 = 9;
/// Netlink messages of one send.
const CHUNK: usize = 100;

/// The sockets of a world.
pub(crate) struct World {
    folder: PathBuf,
    /// Pod A to pod B, pod A to the outside by its ENI, the outside to pod A by that ENI.
    pub(crate) paths: [UdpSocket; 3],
    _sinks: [UdpSocket; 3],
}

fn mac(kind: u8, number: u8) -> [u8; 6] {
    [2, kind, 0, 0, 0, number]
}

fn pod(number: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 16, 0).to_bits() + number as u32)
}

/// The index of ENI K's link on the node, and of its other end.
fn eni_index(k: u8) -> (u32, u32) {
    (90 + u32::from(k), 10 + u32::from(k))
}

/// The pods with traffic: they lie in the middle of a list of rules.
struct Pair {
    a: usize,
    b: usize,
}

impl Pair {
    const LINKS: [u32; 2] = [200, 201];

    fn of(pods: usize) -> Pair {
        Pair { a: pods / 2, b: pods / 2 + pods / 4 }
    }

    fn link(&self, number: usize) -> u32 {
        Pair::LINKS[usize::from(number == self.b)]
    }
}

impl World {
    /// Makes one below a folder.
    pub(crate) fn new(folder: PathBuf, steering: Steering, pods: usize, services: bool) -> World {
        fs::create_dir_all(&folder).expect("a folder");
        let at = |name: &str| folder.join(name);
        let (node, vpc, a, b) = (at("node"), at("vpc"), at("a"), at("b"));
        [&node, &vpc, &a, &b].into_iter().for_each(|path| make_netns(path));
        let pair = Pair::of(pods);
        inside(&node, || {
            set("ipv4/ip_forward", "1");
            set("ipv4/conf/all/rp_filter", "0");
            set("ipv4/conf/default/rp_filter", "0");
            lay_enis(&vpc);
            lay_pod(&a, Pair::LINKS[0], pair.a, 2);
            lay_pod(&b, Pair::LINKS[1], pair.b, 3);
            lay_routes(&pair, steering, pods);
        });
        inside(&vpc, || lay_vpc(&pair));
        for (netns, number, k) in [(&a, pair.a, 2), (&b, pair.b, 3)] {
            inside(netns, || lay_inside(number, k));
        }
        inside(&node, || steer(steering, pods, services));
        World::with_sockets(folder, &vpc, &a, &b, &pair)
    }

    fn with_sockets(folder: PathBuf, vpc: &Path, a: &Path, b: &Path, pair: &Pair) -> World {
        let bound = |netns: &Path, address: Ipv4Addr, port: u16| {
            inside(netns, || UdpSocket::bind((address, port)).expect("a socket"))
        };
        let sinks = [bound(b, pod(pair.b), SINK), bound(vpc, OUTSIDE, SINK), bound(a, pod(pair.a), SINK)];
        let paths = [bound(a, pod(pair.a), 0), bound(a, pod(pair.a), 0), bound(vpc, OUTSIDE, 0)];
        for (path, to) in paths.iter().zip([pod(pair.b), OUTSIDE, pod(pair.a)]) {
            path.connect((to, SINK)).expect("a UDP socket connects");
        }
        for (path, sink) in paths.iter().zip(&sinks) {
            let proved = super::burst::prove(path, sink);
            proved.unwrap_or_else(|error| panic!("{}: {path:?} to {sink:?}: {error}", folder.display()));
        }
        World { folder, paths, _sinks: sinks }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        ["node", "vpc", "a", "b"].iter().for_each(|name| remove_netns(&self.folder.join(name)));
    }
}

fn set(file: &str, value: &str) {
    fs::write(Path::new("/proc/sys/net").join(file), value).unwrap_or_else(|e| panic!("{file}: {e}"));
}

fn call(batch: &mut Batch) {
    Socket::open().expect("a netlink socket").call(batch).unwrap_or_else(|error| panic!("{error}"));
}

fn lay_enis(vpc: &Path) {
    let vpc = fs::File::open(vpc).expect("the namespace is there");
    for (k, address) in (1u8..).zip(ENIS) {
        let (index, other) = eni_index(k);
        let name = format!("eth{}", k - 1);
        let outer = End { name: &name, index, mac: mac(1, k), group: ENI_GROUP + u32::from(k) };
        let peer = End { name: &format!("v{k}"), index: other, mac: mac(2, k), group: 0 };
        let mut batch = Batch::default();
        batch.pair(&outer, &peer, vpc.as_fd()).up(index).address(index, address, 32);
        let link = Route { to: (ROUTER, 32), via: None, index: Some(index), table: MAIN, metric: 0 };
        let all = Route { to: DEFAULT, via: Some(ROUTER), ..link };
        if k == 1 {
            batch.route(&link).route(&all);
        } else {
            let table = TABLES + u32::from(k);
            batch.route(&Route { table, ..link }).route(&Route { table, ..all });
        }
        call(batch.neighbour(index, ROUTER, mac(2, k)));
    }
}

fn lay_pod(netns: &Path, index: u32, number: usize, k: u8) {
    let netns = fs::File::open(netns).expect("the namespace is there");
    let outer = End { name: &format!("pod{index}"), index, mac: mac(3, k), group: POD_GROUP + u32::from(k) };
    let inner = End { name: "eth0", index: INSIDE, mac: mac(4, k), group: 0 };
    let mut batch = Batch::default();
    call(batch.pair(&outer, &inner, netns.as_fd()).up(index).neighbour(index, pod(number), mac(4, k)));
}

fn lay_inside(number: usize, k: u8) {
    let plain = Route { to: (GATEWAY, 32), via: None, index: Some(INSIDE), table: MAIN, metric: 0 };
    let mut batch = Batch::default();
    batch.up(INSIDE).address(INSIDE, pod(number), 32).route(&plain);
    batch.route(&Route { to: DEFAULT, via: Some(GATEWAY), ..plain });
    call(batch.neighbour(INSIDE, GATEWAY, mac(3, k)));
}

/// The VPC: each address is reached by the link of the ENI that owns it.
fn lay_vpc(pair: &Pair) {
    set("ipv4/conf/all/rp_filter", "0");
    let mut batch = Batch::default();
    for k in 1..=3 {
        let index = eni_index(k).1;
        set(&format!("ipv4/conf/v{k}/rp_filter"), "0");
        batch.up(index);
        if k == 1 {
            batch.address(index, OUTSIDE, 32);
        }
    }
    for (k, address) in [(1, ENIS[0]), (2, pod(pair.a)), (3, pod(pair.b))] {
        let index = eni_index(k).1;
        batch.route(&Route { to: (address, 32), via: None, index: Some(index), table: MAIN, metric: 0 });
        batch.neighbour(index, address, mac(1, k));
    }
    call(&mut batch);
}

fn lay_routes(pair: &Pair, steering: Steering, pods: usize) {
    let table = match (steering.by_mark(), steering.in_local()) {
        (false, _) => MAIN,
        (true, false) => PODS,
        (true, true) => LOCAL,
    };
    let numbers: Vec<usize> = (0..pods).collect();
    for chunk in numbers.chunks(CHUNK) {
        let mut batch = Batch::default();
        for number in chunk {
            let to = (pod(*number), 32);
            batch.route(&Route { to, via: None, index: Some(pair.link(*number)), table, metric: 0 });
            if steering.by_mark() {
                batch.route(&Route { to, via: None, index: None, table, metric: 4096 });
            }
        }
        call(&mut batch);
    }
}

fn steer(steering: Steering, pods: usize, services: bool) {
    let node = Node { enis: ENIS.to_vec(), vpc: "10.0.0.0/16" };
    let mut rules: Vec<Rule> = Vec::new();
    if steering.by_mark() {
        if !steering.in_local() {
            rules.push(Rule { priority: 512, table: PODS, ..Rule::default() });
        }
        let by_mark =
            |k| Rule { priority: 1536, table: TABLES + k, mark: Some((k, 0x7f)), ..Rule::default() };
        rules.extend([2, 3].map(by_mark));
        for n in 0..3 {
            let (filter, local) = if steering.unfiltered() { ("0", "1") } else { ("2", "0") };
            set(&format!("ipv4/conf/eth{n}/rp_filter"), filter);
            set(&format!("ipv4/conf/eth{n}/accept_local"), local);
        }
        Pair::LINKS.iter().for_each(|n| set(&format!("ipv4/conf/pod{n}/rp_filter"), "1"));
    }
    if steering == Steering::PerPod {
        rules.push(Rule { priority: 1024, table: MAIN, mark: Some((0x80, 0x80)), ..Rule::default() });
        for number in 0..pods {
            let table = TABLES + 2 + u32::from(number == Pair::of(pods).b);
            let address = Some(pod(number));
            rules.push(Rule { priority: 512, table: MAIN, to: address, ..Rule::default() });
            rules.push(Rule { priority: 1536, table, from: address, ..Rule::default() });
        }
    }
    for chunk in rules.chunks(CHUNK) {
        let mut batch = Batch::default();
        for rule in chunk {
            batch.rule(rule);
        }
        call(&mut batch);
    }
    match steering {
        Steering::Off | Steering::PerPod => {}
        Steering::Conntrack | Steering::Rules => nft(&tables::conntrack(&node)),
        Steering::Ours | Steering::Unfiltered | Steering::InLocal | Steering::UnfilteredInLocal => {
            nft(&tables::steering(&node));
        }
    }
    if services {
        nft(&tables::services(SERVICES));
    }
}

/// Loads a text into the caller's namespace.
fn nft(text: &str) {
    let mut child = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().expect("nft starts");
    child.stdin.take().expect("it is piped").write_all(text.as_bytes()).expect("nft reads");
    let status = child.wait().expect("nft ends");
    assert!(status.success(), "nft refuses a text; its error is above");
}
