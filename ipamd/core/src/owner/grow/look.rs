//! What a look at EC2 says of the ENIs and of changes whose outcome was not known.
//!
//! Owns when another look is needed and how wide it must be, which looks are too old for which ENI, and what is given up
//! after two that agree: ENIs that EC2 does not know, ENIs of ours that have no record. Does not compare: `eni_sync`
//! does.

use super::super::Owner;
use super::super::event::Note;
use super::{AGREEING, Stage};
use crate::capacity::Seen;
use crate::cloud::{CloudObservation, Mutation};
use crate::eni_sync;
use crate::record::{EniState, Write};
use crate::time::Timestamp;
use eni_proto::ids::EniId;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

/// Describes may be late by so many looks of the time in which something is on its way.
const LATE_LOOKS: u32 = 5;

impl Owner {
    /// Whether a look must name ENIs that are attached to nothing, too.
    pub(in crate::owner) fn look_is_tagged(&self) -> bool {
        !self.gate.cloud || self.is_unsettled() || self.pool.enis().any(|e| !e.record.state.is_laid())
    }

    /// Whether something at EC2 is on its way or not known.
    pub(super) fn is_unsettled(&self) -> bool {
        let moves = |state: EniState| !state.is_laid() && state != EniState::Lost;
        let growth = &self.growth;
        // Of one whose change EC2 has refused nothing comes until it is tried again.
        let held = |id: &EniId| growth.held.contains_key(id);
        let moving = self.pool.enis().any(|e| moves(e.record.state) && !held(&e.record.id));
        let unknown = growth.intents.values().any(|i| matches!(i.stage, Stage::Unknown(_)));
        moving
            || unknown
            || growth.doubt.is_some()
            || !growth.strangers.is_empty()
            || !growth.absent.is_empty()
            || self.repair.is_asking()
            || growth.apart.keys().any(|id| self.pool.eni(id).is_some_and(|e| e.record.state.is_laid()))
    }

    /// The ENIs that were changed since a look began.
    pub(in crate::owner) fn stale_since(&self, begun: Timestamp) -> BTreeSet<EniId> {
        let touched = self.growth.touched.iter().filter(|(_, at)| **at >= begun).map(|(id, _)| id.clone());
        let calling = self.growth.intents.values().filter(|i| i.stage == Stage::Calling);
        touched.chain(calling.filter_map(|i| i.record.mutation.eni().cloned())).collect()
    }

    /// Takes out of a plan what describes may tell for want of having heard: EC2 is eventually consistent (EC2 API guide,
    /// "Eventual consistency"), and for a while after a change of an ENI it may tell that ENI as it was before, or not at
    /// all. That one which was to go is not there is no such case.
    pub(in crate::owner) fn leave_out_the_late(&self, plan: &mut eni_sync::SyncPlan, begun: Timestamp) {
        let late = self.late();
        let recent = |id: &EniId| {
            let goes = self
                .pool
                .eni(id)
                .is_some_and(|e| matches!(e.record.state, EniState::Detaching | EniState::Deleting));
            !goes && self.growth.touched.get(id).is_some_and(|at| *at + late >= begun)
        };
        let of_recent = |address: &Ipv4Addr| self.pool.address(*address).is_some_and(|a| recent(&a.eni));
        plan.absent.retain(|id| !recent(id));
        plan.apart.retain(|id| !recent(id));
        plan.unnamed.retain(|address| !of_recent(address));
        plan.missing.retain(|address| !of_recent(address));
    }

    /// For how long after a change of an ENI describes may not tell of it.
    fn late(&self) -> Duration {
        LATE_LOOKS * self.config.poll
    }

