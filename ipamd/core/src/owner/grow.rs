//! Growth and give-back: what `capacity` plans, carried to EC2 and back.
//!
//! Owns the intents (written before each call, deleted with its result), what is known of each ENI's attachment, what
//! EC2 refused lately, and which waiting ADDs can be served by nothing that is coming. One change of an ENI at a time.
//! A call whose outcome is not known is a question: a create is repeated with its token, the others are answered by
//! the next look. Does not plan.

use super::commit::RecordId;
use super::event::{EffectKind, Ending, Note};
use super::{Owner, Purpose};
use crate::capacity::{self, Plan, Seen, Step, View};
use crate::cloud::{CloudError, CloudErrorKind, CloudObservation, INSTANCE_TAG, Mutated, Mutation};
use crate::eni_sync;
use crate::reconcile::driver::Pass;
use crate::record::{EniState, IntentRecord, Write};
use crate::time::Timestamp;
use eni_proto::ids::{EniId, MacAddr};
use sha1::{Digest, Sha1};
use std::collections::{BTreeMap, BTreeSet};

/// Looks that must agree before something at EC2 is given up.
const AGREEING: u32 = 2;

/// How far a change is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Its intent is being committed, or its call is under way.
    Calling,
    /// Its outcome is not known, since when: the next look that begins later answers.
    Unknown(Timestamp),
    /// A create that is to be repeated, not before.
    Again(Timestamp),
}

#[derive(Debug, Clone)]
struct Intent {
    record: IntentRecord,
    stage: Stage,
    /// A call of it has ended without an answer, or a crash came between: a later refusal says nothing of that one.
    doubtful: bool,
}

/// What the owner knows of EC2 beside the pool.
#[derive(Debug, Clone, Default)]
pub(super) struct Growth {
    intents: BTreeMap<u64, Intent>,
    seen: BTreeMap<EniId, Seen>,
    /// When the last change of an ENI ended: what an older look says of it is stale.
    touched: BTreeMap<EniId, Timestamp>,
    /// ENIs that are left alone until then, after a refusal.
    held: BTreeMap<EniId, Timestamp>,
    /// Device indexes of ENIs that others attached.
    foreign: BTreeSet<u32>,
    create_refused: Option<(Timestamp, String)>,
    assign_refused: Option<(Timestamp, String)>,
    surplus_since: Option<Timestamp>,
    /// Looks in a row that named an ENI with our tag but without a record.
    strangers: BTreeMap<EniId, u32>,
    /// So many looks, begun from then on, must name what is attached to nothing: a create was given up that may have
    /// taken effect.
    doubt: Option<(u32, Timestamp)>,
    /// Looks in a row that did not name an ENI of the pool.
    absent: BTreeMap<EniId, u32>,
    /// The primary's security groups: new ENIs get them.
    security_groups: Vec<String>,
    /// MACs whose links are waited for.
    watched: Vec<MacAddr>,
    /// What the last plan was made from: the pool's version, waiting ADDs.
    planned: Option<(u64, usize)>,
    plan_at: Option<Timestamp>,
}

impl Growth {
    /// The intents that a crash left: what became of them is not known.
    pub(super) fn restore(intents: Vec<IntentRecord>, now: Timestamp) -> Growth {
        let stage = |mutation: &Mutation| match mutation {
            Mutation::Create { .. } => Stage::Again(now),
            _ => Stage::Unknown(now),
        };
        let doubtful =
            |record: IntentRecord| Intent { stage: stage(&record.mutation), record, doubtful: true };
        let intents = intents.into_iter().map(|record| (record.id, doubtful(record)));
        Growth { intents: intents.collect(), ..Growth::default() }
    }

    pub(super) fn intent(&self, id: u64) -> Option<&IntentRecord> {
        self.intents.get(&id).map(|i| &i.record)
    }

    /// What EC2 refused and is not worth asking again yet.
    pub(super) fn refusals(&self) -> impl Iterator<Item = &str> {
        [&self.create_refused, &self.assign_refused].into_iter().flatten().map(|(_, why)| why.as_str())
    }

