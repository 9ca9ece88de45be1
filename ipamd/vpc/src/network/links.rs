//! The ENIs' links: what is laid, and the lines that make it what it has to be.
//!
//! Owns the comparison of both and the order of the lines. Runs nothing. An ENI of device index n is `v<n+1>` on the
//! router and `ens<n+5>` on the node; those of another network card than the first come 32 later for each card. One
//! that carries no addresses of IP has no link. Its source check stands before its link comes up; what the router
//! knows of its addresses are a route by its link and a permanent neighbour, since nobody on the node answers for
//! them.

use crate::model::EFA_ONLY;
use eni_proto::ids::{EniId, MacAddr};
use ipamd_core::cloud::EniObservation;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::Ipv4Addr;

/// How many device indexes a network card has room for.
const PER_CARD: u32 = 32;
const WRITES: &str = "writing to a string does not fail";

/// What is laid, by ENI.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Links(pub(super) BTreeMap<EniId, Link>);

/// The link of one ENI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    /// The device index, counted over the network cards.
    device_index: u32,
    mac: MacAddr,
    addresses: BTreeSet<Ipv4Addr>,
}

impl Link {
    pub(super) fn of(eni: &EniObservation) -> Option<Link> {
        let attachment = eni.attachment.as_ref().filter(|_| eni.kind != EFA_ONLY)?;
        let device_index = attachment.device_index + attachment.network_card * PER_CARD;
        let addresses = eni.all_addresses().collect();
        Some(Link { device_index, mac: eni.mac, addresses })
    }

    /// The router's end.
    pub(super) fn router(&self) -> String {
        format!("v{}", self.device_index + 1)
    }

    /// The node's end.
    pub(super) fn node(&self) -> String {
        format!("ens{}", self.device_index + 5)
    }
}

/// What the lines need to know beside the links.
pub(super) struct Site<'a> {
    pub(super) node_netns: &'a str,
    pub(super) gateway: Ipv4Addr,
    pub(super) mtu: u32,
}

/// What makes the laid links the wanted ones. In this order: `checks` before `routes`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Steps {
    /// For nft, on the router; one transaction.
    pub(super) checks: String,
    /// For `ip -batch`, on the router.
    pub(super) routes: String,
    /// The router's ends that are made: what is taken away again if a step fails.
    pub(super) made: Vec<String>,
}

/// Compares. A link whose ENI, MAC or device index is another one now is made anew.
pub(super) fn plan(laid: &Links, wanted: &Links, site: &Site<'_>) -> Steps {
    let mut steps = Steps::default();
    let same = |id: &EniId, link: &Link| {
        wanted.0.get(id).filter(|w| w.mac == link.mac && w.device_index == link.device_index)
    };
    for (_, link) in laid.0.iter().filter(|(id, link)| same(id, link).is_none()) {
        // Its routes, neighbours and the node's end go with it. Its check stays, for its count.
        writeln!(steps.routes, "link del {}", link.router()).expect(WRITES);
    }
    let kept = |id: &EniId| laid.0.get(id).filter(|old| same(id, old).is_some());
    // An address may have moved from one ENI to another: it is taken away everywhere before it is given.
    for (old, new) in wanted.0.iter().filter_map(|(id, link)| Some((kept(id)?, link))) {
        steps.take(old, new);
    }
    for (id, link) in &wanted.0 {
        match kept(id) {
            Some(old) => steps.give(old, link),
            None => steps.make(link, site),
        }
    }
    steps
}

impl Steps {
    fn make(&mut self, link: &Link, site: &Site<'_>) {
        let (v, ens, mac) = (link.router(), link.node(), link.mac);
        let Site { node_netns, gateway, mtu } = site;
        write!(
            self.checks,
            "add counter ip vpc {v}\n\
             add set ip vpc {v} {{ type ipv4_addr; }}\n\
             flush set ip vpc {v}\n\
             add element ip vpc {v} {{ {} }}\n\
             add chain ip vpc {v}\n\
             flush chain ip vpc {v}\n\
             add rule ip vpc {v} ip saddr != @{v} counter name {v} drop\n\
             add element ip vpc enis {{ \"{v}\" : jump {v} }}\n",
            list(&link.addresses)
        )
        .expect(WRITES);
        write!(
            self.routes,
            "link add {v} mtu {mtu} type veth peer name {ens} mtu {mtu} address {mac} netns {node_netns}\n\
             addr add {gateway}/32 dev {v}\n\
             link set {v} up\n"
        )
        .expect(WRITES);
        self.add(link, &link.addresses);
        self.made.push(v);
    }

