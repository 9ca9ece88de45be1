//! The pool of addresses: which are free, which are held, which cool.
//!
//! Owns the states of addresses and ENIs in memory and the choice of the next address. Every change returns the
//! record to commit. Does not own attachments, commits or timers: the owner does; `now` is an argument.

mod pick;
mod prefixes;
mod quarantine;

pub use prefixes::GivenBack;

use crate::record::{AddressRecord, AddressState, AttachmentId, EniRecord, EniState};
use crate::time::Timestamp;
use eni_proto::debug::PoolCounts;
use eni_proto::ids::EniId;
use prefixes::{Group, GroupKey};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::Ipv4Addr;

/// So many looks in a row must have missed an address before that counts.
pub const AGREEING: u32 = 2;
/// How many instants of allocations are remembered: as many as anybody asks for.
const REMEMBERED: usize = 64;

/// An ENI in the pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Eni {
    /// Its record.
    pub record: EniRecord,
    /// The link that has its MAC, by index and name; none while it is not there.
    pub link: Option<(u32, String)>,
}

impl Eni {
    /// Whether its addresses may be allocated: it is in use, and its link is there.
    pub fn is_usable(&self) -> bool {
        self.record.state == EniState::InUse && self.link.is_some()
    }
}

/// An address in the pool.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Address {
    record: AddressRecord,
    /// Its base route is laid: before that it is not given out, or packets to it would leave by the primary.
    laid: bool,
    /// A `Cooling` one only: its last holder's link is gone and its conntrack entries are deleted.
    reaped: bool,
    /// How often in a row EC2 did not name it.
    missed: u32,
}

/// The pool.
#[derive(Debug, Clone, Default)]
pub struct Pool {
    enis: BTreeMap<EniId, Eni>,
    addresses: BTreeMap<Ipv4Addr, Address>,
    /// Each ENI's addresses by what is given back at once: each prefix, and all that are outside of prefixes.
    groups: BTreeMap<EniId, BTreeMap<GroupKey, Group>>,
    /// Cooling and reaped, by the end of the cooldown.
    cooled: BTreeSet<(Timestamp, Ipv4Addr)>,
    /// Addresses whose base route is not laid.
    unlaid: BTreeSet<Ipv4Addr>,
    /// Addresses that are on a host link: kept out of use.
    withheld: BTreeSet<Ipv4Addr>,
    /// Each ENI's addresses in numbers.
    counts: BTreeMap<EniId, PoolCounts>,
    /// Addresses that were given back to EC2 lately, until when no look brings them back.
    given_back: BTreeMap<Ipv4Addr, Timestamp>,
    /// When the last addresses were handed out.
    handed_out: VecDeque<Timestamp>,
    /// Goes up with every change of an ENI's or address's state.
    version: u64,
}

impl Pool {
    /// A pool from what was stored. Nothing is laid yet; `reaped` says of a cooling address whether its last
    /// holder's record is gone already.
    pub fn restore(
        enis: Vec<EniRecord>,
        addresses: Vec<AddressRecord>,
        reaped: impl Fn(&AttachmentId) -> bool,
    ) -> Self {
        let mut pool = Pool::default();
        for record in enis {
            pool.enis.insert(record.id.clone(), Eni { record, link: None });
        }
        for record in addresses {
            let reaped = match &record.state {
                AddressState::Cooling { attachment, .. } => reaped(attachment),
                _ => false,
            };
            pool.insert(Address { record, laid: false, reaped, missed: 0 });
        }
        pool
    }

    /// The ENIs, by id.
    pub fn enis(&self) -> impl Iterator<Item = &Eni> {
        self.enis.values()
    }

    /// One ENI.
    pub fn eni(&self, id: &EniId) -> Option<&Eni> {
        self.enis.get(id)
    }

    /// The primary ENI, once known.
    pub fn primary(&self) -> Option<&Eni> {
        // One that is not attached yet has no device index of its own.
        self.enis.values().find(|e| e.record.device_index == 0 && e.record.state.is_laid())
    }

    /// Puts an ENI or replaces its record; the link stays as it was known.
    pub fn put_eni(&mut self, record: EniRecord) {
        let link = self.enis.get(&record.id).and_then(|e| e.link.clone());
        let regrouped = self.regrouped(&record);
        for address in &regrouped {
            self.unindex(*address);
        }
        self.enis.insert(record.id.clone(), Eni { record, link });
        for address in &regrouped {
            self.index(*address);
        }
        self.version += 1;
    }

    /// Changes an ENI's state; the record to commit.
    pub fn set_state(&mut self, id: &EniId, state: EniState) -> Option<EniRecord> {
        let eni = self.enis.get_mut(id)?;
        eni.record.state = state;
        self.version += 1;
        Some(eni.record.clone())
    }

