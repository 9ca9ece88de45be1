//! The host's part of one live attachment: its link, its neighbour, its route.
//!
//! Owns the plan of these, and telling whether a link that is seen under an attachment's number is that attachment's.
//! Does not lay a link: one that is gone cannot be made again from here, for its other end lies in the sandbox.

use super::{Planned, Reason, WantedPod, ensure_link};
use crate::kernel::{
    Alias, DYING_GROUP, FIRST_IFINDEX, HostStep, HostView, LinkView, NeighbourView, POD_GROUP, POD_INET,
    PROTOCOL, RouteAction, RouteView,
};
use eni_proto::ids::MacAddr;
use ipnet::Ipv4Net;
use std::net::Ipv4Addr;

/// What a look at the host says of an attachment's link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkSight<'a> {
    /// It is there, though it may have been changed.
    There(&'a LinkView),
    /// It is gone: nothing has its number, or what has it is nobody's host end or another attachment's.
    Gone,
    /// What has its number has nothing else of it: it may be the same link, changed in everything. That is told, and it is
    /// left alone.
    Unclear,
}

/// Looks for an attachment's link among `observed`.
pub fn sight<'a>(
    ifindex: u32,
    alias: &str,
    name: &str,
    mac: MacAddr,
    observed: &'a HostView,
) -> LinkSight<'a> {
    let Some(link) = observed.links.iter().find(|l| l.ifindex == ifindex) else { return LinkSight::Gone };
    // A MAC of ours is of one attachment; an alias others may copy.
    let anothers = link.mac != Some(mac) && link.alias != alias && Alias::parse(&link.alias).is_some();
    if link.kind != "veth" || anothers {
        return LinkSight::Gone;
    }
    if link.alias == alias || link.name == name || link.mac == Some(mac) || has_our_group(link) {
        LinkSight::There(link)
    } else {
        LinkSight::Unclear
    }
}

/// Whether a veth of a number of ours is in a group of ours: nobody else makes one so, whatever it is called by now.
fn has_our_group(link: &LinkView) -> bool {
    let group = link.group == DYING_GROUP || (POD_GROUP..POD_GROUP + 0x80).contains(&link.group);
    group && link.ifindex >= FIRST_IFINDEX
}

/// `prefsrc` is the preferred source that its routes should have; none while the primary ENI is not known: any is right.
pub(super) fn ensure(
    pod: &WantedPod,
    prefsrc: Option<Option<Ipv4Addr>>,
    observed: &HostView,
    plan: &mut Vec<Planned>,
) {
    let seen = sight(pod.ifindex, &pod.alias, pod.name.as_str(), pod.mac, observed);
    let LinkSight::There(link) = seen else { return };
    if link.group == DYING_GROUP {
        return;
    }
    ensure_identity(pod, link, observed, plan);
    ensure_link(link, pod.eni_number.map_or(link.group, |k| POD_GROUP + k), POD_INET, plan);
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
            prefsrc: prefsrc.flatten(),
            protocol: PROTOCOL,
        };
        let right = |r: &RouteView| RouteView { prefsrc: prefsrc.unwrap_or(r.prefsrc), ..*r } == *r;
        let there = |r: &RouteView| RouteView { prefsrc: r.prefsrc, ..route } == *r && right(r);
        if !observed.pods_routes.iter().any(there) {
            plan.push(Planned { step: HostStep::AddRoute(route), reason: Reason::Missing });
        }
    }
}

/// A dying link whose alias somebody has changed is nobody's to delete: it gets its own back. One that has none and its
/// name was not finished, and is deleted without.
pub(super) fn ensure_alias(pod: &WantedPod, observed: &HostView, plan: &mut Vec<Planned>) {
    let seen = sight(pod.ifindex, &pod.alias, pod.name.as_str(), pod.mac, observed);
    let LinkSight::There(link) = seen else { return };
    let unfinished = link.alias.is_empty() && link.name == pod.name.as_str();
    if link.alias != pod.alias && !unfinished {
        let step = HostStep::SetAlias { ifindex: pod.ifindex, alias: pod.alias.clone() };
        plan.push(Planned { step, reason: Reason::Differs });
    }
}

/// Alias, MAC and name. A name that somebody else's link has by now is left to it.
fn ensure_identity(pod: &WantedPod, link: &LinkView, observed: &HostView, plan: &mut Vec<Planned>) {
    let ifindex = link.ifindex;
    let mut differs = |step| plan.push(Planned { step, reason: Reason::Differs });
    if link.alias != pod.alias {
        differs(HostStep::SetAlias { ifindex, alias: pod.alias.clone() });
    }
    if link.mac != Some(pod.mac) {
        differs(HostStep::SetMac { ifindex, mac: pod.mac });
    }
    let name = pod.name.as_str();
    if link.name != name && observed.links.iter().all(|other| other.name != name) {
        differs(HostStep::SetName { ifindex, name: name.to_owned() });
    }
}