    /// Forgets refusals that are worth another try: what was planned with them is planned anew.
    fn expire(&mut self, now: Timestamp) {
        let before = self.held.len();
        self.held.retain(|_, until| *until > now);
        let mut expired = self.held.len() < before;
        for refused in [&mut self.create_refused, &mut self.assign_refused] {
            expired |= refused.take_if(|(until, _)| *until <= now).is_some();
        }
        if expired {
            self.replan();
        }
    }

    fn replan(&mut self) {
        self.planned = None;
    }

    fn is_busy(&self, eni: &EniId, now: Timestamp) -> bool {
        let changing = self.intents.values().any(|i| i.record.mutation.eni() == Some(eni));
        changing || self.held.get(eni).is_some_and(|until| *until > now)
    }

    pub(super) fn deadline(&self) -> Option<Timestamp> {
        let again = self.intents.values().filter_map(|i| match i.stage {
            Stage::Again(at) => Some(at),
            _ => None,
        });
        let refused =
            [&self.create_refused, &self.assign_refused].into_iter().flatten().map(|(until, _)| *until);
        again.chain(self.held.values().copied()).chain(refused).chain(self.plan_at).min()
    }
}

impl Owner {
    /// Whether a look must name ENIs that are attached to nothing, too.
    pub(super) fn look_is_tagged(&self) -> bool {
        !self.gate.cloud || self.is_unsettled()
    }

    /// Whether something at EC2 is on its way or not known.
    fn is_unsettled(&self) -> bool {
        let moving = self.pool.enis().any(|e| !e.record.state.is_laid());
        let growth = &self.growth;
        let unknown = growth.intents.values().any(|i| matches!(i.stage, Stage::Unknown(_)));
        moving
            || unknown
            || growth.doubt.is_some()
            || !growth.strangers.is_empty()
            || !growth.absent.is_empty()
    }

    /// The ENIs that were changed since a look began.
    pub(super) fn stale_since(&self, begun: Timestamp) -> BTreeSet<EniId> {
        let touched = self.growth.touched.iter().filter(|(_, at)| **at >= begun).map(|(id, _)| id.clone());
        let calling = self.growth.intents.values().filter(|i| i.stage == Stage::Calling);
        touched.chain(calling.filter_map(|i| i.record.mutation.eni().cloned())).collect()
    }

    /// Takes in what a look says of attachments; the records to commit.
    pub(super) fn take_look(
        &mut self,
        plan: &eni_sync::SyncPlan,
        seen: &CloudObservation,
        begun: Timestamp,
    ) -> Vec<Write> {
        let (enis, tagged) = (&seen.enis, seen.tagged);
        let growth = &mut self.growth;
        growth.replan();
        growth.doubt = match growth.doubt {
            Some((looks, since)) if tagged && since <= begun => (looks > 1).then_some((looks - 1, since)),
            other => other,
        };
        growth.foreign.clone_from(&plan.foreign);
        growth.seen.extend(plan.seen.iter().map(|(id, seen)| (id.clone(), *seen)));
        growth.touched.retain(|_, at| *at >= begun);
        let primary = self.pool.primary().map(|e| e.record.id.clone());
        if let Some(primary) = enis.iter().find(|e| Some(&e.id) == primary.as_ref()) {
            growth.security_groups.clone_from(&primary.security_groups);
        }
        let mut batch = Vec::new();
        // The look has answered what became of these: states and addresses follow from it.
        let answered =
            growth.intents.values().filter(|i| matches!(i.stage, Stage::Unknown(since) if since <= begun));
        for id in answered.map(|i| i.record.id).collect::<Vec<_>>() {
            growth.intents.remove(&id);
            batch.push(Write::DeleteIntent(id));
        }
        self.forget_absent(plan, &mut batch);
        self.adopt_strangers(plan, &mut batch);
        batch
    }