    /// Takes an ENI that holds nothing out of the pool, with its addresses; what to delete from the store. `None` when
    /// an attachment still holds one of them, or one is cooling: EC2 may name it again, and it must not come back free.
    pub fn remove_eni(&mut self, id: &EniId) -> Option<Vec<Ipv4Addr>> {
        let counts = self.eni_counts(id);
        if counts.allocated + counts.quarantined + counts.cooling > 0 {
            return None;
        }
        let of_eni = self.addresses.values().filter(|a| a.record.eni == *id).map(|a| a.record.address);
        let gone: Vec<Ipv4Addr> = of_eni.collect();
        for address in &gone {
            self.take_out(*address);
        }
        self.enis.remove(id);
        self.groups.remove(id);
        self.counts.remove(id);
        Some(gone)
    }

    /// Takes the free addresses of an ENI out of the pool; the ENI stays, and so does what is held or cooling.
    pub fn drop_all_free(&mut self, id: &EniId) -> Vec<Ipv4Addr> {
        let of_eni = self.addresses.values().map(|a| &a.record);
        let of_eni = of_eni.filter(|r| r.eni == *id && quarantine::is_unheld(&r.state));
        let gone: Vec<Ipv4Addr> = of_eni.map(|r| r.address).collect();
        for address in &gone {
            self.take_out(*address);
        }
        gone
    }

    /// Goes up with every change of an ENI's or address's state.
    pub fn version(&self) -> u64 {
        self.version
    }

    fn take_out(&mut self, address: Ipv4Addr) {
        self.unindex(address);
        self.addresses.remove(&address);
        self.unlaid.remove(&address);
    }

    /// A new address; nothing of it is laid.
    fn insert(&mut self, new: Address) {
        let address = new.record.address;
        self.addresses.insert(address, new);
        self.unlaid.insert(address);
        self.index(address);
    }

    /// Says which link has an ENI's MAC.
    pub fn set_link(&mut self, id: &EniId, link: Option<(u32, String)>) {
        if let Some(eni) = self.enis.get_mut(id) {
            eni.link = link;
            self.version += 1;
        }
    }

    /// The records of the addresses, in order.
    pub fn addresses(&self) -> impl Iterator<Item = &AddressRecord> {
        self.addresses.values().map(|a| &a.record)
    }

    /// One address's record.
    pub fn address(&self, address: Ipv4Addr) -> Option<&AddressRecord> {
        self.addresses.get(&address).map(|a| &a.record)
    }

    /// Whether an address's base route is laid.
    pub fn is_laid(&self, address: Ipv4Addr) -> bool {
        self.addresses.get(&address).is_some_and(|a| a.laid)
    }

    /// Whether every address's base route is laid.
    pub fn is_all_laid(&self) -> bool {
        self.unlaid.is_empty()
    }

    /// Takes an address that EC2 names into the pool, free from `now` on once it is laid. Of one that is there already
    /// at most the ENI changes; one that was given back lately stays out. The record to commit, if any.
    pub fn adopt(&mut self, address: Ipv4Addr, eni: &EniId, now: Timestamp) -> Option<AddressRecord> {
        if self.addresses.get(&address).is_some_and(|known| known.missed > 0) {
            self.unindex(address);
            if let Some(known) = self.addresses.get_mut(&address) {
                known.missed = 0;
            }
            self.index(address);
        }
        if let Some(known) = self.addresses.get(&address) {
            if known.record.eni == *eni {
                return None;
            }
            let reaped = known.reaped;
            let record = self.transition(address, |record| record.eni = eni.clone());
            self.unindex(address);
            if let Some(known) = self.addresses.get_mut(&address) {
                known.reaped = reaped;
            }
            self.index(address);
            return Some(record);
        }
        if self.given_back.get(&address).is_some_and(|until| *until > now) {
            return None;
        }
        let state = AddressState::Free { since: now };
        let record = AddressRecord { address, eni: eni.clone(), state, generation: 0 };
        self.insert(Address { record: record.clone(), laid: false, reaped: false, missed: 0 });
        Some(record)
    }

    /// Counts that EC2 did not name an address; the number of times in a row. Until EC2 names it again it is not given
    /// out.
    pub fn miss(&mut self, address: Ipv4Addr) -> u32 {
        self.unindex(address);
        let missed = self.addresses.get_mut(&address).map_or(0, |a| {
            a.missed += 1;
            a.missed
        });
        self.index(address);
        missed
    }

    /// Takes a free address out of the pool; false when it is not free.
    pub fn drop_free(&mut self, address: Ipv4Addr) -> bool {
        let free = self.addresses.get(&address).is_some_and(|a| quarantine::is_unheld(&a.record.state));
        if free {
            self.take_out(address);
        }
        free
    }

