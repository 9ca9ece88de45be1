//! DEL, and the one transition by which an attachment ends.
//!
//! Owns `kill`: the record becomes `dying` and its addresses cool (one commit), while the route goes and the link
//! joins the dying group; when both have ended the reaper has the link. DEL, a tombstone, a failed ADD, a replaced attachment and
//! the start all use it. Never deletes a link: a synchronous delete costs 12 to 24 ms.

use super::event::{DyingReason, EffectKind, Ending, Note, OpId, Verb};
use super::reaper::ReapItem;
use super::{Op, Owner, Phase, Purpose};
use crate::kernel::{HostStepError, UnwireSpec};
use crate::record::{AttachmentId, AttachmentRecord, AttachmentState, Write};
use crate::time::Timestamp;
use eni_proto::error::{Code, WireError as ReplyError};
use eni_proto::ids::AttachmentKey;
use eni_proto::reply;
use std::sync::Arc;

/// An attachment on its way out.
#[derive(Debug, Clone)]
pub(super) struct Kill {
    /// Who waits for it: of its own key one, and ADDs of others that need its name or its sandbox.
    pub(super) ops: Vec<OpId>,
    /// The GC that frees it.
    pub(super) sweep: Option<OpId>,
    link: LinkFate,
    committed: Option<Result<(), String>>,
    unwired: bool,
}

/// What there is of an attachment's link when its end begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LinkFate {
    /// It is there, or half-made.
    There,
    /// It is gone: the number may be somebody else's link by now, and is left alone. The address was used.
    Gone,
    /// It was never made: as above, and the address was never used, so it needs no cooldown.
    Unmade,
}

impl Owner {
    pub(super) fn del(&mut self, id: OpId, key: AttachmentKey, now: Timestamp) {
        self.cancel_waiting_add(&key, now);
        if self.enter(id, Op::new(key, Verb::Del, DyingReason::Del, now)) {
            self.begin_del(id, now);
        }
    }

    /// A DEL ends its key's ADDs that are not being wired, and CHECKs that wait: it waits for the others alone.
    fn cancel_waiting_add(&mut self, key: &AttachmentKey, now: Timestamp) {
        let lane = self.lanes.get(key).cloned().unwrap_or_default();
        // From the back, so that none of them is begun by the end of the one before it.
        for id in lane.into_iter().rev() {
            if self.only_waits(id) {
                let error =
                    ReplyError::new(Code::TryAgainLater, "a DEL of the same attachment came while it waited");
                self.end(id, Ending::Refused, Err(error), now);
            }
        }
    }

    pub(super) fn begin_del(&mut self, id: OpId, now: Timestamp) {
        if !self.judged(id, now) {
            return;
        }
        let Some(op) = self.ops.get(&id) else { return };
        let (key, why) = (op.key.clone(), op.why);
        if let Some(slot) = self.attachments.current(&key) {
            let attachment = slot.record.id();
            self.begun(id, now);
            self.set_phase(id, Phase::Killing(attachment.clone()));
            self.kill(&attachment, why, Some(id), now);
            return;
        }
        let dying = self.attachments.dying_of(&key);
        if let Some(flying) = dying.iter().find(|a| self.kills.contains_key(a)).cloned() {
            // Undone at this moment without anybody waiting: this DEL waits for it.
            self.begun(id, now);
            if let Some(kill) = self.kills.get_mut(&flying) {
                kill.ops.push(id);
            }
            self.set_phase(id, Phase::Killing(flying));
        } else if dying.iter().any(|a| self.dirty.holds(a)) {
            // Its `dying` is not durable yet: an earlier commit failed. Success needs it.
            self.begun(id, now);
            self.set_phase(id, Phase::Committing);
            let batch = dying.iter().filter_map(|a| self.attachments.get(a)).map(|s| s.record.clone());
            let batch = batch.map(Write::PutAttachment).collect();
            self.commit(Purpose::DelCommit(id), batch, now);
        } else {
            self.end(id, Ending::Ok, Ok(reply::Outcome::Done), now);
        }
    }

    pub(super) fn del_committed(&mut self, id: OpId, result: Result<(), String>, now: Timestamp) {
        let answer = result.map(|()| reply::Outcome::Done).map_err(not_recorded);
        let ending = if answer.is_ok() { Ending::Ok } else { Ending::Failed };
        self.end(id, ending, answer, now);
    }

    /// Begins an attachment's end. `op` is answered when its record is committed and its link is in the dying group.
    pub(super) fn kill(&mut self, id: &AttachmentId, why: DyingReason, op: Option<OpId>, now: Timestamp) {
        let broken = self.attachments.get(id).is_some_and(|s| s.record.state == AttachmentState::Broken);
        self.end_attachment(id, why, op, if broken { LinkFate::Gone } else { LinkFate::There }, now);
    }

