//! A kernel in memory: behaves as Linux does for the calls of `HostKernel`, the same each time, without I/O.
//!
//! Owns links by ifindex and namespace, their names, groups and neighbours, the pods table and the ENIs', rules, nft's
//! text, the filter table's policy and connections. A clone is a snapshot: what a crash leaves. The tests of this crate hold it against the running kernel
//! by the same calls. Does not forward packets. Faults are [`faulty::Faulty`]'s.

pub mod faulty;
mod look;
mod steps;
mod wire;

pub use look::Lost;
pub use wire::WireMessage;

use crate::dump;
use crate::ours::{self, Whose};
use eni_proto::ids::{MacAddr, NetnsCookie};
use ipamd_core::kernel::{
    Alias, AttachmentView, DYING_GROUP, ENI_GROUP, EniRouteView, Forward, HostAddressView, HostKernel,
    HostStep, HostStepError, HostView, InetSettings, LinkView, LookSpec, MARK_MASK, NeighbourView, PROTOCOL,
    ReapLink, Reaped, RouteAction, RouteView, RuleView, SandboxRouteView, Thing, Trigger, UnwireSpec,
    WireError, WireSpec,
};
use ipnet::Ipv4Net;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// `RTPROT_KERNEL`: the protocol of the three rules that every namespace begins with.
const PROTOCOL_KERNEL: u8 = 2;

/// A link of the host, and where its other end is if it is a pair's.
#[derive(Debug, Clone, PartialEq, Eq)]
struct HostLink {
    view: LinkView,
    peer: Option<NetnsCookie>,
}

/// A link inside a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct SandboxLink {
    name: String,
    mac: Option<MacAddr>,
    up: bool,
    address: Option<Ipv4Addr>,
    routes: Vec<SandboxRouteView>,
    /// The MAC of its next hop.
    neighbour: Option<MacAddr>,
    /// Whether it is the other end of the host's link of the same index.
    pair: bool,
}

/// A sandbox's network namespace: links by index.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Sandbox {
    links: BTreeMap<u32, SandboxLink>,
}

/// A connection that conntrack knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Connection {
    /// The source of its first packet.
    pub source: Ipv4Addr,
    /// The source of its answers.
    pub reply_source: Ipv4Addr,
}

/// The kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FakeKernel {
    links: BTreeMap<u32, HostLink>,
    sandboxes: BTreeMap<NetnsCookie, Sandbox>,
    addresses: Vec<HostAddressView>,
    routes: Vec<RouteView>,
    eni_routes: Vec<EniRouteView>,
    main_routes: Vec<EniRouteView>,
    rules: Vec<RuleView>,
    neighbours: Vec<NeighbourView>,
    nft: Option<String>,
    forward: Forward,
    connections: BTreeSet<Connection>,
    /// What the running kernel would have told of what others have done.
    told: BTreeSet<Trigger>,
}

impl Default for FakeKernel {
    fn default() -> Self {
        FakeKernel::new()
    }
}

impl FakeKernel {
    /// A new network namespace whose loopback is up: the kernel's three rules, nothing of ours.
    pub fn new() -> FakeKernel {
        let rule = |priority, table| RuleView {
            priority,
            table,
            protocol: PROTOCOL_KERNEL,
            mark: None,
            other_selector: false,
        };
        let mut kernel = FakeKernel {
            links: BTreeMap::new(),
            sandboxes: BTreeMap::new(),
            addresses: Vec::new(),
            routes: Vec::new(),
            eni_routes: Vec::new(),
            main_routes: Vec::new(),
            rules: vec![rule(0, 255), rule(32766, 254), rule(32767, 253)],
            neighbours: Vec::new(),
            nft: None,
            forward: Forward::Open,
            connections: BTreeSet::new(),
            told: BTreeSet::new(),
        };
        let loopback = kernel.add_link(LinkView { ifindex: 1, mtu: 65536, ..plain("lo", None) });
        kernel.add_host_address(loopback, Ipv4Net::new_assert(Ipv4Addr::LOCALHOST, 8));
        kernel
    }

    /// What a monitor has been told since the last time.
    pub fn take_told(&mut self) -> BTreeSet<Trigger> {
        std::mem::take(&mut self.told)
    }

    /// A link of hardware; its index.
    pub fn add_host_link(&mut self, name: &str, mac: MacAddr) -> u32 {
        let ifindex = (2..).find(|index| !self.links.contains_key(index)).expect("few links");
        self.add_link(LinkView { ifindex, ..plain(name, Some(mac)) })
    }

