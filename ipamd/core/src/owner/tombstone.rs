//! DELs that were written down because nobody answered them.
//!
//! Owns how a tombstone goes through the owner: as a DEL in its key's lane, judged when its turn has come; and that an
//! ADD which would be given an attachment that is there already consults the spool first, because the DEL of that
//! attachment may lie there unseen. An ADD that makes a new attachment need not: what it makes is newer than every
//! tombstone. The reply to a tombstone is the shell's leave to unlink it: success only after the commit. Does not read
//! the spool.

use super::event::{DyingReason, EffectKind, Ending, Note, OpId, Verb};
use super::{Op, Owner, Phase, Purpose};
use crate::record::AttachmentRecord;
use crate::time::Timestamp;
use crate::tombstone::{Buried, Dropped, judge};
use eni_proto::error::{Code, WireError as ReplyError};
use eni_proto::reply;

impl Owner {
    pub(super) fn tombstone(&mut self, id: OpId, tombstone: Buried, now: Timestamp) {
        let new = Op::new(tombstone.key.clone(), Verb::Del, DyingReason::Tombstone, now);
        let op = Op { tombstone: Some(tombstone), ..new };
        if self.enter(id, op) {
            self.begin_del(id, now);
        }
    }

    /// Judges the tombstone of an operation that begins, once; false when it is dropped and the operation has ended.
    /// Otherwise the operation goes on as a DEL, which answers only when what is dying of its key is durable.
    pub(super) fn judged(&mut self, id: OpId, now: Timestamp) -> bool {
        let Some(tombstone) = self.ops.get_mut(&id).and_then(|op| op.tombstone.take()) else { return true };
        let current = self.attachments.current(&tombstone.key).map(|slot| slot.record.clone());
        let verdict = self.judge(&tombstone, current.as_deref(), now);
        if matches!(verdict, Ok(()) | Err(Dropped::NoAttachment)) {
            return true;
        }
        self.end(id, Ending::Ok, Ok(reply::Outcome::Done), now);
        false
    }

    fn judge(
        &mut self,
        tombstone: &Buried,
        current: Option<&AttachmentRecord>,
        now: Timestamp,
    ) -> Result<(), Dropped> {
        let verdict = judge(tombstone, current, &self.node.boot, now);
        self.note(Note::Tombstone { key: tombstone.key.clone(), dropped: verdict.err() });
        verdict
    }

    /// Before an ADD is given what is there already: is its DEL in the spool?
    pub(super) fn consult(&mut self, id: OpId, now: Timestamp) {
        let Some(key) = self.ops.get(&id).map(|op| op.key.clone()) else { return };
        self.set_phase(id, Phase::Consulting);
        self.begun(id, now);
        self.effect(None, Purpose::Consult(id), EffectKind::Consult(key));
    }

    pub(super) fn consulted(&mut self, id: OpId, found: Result<Option<Buried>, String>, now: Timestamp) {
        let Some(op) = self.ops.get(&id).filter(|op| op.phase == Phase::Consulting) else { return };
        let Some(ask) = op.ask.clone().filter(|_| !op.cancelled) else {
            let gone = ReplyError::new(Code::TryAgainLater, "the plugin went away");
            return self.end(id, Ending::Cancelled, Err(gone), now);
        };
        let found = match found {
            Ok(found) => found,
            Err(cause) => {
                let text = "whether this attachment was deleted while ipamd was away could not be read";
                let error = ReplyError::new(Code::TryAgainLater, text).cause(cause);
                return self.end(id, Ending::Failed, Err(error), now);
            }
        };
        let Some(record) = self.attachments.current(&ask.key).map(|slot| slot.record.clone()) else {
            return self.begin_add(id, now);
        };
        let deleted = found.is_some_and(|tombstone| self.judge(&tombstone, Some(&record), now).is_ok());
        if deleted || !self.is_asked_for(&record, &ask) {
            let why = if deleted { DyingReason::Tombstone } else { DyingReason::Replaced };
            self.replace(id, &record.id(), why, now);
        } else {
            let recorded = self.recorded(&record, &ask.netns, now);
            self.attachments.told_again(&record.id());
            self.end(id, Ending::Ok, Ok(reply::Outcome::Added(Box::new(recorded))), now);
        }
    }
}
