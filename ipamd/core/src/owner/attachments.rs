//! The attachments in memory.
//!
//! Owns the records by key and generation, at most one of a key not dying, and the indexes over them: which host link
//! name or number is whose, which are dying in which sandbox. None of what an ADD or DEL asks looks at all of them.
//! Does not decide transitions.

use super::event::OpId;
use crate::record::{AttachmentId, AttachmentRecord, AttachmentState};
use eni_proto::ids::{AttachmentKey, Ifname, NetnsCookie, NetworkName};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// An attachment in memory.
#[derive(Debug, Clone)]
pub struct Slot {
    /// Its record, as committed or about to be.
    pub record: Arc<AttachmentRecord>,
    /// The ADD whose reply carried the result, when it was the only one.
    pub delivered_by: Option<OpId>,
    /// The last GC of its network did not name it.
    pub unnamed: bool,
}

/// All of them.
#[derive(Debug, Clone, Default)]
pub(super) struct Attachments {
    slots: BTreeMap<AttachmentId, Slot>,
    current: BTreeMap<AttachmentKey, AttachmentId>,
    names: BTreeMap<Ifname, AttachmentId>,
    links: BTreeMap<u32, AttachmentId>,
    dying: BTreeMap<NetnsCookie, BTreeSet<AttachmentId>>,
}

impl Attachments {
    pub(super) fn put(&mut self, record: Arc<AttachmentRecord>) {
        let id = record.id();
        self.unindex(&id);
        if record.state == AttachmentState::Dying {
            if self.current.get(&id.key) == Some(&id) {
                self.current.remove(&id.key);
            }
            self.dying.entry(record.netns_cookie).or_default().insert(id.clone());
        } else {
            self.current.insert(id.key.clone(), id.clone());
        }
        self.names.insert(record.host_link.clone(), id.clone());
        self.links.insert(record.host_ifindex, id.clone());
        let before = self.slots.get(&id);
        let (delivered_by, unnamed) = before.map_or((None, false), |s| (s.delivered_by, s.unnamed));
        self.slots.insert(id, Slot { record, delivered_by, unnamed });
    }

    pub(super) fn remove(&mut self, id: &AttachmentId) -> Option<Slot> {
        self.unindex(id);
        let slot = self.slots.remove(id)?;
        if self.current.get(&id.key) == Some(id) {
            self.current.remove(&id.key);
        }
        if self.names.get(&slot.record.host_link) == Some(id) {
            self.names.remove(&slot.record.host_link);
        }
        Some(slot)
    }

    /// Takes what is to be replaced or removed out of the indexes by link number and by sandbox.
    fn unindex(&mut self, id: &AttachmentId) {
        let Some(slot) = self.slots.get(id) else { return };
        if self.links.get(&slot.record.host_ifindex) == Some(id) {
            self.links.remove(&slot.record.host_ifindex);
        }
        let cookie = slot.record.netns_cookie;
        if let Some(of_sandbox) = self.dying.get_mut(&cookie)
            && of_sandbox.remove(id)
            && of_sandbox.is_empty()
        {
            self.dying.remove(&cookie);
        }
    }

    pub(super) fn get(&self, id: &AttachmentId) -> Option<&Slot> {
        self.slots.get(id)
    }

    /// The attachment of a key that is not dying.
    pub(super) fn current(&self, key: &AttachmentKey) -> Option<&Slot> {
        self.slots.get(self.current.get(key)?)
    }

    pub(super) fn set_delivered(&mut self, id: &AttachmentId, op: OpId) {
        if let Some(slot) = self.slots.get_mut(id) {
            slot.delivered_by = Some(op);
        }
    }

    /// The result was told once more: that one of its readers has died says nothing of the other.
    pub(super) fn told_again(&mut self, id: &AttachmentId) {
        if let Some(slot) = self.slots.get_mut(id) {
            slot.delivered_by = None;
        }
    }

    /// Marks those of a network that a GC did not name, and no others of it.
    pub(super) fn mark_unnamed(&mut self, network: &NetworkName, unnamed: &BTreeSet<AttachmentId>) {
        for (id, slot) in self.slots.iter_mut().filter(|(id, _)| id.key.network == *network) {
            slot.unnamed = unnamed.contains(id);
        }
    }

    /// How many that are not dying are marked.
    pub(super) fn unnamed(&self) -> usize {
        let dying = |slot: &&Slot| slot.record.state == AttachmentState::Dying;
        self.slots.values().filter(|slot| slot.unnamed && !dying(slot)).count()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<AttachmentRecord>> {
        self.slots.values().map(|s| &s.record)
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Who has a host link name, dying ones included.
    pub(super) fn by_name(&self, name: &Ifname) -> Option<&Slot> {
        self.slots.get(self.names.get(name)?)
    }

    pub(super) fn by_ifindex(&self, ifindex: u32) -> Option<&Slot> {
        self.slots.get(self.links.get(&ifindex)?)
    }

    /// The dying ones of a key, in order.
    pub(super) fn dying_of(&self, key: &AttachmentKey) -> Vec<AttachmentId> {
        let from = AttachmentId { key: key.clone(), generation: 0 };
        let of_key = self.slots.range(from..).take_while(|(id, _)| id.key == *key);
        of_key.filter(|(_, s)| s.record.state == AttachmentState::Dying).map(|(id, _)| id.clone()).collect()
    }

    /// The links of dying attachments that would be in the way of an interface `ifname` in this sandbox.
    pub(super) fn dying_in(&self, cookie: NetnsCookie, ifname: &Ifname) -> Vec<u32> {
        let dying = self.dying.get(&cookie).into_iter().flatten();
        let named = dying.filter(|id| id.key.ifname == *ifname).filter_map(|id| self.slots.get(id));
        named.map(|slot| slot.record.host_ifindex).collect()
    }
}
