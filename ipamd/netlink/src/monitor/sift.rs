//! Which of the kernel's notifications say that somebody else changed what is ours.
//!
//! Owns what was seen last of each link of ours, because the kernel does not tell who changed a link: what an ADD or a
//! DEL does to one is known (it is made, raised and named, it joins the dying group, it goes), everything else is
//! others'. Routes, rules and addresses tell the port of who changed them. Reads no socket; decides nothing but that it
//! is time to look. A repair of ours may be taken for others' once: the look after it finds nothing.

use crate::answer::{Header, attributes};
use crate::dump;
use crate::forward::FILTER_TABLE;
use crate::nfnl;
use crate::nft;
use crate::socket::is_ours;
use eni_proto::ids::MacAddr;
use ipamd_core::kernel::{
    Alias, DYING_GROUP, ENI_GROUP, ENI_INET, LinkView, MARK_MASK, NFT_TABLE, POD_GROUP, POD_INET, PODS_TABLE,
    PROTOCOL, Trigger,
};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
pub(super) const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
pub(super) const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
const RTM_NEWRULE: u16 = 32;
const RTM_DELRULE: u16 = 33;
const RTM_NEWNETCONF: u16 = 80;
pub(super) const RTM_DELNETCONF: u16 = 81;
const TABLE_MAIN: u32 = 254;

/// What was seen last of a link of ours. No more than what is compared: there is one per pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    group: u32,
    /// The group that it belongs into, as far as can be told: the last of ours, the dying one aside.
    home: u32,
    /// The hash of the first alias that it had; 0 before that.
    alias: u64,
    name: u64,
    mac: Option<MacAddr>,
    mtu: u32,
    up: bool,
    /// Its settings are what ours are.
    set: bool,
}

/// The links of ours, and what of a transaction of nftables has been read.
#[derive(Debug, Default)]
pub(super) struct Sift {
    links: BTreeMap<u32, Seen>,
    /// Our table was touched by the transaction whose end has not come.
    table: bool,
    /// The filter table was, so that what it does with pods' packets may have changed.
    filter: bool,
}

/// What a transaction of nftables has touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Transaction {
    pub(super) generation: Option<u32>,
    pub(super) table: bool,
    pub(super) filter: bool,
}

fn is_eni(group: u32) -> bool {
    (ENI_GROUP + 1..=ENI_GROUP + MARK_MASK).contains(&group)
}

fn is_pod(group: u32) -> bool {
    (POD_GROUP..=POD_GROUP + MARK_MASK).contains(&group)
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish().max(1)
}

impl Seen {
    fn of(link: &LinkView) -> Seen {
        Seen {
            group: link.group,
            home: link.group,
            alias: if link.alias.is_empty() { 0 } else { hash(&link.alias) },
            name: hash(&link.name),
            mac: link.mac,
            mtu: link.mtu,
            up: link.up,
            set: is_set(link, link.group),
        }
    }

    /// Takes what is seen now; whether somebody else has changed it.
    fn take(&mut self, link: &LinkView) -> bool {
        let now = Seen::of(link);
        let regrouped = now.group != self.group && now.group != self.home;
        let pod = !is_eni(self.home);
        let named = pod && self.alias != 0 && now.alias != self.alias;
        let known = (self.name, self.mac) != (now.name, now.mac) || (!pod && self.mtu != now.mtu);
        let (set, home) = (is_set(link, self.home), self.home);
        let lowered = (self.up && !now.up) || (self.set && !set);
        let alias = if self.alias == 0 { now.alias } else { self.alias };
        let home = if is_eni(now.group) || is_pod(now.group) { now.group } else { home };
        *self = Seen { home, alias, set, ..now };
        // What is dying is lowered, loses its settings and goes.
        now.group != DYING_GROUP && (regrouped || named || known || lowered)
    }
}

fn is_set(link: &LinkView, home: u32) -> bool {
    link.inet == if is_eni(home) { ENI_INET } else { POD_INET }
}

impl Sift {
    /// Begins anew with the links that there are.
    pub(super) fn begin(&mut self, links: &[LinkView]) {
        let ours = links.iter().filter(|link| is_tracked(link));
        *self = Sift { links: ours.map(|link| (link.ifindex, Seen::of(link))).collect(), ..Sift::default() };
    }

