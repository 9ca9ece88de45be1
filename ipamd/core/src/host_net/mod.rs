//! What the host's own network should look like, and the steps from what it looks like to that.
//!
//! Owns the planner: rule, base routes, pods' routes, neighbours, link settings and the nft table, from the owner's
//! view of ENIs, addresses and live attachments. Every step is idempotent, so a plan made from an observation that is
//! a little old does no harm. Does not wire or take off a sandbox, and plans nothing for an attachment that is being
//! added or is dying. Executors take the steps; they decide nothing.

pub mod nft;

use crate::kernel::{
    BASE_ROUTE_METRIC, DYING_GROUP, ENI_GROUP, ENI_INET, HostStep, HostView, LinkView, NeighbourView,
    POD_GROUP, POD_INET, PODS_RULE_PRIORITY, PODS_TABLE, PROTOCOL, RouteAction, RouteView,
};
use crate::record::EniRecord;
use eni_proto::ids::MacAddr;
use ipnet::Ipv4Net;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// What the host's network is wanted to hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The ENIs.
    pub enis: Vec<EniRecord>,
    /// Every address that the ENIs hold, their primaries excepted: each has a base route.
    pub addresses: BTreeSet<Ipv4Addr>,
    /// The attachments that are live.
    pub pods: Vec<WantedPod>,
    /// ifindexes of attachments in any state: routes by other links of the pods table are nobody's.
    pub links: BTreeSet<u32>,
    /// The CIDRs that are inside the VPC: not masqueraded.
    pub vpc_cidrs: Vec<Ipv4Net>,
    /// Masquerade what leaves the VPC to the node's primary address.
    pub snat: bool,
}

/// One live attachment's part on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedPod {
    /// The host link.
    pub ifindex: u32,
    /// Its ENI's number.
    pub eni_number: u32,
    /// The sandbox's addresses.
    pub addresses: BTreeSet<Ipv4Addr>,
    /// The sandbox's MAC.
    pub sandbox_mac: MacAddr,
}

/// A step and why it is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// The step.
    pub step: HostStep,
    /// Why.
    pub reason: Reason,
}

/// Why a step is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// It is not there.
    Missing,
    /// It is there and differs.
    Differs,
    /// Nothing of ours needs it any more.
    Unneeded,
}

/// Finds each ENI's link by its MAC. A host end of ours never counts, whatever its MAC.
pub fn find_links(enis: &[EniRecord], observed: &HostView) -> BTreeMap<MacAddr, (u32, String)> {
    let wanted: BTreeSet<MacAddr> = enis.iter().map(|e| e.mac).collect();
    let links = observed.links.iter().filter(|l| !is_pod_group(l.group) && l.alias.is_empty());
    let by_mac = links.filter_map(|l| Some((l.mac?, (l.ifindex, l.name.clone()))));
    by_mac.filter(|(mac, _)| wanted.contains(mac)).collect()
}

fn is_pod_group(group: u32) -> bool {
    group == DYING_GROUP || (POD_GROUP..POD_GROUP + 0x80).contains(&group)
}

/// The steps from `observed` to `wanted`: removals first.
pub fn plan(wanted: &Wanted, observed: &HostView) -> Vec<Planned> {
    let mut plan = Vec::new();
    let links = find_links(&wanted.enis, observed);
    let primary = wanted.enis.iter().find(|e| e.device_index == 0);
    let prefsrc =
        primary.map(|e| e.primary).filter(|p| observed.addresses.iter().any(|a| a.address.addr() == *p));
    remove_routes(wanted, observed, &mut plan);
    ensure_rule(observed, &mut plan);
    ensure_base_routes(wanted, observed, &mut plan);
    for eni in &wanted.enis {
        let link =
            links.get(&eni.mac).and_then(|(index, _)| observed.links.iter().find(|l| l.ifindex == *index));
        if let Some(link) = link {
            ensure_link(link, ENI_GROUP + eni.number(), ENI_INET, &mut plan);
        }
    }
    for pod in &wanted.pods {
        ensure_pod(pod, prefsrc, observed, &mut plan);
    }
    if let Some(primary) = primary {
        let text = nft::render(&nft::Table {
            vpc_cidrs: wanted.vpc_cidrs.clone(),
            snat_to: wanted.snat.then_some(primary.primary),
        });
        if observed.nft.as_ref() != Some(&text) {
            let reason = if observed.nft.is_some() { Reason::Differs } else { Reason::Missing };
            plan.push(Planned { step: HostStep::ReplaceNft { text }, reason });
        }
    }
    plan
}

