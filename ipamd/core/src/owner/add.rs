//! ADD.
//!
//! Owns an ADD's way from its arrival to its reply: the recorded result, the undoing of what it replaces, the choice
//! of address, name and numbers, the commit beside the wiring, and the undoing of a failed one. Does not take
//! anything off itself: that is `del`'s transition, used here too.

use super::commit::RecordId;
use super::del::LinkFate;
use super::event::{AddAsk, DyingReason, EffectKind, Ending, Note, OpId, PathSight, Verb};
use super::outside::{alias, result, wire_refusal};
use super::{Op, Owner, Phase, Purpose, names};
use crate::kernel::{DYING_GROUP, FIRST_IFINDEX, POD_GROUP, WireError, WireSpec};
use crate::record::{AddressRecord, AttachmentId, AttachmentRecord, AttachmentState, Write};
use crate::time::Timestamp;
use eni_proto::cni::AddResult;
use eni_proto::error::{Code, WireError as ReplyError};
use eni_proto::ids::{IDS_MAX, Ifname};
use eni_proto::reply;
use eni_proto::request::Mode;
use std::collections::BTreeSet;
use std::sync::Arc;

/// How often another ifindex or name is tried.
const TRIES: u8 = 3;
/// How many generations and ifindexes are reserved by one write of the node's record.
const RESERVE: u32 = 1024;

/// An ADD whose commit and wiring run side by side.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Making {
    pub(super) id: AttachmentId,
    pub(super) committed: Option<Result<(), String>>,
    pub(super) wired: Option<Result<PathSight, WireError>>,
    /// How often others' changes of the host had been told when this began.
    events: u64,
}

impl Owner {
    pub(super) fn add(&mut self, id: OpId, ask: AddAsk, now: Timestamp) {
        let new = Op::new(ask.key.clone(), Verb::Add, DyingReason::Replaced, now);
        let op = Op { ask: Some(ask), ..new };
        let refusal = self.refuse_add(&op);
        let first = self.enter(id, op);
        if self.draining {
            self.close(id, now);
        } else if let Some(error) = refusal {
            self.end(id, Ending::Refused, Err(error), now);
        } else if first {
            self.begin_add(id, now);
        }
    }

    fn refuse_add(&self, op: &Op) -> Option<ReplyError> {
        let ask = op.ask.as_ref()?;
        if let Some(cause) = &self.no_reserve
            && self.attachments.current(&ask.key).is_none()
        {
            return Some(no_reserve(cause));
        }
        // Nobody waits for what was written down.
        let waiters = self.ops.values().filter(|op| op.why != DyingReason::Tombstone).count();
        if waiters >= self.config.max_waiters {
            let text = format!("{waiters} operations are under way already");
            return Some(
                ReplyError::new(Code::TryAgainLater, text).advice("raise sockets.max_waiters or try again"),
            );
        }
        // What is there already is answered from its record.
        if let Some(peer) = self.refused_peer()
            && !self.attachments.current(&ask.key).is_some_and(|slot| self.is_asked_for(&slot.record, ask))
        {
            return Some(ReplyError::new(Code::Unavailable, peer).advice("see `ipamctl status`"));
        }
        if ask.mode != Mode::Shared {
            let text = "the network configuration's mode is not one that this ipamd serves";
            return Some(ReplyError::new(Code::UnsupportedField, text).advice("mode: \"shared\""));
        }
        if ask.key.ids_len() > IDS_MAX {
            let text = format!("network name, container id and ifname are over {IDS_MAX} bytes together");
            return Some(
                ReplyError::new(Code::InvalidEnvironment, text).advice("shorten the network's name"),
            );
        }
        None
    }

    /// The first of its lane: the recorded result, or the undoing of what differs, or a new attachment.
    pub(super) fn begin_add(&mut self, id: OpId, now: Timestamp) {
        let Some(ask) = self.ops.get(&id).and_then(|op| op.ask.clone()) else { return };
        self.set_phase(id, Phase::Waiting);
        if !self.gate.open() {
            return;
        }
        if let Some(slot) = self.attachments.current(&ask.key) {
            let record = slot.record.clone();
            if self.is_asked_for(&record, &ask) {
                self.consult(id, now);
            } else {
                self.replace(id, &record.id(), DyingReason::Replaced, now);
            }
            return;
        }
        let dying = self.attachments.dying_of(&ask.key).into_iter().find(|a| self.kills.contains_key(a));
        if let Some(dying) = dying {
            // Taken off at this moment without anybody waiting, and by a name that this one may want.
            if let Some(kill) = self.kills.get_mut(&dying) {
                kill.ops.push(id);
            }
            self.set_phase(id, Phase::Killing(dying));
            self.begun(id, now);
            return;
        }
        if !self.undo_dead_holders(id, &ask, now) {
            self.make(id, &ask, now);
        }
    }