    /// Says which base routes are laid; the others are not given out.
    pub fn set_laid(&mut self, laid: &BTreeSet<Ipv4Addr>) {
        let differs = self.addresses.iter().filter(|(address, a)| a.laid != laid.contains(address));
        for address in differs.map(|(address, _)| *address).collect::<Vec<_>>() {
            self.unindex(address);
            if let Some(entry) = self.addresses.get_mut(&address) {
                entry.laid = !entry.laid;
                if entry.laid {
                    self.unlaid.remove(&address)
                } else {
                    self.unlaid.insert(address)
                };
            }
            self.index(address);
        }
    }

    /// Gives the next address to an attachment: the fullest ENI that has a free one, its fullest prefix, the oldest free
    /// address.
    pub fn allocate(&mut self, attachment: &AttachmentId, now: Timestamp) -> Option<AddressRecord> {
        self.settle(now);
        let address = self.pick()?;
        self.handed_out.truncate(REMEMBERED - 1);
        self.handed_out.push_front(now);
        Some(self.transition(address, |record| {
            record.generation += 1;
            record.state = AddressState::Allocated { attachment: attachment.clone() };
        }))
    }

    /// Gives a certain address to an attachment that is found wired; `None` when another holds it.
    pub fn claim(&mut self, address: Ipv4Addr, eni: &EniId, holder: &AttachmentId) -> Option<AddressRecord> {
        if let Some(known) = self.addresses.get(&address) {
            match &known.record.state {
                AddressState::Allocated { attachment }
                | AddressState::Quarantined { attachment: Some(attachment), .. }
                    if attachment == holder =>
                {
                    return Some(known.record.clone());
                }
                AddressState::Allocated { .. } | AddressState::Quarantined { .. } => return None,
                AddressState::Free { .. } | AddressState::Cooling { .. } => {}
            }
        } else {
            let state = AddressState::Free { since: Timestamp::ZERO };
            let record = AddressRecord { address, eni: eni.clone(), state, generation: 0 };
            self.insert(Address { record, laid: false, reaped: false, missed: 0 });
        }
        Some(self.transition(address, |record| {
            record.generation += 1;
            record.state = AddressState::Allocated { attachment: holder.clone() };
        }))
    }

    /// Releases an address that `attachment` holds into its cooldown. Held by another, it is left alone: a late
    /// release never frees the next holder's.
    pub fn release(
        &mut self,
        address: Ipv4Addr,
        attachment: &AttachmentId,
        until: Timestamp,
    ) -> Option<AddressRecord> {
        match &self.addresses.get(&address)?.record.state {
            AddressState::Allocated { attachment: holder }
            | AddressState::Quarantined { attachment: Some(holder), .. }
                if holder == attachment => {}
            _ => return None,
        }
        Some(self.transition(address, |record| {
            record.state = AddressState::Cooling { attachment: attachment.clone(), until };
        }))
    }

    /// The last holder's link is gone and its conntrack entries are deleted: from now on the cooldown alone counts.
    pub fn reaped(&mut self, address: Ipv4Addr, attachment: &AttachmentId) {
        if self.cools_after(address, attachment) {
            self.unindex(address);
            if let Some(entry) = self.addresses.get_mut(&address) {
                entry.reaped = true;
            }
            self.index(address);
        }
    }

    /// Whether an address is cooling after this very holder.
    pub fn cools_after(&self, address: Ipv4Addr, attachment: &AttachmentId) -> bool {
        self.addresses.get(&address).is_some_and(
            |a| matches!(&a.record.state, AddressState::Cooling { attachment: last, .. } if last == attachment),
        )
    }

    /// Whether an address is kept from being free by this very holder's link alone: its cooldown is over.
    pub fn cooled_after(&self, address: Ipv4Addr, attachment: &AttachmentId, now: Timestamp) -> bool {
        self.addresses.get(&address).is_some_and(|a| {
            matches!(&a.record.state, AddressState::Cooling { attachment: last, until } if last == attachment && *until <= now)
        })
    }

    /// Makes free what has cooled down by `now`. Nothing has to be committed: the stored end of the cooldown says the
    /// same after a restart.
    pub fn settle(&mut self, now: Timestamp) {
        self.given_back.retain(|_, until| *until > now);
        while let Some(&(until, address)) = self.cooled.first()
            && until <= now
        {
            // What EC2 did not name twice in a row while it was held or cooling is nobody's to give.
            let missed = self.addresses.get(&address).is_some_and(|a| a.missed >= AGREEING);
            let state = if self.withheld.contains(&address) {
                on_the_host()
            } else if missed {
                quarantine::not_named()
            } else {
                AddressState::Free { since: until }
            };
            self.transition(address, |record| record.state = state);
        }
    }

