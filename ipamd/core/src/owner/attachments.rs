//! The attachments in memory.
//!
//! Owns the records by key and generation, at most one of a key not dying, and the indexes over them: which host link
//! name is whose, which are dying in which sandbox. Does not decide transitions.

use super::event::OpId;
use crate::record::{AttachmentId, AttachmentRecord, AttachmentState};
use eni_proto::ids::{AttachmentKey, Ifname, NetnsCookie};
use std::collections::BTreeMap;
use std::sync::Arc;

/// An attachment in memory.
#[derive(Debug, Clone)]
pub struct Slot {
    /// Its record, as committed or about to be.
    pub record: Arc<AttachmentRecord>,
    /// The ADD whose reply carried the result last.
    pub delivered_by: Option<OpId>,
}

/// All of them.
#[derive(Debug, Clone, Default)]
pub(super) struct Attachments {
    slots: BTreeMap<AttachmentId, Slot>,
    current: BTreeMap<AttachmentKey, AttachmentId>,
    names: BTreeMap<Ifname, AttachmentId>,
}

impl Attachments {
    pub(super) fn put(&mut self, record: Arc<AttachmentRecord>) {
        let id = record.id();
        if record.state == AttachmentState::Dying {
            if self.current.get(&id.key) == Some(&id) {
                self.current.remove(&id.key);
            }
        } else {
            self.current.insert(id.key.clone(), id.clone());
        }
        self.names.insert(record.host_link.clone(), id.clone());
        let delivered_by = self.slots.get(&id).and_then(|s| s.delivered_by);
        self.slots.insert(id, Slot { record, delivered_by });
    }

    pub(super) fn remove(&mut self, id: &AttachmentId) -> Option<Slot> {
        let slot = self.slots.remove(id)?;
        if self.current.get(&id.key) == Some(id) {
            self.current.remove(&id.key);
        }
        if self.names.get(&slot.record.host_link) == Some(id) {
            self.names.remove(&slot.record.host_link);
        }
        Some(slot)
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
        self.slots.values().find(|s| s.record.host_ifindex == ifindex)
    }

    /// The dying ones of a key, in order.
    pub(super) fn dying_of(&self, key: &AttachmentKey) -> Vec<AttachmentId> {
        let from = AttachmentId { key: key.clone(), generation: 0 };
        let of_key = self.slots.range(from..).take_while(|(id, _)| id.key == *key);
        of_key.filter(|(_, s)| s.record.state == AttachmentState::Dying).map(|(id, _)| id.clone()).collect()
    }

    /// The links of dying attachments that would be in the way of an interface `ifname` in this sandbox.
    pub(super) fn dying_in(&self, cookie: NetnsCookie, ifname: &Ifname) -> Vec<u32> {
        let dying = self.all().filter(|r| r.state == AttachmentState::Dying);
        dying
            .filter(|r| r.netns_cookie == cookie && r.key.ifname == *ifname)
            .map(|r| r.host_ifindex)
            .collect()
    }
}