    /// Any link that somebody else made on the host; its index.
    pub fn add_link(&mut self, view: LinkView) -> u32 {
        let ifindex = view.ifindex;
        self.links.insert(ifindex, HostLink { view, peer: None });
        ifindex
    }

    /// An address on a host link.
    pub fn add_host_address(&mut self, ifindex: u32, address: Ipv4Net) {
        self.addresses.push(HostAddressView { ifindex, address });
        self.told.insert(Trigger::Address);
    }

    /// An address leaves the host.
    pub fn remove_host_address(&mut self, address: Ipv4Addr) {
        self.addresses.retain(|view| view.address.addr() != address);
        self.told.insert(Trigger::Address);
        self.routes.retain(|route| route.prefsrc != Some(address));
    }

    /// Somebody changes a link of the host; true when there is one.
    pub fn change_link(&mut self, ifindex: u32, change: impl FnOnce(&mut LinkView)) -> bool {
        let changed = self.change(ifindex, change).is_ok();
        if changed && self.is_told(ifindex) {
            self.told.insert(Trigger::Link);
        }
        changed
    }

    /// Somebody lays a route in the main table.
    pub fn add_main_route(&mut self, route: EniRouteView) {
        self.main_routes.push(route);
        self.told.insert(Trigger::Route);
    }

    /// Somebody else's rule.
    pub fn add_rule(&mut self, rule: RuleView) {
        self.rules.push(rule);
        self.told.insert(Trigger::Rule);
    }

    /// Somebody flushes our rules, our routes, the neighbours or the ruleset of nftables.
    pub fn flush(&mut self, thing: Thing) {
        match thing {
            Thing::Rule => self.rules.retain(|rule| rule.protocol != PROTOCOL),
            Thing::Route => {
                self.routes.retain(|route| route.protocol != PROTOCOL);
                self.eni_routes.retain(|route| route.protocol != PROTOCOL);
            }
            Thing::Neighbour => self.neighbours.clear(),
            Thing::Nftables => self.nft = None,
            _ => return,
        }
        self.told.insert(thing.told_by()[0]);
    }

    /// What the filter table does with what is forwarded, from now on.
    pub fn set_forward(&mut self, forward: Forward) {
        self.forward = forward;
    }

    /// A sandbox is born.
    pub fn add_sandbox(&mut self, cookie: NetnsCookie) {
        self.sandboxes.entry(cookie).or_default();
    }

    /// Somebody else's link inside a sandbox.
    pub fn add_sandbox_link(&mut self, cookie: NetnsCookie, ifindex: u32, name: &str) {
        let link = SandboxLink { name: name.to_owned(), ..SandboxLink::default() };
        self.sandboxes.entry(cookie).or_default().links.insert(ifindex, link);
    }

    /// A sandbox dies: its links go, with them their other ends and all that hangs on those.
    pub fn kill_sandbox(&mut self, cookie: NetnsCookie) {
        let ends = self.links.iter().filter(|(_, link)| link.peer == Some(cookie));
        for ifindex in ends.map(|(ifindex, _)| *ifindex).collect::<Vec<_>>() {
            self.delete_link(ifindex);
        }
        self.sandboxes.remove(&cookie);
    }

    /// Whether a sandbox lives.
    pub fn sandbox_lives(&self, cookie: NetnsCookie) -> bool {
        self.sandboxes.contains_key(&cookie)
    }

    /// The addresses inside living sandboxes, each with its host link.
    pub fn sandbox_addresses(&self) -> Vec<(u32, Ipv4Addr)> {
        let links = self.sandboxes.values().flat_map(|sandbox| &sandbox.links);
        links
            .filter(|(_, link)| link.pair)
            .filter_map(|(ifindex, link)| Some((*ifindex, link.address?)))
            .collect()
    }

    /// A connection is tracked from now on.
    pub fn add_connection(&mut self, connection: Connection) {
        self.connections.insert(connection);
    }

    /// The connections that are tracked.
    pub fn connections(&self) -> impl Iterator<Item = Connection> {
        self.connections.iter().copied()
    }

    /// Whether the kernel's word on a link is one on ours: it is an ENI's or a pod's, and not dying.
    fn is_told(&self, ifindex: u32) -> bool {
        let ours = |group: u32| (ENI_GROUP..ENI_GROUP + 0x200).contains(&group);
        self.links.get(&ifindex).is_some_and(|link| {
            let named = Alias::parse(&link.view.alias).is_some();
            link.view.group != DYING_GROUP && (ours(link.view.group) || named)
        })
    }

