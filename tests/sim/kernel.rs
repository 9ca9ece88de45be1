//! A kernel for the simulation: links, routes, neighbours and groups, behaving as Linux does for the calls of
//! `HostKernel`, without I/O and the same each time.

use eni_proto::ids::{MacAddr, NetnsCookie};
use ipamd_core::host_net::nft;
use ipamd_core::kernel::{
    Alias, AttachmentView, DYING_GROUP, ENI_GROUP, EniRouteView, Forward, HostAddressView, HostKernel,
    HostStep, HostStepError, HostView, InetSettings, LinkView, LookSpec, NeighbourView, POD_GROUP, POD_INET,
    PROTOCOL, ReapLink, Reaped, RouteAction, RouteView, RuleView, SANDBOX_GATEWAY, SandboxLinkView,
    SandboxRouteView, SandboxView, Trigger, UnwireSpec, WireError, WireSpec,
};
use ipnet::Ipv4Net;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// Whether a group is one of pods' host ends, or of dying ones.
fn of_a_pod(group: u32) -> bool {
    group == DYING_GROUP || (POD_GROUP..POD_GROUP + 0x80).contains(&group)
}

#[derive(Debug, Clone)]
struct Pair {
    view: LinkView,
    sandbox: NetnsCookie,
    sandbox_name: String,
    sandbox_mac: MacAddr,
    address: Option<Ipv4Addr>,
}

/// The messages of a wire, as far as they can be told apart here: the pair, the sandbox's address, the host's alias, its
/// neighbour, the route.
pub(crate) const WIRE_MESSAGES: usize = 5;

/// The kernel.
#[derive(Debug, Clone, Default)]
pub(crate) struct FakeKernel {
    host: Vec<LinkView>,
    /// The links by the MAC that they were made with.
    hardware: BTreeMap<MacAddr, u32>,
    addresses: Vec<HostAddressView>,
    pairs: BTreeMap<u32, Pair>,
    routes: Vec<RouteView>,
    eni_routes: Vec<EniRouteView>,
    main_routes: Vec<EniRouteView>,
    rules: Vec<RuleView>,
    neighbours: Vec<NeighbourView>,
    nft: Option<String>,
    sandboxes: BTreeSet<NetnsCookie>,
}

impl FakeKernel {
    /// A host with its loopback rules alone.
    pub(crate) fn new() -> Self {
        FakeKernel::default()
    }

    /// A hardware link; its index.
    pub(crate) fn add_host_link(&mut self, name: &str, mac: MacAddr) -> u32 {
        let ifindex = 2 + self.host.iter().map(|l| l.ifindex).max().unwrap_or(0);
        self.host.push(LinkView {
            ifindex,
            name: name.to_owned(),
            mac: Some(mac),
            group: 0,
            alias: String::new(),
            up: true,
            mtu: 9001,
            kind: String::new(),
            inet: InetSettings::default(),
        });
        self.hardware.insert(mac, ifindex);
        ifindex
    }

    /// A hardware link goes away, with what is on it.
    pub(crate) fn remove_host_link(&mut self, mac: MacAddr) {
        let gone: Vec<u32> = self.hardware.remove(&mac).into_iter().collect();
        self.host.retain(|l| !gone.contains(&l.ifindex));
        self.eni_routes.retain(|r| !gone.contains(&r.ifindex));
        self.addresses.retain(|a| !gone.contains(&a.ifindex));
        self.main_routes.retain(|r| !gone.contains(&r.ifindex));
    }

    /// An address on a host link.
    pub(crate) fn add_host_address(&mut self, ifindex: u32, address: Ipv4Net) {
        self.addresses.push(HostAddressView { ifindex, address });
    }

    /// A sandbox is born.
    pub(crate) fn add_sandbox(&mut self, cookie: NetnsCookie) {
        self.sandboxes.insert(cookie);
    }

