//! Prefixes in the pool, and what goes back to EC2.
//!
//! Owns which addresses belong together because EC2 gives and takes them at once (a /28 prefix; those outside of prefixes
//! are each for itself), how many of an ENI's slots are used, and the choice of what is given back: free addresses, or
//! prefixes none of whose addresses is held or cooling. What was given back stays out for a while, whatever a look says
//! that is older than EC2's change of mind. Does not call EC2.

use super::Pool;
use crate::capacity::{Amount, PER_PREFIX};
use crate::cloud::addresses_of;
use crate::record::{AddressRecord, AddressState, EniRecord};
use crate::time::Timestamp;
use eni_proto::debug::PoolCounts;
use eni_proto::ids::EniId;
use ipnet::Ipv4Net;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;

/// EC2 delegates /28 prefixes and no others (EC2 user guide, "Prefix delegation for Amazon EC2 network interfaces").
const PREFIX_LEN: u8 = 28;

/// What an address is given back with: its prefix; none for one that is given back by itself.
pub(super) type GroupKey = Option<Ipv4Net>;

/// The addresses of one prefix of an ENI, or all of it that are outside of prefixes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) counts: PoolCounts,
    /// Free and laid, oldest first.
    pub(super) free: BTreeSet<(Timestamp, Ipv4Addr)>,
}

impl Group {
    /// Whether nobody holds one of its addresses, and none cools.
    pub(super) fn is_empty(&self) -> bool {
        self.counts.allocated + self.counts.cooling + self.counts.quarantined == 0
    }
}

/// What has left the pool to be given back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GivenBack {
    /// All addresses that left.
    pub addresses: Vec<Ipv4Addr>,
    /// The prefixes whose addresses they were, if they were any's.
    pub prefixes: Vec<Ipv4Net>,
    /// The ENI's record without those prefixes.
    pub record: Option<EniRecord>,
}

impl Pool {
    /// The prefix of an address's ENI that the address lies in.
    pub(super) fn group_of(&self, record: &AddressRecord) -> GroupKey {
        let prefixes = &self.enis.get(&record.eni)?.record.prefixes;
        if prefixes.is_empty() {
            return None;
        }
        prefix_of(record.address).filter(|prefix| prefixes.contains(prefix))
    }

    /// The addresses whose group changes when an ENI's record is replaced by this one.
    pub(super) fn regrouped(&self, record: &EniRecord) -> Vec<Ipv4Addr> {
        let before = self.enis.get(&record.id).map_or(&[][..], |e| &e.record.prefixes);
        if *before == record.prefixes {
            return Vec::new();
        }
        let gone = before.iter().filter(|prefix| !record.prefixes.contains(prefix));
        let new = record.prefixes.iter().filter(|prefix| !before.contains(prefix));
        let all = gone.chain(new).flat_map(addresses_of);
        all.filter(|address| self.address(*address).is_some_and(|a| a.eni == record.id)).collect()
    }

    /// How many of an ENI's slots are used: one by each prefix, one by each address outside of prefixes.
    pub fn slots_used(&self, id: &EniId) -> usize {
        let prefixes = self.enis.get(id).map_or(0, |e| e.record.prefixes.len());
        let singles = self.groups.get(id).and_then(|groups| groups.get(&None));
        prefixes
            + singles.map_or(0, |group| {
                let counts = group.counts;
                counts.free + counts.allocated + counts.cooling + counts.quarantined
            })
    }

    /// How many of an ENI's free addresses are outside of prefixes.
    pub fn free_singles(&self, id: &EniId) -> usize {
        self.groups.get(id).and_then(|groups| groups.get(&None)).map_or(0, |group| group.counts.free)
    }

    /// How many of an ENI's prefixes are wholly free.
    pub fn free_prefixes(&self, id: &EniId) -> usize {
        self.wholly_free(id).count()
    }

    fn wholly_free(&self, id: &EniId) -> impl Iterator<Item = Ipv4Net> {
        let groups = self.groups.get(id).into_iter().flatten();
        groups.filter_map(|(key, group)| key.filter(|_| group.is_empty() && group.counts.free == PER_PREFIX))
    }

    /// Takes as many free addresses of an ENI out of the pool, or wholly free prefixes, to give them back to EC2; until
    /// then no look brings them back. Those that were free the longest go first.
    pub fn give_back(&mut self, id: &EniId, amount: Amount, until: Timestamp) -> GivenBack {
        let mut back = GivenBack::default();
        match amount {
            Amount::Addresses(count) => {
                let mut free: Vec<(Timestamp, Ipv4Addr)> =
                    self.addresses.values().filter_map(|a| self.single(&a.record, id)).collect();
                free.sort_unstable();
                back.addresses = free.into_iter().take(count as usize).map(|(_, address)| address).collect();
            }
            Amount::Prefixes(count) => {
                back.prefixes = self.wholly_free(id).take(count as usize).collect();
                back.addresses = back.prefixes.iter().flat_map(addresses_of).collect();
            }
        }
        for address in &back.addresses {
            self.take_out(*address);
        }
        self.stay_out(&back.addresses, until);
        if let Some(mut record) = self.enis.get(id).map(|e| e.record.clone())
            && !back.prefixes.is_empty()
        {
            record.prefixes.retain(|prefix| !back.prefixes.contains(prefix));
            self.put_eni(record.clone());
            back.record = Some(record);
        }
        back
    }

    /// A free address outside of prefixes, and since when it is free.
    fn single(&self, record: &AddressRecord, id: &EniId) -> Option<(Timestamp, Ipv4Addr)> {
        match record.state {
            AddressState::Free { since } if record.eni == *id && self.group_of(record).is_none() => {
                Some((since, record.address))
            }
            _ => None,
        }
    }

    /// Says of addresses that no look brings them back until then: EC2 may name what it was given back for a while.
    pub fn stay_out(&mut self, addresses: &[Ipv4Addr], until: Timestamp) {
        self.given_back.extend(addresses.iter().map(|address| (*address, until)));
    }

    /// EC2 has answered that it has assigned these: what they were before counts no more.
    pub fn welcome(&mut self, addresses: impl Iterator<Item = Ipv4Addr>) {
        for address in addresses {
            self.given_back.remove(&address);
        }
    }

    /// Whether an address was given back lately: a look that names it is older than that.
    pub fn is_given_back(&self, address: Ipv4Addr) -> bool {
        self.given_back.contains_key(&address)
    }

    /// Adds prefixes to an ENI; its record to commit.
    pub fn add_prefixes(&mut self, id: &EniId, prefixes: &[Ipv4Net]) -> Option<EniRecord> {
        let mut record = self.enis.get(id)?.record.clone();
        let new = prefixes.iter().filter(|p| p.prefix_len() == PREFIX_LEN && !record.prefixes.contains(p));
        let new: Vec<Ipv4Net> = new.copied().collect();
        record.prefixes.extend(new);
        self.put_eni(record.clone());
        Some(record)
    }
}

fn prefix_of(address: Ipv4Addr) -> Option<Ipv4Net> {
    Ipv4Net::new(address, PREFIX_LEN).ok().map(|net| net.trunc())
}