    /// Whether an attachment is what an ADD asks for: then its recorded result is the answer.
    pub(super) fn is_asked_for(&self, record: &AttachmentRecord, ask: &AddAsk) -> bool {
        let wanted_mtu = ask.mtu.unwrap_or(self.config.mtu);
        let same = record.netns_cookie == ask.cookie && record.mode == ask.mode && record.mtu == wanted_mtu;
        same && record.state == AttachmentState::Live
    }

    /// An ADD undoes what has its key, and then makes its own.
    pub(super) fn replace(&mut self, id: OpId, old: &AttachmentId, why: DyingReason, now: Timestamp) {
        self.set_phase(id, Phase::Killing(old.clone()));
        self.begun(id, now);
        self.kill(old, why, Some(id), now);
    }

    /// The recorded result. The path of the sandbox is the runtime's: of one that was rebuilt from its link it is not
    /// known until now, and another path may name the same sandbox.
    pub(super) fn recorded(&mut self, record: &AttachmentRecord, netns: &str, now: Timestamp) -> AddResult {
        if record.netns == netns {
            return record.result.clone();
        }
        let mut record = record.clone();
        netns.clone_into(&mut record.netns);
        record.netns_seen = false;
        record.result = result(&record);
        let recorded = record.result.clone();
        self.mark_dirty(RecordId::Attachment(record.id()), now);
        self.evidence.look_at(record.id());
        self.attachments.put(Arc::new(record));
        recorded
    }

    /// The store's disk is full, or has room again. What is left of room is for DELs: whoever waits is told.
    pub(super) fn reserve_changed(&mut self, missing: Option<String>, now: Timestamp) {
        self.no_reserve = missing;
        let Some(cause) = self.no_reserve.clone() else { return };
        // From the back, so that none of them is begun by the end of the one before it.
        for id in self.waiting.clone().into_iter().rev() {
            self.end(id, Ending::Refused, Err(no_reserve(&cause)), now);
        }
    }

    /// A new attachment: everything is chosen here, then committed and wired at once.
    pub(super) fn make(&mut self, id: OpId, ask: &AddAsk, now: Timestamp) {
        if let Some(cause) = &self.no_reserve {
            let error = no_reserve(cause);
            self.end(id, Ending::Refused, Err(error), now);
            return;
        }
        let attachment = AttachmentId { key: ask.key.clone(), generation: self.next_generation };
        let Some(address) = self.pool.allocate(&attachment, now) else {
            let lane = self.lanes.get(&ask.key);
            let deleted = lane.is_some_and(|lane| lane.iter().any(|other| self.is_del(*other)));
            if deleted {
                let error = ReplyError::new(Code::TryAgainLater, "a DEL of the same attachment came");
                self.end(id, Ending::Refused, Err(error), now);
            } else {
                // It waits; the planner refuses it at once when nothing that is coming can serve it.
                self.set_phase(id, Phase::Waiting);
                self.reclaim(now);
            }
            return;
        };
        self.next_generation += 1;
        let mut batch = Vec::new();
        let record = Arc::new(self.new_record(ask, &attachment, &address, now));
        let spec = self.wire_spec(&record, ask);
        self.note(Note::Allocated { address: address.address, attachment: attachment.clone() });
        self.attachments.put(record.clone());
        batch.push(Write::PutAttachment(record));
        batch.push(Write::PutAddress(address));
        self.reserve(&mut batch);
        self.begun(id, now);
        self.making(id, attachment);
        self.commit(Purpose::AddCommit(id), batch, now);
        self.effect(Some(id), Purpose::AddWire(id), EffectKind::Wire(Box::new(spec)));
    }

    fn making(&mut self, id: OpId, attachment: AttachmentId) {
        let making = Making { id: attachment, committed: None, wired: None, events: self.host.events };
        self.set_phase(id, Phase::Making(making));
    }