    /// ENIs that two looks in a row did not name go, unless somebody holds an address of theirs.
    fn forget_absent(&mut self, plan: &eni_sync::SyncPlan, batch: &mut Vec<Write>) {
        self.growth.absent.retain(|id, _| plan.absent.contains(id));
        for id in &plan.absent {
            let looks = self.growth.absent.entry(id.clone()).or_default();
            *looks += 1;
            let deleting = self.pool.eni(id).is_some_and(|e| e.record.state == EniState::Deleting);
            if (*looks >= AGREEING || deleting)
                && !self.growth.intents.values().any(|i| i.record.mutation.eni() == Some(id))
            {
                self.drop_eni(id, batch);
            }
        }
    }

    fn drop_eni(&mut self, id: &EniId, batch: &mut Vec<Write>) {
        let Some(addresses) = self.pool.remove_eni(id) else { return };
        batch.extend(addresses.into_iter().map(Write::DeleteAddress));
        batch.push(Write::DeleteEni(id.clone()));
        self.growth.seen.remove(id);
        self.growth.held.remove(id);
        self.growth.absent.remove(id);
        self.note(Note::EniGone { eni: id.clone() });
    }

    /// ENIs of ours without a record are deleted: a crash between a create and its commit, with the store lost.
    fn adopt_strangers(&mut self, plan: &eni_sync::SyncPlan, batch: &mut Vec<Write>) {
        let creating =
            self.growth.intents.values().any(|i| matches!(i.record.mutation, Mutation::Create { .. }));
        if creating {
            return; // one of them may be what the create makes
        }
        self.growth.strangers.retain(|id, _| plan.strangers.iter().any(|s| s.id == *id));
        for stranger in &plan.strangers {
            let looks = self.growth.strangers.entry(stranger.id.clone()).or_default();
            *looks += 1;
            if *looks >= AGREEING {
                self.growth.strangers.remove(&stranger.id);
                self.growth.seen.insert(stranger.id.clone(), Seen::Available);
                self.pool.put_eni(stranger.clone());
                batch.push(Write::PutEni(stranger.clone()));
            }
        }
    }

    /// After a look: whether and when another is needed soon.
    pub(super) fn look_again(&mut self, now: Timestamp) {
        if self.is_unsettled() {
            self.driver.wake_by(self.reconcilers.eni_sync, now + self.config.poll);
        }
    }

    fn view(&self, now: Timestamp) -> Option<View> {
        let limits = self.gate.limits.clone()?;
        let growth = &self.growth;
        let assigning = |id: &EniId| {
            let counts = growth.intents.values().filter_map(|i| match &i.record.mutation {
                Mutation::Assign { eni, count } if eni == id => Some(*count),
                _ => None,
            });
            counts.sum()
        };
        let enis = self.pool.enis().map(|eni| capacity::EniView {
            device_index: eni.record.device_index,
            state: eni.record.state,
            counts: self.pool.eni_counts(&eni.record.id),
            busy: growth.is_busy(&eni.record.id, now),
            seen: growth.seen.get(&eni.record.id).copied(),
            assigning: assigning(&eni.record.id),
            id: eni.record.id.clone(),
        });
        let creating = growth.intents.values().filter_map(|i| match i.record.mutation {
            Mutation::Create { secondary, .. } => Some(secondary),
            _ => None,
        });
        Some(View {
            enis: enis.collect(),
            foreign: growth.foreign.clone(),
            waiting: self.waiting.len(),
            creating: creating.collect(),
            limits,
            create_refused: growth.create_refused.clone(),
            assign_refused: growth.assign_refused.clone(),
            surplus_since: growth.surplus_since,
        })
    }

    /// Whether the planner may be asked: what the start left is answered, and the cloud has told what there is.
    pub(super) fn may_plan(&self) -> bool {
        self.gate.cloud && !self.draining && self.gate.committed()
    }

    /// Plans when something changed; a plan with steps is the `capacity` reconciler's next pass.
    pub(super) fn plan_when_due(&mut self, now: Timestamp) {
        self.repeat_creates(now);
        self.growth.expire(now);
        let basis = (self.pool.version(), self.waiting.len());
        let due = self.growth.plan_at.is_some_and(|at| at <= now);
        if !self.may_plan() || (self.growth.planned == Some(basis) && !due) {
            return;
        }
        let Some(plan) = self.plan_capacity(now) else { return };
        if !plan.steps.is_empty() {
            self.driver.wake(self.reconcilers.capacity, now);
        }
        self.refuse_short(&plan, now);
        self.watch_links();
    }

