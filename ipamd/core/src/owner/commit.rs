//! What has to be written, and what has to be written again.
//!
//! Owns the batches' contents and the set of records whose stored copy is behind memory: `live` states, which nobody
//! waits for, and whatever was in a batch that failed. They ride with the next commit; when there is none they are
//! written after a second. When the store has lost everything, a commit that it refused for that is asked again, for the
//! same purpose, with everything before it: nobody notices. Does not own the store.

use super::event::{EffectId, EffectKind, Note};
use super::{Owner, Purpose};
use crate::record::{AttachmentId, Write};
use crate::time::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

/// How long a record may be behind before it is written for its own sake.
const RETRY: Duration = Duration::from_secs(1);
/// The most records that ride with another commit: it must not become slow for them.
const RIDE: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum RecordId {
    /// Every record, and none that memory does not know.
    All,
    Node,
    Eni(eni_proto::ids::EniId),
    Address(Ipv4Addr),
    Attachment(AttachmentId),
    Intent(u64),
}

#[derive(Debug, Clone, Default)]
pub(super) struct Dirty {
    records: BTreeSet<RecordId>,
    since: Option<Timestamp>,
    flying: BTreeMap<EffectId, Vec<RecordId>>,
}

impl Dirty {
    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    pub(super) fn in_flight(&self) -> bool {
        !self.flying.is_empty()
    }

    pub(super) fn retry_at(&self) -> Option<Timestamp> {
        self.since.map(|since| since + RETRY)
    }

    /// Whether an attachment's stored copy may be behind: marked, or riding with a commit that has not ended.
    pub(super) fn holds(&self, id: &AttachmentId) -> bool {
        let ids = [RecordId::Attachment(id.clone()), RecordId::All];
        let behind = |id: &RecordId| {
            self.records.contains(id) || self.flying.values().any(|riding| riding.contains(id))
        };
        ids.iter().any(behind)
    }
}

fn record_of(write: &Write) -> RecordId {
    match write {
        Write::Clear => RecordId::All,
        Write::PutNode(_) => RecordId::Node,
        Write::PutEni(eni) => RecordId::Eni(eni.id.clone()),
        Write::DeleteEni(id) => RecordId::Eni(id.clone()),
        Write::PutAddress(record) => RecordId::Address(record.address),
        Write::DeleteAddress(address) => RecordId::Address(*address),
        Write::PutAttachment(record) => RecordId::Attachment(record.id()),
        Write::DeleteAttachment(id) => RecordId::Attachment(id.clone()),
        Write::PutIntent(intent) => RecordId::Intent(intent.id),
        Write::DeleteIntent(id) => RecordId::Intent(*id),
    }
}

impl Owner {
    /// Emits a commit; what is behind rides with it.
    pub(super) fn commit(&mut self, purpose: Purpose, mut batch: Vec<Write>, now: Timestamp) -> EffectId {
        if self.dirty.records.contains(&RecordId::All) {
            self.dirty.records.clear();
            batch.splice(0..0, self.everything());
        }
        let mut records: Vec<RecordId> = batch.iter().map(record_of).collect();
        for id in &records {
            self.dirty.records.remove(id);
        }
        let riding: Vec<RecordId> = self.dirty.records.iter().take(RIDE).cloned().collect();
        for id in riding {
            self.dirty.records.remove(&id);
            batch.push(self.write_of(&id));
            records.push(id);
        }
        self.dirty.since = (!self.dirty.records.is_empty()).then_some(now);
        let effect = self.effect(None, purpose, EffectKind::Commit(batch));
        self.dirty.flying.insert(effect, records);
        effect
    }

    /// Says that a record's stored copy is behind.
    pub(super) fn mark_dirty(&mut self, id: RecordId, now: Timestamp) {
        self.dirty.records.insert(id);
        self.dirty.since.get_or_insert(now);
    }

    /// The store has turned out to be empty: everything, and the same commit again. Memory holds what it was to write.
    pub(super) fn write_anew(&mut self, effect: EffectId, purpose: Purpose, cause: String, now: Timestamp) {
        self.note(Note::WrittenAnew { cause });
        self.dirty.flying.remove(&effect);
        // One that writes everything is in front of this one already, when the store has refused several.
        if !self.dirty.flying.values().any(|records| records.contains(&RecordId::All)) {
            self.mark_dirty(RecordId::All, now);
        }
        let again = self.commit(purpose, Vec::new(), now);
        if self.gate.committing.remove(&effect) {
            self.gate.committing.insert(again);
        }
    }

    pub(super) fn commit_ended(&mut self, effect: EffectId, result: &Result<(), String>, now: Timestamp) {
        let records = self.dirty.flying.remove(&effect).unwrap_or_default();
        self.store_trouble = result.as_ref().err().cloned();
        if let Err(cause) = result {
            self.note(Note::CommitFailed { cause: cause.clone() });
            for id in records {
                self.mark_dirty(id, now);
            }
            self.dirty.since = Some(now);
            self.gate.commit_failed |= self.gate.committing.remove(&effect);
            return;
        }
        let before = self.gate.committed();
        self.gate.committing.remove(&effect);
        self.gate.commit_failed &= !self.dirty.records.is_empty();
        if self.gate.committed() && !before {
            self.gate_progress(now);
        }
    }

    pub(super) fn write_dirty_when_due(&mut self, now: Timestamp) {
        if self.dirty.retry_at().is_some_and(|at| at <= now) {
            self.commit(Purpose::Housekeeping, Vec::new(), now);
        }
    }

    /// Writes everything that is behind, however much: before the end.
    pub(super) fn write_dirty(&mut self, now: Timestamp) {
        while !self.dirty.records.is_empty() {
            self.commit(Purpose::Housekeeping, Vec::new(), now);
        }
    }

    /// The batch that makes an empty store hold all that memory does.
    fn everything(&self) -> Vec<Write> {
        [Write::Clear, Write::PutNode(self.node.clone())]
            .into_iter()
            .chain(self.pool.enis().map(|eni| Write::PutEni(eni.record.clone())))
            .chain(self.pool.addresses().map(|record| Write::PutAddress(record.clone())))
            .chain(self.attachments.all().map(|record| Write::PutAttachment(record.clone())))
            .chain(self.growth.intents().map(|intent| Write::PutIntent(intent.clone())))
            .collect()
    }

    /// The write that brings the store to what memory holds.
    fn write_of(&self, id: &RecordId) -> Write {
        match id {
            RecordId::All => unreachable!("a commit that finds it begins with everything"),
            RecordId::Node => Write::PutNode(self.node.clone()),
            RecordId::Eni(id) => match self.pool.eni(id) {
                Some(eni) => Write::PutEni(eni.record.clone()),
                None => Write::DeleteEni(id.clone()),
            },
            RecordId::Address(address) => match self.pool.address(*address) {
                Some(record) => Write::PutAddress(record.clone()),
                None => Write::DeleteAddress(*address),
            },
            RecordId::Attachment(id) => match self.attachments.get(id) {
                Some(slot) => Write::PutAttachment(slot.record.clone()),
                None => Write::DeleteAttachment(id.clone()),
            },
            RecordId::Intent(id) => match self.growth.intent(*id) {
                Some(intent) => Write::PutIntent(intent.clone()),
                None => Write::DeleteIntent(*id),
            },
        }
    }
}