    /// Takes the next host ifindex: within a boot none is used twice.
    pub(super) fn take_ifindex(&mut self) -> u32 {
        let taken = self.next_ifindex;
        self.next_ifindex = if taken >= i32::MAX as u32 { FIRST_IFINDEX } else { taken + 1 };
        taken
    }

    /// Reserves generations and ifindexes ahead, so that after a crash none is used twice: when half of what is
    /// reserved is left, so that a failed commit is made good before the rest is used.
    fn reserve(&mut self, batch: &mut Vec<Write>) {
        let half = RESERVE / 2;
        let wrapped = self.next_ifindex.saturating_add(RESERVE) < self.node.next_ifindex;
        let low = self.next_ifindex.saturating_add(half) >= self.node.next_ifindex;
        if low || wrapped || self.next_generation + u64::from(half) >= self.node.next_generation {
            self.reserve_now();
            batch.push(Write::PutNode(self.node.clone()));
        }
    }

    pub(super) fn reserve_now(&mut self) {
        self.node.next_ifindex = self.next_ifindex.saturating_add(RESERVE).min(i32::MAX as u32);
        self.node.next_generation = self.next_generation + u64::from(RESERVE);
    }

    fn new_record(
        &mut self,
        ask: &AddAsk,
        id: &AttachmentId,
        address: &AddressRecord,
        now: Timestamp,
    ) -> AttachmentRecord {
        let mut record = AttachmentRecord {
            key: ask.key.clone(),
            generation: id.generation,
            state: AttachmentState::Adding,
            mode: ask.mode,
            addresses: BTreeSet::from([address.address]),
            eni: address.eni.clone(),
            netns_cookie: ask.cookie,
            netns: ask.netns.clone(),
            host_ifindex: self.take_ifindex(),
            host_link: self.free_name(ask),
            host_mac: names::mac(&ask.key, id.generation, "host"),
            sandbox_mac: names::mac(&ask.key, id.generation, "sandbox"),
            mtu: ask.mtu.unwrap_or(self.config.mtu),
            pod: ask.pod.as_ref().map(|(namespace, name)| format!("{namespace}/{name}")),
            created: now,
            boot: self.node.boot.clone(),
            claimed_by: None,
            first_seen: None,
            netns_seen: false,
            result: AddResult::default(),
        };
        record.result = result(&record);
        record
    }

    /// The pod's name, unless a live attachment has it (a StatefulSet pod whose old sandbox still drains), or one that
    /// is being taken off at this moment: that goes by the name.
    fn free_name(&self, ask: &AddAsk) -> Ifname {
        let wanted = names::host_link(ask.pod.as_ref(), &ask.key);
        let taken =
            |r: &AttachmentRecord| r.state != AttachmentState::Dying || self.kills.contains_key(&r.id());
        match self.attachments.by_name(&wanted) {
            Some(slot) if taken(&slot.record) => names::own_link(&ask.key),
            _ => wanted,
        }
    }

    fn wire_spec(&self, record: &AttachmentRecord, ask: &AddAsk) -> WireSpec {
        let mut in_the_way = self.attachments.dying_in(ask.cookie, &ask.key.ifname);
        if let Some(slot) = self.attachments.by_name(&record.host_link)
            && slot.record.state == AttachmentState::Dying
        {
            in_the_way.push(slot.record.host_ifindex);
        }
        in_the_way.sort_unstable();
        in_the_way.dedup();
        let number = self.pool.eni(&record.eni).map_or(1, |e| e.record.number());
        WireSpec {
            host_name: record.host_link.clone(),
            ifindex: record.host_ifindex,
            host_mac: record.host_mac,
            sandbox_name: record.key.ifname.clone(),
            sandbox_mac: record.sandbox_mac,
            mtu: record.mtu,
            txqueuelen: self.config.txqueuelen,
            group: POD_GROUP + number,
            address: *record.addresses.first().expect("an attachment has an address"),
            prefsrc: self.gate.prefsrc,
            alias: alias(record).render(),
            delete_first: in_the_way,
        }
    }

    pub(super) fn add_committed(&mut self, id: OpId, result: Result<(), String>, now: Timestamp) {
        let Some(op) = self.ops.get_mut(&id) else { return };
        let Phase::Making(making) = &mut op.phase else { return };
        making.committed = Some(result);
        op.phases.commit = op.begun.map(|begun| now - begun);
        self.made(id, now);
    }

