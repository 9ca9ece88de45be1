//! Which dying links are deleted when.
//!
//! Owns the queue of dying links and its batches: one batch at a time, begun a moment after its first link so that
//! others join it (a group delete costs a fifteenth of single ones). When a link is gone and its addresses have no
//! conntrack entry, its record is deleted and the cooldown alone keeps the address. Does not delete links itself.

use super::event::{EffectKind, Note};
use super::outside::alias;
use super::{Owner, Purpose};
use crate::kernel::{ReapLink, Reaped};
use crate::pool::Pool;
use crate::record::{AttachmentId, AttachmentRecord, Write};
use crate::time::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

/// How long the first link of a batch waits for others, unless an ADD waits for an address: each batch walks the
/// kernel's conntrack table once, which costs the same for one address as for a hundred.
const GATHER: Duration = Duration::from_millis(200);
/// The most links of one batch.
const BATCH: usize = 128;
/// How long a link that could not be deleted waits for another try.
const AGAIN: Duration = Duration::from_secs(1);

/// A dying link.
#[derive(Debug, Clone)]
pub(super) struct ReapItem {
    ifindex: u32,
    alias: String,
    addresses: Vec<Ipv4Addr>,
    /// Its record; none for a link that never had one.
    id: Option<AttachmentId>,
}

impl ReapItem {
    pub(super) fn of(record: &AttachmentRecord) -> Self {
        ReapItem {
            ifindex: record.host_ifindex,
            alias: alias(record).render(),
            addresses: record.addresses.iter().copied().collect(),
            id: Some(record.id()),
        }
    }

    pub(super) fn orphan(ifindex: u32, alias: String, addresses: Vec<Ipv4Addr>) -> Self {
        ReapItem { ifindex, alias, addresses, id: None }
    }
}

#[derive(Debug, Clone, Default)]
pub(super) struct Reaper {
    queue: Vec<ReapItem>,
    due: Option<Timestamp>,
    flying: Option<(Vec<ReapItem>, Timestamp)>,
    /// What could not be finished: it is queued again then, and nothing hurries it.
    later: Vec<ReapItem>,
    again: Option<Timestamp>,
}

impl Reaper {
    pub(super) fn push(&mut self, item: ReapItem, now: Timestamp) {
        self.queue.push(item);
        let due = if self.queue.len() >= BATCH { now } else { now + GATHER };
        self.due = Some(self.due.map_or(due, |old| old.min(due)));
    }

    pub(super) fn due(&self) -> Option<Timestamp> {
        if self.flying.is_some() { None } else { self.due.into_iter().chain(self.again).min() }
    }

    fn all(&self) -> impl Iterator<Item = &ReapItem> {
        let flying = self.flying.iter().flat_map(|(items, _)| items);
        self.queue.iter().chain(flying).chain(&self.later)
    }

    /// The addresses of links that have no record: nobody gets them before the link is gone.
    pub(super) fn orphaned(&self) -> BTreeSet<Ipv4Addr> {
        let orphans = self.all().filter(|i| i.id.is_none());
        orphans.flat_map(|i| i.addresses.iter().copied()).collect()
    }

    /// The links that have no record.
    pub(super) fn orphan_links(&self) -> impl Iterator<Item = u32> {
        self.all().filter(|i| i.id.is_none()).map(|i| i.ifindex)
    }

    /// How many addresses are free as soon as their links are gone, which is tried already or next: their cooldown is
    /// over.
    pub(super) fn about_to_free(&self, pool: &Pool, now: Timestamp) -> usize {
        let flying = self.flying.iter().flat_map(|(items, _)| items);
        let of_item = |item: &ReapItem| {
            let Some(id) = &item.id else { return 0 };
            item.addresses.iter().filter(|a| pool.cooled_after(**a, id, now)).count()
        };
        self.queue.iter().chain(flying).map(of_item).sum()
    }

    /// The queue is tried at once: ADDs wait for it.
    pub(super) fn hurry(&mut self, now: Timestamp) {
        self.due = (!self.queue.is_empty()).then_some(now);
    }

    pub(super) fn is_idle(&self) -> bool {
        self.all().next().is_none()
    }
}

impl Owner {
    pub(super) fn reap_when_due(&mut self, now: Timestamp) {
        if !self.waiting.is_empty() && self.reaper.flying.is_none() {
            self.reaper.hurry(now);
        }
        if self.reaper.due().is_none_or(|due| due > now) {
            return;
        }
        if self.reaper.again.take_if(|again| *again <= now).is_some() {
            let later = std::mem::take(&mut self.reaper.later);
            self.reaper.queue.extend(later);
        }
        let batch: Vec<ReapItem> = self.reaper.queue.drain(..self.reaper.queue.len().min(BATCH)).collect();
        self.reaper.due = (!self.reaper.queue.is_empty()).then_some(now);
        let links = batch.iter().map(|item| self.reap_link(item)).collect();
        self.reaper.flying = Some((batch, now));
        self.effect(None, Purpose::Reap, EffectKind::Reap(links));
    }

    /// Conntrack is deleted only for addresses that still cool after this very attachment: after a restart the next
    /// holder may have them already.
    fn reap_link(&self, item: &ReapItem) -> ReapLink {
        let mut addresses = item.addresses.clone();
        if let Some(id) = &item.id {
            addresses.retain(|address| self.pool.cools_after(*address, id));
        }
        ReapLink { ifindex: item.ifindex, alias: item.alias.clone(), addresses }
    }

    pub(super) fn links_reaped(&mut self, reaped: Reaped, now: Timestamp) {
        let Some((batch, begun)) = self.reaper.flying.take() else { return };
        let gone: BTreeSet<u32> = reaped.gone.iter().copied().collect();
        let kept: BTreeMap<u32, String> = reaped.kept.into_iter().collect();
        let mut writes = Vec::new();
        let mut orphan_gone = false;
        for item in batch {
            // What has no route yet may have an address inside its sandbox that nobody knows here: until it is gone no
            // address is given out. Where the addresses are known, only those are kept.
            if gone.contains(&item.ifindex) || !item.addresses.is_empty() {
                self.gate.orphans.remove(&item.ifindex);
            }
            // A record that could not be made `dying` in the store yet is not forgotten in memory either: a DEL that
            // comes now must still commit it.
            let behind = item.id.as_ref().is_some_and(|id| self.dirty.holds(id));
            if !gone.contains(&item.ifindex) || behind {
                self.reaper.later.push(item);
                self.reaper.again.get_or_insert(now + AGAIN);
                continue;
            }
            orphan_gone |= item.id.is_none();
            if let Some(id) = &item.id {
                for address in &item.addresses {
                    self.pool.reaped(*address, id);
                }
                self.attachments.remove(id);
                writes.push(Write::DeleteAttachment(id.clone()));
            }
        }
        self.note(Note::Reaped { gone: gone.len(), kept: kept.into_iter().collect(), took: now - begun });
        if !writes.is_empty() {
            self.commit(Purpose::Housekeeping, writes, now);
        }
        if orphan_gone {
            // Its address may be laid now, whatever the last pass failed for.
            self.driver.wake_now(self.reconcilers.host_net, now);
        }
        self.gate_progress(now);
    }
}