    /// A sandbox dies: its links, their peers and routes die with it.
    pub(crate) fn kill_sandbox(&mut self, cookie: NetnsCookie) {
        self.sandboxes.remove(&cookie);
        let dead: Vec<u32> =
            self.pairs.iter().filter(|(_, p)| p.sandbox == cookie).map(|(i, _)| *i).collect();
        for ifindex in dead {
            self.delete(ifindex);
        }
    }

    /// Whether a sandbox lives.
    pub(crate) fn sandbox_lives(&self, cookie: NetnsCookie) -> bool {
        self.sandboxes.contains(&cookie)
    }

    /// The addresses inside sandboxes, by host link.
    pub(crate) fn sandbox_addresses(&self) -> Vec<(u32, Ipv4Addr)> {
        self.pairs.iter().filter_map(|(ifindex, pair)| Some((*ifindex, pair.address?))).collect()
    }

    /// The group of a sandbox's host link.
    pub(crate) fn group_of(&self, ifindex: u32) -> Option<u32> {
        self.pairs.get(&ifindex).map(|pair| pair.view.group)
    }

    /// Somebody breaks something of the host, by number; what of it is told.
    pub(crate) fn harm(&mut self, what: usize, which: usize, address: Option<Ipv4Addr>) -> Option<Trigger> {
        let whole = |p: &&Pair| Alias::parse(&p.view.alias).is_some() && p.view.group != DYING_GROUP;
        let pods: Vec<u32> = self.pairs.values().filter(whole).map(|p| p.view.ifindex).collect();
        let pod = pods.get(which % pods.len().max(1)).copied();
        let enis: Vec<u32> = self
            .host
            .iter()
            .filter(|l| (ENI_GROUP + 2..ENI_GROUP + 0x80).contains(&l.group))
            .map(|l| l.ifindex)
            .collect();
        let eni = enis.get(which % enis.len().max(1)).copied();
        match what {
            0 => self.rules.retain(|r| r.protocol != PROTOCOL),
            1 => self.routes.clear(),
            2 => self.eni_routes.clear(),
            3 => self.neighbours.clear(),
            4 => self.nft = None,
            5 => self.link_mut(pod?)?.group = 77,
            6 => self.link_mut(pod?)?.alias = "somebody's".to_owned(),
            7 => self.link_mut(pod?)?.mac = Some(MacAddr([2, 7, 7, 7, 7, 7])),
            8 => self.link_mut(pod?)?.inet = InetSettings::default(),
            9 => self.link_mut(eni?)?.group = 0,
            10 => self.link_mut(eni?)?.mac = Some(MacAddr([2, 7, 7, 7, 7, 8])),
            11 => self.link_mut(eni?)?.name = "renamed".to_owned(),
            12 => self.addresses.push(HostAddressView { ifindex: eni?, address: Ipv4Net::from(address?) }),
            13 => {
                let (table, destination) = (254, Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 16));
                let route =
                    EniRouteView { table, destination, gateway: None, ifindex: eni?, metric: 0, protocol: 2 };
                self.main_routes.push(route);
            }
            _ => {
                let mark = None;
                self.rules.push(RuleView {
                    priority: 100,
                    table: 100,
                    protocol: 4,
                    mark,
                    other_selector: true,
                });
            }
        }
        Some(match what {
            0 | 14.. => Trigger::Rule,
            1 | 2 | 13 => Trigger::Route,
            3 => Trigger::Neighbour,
            4 => Trigger::Nftables,
            12 => Trigger::Address,
            _ => Trigger::Link,
        })
    }

    /// Whether a link has its alias and its route: what proves it whole after a restart.
    pub(crate) fn is_whole(&self, ifindex: u32) -> bool {
        let named = self.pairs.get(&ifindex).is_some_and(|p| Alias::parse(&p.view.alias).is_some());
        named && self.routes.iter().any(|r| r.action == RouteAction::Device { ifindex })
    }

    /// Every link that is without the group of an ENI has its own MAC again.
    pub(crate) fn heal_strangers(&mut self) {
        for (mac, ifindex) in self.hardware.clone() {
            let lost = |l: &&mut LinkView| !(ENI_GROUP + 1..ENI_GROUP + 0x80).contains(&l.group);
            if let Some(link) = self.link_mut(ifindex).filter(lost) {
                link.mac = Some(mac);
            }
        }
    }

    /// Somebody deletes a sandbox's link, its other end with it.
    pub(crate) fn delete_pair(&mut self, ifindex: u32) -> bool {
        let there = self.group_of(ifindex).is_some_and(|group| group != DYING_GROUP);
        if there {
            self.delete(ifindex);
        }
        there
    }

    fn delete(&mut self, ifindex: u32) {
        self.pairs.remove(&ifindex);
        self.routes.retain(|r| r.action != RouteAction::Device { ifindex });
        self.neighbours.retain(|n| n.ifindex != ifindex);
    }

    fn link_mut(&mut self, ifindex: u32) -> Option<&mut LinkView> {
        let pair = self.pairs.get_mut(&ifindex).map(|p| &mut p.view);
        pair.or_else(|| self.host.iter_mut().find(|l| l.ifindex == ifindex))
    }

    fn refuse(&self, spec: &WireSpec, sandbox: NetnsCookie) -> Option<WireError> {
        let in_sandbox = |p: &&Pair| p.sandbox == sandbox && p.sandbox_name == spec.sandbox_name.as_str();
        if !self.sandboxes.contains(&sandbox) {
            return Some(WireError::SandboxGone);
        }
        if self.pairs.values().any(|p| in_sandbox(&p)) {
            return Some(WireError::IfnameTaken { name: spec.sandbox_name.to_string() });
        }
        let name = spec.host_name.as_str();
        let named = self.pairs.values().map(|p| &p.view).chain(&self.host).find(|l| l.name == name);
        if let Some(link) = named {
            return Some(WireError::HostNameTaken {
                name: name.to_owned(),
                ifindex: link.ifindex,
                group: link.group,
            });
        }
        let taken =
            self.pairs.contains_key(&spec.ifindex) || self.host.iter().any(|l| l.ifindex == spec.ifindex);
        taken.then_some(WireError::IfindexTaken { ifindex: spec.ifindex })
    }

    /// The first messages of a wire: what there is of it when the daemon dies then.
    pub(crate) fn wire_part(
        &mut self,
        spec: &WireSpec,
        sandbox: NetnsCookie,
        messages: usize,
    ) -> Result<(), WireError> {
        for ifindex in &spec.delete_first {
            let eni = (ENI_GROUP..ENI_GROUP + 0x80).contains(&self.link_mut(*ifindex).map_or(0, |l| l.group));
            if !eni {
                self.delete(*ifindex);
            }
        }
        if let Some(error) = self.refuse(spec, sandbox) {
            return Err(error);
        }
        if messages < 1 {
            return Ok(());
        }
        let (up, alias) = if messages < 3 { (false, String::new()) } else { (true, spec.alias.clone()) };
        let view = LinkView {
            ifindex: spec.ifindex,
            name: spec.host_name.to_string(),
            mac: Some(spec.host_mac),
            group: spec.group,
            alias,
            up,
            mtu: spec.mtu,
            kind: "veth".into(),
            inet: POD_INET,
        };
        let sandbox_name = spec.sandbox_name.to_string();
        let address = (messages >= 2).then_some(spec.address);
        let sandbox_mac = spec.sandbox_mac;
        self.pairs.insert(spec.ifindex, Pair { view, sandbox, sandbox_name, sandbox_mac, address });
        if messages >= 4 {
            self.neighbours.push(NeighbourView {
                ifindex: spec.ifindex,
                address: spec.address,
                mac: spec.sandbox_mac,
                permanent: true,
            });
        }
        if messages >= 5 {
            self.put_route(RouteView {
                destination: Ipv4Net::from(spec.address),
                metric: 0,
                action: RouteAction::Device { ifindex: spec.ifindex },
                prefsrc: spec.prefsrc,
                protocol: PROTOCOL,
            });
        }
        Ok(())
    }

    /// Taking off: the route goes, and with `whole` the link joins the dying group.
    pub(crate) fn unwire_part(&mut self, spec: &UnwireSpec, whole: bool) {
        let action = RouteAction::Device { ifindex: spec.ifindex };
        self.routes.retain(|r| r.action != action || !spec.addresses.contains(&r.destination.addr()));
        let named = |p: &&mut Pair| p.view.name == spec.host_name.as_str();
        if let Some(pair) = self.pairs.values_mut().find(named).filter(|_| whole) {
            pair.view.group = DYING_GROUP;
        }
    }

    /// The sandbox's side of a pair: all of it comes with its address.
    fn inside(&self, ifindex: u32, sandbox: NetnsCookie) -> SandboxView {
        let pair = self.pairs.get(&ifindex).filter(|pair| pair.sandbox == sandbox);
        let Some(pair) = pair else { return SandboxView::default() };
        let link = SandboxLinkView {
            ifindex,
            name: pair.sandbox_name.clone(),
            mac: Some(pair.sandbox_mac),
            up: pair.address.is_some(),
        };
        let Some(address) = pair.address else {
            return SandboxView { link: Some(link), ..SandboxView::default() };
        };
        let mac = pair.view.mac.expect("a pair's end has one");
        SandboxView {
            link: Some(link),
            addresses: vec![Ipv4Net::from(address)],
            routes: vec![
                SandboxRouteView { destination: Ipv4Net::from(SANDBOX_GATEWAY), gateway: None },
                SandboxRouteView { destination: Ipv4Net::default(), gateway: Some(SANDBOX_GATEWAY) },
            ],
            neighbours: vec![NeighbourView { ifindex, address: SANDBOX_GATEWAY, mac, permanent: true }],
        }
    }

    fn put_route(&mut self, route: RouteView) {
        self.routes.retain(|r| r.destination != route.destination || r.metric != route.metric);
        self.routes.push(route);
    }
}