    pub(super) fn add_wired(&mut self, id: OpId, result: Result<PathSight, WireError>, now: Timestamp) {
        let Some(op) = self.ops.get_mut(&id) else { return };
        let Phase::Making(making) = &mut op.phase else { return };
        making.wired = Some(result);
        op.phases.wire = op.begun.map(|begun| now - begun);
        self.made(id, now);
    }

    /// Both have ended: live, another try, or undone.
    fn made(&mut self, id: OpId, now: Timestamp) {
        let Some(op) = self.ops.get_mut(&id) else { return };
        let Phase::Making(making) = &op.phase else { return };
        let (Some(committed), Some(wired)) = (making.committed.clone(), making.wired.clone()) else { return };
        let (attachment, events) = (making.id.clone(), making.events);
        let cancelled = op.cancelled;
        match (committed, wired) {
            (Ok(()), Ok(sight)) if !cancelled => {
                self.live(id, &attachment, sight, now);
                // A look that was taken in between has judged the live alone, and so not this one.
                let told = self.host.told_since(events);
                if !told.is_empty() {
                    self.host_changed(&told, now);
                }
            }
            (Ok(()), Ok(_)) => {
                let gone = ReplyError::new(Code::TryAgainLater, "the plugin went away");
                self.undo(id, &attachment, DyingReason::PluginGone, gone, now);
            }
            (Ok(()), Err(error)) if !cancelled && self.try_again(id, &attachment, &error, now) => {}
            (_, Err(error)) => {
                let refusal = wire_refusal(&error);
                if error.made() {
                    self.undo(id, &attachment, DyingReason::AddFailed, refusal, now);
                } else {
                    self.set_phase(id, Phase::Undoing(attachment.clone(), Box::new(refusal)));
                    self.end_attachment(&attachment, DyingReason::AddFailed, Some(id), LinkFate::Unmade, now);
                }
            }
            (Err(cause), Ok(_)) => {
                let error =
                    ReplyError::new(Code::TryAgainLater, "the assignment could not be recorded").cause(cause);
                self.undo(id, &attachment, DyingReason::AddFailed, error, now);
            }
        }
    }

    fn live(&mut self, id: OpId, attachment: &AttachmentId, sight: PathSight, now: Timestamp) {
        let Some(slot) = self.attachments.get(attachment) else { return };
        let mut record = slot.record.as_ref().clone();
        record.state = AttachmentState::Live;
        record.netns_seen = sight == PathSight::Namespace;
        let result = reply::Outcome::Added(Box::new(record.result.clone()));
        self.attachments.put(Arc::new(record));
        self.attachments.set_delivered(attachment, id);
        // `live` is written with any later commit: after a crash the whole link proves it.
        self.mark_dirty(RecordId::Attachment(attachment.clone()), now);
        self.end(id, Ending::Ok, Ok(result), now);
    }

    /// A taken number or name, with nothing made: the next one, the same address.
    fn try_again(&mut self, id: OpId, attachment: &AttachmentId, error: &WireError, now: Timestamp) -> bool {
        let Some(op) = self.ops.get_mut(&id) else { return false };
        let Some(ask) = op.ask.clone() else { return false };
        op.tries += 1;
        if op.tries >= TRIES {
            return false;
        }
        let Some(slot) = self.attachments.get(attachment) else { return false };
        let mut record = slot.record.as_ref().clone();
        let mut in_the_way = None;
        match error {
            WireError::IfindexTaken { .. } => {}
            WireError::HostNameTaken { ifindex, group, .. } => {
                let holder = self.attachments.by_ifindex(*ifindex).map(|s| s.record.state);
                let ours = *group == DYING_GROUP || (POD_GROUP..POD_GROUP + 0x80).contains(group);
                match holder {
                    Some(AttachmentState::Dying) => in_the_way = Some(*ifindex),
                    None if ours => in_the_way = Some(*ifindex),
                    _ => {
                        let own = names::own_link(&ask.key);
                        if record.host_link == own {
                            return false;
                        }
                        record.host_link = own;
                    }
                }
            }
            _ => return false,
        }
        record.host_ifindex = self.take_ifindex();
        record.result = result(&record);
        let record = Arc::new(record);
        let mut spec = self.wire_spec(&record, &ask);
        spec.delete_first.extend(in_the_way);
        self.attachments.remove(attachment);
        self.attachments.put(record.clone());
        let mut batch = vec![Write::PutAttachment(record)];
        self.reserve(&mut batch);
        self.making(id, attachment.clone());
        self.commit(Purpose::AddCommit(id), batch, now);
        self.effect(Some(id), Purpose::AddWire(id), EffectKind::Wire(Box::new(spec)));
        true
    }

