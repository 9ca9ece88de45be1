//! What the host's own network should look like, and the steps from what it looks like to that.
//!
//! Owns the planner: rules, base routes, pods' links, routes and neighbours, the ENIs' links, addresses and tables, the
//! nft table and the accept rules where the filter table drops, from the owner's view of ENIs, addresses and live
//! attachments; what others add that breaks it (`foreign`) and which of the steps are repairs (`repairs`).
//! Every step is idempotent, so a plan made from an observation that is a little old does no harm. Does not wire or
//! take off a sandbox, and plans nothing for an attachment that is being added or is dying; which ENIs are to be laid
//! the owner says. Executors take the steps; they decide nothing.

pub mod eni;
pub mod foreign;
pub mod nft;
pub mod peer;
mod pod;
pub mod requirement;

pub use pod::{LinkSight, sight};

use crate::kernel::{
    Alias, BASE_ROUTE_METRIC, DYING_GROUP, ENI_GROUP, FIRST_IFINDEX, Forward, HostStep, HostView,
    InetSettings, LinkView, POD_GROUP, PROTOCOL, RouteAction, RouteView,
};
use crate::record::EniRecord;
use eni_proto::ids::{Ifname, MacAddr};
use ipnet::Ipv4Net;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// What the host's network is wanted to hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The ENIs that are in use: each whose link is there is laid.
    pub enis: Vec<EniRecord>,
    /// The link that each ENI had at the last look, by its MAC: one whose MAC was changed since is found by it.
    pub known_links: BTreeMap<MacAddr, u32>,
    /// Every address that the ENIs hold, their primaries excepted: each has a base route.
    pub addresses: BTreeSet<Ipv4Addr>,
    /// The attachments that are live.
    pub pods: Vec<WantedPod>,
    /// Those that are dying: their links get nothing back but the alias, without which nobody deletes them.
    pub dying: Vec<WantedPod>,
    /// ifindexes of attachments in any state: routes by other links of the pods table are nobody's.
    pub links: BTreeSet<u32>,
    /// The CIDRs that are inside the VPC: not masqueraded.
    pub vpc_cidrs: Vec<Ipv4Net>,
    /// Masquerade what leaves the VPC to the node's primary address.
    pub snat: bool,
    /// The MTU of the secondary ENIs' links; none leaves it as it is. The primary's is the system's.
    pub eni_mtu: Option<u32>,
    /// Take off the secondary ENIs' links what others put there and what breaks ours.
    pub adopt_links: bool,
    /// Drop what pods send to the instance metadata service.
    pub block_metadata: bool,
}

/// One live attachment's part on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedPod {
    /// The host link.
    pub ifindex: u32,
    /// Its name.
    pub name: Ifname,
    /// Its MAC: the sandbox's permanent neighbour.
    pub mac: MacAddr,
    /// Its alias.
    pub alias: String,
    /// Its ENI's number; none while that ENI is not known: the link's group stays what it is.
    pub eni_number: Option<u32>,
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
    /// Somebody else put it there, and it breaks ours.
    Foreign,
}

impl Reason {
    /// Its name, as logs and metrics show it.
    pub fn name(self) -> &'static str {
        match self {
            Reason::Missing => "missing",
            Reason::Differs => "differs",
            Reason::Unneeded => "unneeded",
            Reason::Foreign => "foreign",
        }
    }
}

/// Finds each ENI's link by its MAC, else by the number that it had when it was seen last, else, when it was not seen
/// yet in this life, by the group that an earlier one has given it, if one link alone has that. A host end of ours never
/// counts, whatever its MAC; what else shares it (a VLAN, a bridge) comes after the hardware. An alias of somebody else's
/// does not hide one.
pub fn find_links(wanted: &Wanted, observed: &HostView) -> BTreeMap<MacAddr, (u32, String)> {
    let macs: BTreeSet<MacAddr> = wanted.enis.iter().map(|e| e.mac).collect();
    let links = observed.links.iter().filter(|l| !is_host_end(l) && !wanted.links.contains(&l.ifindex));
    let has_one = |l: &&LinkView| l.mac.is_some_and(|mac| macs.contains(&mac));
    let (mut found, others): (Vec<&LinkView>, Vec<&LinkView>) = links.partition(has_one);
    let rank = |l: &LinkView| match l.kind.as_str() {
        "" => 0,
        "veth" => 1,
        _ => 2,
    };
    found.sort_by_key(|l| (std::cmp::Reverse(rank(l)), std::cmp::Reverse(l.ifindex)));
    let mut found: BTreeMap<MacAddr, (u32, String)> =
        found.into_iter().filter_map(|l| Some((l.mac?, (l.ifindex, l.name.clone())))).collect();
    for eni in &wanted.enis {
        let marked = |l: &&&LinkView| match wanted.known_links.get(&eni.mac) {
            Some(known) => l.ifindex == *known,
            None => l.group == ENI_GROUP + eni.number(),
        };
        let mut marked = others.iter().filter(marked);
        if let (Some(link), None) = (marked.next(), marked.next()) {
            found.entry(eni.mac).or_insert_with(|| (link.ifindex, link.name.clone()));
        }
    }
    found
}