    fn take(&mut self, old: &Link, new: &Link) {
        let v = new.router();
        let gone: BTreeSet<_> = old.addresses.difference(&new.addresses).copied().collect();
        if !gone.is_empty() {
            writeln!(self.checks, "delete element ip vpc {v} {{ {} }}", list(&gone)).expect(WRITES);
        }
        for address in &gone {
            writeln!(self.routes, "route del {address}/32 dev {v}\nneigh del {address} dev {v}")
                .expect(WRITES);
        }
    }

    fn give(&mut self, old: &Link, new: &Link) {
        let v = new.router();
        let added: BTreeSet<_> = new.addresses.difference(&old.addresses).copied().collect();
        if !added.is_empty() {
            writeln!(self.checks, "add element ip vpc {v} {{ {} }}", list(&added)).expect(WRITES);
        }
        self.add(new, &added);
    }

    fn add(&mut self, link: &Link, addresses: &BTreeSet<Ipv4Addr>) {
        let (v, mac) = (link.router(), link.mac);
        for address in addresses {
            writeln!(
                self.routes,
                "route add {address}/32 dev {v}\nneigh add {address} lladdr {mac} dev {v} nud permanent"
            )
            .expect(WRITES);
        }
    }
}

fn list(addresses: &BTreeSet<Ipv4Addr>) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SITE: Site<'_> = Site { node_netns: "n", gateway: Ipv4Addr::new(10, 0, 1, 1), mtu: 9001 };

    fn links(enis: &[(&str, u32, &[u8])]) -> Links {
        let link = |(id, device_index, addresses): &(&str, u32, &[u8])| {
            let addresses = addresses.iter().map(|&a| Ipv4Addr::new(10, 0, 1, a)).collect();
            (
                id.parse().unwrap(),
                Link { device_index: *device_index, mac: MacAddr([2, 0, 0, 0, 0, 1]), addresses },
            )
        };
        Links(enis.iter().map(link).collect())
    }

    #[test]
    fn what_is_as_it_should_be_needs_no_step() {
        let same = links(&[("eni-1", 0, &[10, 11]), ("eni-2", 1, &[20])]);
        assert_eq!(plan(&same, &same, &SITE), Steps::default());
    }

    #[test]
    fn a_new_eni_is_checked_before_it_is_there_and_has_all_its_addresses() {
        let steps = plan(
            &links(&[("eni-1", 0, &[10])]),
            &links(&[("eni-1", 0, &[10]), ("eni-2", 1, &[20, 21])]),
            &SITE,
        );
        assert!(steps.checks.contains("add element ip vpc v2 { 10.0.1.20, 10.0.1.21 }"), "{}", steps.checks);
        let lines: Vec<&str> = steps.routes.lines().collect();
        assert_eq!(lines.len(), 3 + 2 * 2);
        assert!(lines[0].starts_with("link add v2 ") && lines[0].ends_with("netns n"), "{}", lines[0]);
        assert_eq!(lines[5], "route add 10.0.1.21/32 dev v2");
        assert_eq!(steps.made, ["v2"]);
    }

    #[test]
    fn a_changed_eni_is_told_of_its_changes_alone() {
        let steps = plan(&links(&[("eni-1", 0, &[10, 11])]), &links(&[("eni-1", 0, &[10, 12])]), &SITE);
        let checks = "delete element ip vpc v1 { 10.0.1.11 }\nadd element ip vpc v1 { 10.0.1.12 }\n";
        assert_eq!(steps.checks, checks);
        assert_eq!(steps.routes.lines().next(), Some("route del 10.0.1.11/32 dev v1"));
        assert_eq!(steps.routes.lines().count(), 4);
        assert_eq!(steps.made, [""; 0]);
    }

    #[test]
    fn an_address_that_moves_is_taken_before_it_is_given() {
        let laid = links(&[("eni-1", 0, &[10]), ("eni-2", 1, &[20, 21])]);
        let steps = plan(&laid, &links(&[("eni-1", 0, &[10, 21]), ("eni-2", 1, &[20])]), &SITE);
        let place = |line: &str| steps.routes.lines().position(|l| l == line);
        let (del, add) = (place("route del 10.0.1.21/32 dev v2"), place("route add 10.0.1.21/32 dev v1"));
        assert!(del.is_some() && del < add, "{}", steps.routes);
    }

    #[test]
    fn an_eni_that_goes_goes_before_another_takes_its_place() {
        let steps = plan(&links(&[("eni-2", 1, &[20])]), &links(&[("eni-3", 1, &[30])]), &SITE);
        let lines: Vec<&str> = steps.routes.lines().collect();
        assert_eq!(lines[0], "link del v2");
        assert!(lines[1].starts_with("link add v2 "), "{}", lines[1]);
    }
}
