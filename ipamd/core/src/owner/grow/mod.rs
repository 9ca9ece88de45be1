//! Growth and give-back: what `capacity` plans, carried to EC2 and back.
//!
//! Owns what is known of EC2 beside the pool (intents, each ENI's attachment, what was refused lately), when the planner is
//! asked, and which waiting ADDs can be served by nothing that is coming. One change of an ENI at a time. A call whose
//! outcome is not known is a question: a create is repeated with its token (`change`), the others are answered by the
//! next look (`look`). Does not plan.

mod attributes;
mod change;
mod give_back;
mod look;
mod subnets;

use super::event::{EffectKind, Ending, Note};
use super::{Owner, Purpose};
use crate::capacity::{self, Amount, Plan, PoolMode, Seen, Step, View};
use crate::cloud::Mutation;
use crate::kernel::Trigger;
use crate::reconcile::driver::Pass;
use crate::record::{EniState, IntentRecord, Write};
use crate::time::Timestamp;
use eni_proto::ids::{EniId, MacAddr, SubnetId};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use subnets::Subnets;

/// A burst of ADDs comes within so long: what they need is asked for by one call. A call takes ten times as long.
const GATHER: Duration = Duration::from_millis(20);
/// ADDs of so long say how many come while EC2 is asked for more: an ENI takes about that to be attached.
const RECENT: Duration = Duration::from_secs(10);
/// How long an ENI that EC2 says is attached may be without its link and still count as coming.
const LINK_COMES: Duration = Duration::from_secs(15);
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
    held: BTreeMap<EniId, (Timestamp, String)>,
    /// ENIs in use whose link is not there, since when.
    linkless: BTreeMap<EniId, Timestamp>,
    /// What subnets refused.
    subnets: Subnets,
    /// Device indexes of ENIs that others attached.
    foreign: BTreeSet<u32>,
    create_refused: Option<(Timestamp, String)>,
    assign_refused: Option<(Timestamp, String)>,
    /// How often in a row an ENI that was created could not be attached, so that it was for nothing.
    attach_refusals: u32,
    surplus_since: Option<Timestamp>,
    /// When something was given back last, and nothing asked for since.
    released: Option<Timestamp>,
    /// How often what was given back was asked for again soon.
    regret: u32,
    /// Looks in a row that named an ENI with our tag but without a record.
    strangers: BTreeMap<EniId, u32>,
    /// So many looks, begun from then on, must name what is attached to nothing: a create was given up that may have
    /// taken effect.
    doubt: Option<(u32, Timestamp)>,
    /// Looks in a row that did not name an ENI of the pool.
    absent: BTreeMap<EniId, u32>,
    /// Looks in a row that named an ENI of the pool as attached to nothing, or elsewhere.
    apart: BTreeMap<EniId, u32>,
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

    pub(super) fn intents(&self) -> impl Iterator<Item = &IntentRecord> {
        self.intents.values().map(|i| &i.record)
    }

    /// What EC2 refused and is not worth asking again yet.
    pub(super) fn refusals(&self) -> impl Iterator<Item = &str> {
        let refused = [&self.create_refused, &self.assign_refused].into_iter().flatten();
        refused.chain(self.held.values()).map(|(_, why)| why.as_str()).chain(self.subnets.refusals())
    }

    /// The calls that are not answered, in words.
    pub(super) fn under_way(&self) -> Option<String> {
        let calls: Vec<&str> = self.intents.values().map(|i| i.record.mutation.call()).collect();
        (!calls.is_empty()).then(|| format!("EC2 has not answered {}", calls.join(", ")))
    }

    /// Forgets refusals that are worth another try: what was planned with them is planned anew.
    fn expire(&mut self, now: Timestamp) {
        let before = self.held.len();
        self.held.retain(|_, (until, _)| *until > now);
        let mut expired = self.held.len() < before;
        expired |= self.subnets.expire(now);
        for refused in [&mut self.create_refused, &mut self.assign_refused] {
            expired |= refused.take_if(|(until, _)| *until <= now).is_some();
        }
        if expired {
            self.replan();
        }
    }

    pub(super) fn replan(&mut self) {
        self.planned = None;
    }

    fn is_changing(&self, eni: &EniId) -> bool {
        self.intents.values().any(|i| i.record.mutation.eni() == Some(eni))
    }

    fn is_held(&self, eni: &EniId, now: Timestamp) -> bool {
        self.held.get(eni).is_some_and(|(until, _)| *until > now)
    }

    pub(super) fn deadline(&self) -> Option<Timestamp> {
        let again = self.intents.values().filter_map(|i| match i.stage {
            Stage::Again(at) => Some(at),
            _ => None,
        });
        let refused =
            [&self.create_refused, &self.assign_refused].into_iter().flatten().map(|(until, _)| *until);
        let held = self.held.values().map(|(until, _)| *until);
        again.chain(held).chain(refused).chain(self.subnets.deadline()).chain(self.plan_at).min()
    }
}