/// The base route of an address.
pub fn base_route(address: Ipv4Addr) -> RouteView {
    RouteView {
        destination: Ipv4Net::from(address),
        metric: BASE_ROUTE_METRIC,
        action: RouteAction::Unreachable,
        prefsrc: None,
        protocol: PROTOCOL,
    }
}

fn remove_routes(wanted: &Wanted, observed: &HostView, plan: &mut Vec<Planned>) {
    for route in observed.pods_routes.iter().filter(|r| r.protocol == PROTOCOL) {
        let needed = match route.action {
            RouteAction::Unreachable => wanted.addresses.contains(&route.destination.addr()),
            RouteAction::Device { ifindex } => wanted.links.contains(&ifindex),
        };
        if !needed {
            plan.push(Planned { step: HostStep::DeleteRoute(*route), reason: Reason::Unneeded });
        }
    }
}

fn ensure_rule(observed: &HostView, plan: &mut Vec<Planned>) {
    let ours = |r: &&crate::kernel::RuleView| r.protocol == PROTOCOL;
    let right = |r: &crate::kernel::RuleView| {
        r.priority == PODS_RULE_PRIORITY && r.table == PODS_TABLE && r.catch_all
    };
    for rule in observed.rules.iter().filter(ours).filter(|r| !right(r)) {
        let step = HostStep::DeleteRule { priority: rule.priority, table: rule.table };
        plan.push(Planned { step, reason: Reason::Unneeded });
    }
    if !observed.rules.iter().filter(ours).any(right) {
        let step = HostStep::AddRule { priority: PODS_RULE_PRIORITY, table: PODS_TABLE };
        plan.push(Planned { step, reason: Reason::Missing });
    }
}

fn ensure_base_routes(wanted: &Wanted, observed: &HostView, plan: &mut Vec<Planned>) {
    let laid: BTreeSet<RouteView> = observed.pods_routes.iter().copied().collect();
    for address in &wanted.addresses {
        let route = base_route(*address);
        if !laid.contains(&route) {
            plan.push(Planned { step: HostStep::AddRoute(route), reason: Reason::Missing });
        }
    }
}

fn ensure_link(link: &LinkView, group: u32, inet: crate::kernel::InetSettings, plan: &mut Vec<Planned>) {
    if link.group != group || link.inet != inet || !link.up {
        let step = HostStep::SetLink { ifindex: link.ifindex, group, inet, up: true };
        plan.push(Planned { step, reason: Reason::Differs });
    }
}

fn ensure_pod(pod: &WantedPod, prefsrc: Option<Ipv4Addr>, observed: &HostView, plan: &mut Vec<Planned>) {
    let Some(link) = observed.links.iter().find(|l| l.ifindex == pod.ifindex) else { return };
    if link.group == DYING_GROUP {
        return;
    }
    ensure_link(link, POD_GROUP + pod.eni_number, POD_INET, plan);
    for address in &pod.addresses {
        let neighbour =
            NeighbourView { ifindex: pod.ifindex, address: *address, mac: pod.sandbox_mac, permanent: true };
        if !observed.neighbours.contains(&neighbour) {
            plan.push(Planned { step: HostStep::SetNeighbour(neighbour), reason: Reason::Missing });
        }
        let route = RouteView {
            destination: Ipv4Net::from(*address),
            metric: 0,
            action: RouteAction::Device { ifindex: pod.ifindex },
            prefsrc,
            protocol: PROTOCOL,
        };
        if !observed.pods_routes.contains(&route) {
            plan.push(Planned { step: HostStep::AddRoute(route), reason: Reason::Missing });
        }
    }
}

#[cfg(test)]
mod tests;
