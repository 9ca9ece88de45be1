//! What CHECK expects of an attachment, and how that differs from what is seen.
//!
//! Owns the comparison: link, address, routes, neighbours, host route, rules, the ENI's table and the nft table, from
//! the records and one look. Extra addresses, routes and tables in a sandbox are later plugins' and are no difference;
//! neither is a host route without its preferred source, which is laid so when the kernel refuses that. Does not look
//! and repairs nothing.

use crate::host_net::{eni, nft};
use crate::kernel::{
    AttachmentView, ENI_GROUP, ENI_INET, ENI_RULE_PRIORITY, ENI_TABLE, LookSpec, MARK_MASK, Mark, NFT_TABLE,
    NeighbourView, NftView, POD_GROUP, POD_INET, PODS_RULE_PRIORITY, PODS_TABLE, PROTOCOL, RouteAction,
    RouteView, RuleView, SANDBOX_GATEWAY, SandboxRouteView,
};
use crate::record::AttachmentRecord;
use eni_proto::ids::MacAddr;
use ipnet::Ipv4Net;
use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::net::Ipv4Addr;
use std::sync::Arc;

/// The most things of one kind that a difference names as found.
const SHOWN: usize = 4;

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// What.
    pub what: String,
    /// What should be there.
    pub expected: String,
    /// What is there.
    pub found: String,
}

impl Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: expected {}, found {}", self.what, self.expected, self.found)
    }
}

/// What an attachment should look like.
#[derive(Debug, Clone, PartialEq)]
pub struct Expected {
    /// Its record.
    pub record: Arc<AttachmentRecord>,
    /// The host end's alias.
    pub alias: String,
    /// Its ENI; none while it is not known: then nothing of the ENI's is compared.
    pub eni: Option<ExpectedEni>,
    /// The nft table's part of the primary ENI and of its own; none while the primary is not known.
    pub nft: Option<NftView>,
    /// The preferred source of its host route, when the node's primary address is known.
    pub prefsrc: Option<Ipv4Addr>,
}

/// What an attachment's ENI should look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpectedEni {
    /// Its number.
    pub number: u32,
    /// Its MAC.
    pub mac: MacAddr,
    /// The index of its link, when it was found.
    pub ifindex: Option<u32>,
    /// Its subnet's CIDR.
    pub subnet_cidr: Ipv4Net,
}

/// The part of the nft table that packets of a pod on ENI `number` pass, out of a table of all ENIs.
pub fn nft_part(table: &nft::Table, number: u32) -> NftView {
    let mut own = table.clone();
    own.enis.retain(|k, _| *k == 1 || *k == number);
    nft::contents(&nft::render(&own))
}

impl Expected {
    /// What is to be looked at.
    pub fn spec(&self) -> LookSpec {
        LookSpec {
            ifindex: self.record.host_ifindex,
            sandbox_name: self.record.key.ifname.clone(),
            addresses: self.record.addresses.iter().copied().collect(),
            eni_ifindex: self.eni.and_then(|eni| eni.ifindex),
            eni_table: self.eni.filter(|eni| eni.number != 1).map(|eni| ENI_TABLE + eni.number),
        }
    }

    /// Everything that differs; nothing when the attachment is as it should be.
    pub fn compare(&self, seen: &AttachmentView) -> Vec<Difference> {
        let mut found = Differences::default();
        self.host_link(seen, &mut found);
        self.sandbox(seen, &mut found);
        self.rules(seen, &mut found);
        if let Some(eni) = &self.eni {
            eni_link(eni, seen, &mut found);
        }
        if let Some(expected) = &self.nft {
            nft_table(expected, seen.nft.as_ref(), &mut found);
        }
        found.0
    }

    /// The host end, and what hangs on it: with the link these are gone, too, and not told of one by one.
    fn host_link(&self, seen: &AttachmentView, found: &mut Differences) {
        let record = &self.record;
        let Some(link) = &seen.link else {
            let expected = format!("{} with index {}", record.host_link, record.host_ifindex);
            return found.put("the host link", expected, "none");
        };
        found.unequal("the host link's name", record.host_link.as_str(), &link.name);
        found.unequal("the host link's alias", quoted(&self.alias), quoted(&link.alias));
        if let Some(eni) = &self.eni {
            found.unequal("the host link's group", hex(POD_GROUP + eni.number), hex(link.group));
        }
        found.unequal("the host link's MAC", record.host_mac, mac(link.mac));
        found.unequal("the host link", "up", up(link.up));
        found.unequal("the host link's settings", settings(POD_INET), settings(link.inet));
        for address in &record.addresses {
            let what = format!("the host's neighbour {address}");
            neighbour(&what, record.host_ifindex, *address, record.sandbox_mac, &seen.neighbours, found);
            let expected = RouteView {
                destination: Ipv4Net::from(*address),
                metric: 0,
                action: RouteAction::Device { ifindex: record.host_ifindex },
                prefsrc: self.prefsrc,
                protocol: PROTOCOL,
            };
            let right = |r: &&RouteView| **r == expected || **r == RouteView { prefsrc: None, ..expected };
            let to_it = || seen.routes.iter().filter(|r| r.destination == expected.destination);
            if !to_it().any(|r| right(&r)) {
                found.put("the host route", host_route(&expected), listed(to_it().map(host_route)));
            }
        }
    }