    fn plan_capacity(&mut self, now: Timestamp) -> Option<Plan> {
        let view = self.view(now)?;
        let plan = capacity::plan(&view, &self.config.targets, now);
        self.growth.surplus_since =
            if plan.surplus { Some(self.growth.surplus_since.unwrap_or(now)) } else { None };
        self.growth.plan_at = plan.again;
        self.growth.planned = Some((self.pool.version(), self.waiting.len()));
        Some(plan)
    }

    /// The pass of `capacity`: the steps are begun; their ends come back by themselves.
    pub(super) fn capacity_pass(&mut self, pass: Pass, now: Timestamp) {
        if self.may_plan()
            && let Some(plan) = self.plan_capacity(now)
        {
            for step in plan.steps {
                self.take_step(step, now);
            }
            self.growth.replan();
        }
        self.pass_ended(pass, Ok(()), now);
    }

    /// ADDs that nothing under way or planned can serve are told so at once, the last that came first.
    fn refuse_short(&mut self, plan: &Plan, now: Timestamp) {
        let Some((short, why)) = &plan.short else { return };
        if !self.gate.open() {
            return;
        }
        for id in self.waiting.iter().rev().take(*short).copied().collect::<Vec<_>>() {
            let error = self.full(why, now);
            self.end(id, Ending::Refused, Err(error), now);
        }
    }

    fn take_step(&mut self, step: Step, now: Timestamp) {
        match step {
            Step::Create { secondary } => self.create(secondary, now),
            Step::Attach { eni, device_index } => {
                let Some(instance) = self.node.instance.as_ref().map(|i| i.id.clone()) else { return };
                let Some(mut record) = self.pool.eni(&eni).map(|e| e.record.clone()) else { return };
                record.device_index = device_index;
                self.pool.put_eni(record.clone());
                let mutation = Mutation::Attach { eni, instance, device_index };
                self.mutate(mutation, vec![Write::PutEni(record)], now);
            }
            Step::Assign { eni, count } => self.mutate(Mutation::Assign { eni, count }, Vec::new(), now),
            Step::Drain { eni } => {
                self.growth.surplus_since = None;
                self.change_state(&eni, EniState::Draining, now);
            }
            Step::Undrain { eni } => self.change_state(&eni, EniState::InUse, now),
            Step::Detach { eni } => {
                let mut batch: Vec<Write> =
                    self.pool.set_state(&eni, EniState::Detaching).map(Write::PutEni).into_iter().collect();
                batch.extend(self.pool.drop_addresses(&eni).into_iter().map(Write::DeleteAddress));
                self.driver.wake(self.reconcilers.host_net, now);
                self.mutate(Mutation::Detach { eni }, batch, now);
            }
            Step::DetachAgain { eni } => self.mutate(Mutation::Detach { eni }, Vec::new(), now),
            Step::Delete { eni } => self.mutate(Mutation::Delete { eni }, Vec::new(), now),
        }
    }

    fn change_state(&mut self, eni: &EniId, state: EniState, now: Timestamp) {
        if let Some(record) = self.pool.set_state(eni, state) {
            self.note(Note::EniState { eni: eni.clone(), state });
            self.commit(Purpose::Housekeeping, vec![Write::PutEni(record)], now);
        }
    }

    fn create(&mut self, secondary: u32, now: Timestamp) {
        let Some(instance) = self.node.instance.as_ref().map(|i| i.id.clone()) else { return };
        let Some(subnet) = self.pool.primary().map(|e| e.record.subnet.clone()) else { return };
        // A token is used once: by this instance, in this boot, for this intent, even when the store was lost.
        let words = format!("{instance} {:?} {} {}", self.node.boot, self.node.next_intent, now.as_nanos());
        let token: String = Sha1::digest(words.as_bytes()).iter().map(|b| format!("{b:02x}")).collect();
        let mutation = Mutation::Create {
            subnet,
            security_groups: self.growth.security_groups.clone(),
            secondary,
            tags: BTreeMap::from([(INSTANCE_TAG.to_owned(), instance.to_string())]),
            token,
        };
        self.mutate(mutation, Vec::new(), now);
    }