    /// Says which addresses are on a host link and stay there: from now on none of them becomes free, and those that are
    /// not any more do. The records to commit.
    pub fn withhold(&mut self, withheld: BTreeSet<Ipv4Addr>, now: Timestamp) -> Vec<AddressRecord> {
        let changed = self.addresses.values().map(|a| &a.record).filter(|record| match &record.state {
            AddressState::Free { .. } => withheld.contains(&record.address),
            state => *state == on_the_host() && !withheld.contains(&record.address),
        });
        let changed: Vec<Ipv4Addr> = changed.map(|record| record.address).collect();
        let state = |withheld: bool| if withheld { on_the_host() } else { AddressState::Free { since: now } };
        let records = changed.into_iter().map(|address| {
            let kept = withheld.contains(&address);
            self.transition(address, |record| record.state = state(kept))
        });
        let records = records.collect();
        self.withheld = withheld;
        records
    }

    /// When the next cooling address may become free, if its holder is reaped.
    pub fn next_cooled(&self) -> Option<Timestamp> {
        self.cooled.first().map(|&(until, _)| until)
    }

    /// The pool in numbers.
    pub fn counts(&self) -> PoolCounts {
        self.counts.values().fold(PoolCounts::default(), |mut all, one| {
            all.free += one.free;
            all.allocated += one.allocated;
            all.cooling += one.cooling;
            all.quarantined += one.quarantined;
            all
        })
    }

    /// One ENI's addresses in numbers.
    pub fn eni_counts(&self, id: &EniId) -> PoolCounts {
        self.counts.get(id).copied().unwrap_or_default()
    }

    /// How many addresses can be allocated at once.
    pub fn available(&self) -> usize {
        let usable = self.enis.values().filter(|e| e.is_usable());
        let groups = usable.filter_map(|e| self.groups.get(&e.record.id)).flat_map(BTreeMap::values);
        groups.map(|group| group.free.len()).sum()
    }

    /// How many addresses were handed out since an instant, as far as it is remembered: 64 at most.
    pub fn handed_out_since(&self, then: Timestamp) -> usize {
        self.handed_out.iter().take_while(|at| **at > then).count()
    }

    /// When the earliest of the allocations since an instant was.
    pub fn earliest_handed_out_since(&self, then: Timestamp) -> Option<Timestamp> {
        self.handed_out.iter().take_while(|at| **at > then).last().copied()
    }

    fn transition(&mut self, address: Ipv4Addr, change: impl FnOnce(&mut AddressRecord)) -> AddressRecord {
        self.unindex(address);
        let entry = self.addresses.get_mut(&address).expect("a transition names an address of the pool");
        change(&mut entry.record);
        entry.reaped = false;
        let record = entry.record.clone();
        self.index(address);
        record
    }

    fn index(&mut self, address: Ipv4Addr) {
        self.version += 1;
        let Some(entry) = self.addresses.get(&address) else { return };
        let group = self.group_of(&entry.record);
        let groups = self.groups.entry(entry.record.eni.clone()).or_default();
        let group = groups.entry(group).or_default();
        match entry.record.state {
            AddressState::Free { since } if entry.laid && entry.missed == 0 => {
                group.free.insert((since, address));
            }
            AddressState::Cooling { until, .. } if entry.reaped => {
                self.cooled.insert((until, address));
            }
            _ => {}
        }
        *count_of(&mut group.counts, &entry.record.state) += 1;
        *count_of(self.counts.entry(entry.record.eni.clone()).or_default(), &entry.record.state) += 1;
    }

    fn unindex(&mut self, address: Ipv4Addr) {
        self.version += 1;
        let Some(entry) = self.addresses.get(&address) else { return };
        let key = self.group_of(&entry.record);
        if let AddressState::Cooling { until, .. } = entry.record.state {
            self.cooled.remove(&(until, address));
        }
        if let Some(groups) = self.groups.get_mut(&entry.record.eni)
            && let Some(group) = groups.get_mut(&key)
        {
            if let AddressState::Free { since } = entry.record.state {
                group.free.remove(&(since, address));
            }
            *count_of(&mut group.counts, &entry.record.state) -= 1;
            if group.counts == PoolCounts::default() {
                groups.remove(&key);
            }
        }
        if let Some(counts) = self.counts.get_mut(&entry.record.eni) {
            *count_of(counts, &entry.record.state) -= 1;
        }
    }
}

/// The state of an address that is on a host link.
fn on_the_host() -> AddressState {
    AddressState::Quarantined { reason: "it is on a link of the host".to_owned(), attachment: None }
}

fn count_of<'a>(counts: &'a mut PoolCounts, state: &AddressState) -> &'a mut usize {
    match state {
        AddressState::Free { .. } => &mut counts.free,
        AddressState::Allocated { .. } => &mut counts.allocated,
        AddressState::Cooling { .. } => &mut counts.cooling,
        AddressState::Quarantined { .. } => &mut counts.quarantined,
    }
}

#[cfg(test)]
mod tests;