    fn undo(
        &mut self,
        id: OpId,
        attachment: &AttachmentId,
        why: DyingReason,
        error: ReplyError,
        now: Timestamp,
    ) {
        self.set_phase(id, Phase::Undoing(attachment.clone(), Box::new(error)));
        self.kill(attachment, why, Some(id), now);
    }

    /// ADDs that need no address are begun first: one that asks for what is recorded must not wait behind one that may
    /// wait for EC2, nor be refused in its stead. They are there only until the gate opens.
    pub(super) fn begin_recorded(&mut self, now: Timestamp) {
        let recorded = self.waiting.iter().filter(|id| self.is_recorded(**id));
        for id in recorded.copied().collect::<Vec<_>>() {
            self.begin_add(id, now);
        }
    }

    fn is_recorded(&self, id: OpId) -> bool {
        self.ops.get(&id).is_some_and(|op| self.attachments.current(&op.key).is_some())
    }

    /// How many ADDs wait for an address.
    pub(super) fn waiting_for_address(&self) -> usize {
        if self.gate.open() {
            self.waiting.len()
        } else {
            self.waiting.iter().filter(|id| !self.is_recorded(**id)).count()
        }
    }

    /// ADDs that waited for the node to serve are begun, in the order they came.
    pub(super) fn begin_waiting(&mut self, now: Timestamp) {
        while let Some(id) = self.waiting.first().copied() {
            self.begin_add(id, now);
            if self.waiting.contains(&id) {
                return; // first come, first served: who could not be served keeps its place
            }
        }
    }

    pub(super) fn expire_waiting(&mut self, now: Timestamp) {
        let late =
            |id: &&OpId| self.ops.get(id).and_then(|op| op.ask.as_ref()).is_some_and(|a| a.deadline <= now);
        let late: Vec<OpId> = self.waiting.iter().filter(late).copied().collect();
        for id in late {
            let cause = self.why_not_serving().unwrap_or_else(|| self.why_waiting());
            let error = ReplyError::new(Code::TryAgainLater, "no address came in time").cause(cause);
            self.end(id, Ending::Refused, Err(error.advice("see `ipamctl status`")), now);
        }
    }

    /// The pool is dry, and nothing is coming: why.
    pub(super) fn full(&self, why: &str, now: Timestamp) -> ReplyError {
        let counts = self.pool.counts();
        let cause = format!(
            "{why}; {} addresses are allocated, {} cooling, {} quarantined, {} free but not laid yet",
            counts.allocated, counts.cooling, counts.quarantined, counts.free
        );
        let text = match self.pool.enis().count() {
            0 => "no free address: no ENI is known".to_owned(),
            enis => format!("no free address: {enis} ENIs hold {} of them", self.pool.addresses().count()),
        };
        let mut error = ReplyError::new(Code::TryAgainLater, text).cause(cause);
        if counts.cooling > 0
            && let Some(at) = self.pool.next_cooled()
        {
            error.retry_after_ms = Some(u64::try_from((at - now).as_millis()).unwrap_or(u64::MAX));
        }
        error.advice("see `ipamctl pool` and `ipamctl enis`")
    }

    fn is_del(&self, id: OpId) -> bool {
        self.ops.get(&id).is_some_and(|op| op.verb == Verb::Del)
    }

    pub(super) fn set_phase(&mut self, id: OpId, phase: Phase) {
        if phase == Phase::Waiting {
            self.waiting.insert(id);
        } else {
            self.waiting.remove(&id);
        }
        if let Some(op) = self.ops.get_mut(&id) {
            op.phase = phase;
        }
    }

    /// Marks the start of an operation's first effect.
    pub(super) fn begun(&mut self, id: OpId, now: Timestamp) {
        if let Some(op) = self.ops.get_mut(&id)
            && op.begun.is_none()
        {
            op.begun = Some(now);
            op.phases.queue = Some(now - op.arrived);
        }
    }
}

fn no_reserve(cause: &str) -> ReplyError {
    let text = "no assignment can be recorded: the store's disk is full";
    let advice = "make room there: ADD works again by itself within a second";
    ReplyError::new(Code::TryAgainLater, text).cause(cause).advice(advice)
}