    /// Writes the intent down, then calls.
    fn mutate(&mut self, mutation: Mutation, mut batch: Vec<Write>, now: Timestamp) {
        let id = self.node.next_intent;
        self.node.next_intent += 1;
        let record = IntentRecord { id, mutation: mutation.clone(), made: now };
        batch.push(Write::PutIntent(record.clone()));
        batch.push(Write::PutNode(self.node.clone()));
        self.growth.intents.insert(id, Intent { record, stage: Stage::Calling, doubtful: false });
        let committed = self.commit(Purpose::Housekeeping, batch, now);
        self.effect_after(None, Purpose::Mutate(id), EffectKind::Mutate(mutation), vec![committed]);
    }

    /// Creates whose outcome is not known are made again with their token.
    fn repeat_creates(&mut self, now: Timestamp) {
        if !self.may_plan() {
            return;
        }
        let due = |i: &&mut Intent| matches!(i.stage, Stage::Again(at) if at <= now);
        let mut calls = Vec::new();
        for intent in self.growth.intents.values_mut().filter(due) {
            intent.stage = Stage::Calling;
            calls.push((intent.record.id, intent.record.mutation.clone()));
        }
        for (id, mutation) in calls {
            // Its intent is committed already.
            self.effect(None, Purpose::Mutate(id), EffectKind::Mutate(mutation));
        }
    }

    /// A call has ended. `None`: it was never made, because its intent could not be committed.
    pub(super) fn mutated(&mut self, id: u64, result: Option<Result<Mutated, CloudError>>, now: Timestamp) {
        let Some(record) = self.growth.intent(id).cloned() else { return };
        self.growth.replan();
        if let Some(eni) = record.mutation.eni() {
            self.growth.touched.insert(eni.clone(), now);
        }
        match result {
            None => {
                self.growth.intents.remove(&id);
                self.mark_dirty(RecordId::Intent(id), now);
                if let Some(eni) = record.mutation.eni() {
                    self.growth.held.insert(eni.clone(), now + self.config.poll);
                } else {
                    self.growth.create_refused =
                        Some((now + self.config.poll, "the store failed".to_owned()));
                }
            }
            Some(Ok(done)) => {
                self.note(Note::Mutated {
                    call: record.mutation.call(),
                    eni: record.mutation.eni().cloned(),
                    error: None,
                });
                self.settle_intent(id, &record.mutation, done, now);
            }
            Some(Err(error)) => {
                let (call, eni) = (record.mutation.call(), record.mutation.eni().cloned());
                self.note(Note::Mutated { call, eni, error: Some(error.clone()) });
                self.refused(id, &record.mutation, &error, now);
            }
        }
    }

    /// What EC2 did is recorded and its intent deleted, in one commit.
    fn settle_intent(&mut self, id: u64, mutation: &Mutation, done: Mutated, now: Timestamp) {
        self.growth.intents.remove(&id);
        let mut batch = vec![Write::DeleteIntent(id)];
        match (mutation, done) {
            (Mutation::Create { .. }, Mutated::Created(eni)) => {
                self.growth.create_refused = None;
                if self.pool.eni(&eni.id).is_none() {
                    let record = eni_sync::record(&eni, 0, EniState::Attaching);
                    self.pool.put_eni(record.clone());
                    batch.push(Write::PutEni(record));
                    self.growth.touched.insert(eni.id.clone(), now);
                    self.growth.seen.insert(eni.id.clone(), Seen::Available);
                }
                for address in eni.secondary.iter().filter(|a| **a != eni.primary) {
                    batch.extend(self.pool.adopt(*address, &eni.id, now).map(Write::PutAddress));
                }
            }
            (Mutation::Assign { eni, .. }, Mutated::Assigned(addresses)) => {
                self.growth.assign_refused = None;
                let primaries: BTreeSet<_> = self.pool.enis().map(|e| e.record.primary).collect();
                for address in addresses.iter().filter(|a| !primaries.contains(a)) {
                    batch.extend(self.pool.adopt(*address, eni, now).map(Write::PutAddress));
                }
                self.driver.wake(self.reconcilers.host_net, now);
            }
            (Mutation::Attach { eni, .. } | Mutation::Detach { eni }, _) => {
                self.growth.seen.remove(eni);
                self.driver.wake_by(self.reconcilers.eni_sync, now + self.config.poll);
            }
            (Mutation::Delete { eni }, _) => self.drop_eni(eni, &mut batch),
            _ => self.driver.wake(self.reconcilers.eni_sync, now),
        }
        self.commit(Purpose::Housekeeping, batch, now);
    }