    /// Takes in what a look says of attachments; the records to commit.
    pub(in crate::owner) fn take_look(
        &mut self,
        plan: &eni_sync::SyncPlan,
        seen: &CloudObservation,
        begun: Timestamp,
    ) -> Vec<Write> {
        let tagged = seen.tagged;
        let late = self.late();
        let growth = &mut self.growth;
        growth.replan();
        growth.doubt = match growth.doubt {
            Some((looks, since)) if tagged && since <= begun => (looks > 1).then_some((looks - 1, since)),
            other => other,
        };
        growth.foreign.clone_from(&plan.foreign);
        growth.seen.extend(plan.seen.iter().map(|(id, seen)| (id.clone(), *seen)));
        growth.touched.retain(|_, at| *at + late >= begun);
        if !plan.security_groups.is_empty() {
            growth.security_groups.clone_from(&plan.security_groups);
        }
        let mut batch = Vec::new();
        // The look has answered what became of these: states and addresses follow from it.
        let answered =
            growth.intents.values().filter(|i| matches!(i.stage, Stage::Unknown(since) if since <= begun));
        for id in answered.map(|i| i.record.id).collect::<Vec<_>>() {
            growth.intents.remove(&id);
            batch.push(Write::DeleteIntent(id));
        }
        self.lose_apart(plan, &mut batch);
        self.forget_absent(plan, &mut batch);
        self.adopt_strangers(plan, &mut batch);
        self.freeze(plan, begun, &mut batch);
        batch
    }

    /// ENIs of ours that a tag forbids to change are left as they are: nothing new is allocated from them, and nothing is
    /// asked of EC2 about them until a later look finds the tag gone.
    fn freeze(&mut self, plan: &eni_sync::SyncPlan, begun: Timestamp, batch: &mut Vec<Write>) {
        let until = begun + 2 * self.config.describe_period.max(eni_sync::OLDEST);
        for id in &plan.frozen {
            self.growth.held.insert(id.clone(), (until, format!("{id} is tagged no-manage")));
            if self.pool.eni(id).is_some_and(|e| e.record.state == EniState::InUse) {
                self.note(Note::EniState { eni: id.clone(), state: EniState::Draining });
                batch.extend(self.pool.set_state(id, EniState::Draining).map(Write::PutEni));
            }
        }
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
                if self.pool.eni(id).is_some() {
                    self.lose(id, EniState::Lost, batch);
                }
            }
        }
    }

    /// ENIs that two looks in a row found detached by others: what they have free is no more to be had. One that holds
    /// nothing is deleted, else its containers keep what they have, and it waits for the last of them.
    fn lose_apart(&mut self, plan: &eni_sync::SyncPlan, batch: &mut Vec<Write>) {
        self.growth.apart.retain(|id, _| plan.apart.contains(id));
        for id in &plan.apart {
            let looks = self.growth.apart.entry(id.clone()).or_default();
            *looks += 1;
            if *looks >= AGREEING {
                let counts = self.pool.eni_counts(id);
                // What cools is held, too: EC2 may name the address again before it has cooled.
                let held = counts.allocated + counts.quarantined + counts.cooling > 0;
                self.growth.seen.insert(id.clone(), Seen::Available);
                self.lose(id, if held { EniState::Lost } else { EniState::Deleting }, batch);
            }
        }
    }

    fn lose(&mut self, id: &EniId, state: EniState, batch: &mut Vec<Write>) {
        if self.pool.eni(id).is_some_and(|e| e.record.state != state) {
            self.note(Note::EniState { eni: id.clone(), state });
            batch.extend(self.pool.set_state(id, state).map(Write::PutEni));
            self.pool.set_link(id, None);
        }
        batch.extend(self.pool.drop_all_free(id).into_iter().map(Write::DeleteAddress));
        self.quarantine_eni(id, batch);
    }

    pub(super) fn drop_eni(&mut self, id: &EniId, batch: &mut Vec<Write>) {
        let Some(addresses) = self.pool.remove_eni(id) else { return };
        batch.extend(addresses.into_iter().map(Write::DeleteAddress));
        batch.push(Write::DeleteEni(id.clone()));
        self.growth.seen.remove(id);
        self.growth.held.remove(id);
        self.growth.absent.remove(id);
        self.growth.apart.remove(id);
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
    pub(in crate::owner) fn look_again(&mut self, now: Timestamp) {
        if self.is_unsettled() {
            self.driver.wake_by(self.reconcilers.eni_sync, now + self.config.poll);
        }
    }
}