impl HostKernel for FakeKernel {
    type Sandbox = NetnsCookie;

    fn wire(&mut self, spec: &WireSpec, sandbox: &NetnsCookie) -> Result<(), WireError> {
        self.wire_part(spec, *sandbox, WIRE_MESSAGES)
    }

    fn unwire(&mut self, spec: &UnwireSpec) -> Result<(), HostStepError> {
        self.unwire_part(spec, true);
        Ok(())
    }

    fn reap(&mut self, links: &[ReapLink]) -> Reaped {
        let mut reaped = Reaped::default();
        for link in links {
            match self.pairs.get(&link.ifindex) {
                // Another attachment's: the one that is asked for is gone.
                Some(pair) if pair.view.alias != link.alias && Alias::parse(&pair.view.alias).is_some() => {
                    reaped.gone.push(link.ifindex);
                }
                // Somebody's alias and somebody's group: whose it is is not clear.
                Some(pair) if pair.view.alias != link.alias && !of_a_pod(pair.view.group) => {
                    reaped.kept.push((link.ifindex, "another alias".to_owned()));
                }
                _ => {
                    self.delete(link.ifindex);
                    reaped.gone.push(link.ifindex);
                }
            }
        }
        reaped
    }

    fn apply(&mut self, steps: &[HostStep]) -> Vec<HostStepError> {
        for step in steps {
            match step {
                HostStep::AddRule { priority, table, mark } => {
                    self.rules.push(RuleView {
                        priority: *priority,
                        table: *table,
                        protocol: PROTOCOL,
                        mark: *mark,
                        other_selector: false,
                    });
                }
                HostStep::DeleteRule { priority, table, mark } => {
                    let marked = |r: &RuleView| mark.is_none() || r.mark == *mark;
                    let is_it = |r: &RuleView| {
                        r.priority == *priority && r.table == *table && r.protocol == PROTOCOL && marked(r)
                    };
                    if let Some(first) = self.rules.iter().position(is_it) {
                        self.rules.remove(first);
                    }
                }
                HostStep::AddRoute(route) => {
                    let there = match route.action {
                        RouteAction::Device { ifindex } => self.link_mut(ifindex).is_some(),
                        RouteAction::Unreachable => true,
                    };
                    if there {
                        self.put_route(*route);
                    }
                }
                HostStep::DeleteRoute(route) => self.routes.retain(|r| r != route),
                HostStep::SetLink { ifindex, group, inet, up } => {
                    if let Some(link) = self.link_mut(*ifindex) {
                        (link.group, link.inet, link.up) = (*group, *inet, link.up || *up);
                    }
                }
                HostStep::SetAlias { ifindex, alias } => {
                    if let Some(link) = self.link_mut(*ifindex) {
                        link.alias.clone_from(alias);
                    }
                }
                HostStep::SetMac { ifindex, mac } => {
                    if let Some(link) = self.link_mut(*ifindex) {
                        link.mac = Some(*mac);
                    }
                }
                HostStep::SetName { ifindex, name } => {
                    if let Some(link) = self.link_mut(*ifindex) {
                        link.name.clone_from(name);
                    }
                }
                HostStep::DeleteMainRoute(route) => self.main_routes.retain(|r| r != route),
                HostStep::SetMtu { ifindex, mtu } => {
                    if let Some(link) = self.link_mut(*ifindex) {
                        link.mtu = *mtu;
                    }
                }
                HostStep::AddAddress(address) => {
                    self.addresses.retain(|a| a != address);
                    self.addresses.push(*address);
                }
                HostStep::DeleteAddress(address) => self.addresses.retain(|a| a != address),
                HostStep::AddEniRoute(route) => {
                    let place = |r: &EniRouteView| (r.table, r.destination, r.metric);
                    self.eni_routes.retain(|r| place(r) != place(route));
                    self.eni_routes.push(*route);
                }
                HostStep::DeleteEniRoute(route) => self.eni_routes.retain(|r| r != route),
                HostStep::AcceptForward(_) => {}
                HostStep::SetNeighbour(neighbour) => {
                    self.neighbours
                        .retain(|n| n.ifindex != neighbour.ifindex || n.address != neighbour.address);
                    self.neighbours.push(*neighbour);
                }
                HostStep::ReplaceNft { text } => self.nft = Some(text.clone()),
            }
        }
        Vec::new()
    }

