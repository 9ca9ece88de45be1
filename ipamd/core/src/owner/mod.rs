//! The owner: the one state machine of attachments, addresses and the node.
//!
//! Owns every decision about an ADD or DEL, what becomes of records at start, when links are reaped, and when the
//! reconcilers run. `handle(event, now)` never waits: it answers with replies and effects as data, and each effect's
//! end comes back as an event. Operations on one attachment are ordered by its key; those of different keys overlap
//! freely. Does not do I/O, read a clock or log.
//!
//! Invariants (see `invariant`): no reply before its commit; an address has one holder; a dying attachment's address
//! is not free before its link is gone.

mod add;
mod attachments;
mod check;
mod commit;
mod concern;
mod config;
mod del;
pub mod event;
mod evidence;
mod gc;
mod grow;
mod host;
mod names;
mod outside;
mod pulse;
mod reaper;
mod repair;
mod restore;
mod start;
mod status;
mod switches;
mod sync;
mod tombstone;

pub use attachments::Slot;
pub use config::OwnerConfig;
pub use restore::RestoreError;
pub use status::Health;
pub use switches::Switch;

use crate::pool::Pool;
use crate::reconcile::driver::Driver;
use crate::record::NodeRecord;
use crate::time::Timestamp;
use crate::tombstone::Buried;
use attachments::Attachments;
use eni_proto::error::{Code, WireError as ReplyError};
use eni_proto::ids::AttachmentKey;
use eni_proto::reply;
use event::{
    AddAsk, Completion, DyingReason, Effect, EffectId, EffectKind, Ending, Event, Note, OpId, Outcome,
    Phases, Verb,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// The state machine.
#[derive(Debug, Clone)]
pub struct Owner {
    config: OwnerConfig,
    node: NodeRecord,
    next_ifindex: u32,
    next_generation: u64,
    pool: Pool,
    attachments: Attachments,
    ops: BTreeMap<OpId, Op>,
    /// ADDs in [`Phase::Waiting`], in the order they came.
    waiting: BTreeSet<OpId>,
    /// The operations on each key, in order; the first is the one that runs.
    lanes: BTreeMap<AttachmentKey, VecDeque<OpId>>,
    /// What CHECKs among `ops` ask, and how far they are.
    checks: BTreeMap<OpId, check::Checking>,
    /// GCs that run: they are about no key, and so in no lane.
    sweeps: BTreeMap<OpId, gc::Sweep>,
    purposes: BTreeMap<EffectId, Purpose>,
    next_effect: u64,
    kills: BTreeMap<crate::record::AttachmentId, del::Kill>,
    reaper: reaper::Reaper,
    dirty: commit::Dirty,
    gate: sync::Gate,
    host: host::HostWatch,
    evidence: evidence::Evidence,
    driver: Driver,
    reconcilers: sync::Reconcilers,
    growth: grow::Growth,
    repair: repair::Repair,
    start: start::Start,
    switched: switches::Switched,
    draining: bool,
    /// Why the last commit failed, until one succeeds.
    store_trouble: Option<String>,
    /// Why there is no reserve for a full disk: no new record is made for an ADD.
    no_reserve: Option<String>,
    pulse: pulse::Pulse,
    /// What the last pass over the host's network could not lay for pods that run; none when it laid everything.
    steering_broken: Option<String>,
    out: Outcome,
}

/// One ADD, DEL or CHECK that runs or waits.
#[derive(Debug, Clone)]
struct Op {
    key: AttachmentKey,
    verb: Verb,
    ask: Option<AddAsk>,
    /// A DEL that was written down and is not judged yet.
    tombstone: Option<Buried>,
    /// What its attachment dies of.
    why: DyingReason,
    phase: Phase,
    arrived: Timestamp,
    begun: Option<Timestamp>,
    phases: Phases,
    /// The plugin is gone: whatever is made is undone, nothing is replied.
    cancelled: bool,
    tries: u8,
}

impl Op {
    /// One that has just come; `why` is what an attachment that it undoes dies of.
    fn new(key: AttachmentKey, verb: Verb, why: DyingReason, now: Timestamp) -> Op {
        Op {
            key,
            verb,
            ask: None,
            tombstone: None,
            why,
            phase: Phase::Queued,
            arrived: now,
            begun: None,
            phases: Phases::default(),
            cancelled: false,
            tries: 0,
        }
    }
}

/// How far an operation is.
#[derive(Debug, Clone, PartialEq)]
enum Phase {
    /// Behind another of its key.
    Queued,
    /// First of its key, waiting for the node to serve ADDs.
    Waiting,
    /// An attachment is being taken off: what this ADD replaces, or what this DEL deletes.
    Killing(crate::record::AttachmentId),
    /// The spool is asked whether what is there was deleted.
    Consulting,
    /// Committed and wired at once.
    Making(add::Making),
    /// A failed or cancelled ADD is being undone; then this is answered.
    Undoing(crate::record::AttachmentId, Box<ReplyError>),
    /// The commit of an attachment that was dying already.
    Committing,
    /// A CHECK that is first of its key: how far it is, `checks` says.
    Checking,
}

/// What an effect's end means.
#[derive(Debug, Clone, PartialEq)]
enum Purpose {
    AddCommit(OpId),
    AddWire(OpId),
    KillCommit(crate::record::AttachmentId),
    KillUnwire(crate::record::AttachmentId),
    DelCommit(OpId),
    Consult(OpId),
    Pulse,
    Stamp,
    Reap,
    Housekeeping,
    /// With the host links of the attachments that were live when the look began.
    HostObserve(crate::reconcile::driver::Pass, BTreeSet<u32>),
    HostApply(crate::reconcile::driver::Pass, Box<host::Applying>),
    SandboxCheck,
    /// With the instant at which the look began.
    CloudObserve(crate::reconcile::driver::Pass, Timestamp),
    Mutate(u64),
    Watch,
    Resolve,
    Look(OpId),
    GcLook(OpId),
    /// With whose paths were asked.
    GcPaths(OpId, Vec<crate::record::AttachmentId>),
}

impl Owner {
    /// Takes one event.
    pub fn handle(&mut self, event: Event, now: Timestamp) -> Outcome {
        match event {
            Event::Add { op, ask } => self.add(op, ask, now),
            Event::Del { op, key } => self.del(op, key, now),
            Event::Tombstone { op, tombstone } => self.tombstone(op, tombstone, now),
            Event::Check { op, ask } => self.check(op, ask, now),
            Event::Gc { op, ask } => self.gc(op, ask, now),
            Event::Hangup { op } => self.hangup(op, now),
            Event::Unread { op, key } => self.unread(op, &key, now),
            Event::Done { effect, completion } => self.done(effect, completion, now),
            Event::Wake => {}
            Event::LinkSeen => self.link_seen(now),
            Event::HostChanged(triggers) => self.host_told(&triggers, now),
            Event::StoreReserve(missing) => self.reserve_changed(missing, now),
            Event::CloudTold(told) => self.cloud_told(told, now),
            Event::Switch { switch, on } => self.set_switch(switch, on, now),
            Event::Drain => self.drain(now),
        }
        self.tick(now);
        std::mem::take(&mut self.out)
    }

    /// When to send [`Event::Wake`].
    pub fn next_deadline(&self) -> Option<Timestamp> {
        let waiting = self.waiting.iter().filter_map(|id| self.ops.get(id));
        let late = waiting.filter_map(|op| op.ask.as_ref().map(|a| a.deadline)).min();
        // An address that cools down matters while somebody waits for one.
        let cooled = late.and_then(|_| self.pool.next_cooled());
        // No pass begins any more while draining: a deadline of one is nobody's.
        let driver = if self.draining { None } else { self.driver.next_deadline() };
        let pulse = (!self.draining).then(|| self.pulse.due());
        // What cannot be begun yet is no deadline: the event that allows it comes by itself.
        let growth = self.growth.deadline().filter(|_| self.may_plan());
        let own = [self.reaper.due(), driver, self.dirty.retry_at(), growth, pulse, self.checks_deadline()];
        own.into_iter().chain([late, cooled]).flatten().min()
    }

    fn tick(&mut self, now: Timestamp) {
        self.pool.settle(now);
        self.note_overdue(now);
        self.expire_waiting(now);
        if self.gate.open() && self.pool.available() > 0 {
            self.begin_waiting(now);
        }
        self.check_sandboxes();
        self.reap_when_due(now);
        self.write_dirty_when_due(now);
        if self.draining && self.store_trouble.is_none() {
            self.write_dirty(now);
        } else if !self.draining {
            self.plan_when_due(now);
            self.start_passes(now);
            self.refuse_without_growth(now);
            self.note_provisioned(now);
            self.pulse_when_due(now);
        }
        self.go_on_checking(now);
    }

    fn done(&mut self, effect: EffectId, completion: Completion, now: Timestamp) {
        let Some(purpose) = self.purposes.remove(&effect) else { return };
        if let Completion::Blank(cause) = completion {
            return self.write_anew(effect, purpose, cause, now);
        }
        if let Completion::Committed(result) = &completion {
            self.commit_ended(effect, result, now);
        }
        match (purpose, completion) {
            (Purpose::AddCommit(op), Completion::Committed(result)) => self.add_committed(op, result, now),
            (Purpose::AddWire(op), Completion::Wired(result)) => self.add_wired(op, result, now),
            (Purpose::KillCommit(id), Completion::Committed(result)) => self.kill_committed(&id, result, now),
            (Purpose::KillUnwire(id), Completion::Unwired(result)) => self.kill_unwired(&id, result, now),
            (Purpose::DelCommit(op), Completion::Committed(result)) => self.del_committed(op, result, now),
            (Purpose::Consult(op), Completion::Consulted(found)) => self.consulted(op, found, now),
            (Purpose::Pulse, Completion::Committed(result)) => self.pulse_ended(&result, now),
            (Purpose::Reap, Completion::Reaped(reaped)) => self.links_reaped(reaped, now),
            (Purpose::HostObserve(pass, looked), Completion::HostObserved(view)) => {
                self.host_observed(pass, &looked, view, now);
            }
            (Purpose::SandboxCheck, Completion::SandboxesChecked(seen)) => self.sandboxes_checked(seen, now),
            (Purpose::Look(op), Completion::Looked(seen)) => self.looked(op, seen.map(|seen| *seen), now),
            (Purpose::GcLook(op), Completion::HostObserved(view)) => self.gc_looked(op, view, now),
            (Purpose::GcPaths(op, asked), Completion::SandboxesChecked(seen)) => {
                self.gc_paths_seen(op, &asked, &seen, now);
            }
            (Purpose::HostApply(pass, applying), Completion::HostApplied(failed)) => {
                self.host_applied(pass, &applying, &failed, now);
            }
            (Purpose::CloudObserve(pass, begun), Completion::CloudObserved(seen)) => {
                self.cloud_observed(pass, begun, seen, now);
            }
            (Purpose::Resolve, Completion::Resolved(answers)) => self.names_resolved(answers, now),
            (Purpose::Mutate(id), Completion::Mutated(result)) => self.mutated(id, Some(result), now),
            (Purpose::Mutate(id), Completion::Skipped) => self.mutated(id, None, now),
            (Purpose::HostObserve(pass, _) | Purpose::HostApply(pass, _), Completion::Skipped) => {
                self.pass_ended(pass, Err("its commit failed".into()), now);
            }
            _ => {}
        }
    }

    fn effect(&mut self, op: Option<OpId>, purpose: Purpose, kind: EffectKind) -> EffectId {
        self.effect_after(op, purpose, kind, Vec::new())
    }

    fn effect_after(
        &mut self,
        op: Option<OpId>,
        purpose: Purpose,
        kind: EffectKind,
        after: Vec<EffectId>,
    ) -> EffectId {
        self.next_effect += 1;
        let id = EffectId(self.next_effect);
        // What has no end must not be remembered for ever.
        if !matches!(purpose, Purpose::Watch | Purpose::Stamp) {
            self.purposes.insert(id, purpose);
        }
        self.out.effects.push(Effect { id, op, after, kind });
        id
    }

    fn note(&mut self, note: Note) {
        self.out.notes.push(note);
    }

    /// Enters an operation into its key's lane; true when it is the first.
    fn enter(&mut self, id: OpId, op: Op) -> bool {
        let lane = self.lanes.entry(op.key.clone()).or_default();
        lane.push_back(id);
        let first = lane.len() == 1;
        self.ops.insert(id, op);
        first
    }

    /// Ends an operation: answers it, notes it, lets the next of its key begin.
    fn end(&mut self, id: OpId, ending: Ending, answer: Result<reply::Outcome, ReplyError>, now: Timestamp) {
        let Some(mut op) = self.ops.remove(&id) else { return };
        self.waiting.remove(&id);
        self.checks.remove(&id);
        op.phases.total = now - op.arrived;
        let (ending, error) = match (&answer, op.cancelled) {
            (_, true) => (Ending::Cancelled, None),
            (Ok(_), false) => (ending, None),
            (Err(error), false) => (ending, Some(error.clone())),
        };
        let outcome = answer.unwrap_or_else(|error| reply::Outcome::Failed(Box::new(error)));
        self.out.replies.push((id, (!op.cancelled).then_some(outcome)));
        self.note(Note::Ended { verb: op.verb, key: op.key.clone(), ending, phases: op.phases, error });
        let Some(lane) = self.lanes.get_mut(&op.key) else { return };
        let was_first = lane.front() == Some(&id);
        lane.retain(|other| *other != id);
        let next = lane.front().copied();
        match next {
            Some(next) if was_first => self.begin(next, now),
            Some(_) => {}
            None => {
                self.lanes.remove(&op.key);
            }
        }
    }

    /// The first of a lane begins.
    fn begin(&mut self, id: OpId, now: Timestamp) {
        match self.ops.get(&id).map(|op| op.verb) {
            Some(Verb::Add) => self.begin_add(id, now),
            Some(Verb::Del) => self.begin_del(id, now),
            Some(Verb::Check) => self.begin_check(id, now),
            None => {}
        }
    }

    fn hangup(&mut self, id: OpId, now: Timestamp) {
        let Some(op) = self.ops.get_mut(&id) else { return };
        op.cancelled = true;
        // What runs is undone when it ends; what waits ends now. A DEL goes on: it is authoritative.
        if self.only_waits(id) {
            let gone = ReplyError::new(Code::TryAgainLater, "the plugin went away");
            self.end(id, Ending::Cancelled, Err(gone), now);
        }
    }

    /// Whether an operation has begun nothing and may be ended at any time: an ADD or CHECK that waits.
    fn only_waits(&self, id: OpId) -> bool {
        let Some(op) = self.ops.get(&id) else { return false };
        match op.verb {
            Verb::Add => matches!(op.phase, Phase::Queued | Phase::Waiting),
            Verb::Check => self.check_waits(id),
            Verb::Del => false,
        }
    }

    fn unread(&mut self, op: OpId, key: &AttachmentKey, now: Timestamp) {
        let decides = |id: &OpId| self.ops.get(id).is_some_and(|op| op.verb != Verb::Check);
        if self.lanes.get(key).is_some_and(|lane| lane.iter().any(decides)) {
            return; // a later operation on the key does
        }
        let Some(slot) = self.attachments.current(key) else { return };
        if slot.delivered_by == Some(op) {
            let id = slot.record.id();
            self.kill(&id, event::DyingReason::PluginGone, None, now);
        }
    }

    fn drain(&mut self, now: Timestamp) {
        self.draining = true;
        let waiting: Vec<OpId> = self.ops.keys().copied().filter(|id| self.only_waits(*id)).collect();
        for id in waiting {
            self.close(id, now);
        }
        self.write_dirty(now);
    }

    /// Ends an operation without a reply.
    fn close(&mut self, id: OpId, now: Timestamp) {
        if let Some(op) = self.ops.get_mut(&id) {
            op.cancelled = true;
        }
        let ending = ReplyError::new(Code::TryAgainLater, "ipamd is ending");
        self.end(id, Ending::Cancelled, Err(ending), now);
    }

    /// Whether nothing is under way that a shutdown should wait for.
    pub fn is_idle(&self) -> bool {
        self.ops.is_empty()
            && self.sweeps.is_empty()
            && self.kills.is_empty()
            && self.dirty.is_empty()
            && !self.dirty.in_flight()
    }
}

#[cfg(test)]
mod tests;