    /// What EC2 refused, or did not answer.
    fn refused(&mut self, id: u64, mutation: &Mutation, error: &CloudError, now: Timestamp) {
        let until = now + error.retry_after();
        if error.leaves_open() {
            // It may have taken effect.
            let stage = match mutation {
                Mutation::Create { .. } => Stage::Again(until),
                _ => Stage::Unknown(now),
            };
            if let Some(intent) = self.growth.intents.get_mut(&id) {
                intent.stage = stage;
                intent.doubtful = true;
            }
            if let Some(eni) = mutation.eni() {
                // What was seen of it was before this call.
                self.growth.seen.remove(eni);
            }
            self.driver.wake_by(self.reconcilers.eni_sync, now + self.config.poll);
            return;
        }
        if self.growth.intents.remove(&id).is_some_and(|i| i.doubtful) {
            self.growth.doubt = Some((AGREEING, now));
        }
        let mut batch = vec![Write::DeleteIntent(id)];
        match mutation {
            Mutation::Create { .. } => self.growth.create_refused = Some((until, error.to_string())),
            Mutation::Assign { eni, .. } => {
                self.growth.assign_refused = Some((until, error.to_string()));
                self.growth.held.insert(eni.clone(), until);
            }
            Mutation::Delete { eni } if error.kind == CloudErrorKind::NotFound => {
                self.drop_eni(eni, &mut batch);
            }
            Mutation::Attach { eni, .. } if error.kind == CloudErrorKind::LimitReached => {
                // The instance carries no more: what was created for it is deleted again.
                self.growth.create_refused = Some((until, error.to_string()));
                batch.extend(self.pool.set_state(eni, EniState::Deleting).map(Write::PutEni));
                batch.extend(self.pool.drop_addresses(eni).into_iter().map(Write::DeleteAddress));
            }
            Mutation::Attach { eni, .. }
            | Mutation::Unassign { eni, .. }
            | Mutation::Detach { eni }
            | Mutation::Delete { eni } => {
                // Its state is another than we thought: the next look says which.
                self.growth.held.insert(eni.clone(), until);
                self.driver.wake_by(self.reconcilers.eni_sync, now + self.config.poll);
            }
        }
        self.commit(Purpose::Housekeeping, batch, now);
    }

    /// Says whose links are waited for, when that changed.
    fn watch_links(&mut self) {
        let waits = |eni: &&crate::pool::Eni| {
            eni.record.state == EniState::Attaching || (eni.record.state.is_laid() && eni.link.is_none())
        };
        let mut macs: Vec<MacAddr> = self.pool.enis().filter(waits).map(|e| e.record.mac).collect();
        macs.sort();
        if macs != self.growth.watched {
            self.growth.watched.clone_from(&macs);
            self.effect(None, Purpose::Watch, EffectKind::WatchLinks(macs));
        }
    }

    /// A link that was waited for is there.
    pub(super) fn link_seen(&mut self, now: Timestamp) {
        self.driver.wake_now(self.reconcilers.eni_sync, now);
        self.driver.wake_now(self.reconcilers.host_net, now);
    }
}

#[cfg(test)]
mod tests;