    fn sandbox(&self, seen: &AttachmentView, found: &mut Differences) {
        let record = &self.record;
        let (ifindex, ifname) = (record.host_ifindex, &record.key.ifname);
        let shown = |name: &str, index: u32| format!("{name} with index {index}");
        let expected = shown(ifname.as_str(), ifindex);
        let Some(link) = &seen.sandbox.link else { return found.put("the sandbox's link", expected, "none") };
        let there = shown(&link.name, link.ifindex);
        let same = there == expected;
        found.unequal("the sandbox's link", expected, there);
        if !same && link.ifindex != ifindex {
            return;
        }
        found.unequal("the sandbox's MAC", record.sandbox_mac, mac(link.mac));
        found.unequal("the sandbox's link", "up", up(link.up));
        for address in record.addresses.iter().copied().map(Ipv4Net::from) {
            if !seen.sandbox.addresses.contains(&address) {
                found.put("the sandbox's address", address, listed(&seen.sandbox.addresses));
            }
        }
        let next_hop = SandboxRouteView { destination: Ipv4Net::from(SANDBOX_GATEWAY), gateway: None };
        let default = SandboxRouteView { destination: Ipv4Net::default(), gateway: Some(SANDBOX_GATEWAY) };
        for (what, route) in
            [("the sandbox's route to its next hop", next_hop), ("the sandbox's default route", default)]
        {
            if !seen.sandbox.routes.contains(&route) {
                let there = seen.sandbox.routes.iter().filter(|r| r.destination == route.destination);
                found.put(what, sandbox_route(&route), listed(there.map(sandbox_route)));
            }
        }
        let what = format!("the sandbox's neighbour {SANDBOX_GATEWAY}");
        neighbour(&what, ifindex, SANDBOX_GATEWAY, record.host_mac, &seen.sandbox.neighbours, found);
    }

    fn rules(&self, seen: &AttachmentView, found: &mut Differences) {
        let rule = |priority, table, mark| RuleView {
            priority,
            table,
            protocol: PROTOCOL,
            mark,
            other_selector: false,
        };
        let mut rules =
            vec![("the rule of the pods table".to_owned(), rule(PODS_RULE_PRIORITY, PODS_TABLE, None))];
        if let Some(eni) = self.eni.filter(|eni| eni.number != 1) {
            let mark = Some(Mark { value: eni.number, mask: MARK_MASK });
            let what = format!("the rule of ENI {}", eni.number);
            rules.push((what, rule(ENI_RULE_PRIORITY, ENI_TABLE + eni.number, mark)));
        }
        for (what, rule) in rules {
            if !seen.rules.contains(&rule) {
                let near = |r: &&RuleView| r.priority == rule.priority || r.table == rule.table;
                let there = seen.rules.iter().filter(near).map(shown_rule);
                found.put(what, shown_rule(&rule), listed(there));
            }
        }
    }
}

#[derive(Default)]
struct Differences(Vec<Difference>);

impl Differences {
    fn put(&mut self, what: impl Display, expected: impl Display, found: impl Display) {
        let (what, expected, found) = (what.to_string(), expected.to_string(), found.to_string());
        self.0.push(Difference { what, expected, found });
    }

    fn unequal(&mut self, what: &str, expected: impl Display, found: impl Display) {
        let (expected, found) = (expected.to_string(), found.to_string());
        if expected != found {
            self.put(what, expected, found);
        }
    }
}

fn neighbour(
    what: &str,
    ifindex: u32,
    address: Ipv4Addr,
    mac: MacAddr,
    seen: &[NeighbourView],
    found: &mut Differences,
) {
    let expected = NeighbourView { ifindex, address, mac, permanent: true };
    let shown = |n: &NeighbourView| format!("{}{}", n.mac, if n.permanent { ", permanent" } else { "" });
    if !seen.contains(&expected) {
        let there = seen.iter().filter(|n| n.ifindex == ifindex && n.address == address).map(shown);
        found.put(what, shown(&expected), listed(there));
    }
}