    /// As [`Owner::kill`], by what there is of its link.
    pub(super) fn end_attachment(
        &mut self,
        id: &AttachmentId,
        why: DyingReason,
        op: Option<OpId>,
        link: LinkFate,
        now: Timestamp,
    ) {
        let Some(slot) = self.attachments.get(id) else { return };
        let mut record = slot.record.as_ref().clone();
        record.state = AttachmentState::Dying;
        let record = Arc::new(record);
        // What no plugin was told of, nothing has sent from: no cooldown, though its link and its conntrack entries, if
        // there are any, must be gone all the same.
        let unused = link == LinkFate::Unmade || why == DyingReason::HalfMade;
        let until = if unused { now } else { now + self.config.cooldown };
        let mut batch = vec![Write::PutAttachment(record.clone())];
        for address in &record.addresses {
            batch.extend(self.pool.release(*address, id, until).map(Write::PutAddress));
        }
        self.attachments.put(record.clone());
        self.kills.insert(
            id.clone(),
            Kill {
                ops: op.into_iter().collect(),
                sweep: None,
                link,
                committed: None,
                unwired: link != LinkFate::There,
            },
        );
        self.note(Note::Dying { attachment: id.clone(), why });
        self.commit(Purpose::KillCommit(id.clone()), batch, now);
        if link != LinkFate::There {
            return;
        }
        let spec = UnwireSpec {
            host_name: record.host_link.clone(),
            ifindex: record.host_ifindex,
            addresses: record.addresses.iter().copied().collect(),
        };
        self.effect(None, Purpose::KillUnwire(id.clone()), EffectKind::Unwire(spec));
    }

    pub(super) fn kill_committed(&mut self, id: &AttachmentId, result: Result<(), String>, now: Timestamp) {
        let Some(kill) = self.kills.get_mut(id) else { return };
        kill.committed = Some(result);
        for id in kill.ops.clone() {
            if let Some(op) = self.ops.get_mut(&id) {
                op.phases.commit = op.begun.map(|begun| now - begun);
            }
        }
        self.killed(id, now);
    }

    pub(super) fn kill_unwired(
        &mut self,
        id: &AttachmentId,
        result: Result<(), HostStepError>,
        now: Timestamp,
    ) {
        if let Err(error) = result {
            // The link is deleted all the same, and its routes with it.
            self.note(Note::UnwireFailed { attachment: id.clone(), cause: error.to_string() });
        }
        let Some(kill) = self.kills.get_mut(id) else { return };
        kill.unwired = true;
        for id in kill.ops.clone() {
            if let Some(op) = self.ops.get_mut(&id) {
                op.phases.wire = op.begun.map(|begun| now - begun);
            }
        }
        self.killed(id, now);
    }

    /// Both have ended: the link is the reaper's, whoever waited goes on.
    fn killed(&mut self, id: &AttachmentId, now: Timestamp) {
        let Some(kill) = self.kills.get(id) else { return };
        let Some(committed) = kill.committed.clone() else { return };
        if !kill.unwired {
            return;
        }
        let (ops, sweep, link) = (kill.ops.clone(), kill.sweep, kill.link);
        self.kills.remove(id);
        self.gate.undoing.remove(id);
        match self.attachments.get(id).map(|slot| slot.record.clone()) {
            Some(record) if link == LinkFate::Unmade && committed.is_ok() => self.forget(&record, now),
            Some(record) => self.reaper.push(ReapItem::of(&record), now),
            None => {}
        }
        self.gate_progress(now);
        if let Some(sweep) = sweep {
            self.swept(sweep, id, &committed, now);
        }
        for op in ops {
            self.killed_for(op, committed.clone(), now);
        }
    }

    /// Who waited for the end of an attachment goes on.
    fn killed_for(&mut self, op: OpId, committed: Result<(), String>, now: Timestamp) {
        match self.ops.get(&op).map(|o| (o.verb, o.phase.clone())) {
            // Of one key several may be dying at once after a restart: a DEL waits for all of them.
            Some((Verb::Del, _)) if committed.is_ok() => self.begin_del(op, now),
            Some((Verb::Del, _)) => self.del_committed(op, committed, now),
            Some((Verb::Add, Phase::Undoing(_, error))) => self.end(op, Ending::Failed, Err(*error), now),
            Some((Verb::Add, _)) => self.replaced(op, committed, now),
            // None is ever answered by an attachment's end.
            Some((Verb::Check, _)) | None => {}
        }
    }

    /// An attachment of which nothing was made leaves at once.
    fn forget(&mut self, record: &AttachmentRecord, now: Timestamp) {
        let id = record.id();
        for address in &record.addresses {
            self.pool.reaped(*address, &id);
        }
        self.attachments.remove(&id);
        self.commit(Purpose::Housekeeping, vec![Write::DeleteAttachment(id)], now);
    }

    /// What an ADD replaces is gone: now its own.
    fn replaced(&mut self, id: OpId, committed: Result<(), String>, now: Timestamp) {
        let Some(op) = self.ops.get(&id) else { return };
        let ask = op.ask.clone().filter(|_| !op.cancelled);
        match (committed, ask) {
            (Err(cause), _) => self.end(id, Ending::Failed, Err(not_recorded(cause)), now),
            (Ok(()), Some(ask)) => self.make(id, &ask, now),
            (Ok(()), None) => {
                let gone = ReplyError::new(Code::TryAgainLater, "the plugin went away");
                self.end(id, Ending::Cancelled, Err(gone), now);
            }
        }
    }
}

fn not_recorded(cause: String) -> ReplyError {
    ReplyError::new(Code::TryAgainLater, "the release could not be recorded").cause(cause).advice("try again")
}