    /// A link of the host is removed: its routes and neighbours die with it, and the other end of a pair.
    pub fn delete_link(&mut self, ifindex: u32) {
        if self.is_told(ifindex) {
            self.told.insert(Trigger::Link);
        }
        let Some(link) = self.links.remove(&ifindex) else { return };
        self.routes.retain(|route| route.action != RouteAction::Device { ifindex });
        self.eni_routes.retain(|route| route.ifindex != ifindex);
        self.main_routes.retain(|route| route.ifindex != ifindex);
        self.neighbours.retain(|neighbour| neighbour.ifindex != ifindex);
        self.addresses.retain(|address| address.ifindex != ifindex);
        if let Some(sandbox) = link.peer.and_then(|cookie| self.sandboxes.get_mut(&cookie)) {
            sandbox.links.remove(&ifindex);
        }
    }
}

/// A link that is up and has nothing set.
fn plain(name: &str, mac: Option<MacAddr>) -> LinkView {
    LinkView {
        ifindex: 0,
        name: name.to_owned(),
        mac,
        group: 0,
        alias: String::new(),
        up: true,
        mtu: 9001,
        kind: String::new(),
        inet: InetSettings { send_redirects: true, ..InetSettings::default() },
    }
}

impl HostKernel for FakeKernel {
    type Sandbox = NetnsCookie;

    fn wire(&mut self, spec: &WireSpec, sandbox: &NetnsCookie) -> Result<(), WireError> {
        self.wire_failing(spec, *sandbox, None)
    }

    fn unwire(&mut self, spec: &UnwireSpec) -> Result<(), HostStepError> {
        let action = RouteAction::Device { ifindex: spec.ifindex };
        let taken = |route: &RouteView| {
            let own = route.action == action && route.protocol == PROTOCOL;
            own && spec.addresses.iter().any(|address| route.destination == Ipv4Net::from(*address))
        };
        self.routes.retain(|route| !taken(route));
        let named = |link: &&mut HostLink| link.view.name == spec.host_name.as_str();
        if let Some(link) = self.links.values_mut().find(named) {
            link.view.group = DYING_GROUP;
        }
        Ok(())
    }

    fn reap(&mut self, links: &[ReapLink]) -> Reaped {
        let mut reaped = Reaped::default();
        let mut present = Vec::new();
        let mut gone = Vec::new();
        for link in links {
            match self.links.get(&link.ifindex).map(|there| ours::whose(&there.view, &link.alias)) {
                None | Some(Whose::Anothers) => gone.push(link.ifindex),
                Some(Whose::Ours) => present.push(link.ifindex),
                Some(Whose::Unclear(reason)) => reaped.kept.push((link.ifindex, reason)),
            }
        }
        for ifindex in present {
            self.delete_link(ifindex);
            gone.push(ifindex);
        }
        gone.sort_unstable();
        gone.dedup();
        for link in links.iter().filter(|link| gone.contains(&link.ifindex)) {
            let of = |c: &Connection| {
                link.addresses.contains(&c.source) || link.addresses.contains(&c.reply_source)
            };
            self.connections.retain(|connection| !of(connection));
        }
        Reaped { gone, ..reaped }
    }

    fn apply(&mut self, steps: &[HostStep]) -> Vec<HostStepError> {
        let mut take = |(index, step)| Some(HostStepError { index: Some(index), ..self.step(step).err()? });
        steps.iter().enumerate().filter_map(&mut take).collect()
    }

    fn look_at(&mut self, spec: &LookSpec, sandbox: &NetnsCookie) -> Result<AttachmentView, HostStepError> {
        Ok(self.view_of(spec, *sandbox))
    }

    fn observe(&mut self) -> Result<HostView, HostStepError> {
        let ours = |neighbour: &&NeighbourView| {
            self.links.get(&neighbour.ifindex).is_some_and(|link| Alias::parse(&link.view.alias).is_some())
        };
        let secondary = ENI_GROUP + 2..=ENI_GROUP + MARK_MASK;
        let of_secondary = |route: &&EniRouteView| {
            self.links.get(&route.ifindex).is_some_and(|link| secondary.contains(&link.view.group))
        };
        Ok(HostView {
            links: self.links.values().map(|link| link.view.clone()).collect(),
            addresses: self.addresses.clone(),
            pods_routes: self.routes.clone(),
            eni_routes: self
                .eni_routes
                .iter()
                .filter(|route| dump::of_an_eni(route.table))
                .copied()
                .collect(),
            main_routes: self.main_routes.iter().filter(of_secondary).copied().collect(),
            rules: self.rules.clone(),
            neighbours: self.neighbours.iter().filter(ours).copied().collect(),
            nft: self.nft.clone(),
            forward: self.forward,
            globals: None,
            others: Vec::new(),
            peer_list: None,
        })
    }
}

#[cfg(test)]
mod tests;