/// Whether a link is the host end of a pod: by its alias, or by its group and a number of ours. An ENI's link that
/// somebody put into such a group has no such number.
fn is_host_end(link: &LinkView) -> bool {
    let group = link.group == DYING_GROUP || (POD_GROUP..POD_GROUP + 0x80).contains(&link.group);
    Alias::parse(&link.alias).is_some() || (group && link.ifindex >= FIRST_IFINDEX)
}

/// The steps from `observed` to `wanted`. Pods' routes that nobody needs go first; then what is missing comes, table
/// before rule before nft, and at last what ENIs that are gone have left, in the reverse order.
pub fn plan(wanted: &Wanted, observed: &HostView) -> Vec<Planned> {
    let mut plan = Vec::new();
    let enis = eni::laid(wanted, observed);
    foreign::remove(wanted, &enis, observed, &mut plan);
    let primary = enis.get(&1).map(|e| e.record.primary);
    let prefsrc = primary.filter(|p| observed.addresses.iter().any(|a| a.address.addr() == *p));
    remove_routes(wanted, observed, &mut plan);
    ensure_base_routes(wanted, observed, &mut plan);
    eni::ensure(wanted, &enis, observed, &mut plan);
    for pod in &wanted.pods {
        pod::ensure(pod, primary.map(|_| prefsrc), observed, &mut plan);
    }
    for pod in &wanted.dying {
        pod::ensure_alias(pod, observed, &mut plan);
    }
    if let Forward::Drops { chain, accepted: false } = observed.forward {
        plan.push(Planned { step: HostStep::AcceptForward(chain), reason: Reason::Missing });
    }
    if primary.is_some() {
        let text = nft::render(&nft::Table {
            enis: enis.iter().map(|(k, eni)| (*k, eni.record.primary)).collect(),
            vpc_cidrs: wanted.vpc_cidrs.iter().copied().collect(),
            snat: wanted.snat,
            block_metadata: wanted.block_metadata,
        });
        if observed.nft.as_ref() != Some(&text) {
            let reason = if observed.nft.is_some() { Reason::Differs } else { Reason::Missing };
            plan.push(Planned { step: HostStep::ReplaceNft { text }, reason });
        }
    }
    eni::remove(wanted, &enis, observed, &mut plan);
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
    // While no ENI is known, their addresses are not known either.
    let unknown = wanted.enis.is_empty();
    for route in observed.pods_routes.iter().filter(|r| r.protocol == PROTOCOL) {
        let needed = match route.action {
            RouteAction::Unreachable => unknown || wanted.addresses.contains(&route.destination.addr()),
            RouteAction::Device { ifindex } => wanted.links.contains(&ifindex),
        };
        if !needed {
            plan.push(Planned { step: HostStep::DeleteRoute(*route), reason: Reason::Unneeded });
        }
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

fn ensure_link(link: &LinkView, group: u32, inet: InetSettings, plan: &mut Vec<Planned>) {
    if link.group != group || link.inet != inet || !link.up {
        let step = HostStep::SetLink { ifindex: link.ifindex, group, inet, up: true };
        plan.push(Planned { step, reason: Reason::Differs });
    }
}

/// Which of a plan's steps are repairs: what had been laid and is not as it was. A step that `before`, what was wanted when
/// a plan was last taken whole, would have asked for as well; and every step on a pod, whose ADD has laid it.
pub fn repairs(wanted: &Wanted, before: &Wanted, observed: &HostView, plan: &[Planned]) -> Vec<Planned> {
    let (pods, dying, links) = (wanted.pods.clone(), wanted.dying.clone(), wanted.links.clone());
    let before = Wanted { pods, dying, links, ..before.clone() };
    if before == *wanted {
        return plan.to_vec();
    }
    let due = self::plan(&before, observed);
    plan.iter().filter(|planned| due.contains(planned)).cloned().collect()
}

#[cfg(test)]
pub(crate) mod model;
#[cfg(test)]
mod tests;
