//! The host's part of each ENI: its link, its own address, its table and the rule that looks that up.
//!
//! Owns the plan of these. The primary ENI's link gets its group and settings and nothing else: its address and routes
//! are the system's. Laid in the order table, rule (and then nft), taken away in the reverse of it, so that no packet
//! is ever sent to a table that is not there. Does not write the nft table's text. Takes nothing away while the primary
//! ENI is not known: then the others are not known either.

use super::{Planned, Reason, Wanted, find_links};
use crate::kernel::{
    ENI_GROUP, ENI_INET, ENI_RULE_PRIORITY, ENI_TABLE, EniRouteView, HostAddressView, HostStep, HostView,
    LinkView, MARK_MASK, MAX_ENI_NUMBER, Mark, PODS_RULE_PRIORITY, PODS_TABLE, PROTOCOL, RuleView,
};
use crate::record::EniRecord;
use ipnet::Ipv4Net;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// An ENI whose link is there, or the primary.
pub(super) struct Laid<'a> {
    pub(super) record: &'a EniRecord,
    pub(super) link: Option<&'a LinkView>,
}

/// The ENIs to lay, by number. One whose link is not there yet (or any more) is not steered to; the primary is in it
/// all the same: what is its own needs no link.
pub(super) fn laid<'a>(wanted: &'a Wanted, observed: &'a HostView) -> BTreeMap<u32, Laid<'a>> {
    let links = find_links(wanted, observed);
    let find = |record: &EniRecord| {
        let (ifindex, _) = links.get(&record.mac)?;
        observed.links.iter().find(|l| l.ifindex == *ifindex)
    };
    let enis = wanted.enis.iter().map(|record| (record.number(), Laid { record, link: find(record) }));
    enis.filter(|(k, eni)| *k <= MAX_ENI_NUMBER && (*k == 1 || eni.link.is_some())).collect()
}

/// The gateway of a subnet: its first address.
pub fn gateway(subnet: Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(subnet.network()).saturating_add(1))
}

/// The routes of a secondary ENI's table, in the order they must be laid in: the kernel looks for the next hop's.
pub fn routes(number: u32, subnet: Ipv4Net, ifindex: u32) -> [EniRouteView; 2] {
    let gateway = gateway(subnet);
    let route = |destination, gateway| EniRouteView {
        table: ENI_TABLE + number,
        destination,
        gateway,
        ifindex,
        metric: 0,
        protocol: PROTOCOL,
    };
    [route(Ipv4Net::from(gateway), None), route(Ipv4Net::default(), Some(gateway))]
}

/// Every rule of ours: the pods' and one per secondary ENI.
fn rules(enis: &BTreeMap<u32, Laid<'_>>) -> Vec<RuleView> {
    let rule =
        |priority, table, mark| RuleView { priority, table, protocol: PROTOCOL, mark, other_selector: false };
    let marked = |k: u32| Some(Mark { value: k, mask: MARK_MASK });
    let by_mark =
        enis.keys().filter(|k| **k != 1).map(|k| rule(ENI_RULE_PRIORITY, ENI_TABLE + k, marked(*k)));
    std::iter::once(rule(PODS_RULE_PRIORITY, PODS_TABLE, None)).chain(by_mark).collect()
}