    /// What a notification of rtnetlink tells.
    pub(super) fn route(&mut self, header: Header, body: &[u8]) -> Option<Trigger> {
        let others = !is_ours(header.port);
        let (told, trigger) = match header.kind {
            RTM_NEWLINK if is_whole(body) => {
                (dump::link(body).is_none_or(|link| self.link(&link)), Trigger::Link)
            }
            RTM_DELLINK if is_whole(body) => (self.gone(body), Trigger::Link),
            RTM_NEWADDR | RTM_DELADDR => (others, Trigger::Address),
            RTM_NEWROUTE => (self.laid(body), Trigger::Route),
            RTM_DELROUTE => {
                let own = dump::route_place(body).is_some_and(|(_, protocol, _)| protocol == PROTOCOL);
                (own && others, Trigger::Route)
            }
            RTM_DELNEIGH => (self.neighbour(body), Trigger::Neighbour),
            // The kernel's own are what it learns by ARP: no permanent one is changed so.
            RTM_NEWNEIGH => (others && header.port != 0 && self.neighbour(body), Trigger::Neighbour),
            RTM_NEWRULE | RTM_DELRULE => (others, Trigger::Rule),
            RTM_NEWNETCONF => (self.settings(body), Trigger::Settings),
            _ => return None,
        };
        told.then_some(trigger)
    }

    fn link(&mut self, link: &LinkView) -> bool {
        match self.links.get_mut(&link.ifindex) {
            Some(seen) => seen.take(link),
            None if is_tracked(link) => {
                self.links.insert(link.ifindex, Seen::of(link));
                // What lies in the main table by a link is read only once it is an ENI's.
                is_eni(link.group)
            }
            None => false,
        }
    }

    fn gone(&mut self, body: &[u8]) -> bool {
        let seen = body.get(4..).and_then(dump::u32_of).and_then(|ifindex| self.links.remove(&ifindex));
        seen.is_some_and(|seen| seen.group != DYING_GROUP)
    }

    /// Somebody else's route where ours belong, or in the main table by an ENI's link.
    fn laid(&self, body: &[u8]) -> bool {
        let Some((table, protocol, link)) = dump::route_place(body) else { return false };
        let by_eni = link.and_then(|link| self.links.get(&link)).is_some_and(|seen| is_eni(seen.home));
        let ours = table == PODS_TABLE || dump::of_an_eni(table);
        protocol != PROTOCOL && (ours || (table == TABLE_MAIN && by_eni))
    }

    fn neighbour(&self, body: &[u8]) -> bool {
        const AF_INET: u8 = 2;
        let seen = body.get(4..).and_then(dump::u32_of).and_then(|ifindex| self.links.get(&ifindex));
        let pods = seen.is_some_and(|seen| seen.group != DYING_GROUP && is_pod(seen.home));
        pods && body.first() == Some(&AF_INET)
    }

    fn settings(&self, body: &[u8]) -> bool {
        const NETCONFA_IFINDEX: u16 = 1;
        const ALL: u32 = u32::MAX;
        let attributes = attributes(body.get(4..).unwrap_or_default());
        let mut link = attributes.filter(|(kind, _)| *kind == NETCONFA_IFINDEX);
        let link = link.next().and_then(|(_, value)| dump::u32_of(value));
        link.is_some_and(|link| link == ALL || self.links.contains_key(&link))
    }

    /// Reads one message of nftables; the transaction, at its end, when it has touched what matters.
    pub(super) fn nftables(&mut self, header: Header, body: &[u8]) -> Option<Transaction> {
        if header.kind == nft::NEW_GENERATION {
            let Sift { table, filter, .. } = *self;
            (self.table, self.filter) = (false, false);
            let generation = nft::generation_of(body);
            return (table || filter).then_some(Transaction { generation, table, filter });
        }
        if header.kind >> 8 != nft::SUBSYSTEM || body.first() != Some(&nfnl::IPV4) {
            return None;
        }
        // The table's name is the first attribute of whatever lies in it.
        let name = attributes(nfnl::attributes_of(body)).find(|(kind, _)| *kind == nft::NFTA_TABLE_NAME);
        let name = name.map(|(_, name)| name.strip_suffix(&[0]).unwrap_or(name));
        self.table |= name == Some(NFT_TABLE.as_bytes());
        self.filter |= name == Some(FILTER_TABLE.as_bytes()) && may_open(header.kind & 0xff);
        None
    }
}

/// Whether a message may change what a chain of the filter table does with what no rule takes: tables and chains that
/// come, change or go, rules that go.
fn may_open(message: u16) -> bool {
    const DELTABLE: u16 = 2;
    const NEWCHAIN: u16 = 3;
    const DELCHAIN: u16 = 5;
    const DELRULE: u16 = 8;
    matches!(message, DELTABLE | NEWCHAIN | DELCHAIN | DELRULE)
}

/// A link message of no family: a bridge's are of its own.
fn is_whole(body: &[u8]) -> bool {
    body.first() == Some(&0)
}

fn is_tracked(link: &LinkView) -> bool {
    let group = is_eni(link.group) || is_pod(link.group) || link.group == DYING_GROUP;
    group || Alias::parse(&link.alias).is_some()
}

#[cfg(test)]
mod tests;