impl Owner {
    fn view(&self, now: Timestamp) -> Option<View> {
        let limits = self.gate.limits.clone()?;
        let growth = &self.growth;
        let assigning = |id: &EniId| {
            let mut calls = growth.intents.values().filter_map(|i| match &i.record.mutation {
                Mutation::Assign { eni, count, prefixes } if eni == id => {
                    Some(Amount::of_parameters(*count, *prefixes))
                }
                _ => None,
            });
            calls.next()
        };
        let enis = self.pool.enis().map(|eni| {
            let (id, held) = (&eni.record.id, growth.is_held(&eni.record.id, now));
            capacity::EniView {
                subnet: eni.record.subnet.clone(),
                device_index: eni.record.device_index,
                state: eni.record.state,
                counts: self.pool.eni_counts(id),
                slots: self.pool.slots_used(id),
                free_singles: self.pool.free_singles(id),
                free_prefixes: self.pool.free_prefixes(id),
                busy: held || growth.is_changing(id),
                held,
                seen: growth.seen.get(id).copied(),
                assigning: assigning(id),
                stuck: growth.linkless.get(id).is_some_and(|since| *since + LINK_COMES <= now),
                id: id.clone(),
            }
        });
        let creating = growth.intents.values().filter_map(|i| match &i.record.mutation {
            Mutation::Create { subnet, secondary, prefixes, .. } => {
                Some((subnet.clone(), Amount::of_parameters(*secondary, *prefixes)))
            }
            _ => None,
        });
        Some(View {
            enis: enis.collect(),
            subnets: self.subnets_of_new_enis(),
            refusals: growth.subnets.views(),
            foreign: growth.foreign.clone(),
            waiting: self.waiting_for_address(),
            cooled: self.reaper.about_to_free(&self.pool, now),
            recent: self.pool.handed_out_since(recent_since(now)),
            creating: creating.collect(),
            limits,
            create_refused: growth.create_refused.clone(),
            assign_refused: growth.assign_refused.clone(),
            surplus_since: growth.surplus_since,
            regret: growth.regret,
        })
    }

    /// The configured ones, else the primary's.
    fn subnets_of_new_enis(&self) -> Vec<SubnetId> {
        if self.config.subnets.is_empty() {
            return self.pool.primary().map(|e| e.record.subnet.clone()).into_iter().collect();
        }
        self.config.subnets.clone()
    }

    /// Whether the planner may be asked: what the start left is answered, and the cloud has told what there is.
    pub(super) fn may_plan(&self) -> bool {
        self.gate.cloud && !self.draining && self.gate.committed() && self.hands_off().is_none()
    }

    /// Plans when something changed; a plan with steps is the `capacity` reconciler's next pass.
    pub(super) fn plan_when_due(&mut self, now: Timestamp) {
        self.repeat_creates(now);
        self.growth.expire(now);
        let basis = (self.pool.version(), self.waiting_for_address());
        let due = self.growth.plan_at.is_some_and(|at| at <= now);
        if !self.may_plan() || (self.growth.planned == Some(basis) && !due) {
            return;
        }
        let Some(plan) = self.plan_capacity(now) else { return };
        if !plan.steps.iter().all(Step::grows) {
            self.driver.wake(self.reconcilers.capacity, now);
        } else if !plan.steps.is_empty() {
            self.driver.wake_by(self.reconcilers.capacity, now + GATHER);
        }
        self.refuse_short(&plan, now);
        self.watch_links();
    }

    /// Since when each ENI in use has had no link: one whose link does not come is no supply.
    fn note_linkless(&mut self, now: Timestamp) {
        let without = |e: &&crate::pool::Eni| e.record.state == EniState::InUse && e.link.is_none();
        let without: BTreeSet<EniId> =
            self.pool.enis().filter(without).map(|e| e.record.id.clone()).collect();
        self.growth.linkless.retain(|id, _| without.contains(id));
        for id in without {
            self.growth.linkless.entry(id).or_insert(now);
        }
    }