/// The ENI's own link, and the table of a secondary one. The primary's routes are the system's.
fn eni_link(eni: &ExpectedEni, seen: &AttachmentView, found: &mut Differences) {
    let name = |of: &str| format!("the {of} of ENI {}", eni.number);
    let (Some(ifindex), Some(link)) = (eni.ifindex, &seen.eni_link) else {
        return found.put(name("link"), format!("one with the MAC {}", eni.mac), "none");
    };
    found.unequal(&name("link's MAC"), eni.mac, mac(link.mac));
    found.unequal(&name("link's group"), hex(ENI_GROUP + eni.number), hex(link.group));
    found.unequal(&name("link"), "up", up(link.up));
    found.unequal(&name("link's settings"), settings(ENI_INET), settings(link.inet));
    if eni.number == 1 {
        return;
    }
    let shown = |r: &crate::kernel::EniRouteView| {
        let via = r.gateway.map(|gateway| format!(" via {gateway}")).unwrap_or_default();
        format!("{}{via} by link {} in table {:#x}", r.destination, r.ifindex, r.table)
    };
    for route in eni::routes(eni.number, eni.subnet_cidr, ifindex) {
        if !seen.eni_routes.contains(&route) {
            let there = seen.eni_routes.iter().filter(|r| r.destination == route.destination).map(shown);
            found.put(name("route"), shown(&route), listed(there));
        }
    }
}

fn nft_table(expected: &NftView, seen: Option<&NftView>, found: &mut Differences) {
    let Some(seen) = seen else {
        return found.put("the nft table", format!("table ip {NFT_TABLE}"), "none");
    };
    let none = BTreeMap::new();
    for (map, elements) in &expected.maps {
        let there = seen.maps.get(map).unwrap_or(&none);
        for (key, verdict) in elements {
            let is = there.get(key).map_or("none", String::as_str);
            found.unequal(&format!("the element {key:#x} of the nft map {map}"), verdict, is);
        }
    }
    for (chain, count) in &expected.rules {
        let there = seen.rules.get(chain).copied().unwrap_or(0);
        found.unequal(&format!("the rules of the nft chain {chain}"), count, there);
    }
}

fn listed(things: impl IntoIterator<Item = impl Display>) -> String {
    let mut things = things.into_iter();
    let shown: Vec<String> = things.by_ref().take(SHOWN).map(|thing| thing.to_string()).collect();
    match (shown.is_empty(), things.count()) {
        (true, _) => "none".to_owned(),
        (false, 0) => shown.join(" and "),
        (false, more) => format!("{} and {more} more", shown.join(", ")),
    }
}

fn quoted(text: &str) -> String {
    format!("{text:?}")
}

fn hex(number: u32) -> String {
    format!("{number:#x}")
}

fn up(up: bool) -> &'static str {
    if up { "up" } else { "down" }
}

fn mac(mac: Option<MacAddr>) -> String {
    mac.map_or_else(|| "none".to_owned(), |mac| mac.to_string())
}

fn settings(inet: crate::kernel::InetSettings) -> String {
    let crate::kernel::InetSettings { forwarding, rp_filter, send_redirects } = inet;
    let (forwarding, redirects) = (u8::from(forwarding), u8::from(send_redirects));
    format!("forwarding {forwarding} rp_filter {rp_filter} send_redirects {redirects}")
}

fn host_route(route: &RouteView) -> String {
    let RouteView { destination, metric, action, prefsrc, protocol } = route;
    let by = match action {
        RouteAction::Device { ifindex } => format!("by link {ifindex}"),
        RouteAction::Unreachable => "unreachable".to_owned(),
    };
    let source = prefsrc.map(|source| format!(" from {source}")).unwrap_or_default();
    format!("{destination} {by}{source} metric {metric} protocol {protocol}")
}

fn sandbox_route(route: &SandboxRouteView) -> String {
    match route.gateway {
        Some(gateway) => format!("{} via {gateway}", route.destination),
        None => format!("{} on the link", route.destination),
    }
}

fn shown_rule(rule: &RuleView) -> String {
    let RuleView { priority, table, protocol, mark, other_selector } = rule;
    let mark = mark.map(|mark| format!(" fwmark {:#x}/{:#x}", mark.value, mark.mask)).unwrap_or_default();
    let more = if *other_selector { " and more" } else { "" };
    format!("{priority}:{mark}{more} lookup {table:#x} protocol {protocol}")
}

#[cfg(test)]
mod tests;