/// What is missing for the ENIs, and every rule of ours.
pub(super) fn ensure(
    wanted: &Wanted,
    enis: &BTreeMap<u32, Laid<'_>>,
    observed: &HostView,
    plan: &mut Vec<Planned>,
) {
    for (k, eni) in enis {
        let Some(link) = eni.link else { continue };
        if link.mac != Some(eni.record.mac) {
            let step = HostStep::SetMac { ifindex: link.ifindex, mac: eni.record.mac };
            plan.push(Planned { step, reason: Reason::Differs });
        }
        super::ensure_link(link, ENI_GROUP + k, ENI_INET, plan);
        if *k == 1 {
            continue;
        }
        if let Some(mtu) = wanted.eni_mtu.filter(|mtu| link.mtu != *mtu) {
            plan.push(Planned {
                step: HostStep::SetMtu { ifindex: link.ifindex, mtu },
                reason: Reason::Differs,
            });
        }
        let own = HostAddressView { ifindex: link.ifindex, address: Ipv4Net::from(eni.record.primary) };
        if !observed.addresses.contains(&own) {
            plan.push(Planned { step: HostStep::AddAddress(own), reason: Reason::Missing });
        }
        for route in routes(*k, eni.record.subnet_cidr, link.ifindex) {
            if !observed.eni_routes.contains(&route) {
                let there = observed.eni_routes.iter().any(|r| same_place(r, &route));
                let reason = if there { Reason::Differs } else { Reason::Missing };
                plan.push(Planned { step: HostStep::AddEniRoute(route), reason });
            }
        }
    }
    let rules = rules(enis);
    for rule in &rules {
        // The kernel deletes the first rule that fits, which may be the right one: that is laid again at once.
        let wrong: Vec<_> = stray(&rules, observed).filter(|r| alike(r, rule)).collect();
        let reason = if wrong.is_empty() { Reason::Missing } else { Reason::Differs };
        plan.extend(wrong.into_iter().map(|r| delete(r, Reason::Differs)));
        if reason == Reason::Differs || !observed.rules.contains(rule) {
            let RuleView { priority, table, mark, .. } = *rule;
            plan.push(Planned { step: HostStep::AddRule { priority, table, mark }, reason });
        }
    }
}

/// What is left of ENIs that are gone, and rules that are nobody's: to be taken after nft sends nothing there.
pub(super) fn remove(
    all: &Wanted,
    enis: &BTreeMap<u32, Laid<'_>>,
    observed: &HostView,
    plan: &mut Vec<Planned>,
) {
    if !enis.contains_key(&1) {
        return;
    }
    let mut unneeded = |step| plan.push(Planned { step, reason: Reason::Unneeded });
    let rules = rules(enis);
    for rule in stray(&rules, observed).filter(|r| !rules.iter().any(|right| alike(r, right))) {
        unneeded(delete(rule, Reason::Unneeded).step);
    }
    let secondary = enis.iter().filter(|(k, _)| **k != 1);
    let links: Vec<(u32, &EniRecord, u32)> =
        secondary.filter_map(|(k, eni)| Some((*k, eni.record, eni.link?.ifindex))).collect();
    let wanted: BTreeSet<EniRouteView> =
        links.iter().flat_map(|(k, record, ifindex)| routes(*k, record.subnet_cidr, *ifindex)).collect();
    for route in observed.eni_routes.iter().filter(|r| r.protocol == PROTOCOL && !wanted.contains(r)) {
        // One that is about to be replaced is gone by itself.
        let replaced = wanted.iter().any(|w| same_place(w, route) && !observed.eni_routes.contains(w));
        if !replaced {
            unneeded(HostStep::DeleteEniRoute(*route));
        }
    }
    for link in &observed.links {
        let kept = enis.values().any(|eni| eni.link.is_some_and(|l| l.ifindex == link.ifindex));
        let of_an_eni = (ENI_GROUP + 1..=ENI_GROUP + MARK_MASK).contains(&link.group);
        // A pod's link that somebody put into such a group gets its own back, elsewhere.
        if kept || !of_an_eni || all.links.contains(&link.ifindex) {
            continue;
        }
        let own = |a: &&HostAddressView| a.ifindex == link.ifindex && a.address.prefix_len() == 32;
        let own = observed.addresses.iter().filter(own).filter(|_| link.group != ENI_GROUP + 1);
        own.for_each(|address| unneeded(HostStep::DeleteAddress(*address)));
        unneeded(HostStep::SetLink { ifindex: link.ifindex, group: 0, inet: link.inet, up: false });
    }
}

fn delete(rule: &RuleView, reason: Reason) -> Planned {
    let RuleView { priority, table, mark, .. } = *rule;
    Planned { step: HostStep::DeleteRule { priority, table, mark }, reason }
}

/// Rules of our protocol that are not wanted.
fn stray<'a>(rules: &'a [RuleView], observed: &'a HostView) -> impl Iterator<Item = &'a RuleView> {
    observed.rules.iter().filter(|r| r.protocol == PROTOCOL && !rules.contains(r))
}

/// Whether a deletion of one may take the other.
fn alike(one: &RuleView, other: &RuleView) -> bool {
    (one.priority, one.table) == (other.priority, other.table)
}

/// Whether laying one replaces the other.
fn same_place(one: &EniRouteView, other: &EniRouteView) -> bool {
    (one.table, one.destination, one.metric) == (other.table, other.destination, other.metric)
}