    fn plan_capacity(&mut self, now: Timestamp) -> Option<Plan> {
        self.note_linkless(now);
        let view = self.view(now)?;
        let plan = capacity::plan(&view, &self.config.targets, now);
        self.growth.surplus_since =
            if plan.surplus { Some(self.growth.surplus_since.unwrap_or(now)) } else { None };
        let stuck = self.growth.linkless.values().map(|since| *since + LINK_COMES).filter(|at| *at > now);
        // Recent demand that is not recent any more: what it kept warm may go.
        let recent = self.pool.earliest_handed_out_since(recent_since(now)).map(|at| at + RECENT);
        let recent = recent.filter(|_| self.config.targets.mode == PoolMode::Prefixes);
        self.growth.plan_at = stuck.chain(plan.again).chain(recent).min();
        self.growth.planned = Some((self.pool.version(), self.waiting_for_address()));
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
    pub(super) fn refuse_short(&mut self, plan: &Plan, now: Timestamp) {
        let Some((short, why)) = &plan.short else { return };
        if !self.gate.open() || self.evidence.is_asked() {
            return; // what is found out of dead sandboxes may serve them
        }
        let short = short.saturating_sub(self.coming_of_dead());
        for id in self.waiting.iter().rev().take(short).copied().collect::<Vec<_>>() {
            let error = self.full(why, now);
            self.end(id, Ending::Refused, Err(error), now);
        }
    }

    fn take_step(&mut self, step: Step, now: Timestamp) {
        if step.grows() {
            self.growth.grew(&self.config.targets, now);
        } else if step.gives_back() {
            self.growth.gave_back(now);
        }
        match step {
            Step::Create { subnet, amount } => self.create(subnet, amount, now),
            Step::Attach { eni, device_index } => {
                let Some(instance) = self.node.instance.as_ref().map(|i| i.id.clone()) else { return };
                let Some(mut record) = self.pool.eni(&eni).map(|e| e.record.clone()) else { return };
                record.device_index = device_index;
                self.pool.put_eni(record.clone());
                let mutation = Mutation::Attach { eni, instance, device_index };
                self.mutate(mutation, vec![Write::PutEni(record)], now);
            }
            Step::Assign { eni, amount } => {
                let (count, prefixes) = amount.parameters();
                self.mutate(Mutation::Assign { eni, count, prefixes }, Vec::new(), now);
            }
            Step::Unassign { eni, amount } => self.unassign(&eni, amount, now),
            Step::Drain { eni } => self.change_state(&eni, EniState::Draining, now),
            Step::Undrain { eni } => self.change_state(&eni, EniState::InUse, now),
            Step::Detach { eni } => {
                let mut batch: Vec<Write> =
                    self.pool.set_state(&eni, EniState::Detaching).map(Write::PutEni).into_iter().collect();
                batch.extend(self.pool.drop_all_free(&eni).into_iter().map(Write::DeleteAddress));
                self.wake_host_net(now);
                let attachment = self.pool.eni(&eni).and_then(|e| e.record.attachment.clone());
                self.mutate(Mutation::Detach { eni, attachment }, batch, now);
            }
            Step::Abandon { eni } => {
                self.change_state(&eni, EniState::Deleting, now);
                let gone = self.pool.drop_all_free(&eni);
                self.commit(Purpose::Housekeeping, gone.into_iter().map(Write::DeleteAddress).collect(), now);
            }
            Step::DetachAgain { eni } => {
                let attachment = self.pool.eni(&eni).and_then(|e| e.record.attachment.clone());
                self.mutate(Mutation::Detach { eni, attachment }, Vec::new(), now);
            }
            Step::Delete { eni } => self.mutate(Mutation::Delete { eni }, Vec::new(), now),
        }
    }

    fn change_state(&mut self, eni: &EniId, state: EniState, now: Timestamp) {
        if let Some(record) = self.pool.set_state(eni, state) {
            self.note(Note::EniState { eni: eni.clone(), state });
            self.commit(Purpose::Housekeeping, vec![Write::PutEni(record)], now);
        }
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
        self.host.triggers.insert(Trigger::Link);
        self.driver.wake_now(self.reconcilers.host_net, now);
    }
}

/// The beginning of what is recent.
fn recent_since(now: Timestamp) -> Timestamp {
    Timestamp::ZERO + now.since(Timestamp::ZERO + RECENT)
}

#[cfg(test)]
mod tests;