    fn look_at(&mut self, spec: &LookSpec, sandbox: &NetnsCookie) -> Result<AttachmentView, HostStepError> {
        let mut link = |ifindex: u32| self.link_mut(ifindex).cloned();
        let (own, eni_link) = (link(spec.ifindex), spec.eni_ifindex.and_then(link));
        let to_it = |route: &&RouteView| spec.addresses.contains(&route.destination.addr());
        Ok(AttachmentView {
            link: own,
            eni_link,
            routes: self.routes.iter().filter(to_it).copied().collect(),
            neighbours: self.neighbours.iter().filter(|n| n.ifindex == spec.ifindex).copied().collect(),
            rules: self.rules.clone(),
            eni_routes: self.eni_routes.iter().filter(|r| Some(r.table) == spec.eni_table).copied().collect(),
            nft: self.nft.as_deref().map(nft::contents),
            sandbox: self.inside(spec.ifindex, *sandbox),
        })
    }

    fn observe(&mut self) -> Result<HostView, HostStepError> {
        Ok(HostView {
            links: self.host.iter().cloned().chain(self.pairs.values().map(|p| p.view.clone())).collect(),
            addresses: self.addresses.clone(),
            pods_routes: self.routes.clone(),
            eni_routes: self.eni_routes.clone(),
            main_routes: self.main_routes.clone(),
            rules: self.rules.clone(),
            neighbours: self.neighbours.clone(),
            nft: self.nft.clone(),
            forward: Forward::Open,
            globals: None,
            others: Vec::new(),
            peer_list: None,
        })
    }
}
