//! One change at EC2: its intent, its call, its end.
//!
//! Owns that the intent is committed before the call and deleted with the commit of its result, the client tokens, and
//! what an answer, a refusal and a missing answer mean. Does not decide what is changed.

use super::super::commit::RecordId;
use super::super::event::{EffectKind, Note};
use super::super::{Owner, Purpose};
use super::{AGREEING, Intent, Stage};
use crate::capacity::{Amount, Seen};
use crate::cloud::{CloudError, CloudErrorKind, INSTANCE_TAG, Mutated, Mutation, addresses_of};
use crate::eni_sync;
use crate::record::{EniState, IntentRecord, Write};
use crate::time::Timestamp;
use eni_proto::ids::{EniId, SubnetId};
use sha1::{Digest, Sha1};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// The wait for another ENI after one could not be attached doubles so often at most.
const ATTACH_DOUBLINGS: u32 = 7;

impl Owner {
    pub(super) fn create(&mut self, subnet: SubnetId, amount: Amount, now: Timestamp) {
        let Some(instance) = self.node.instance.as_ref().map(|i| i.id.clone()) else { return };
        let (secondary, prefixes) = amount.parameters();
        // A token is used once: by this instance, in this boot, for this intent, even when the store was lost.
        let words = format!("{instance} {:?} {} {}", self.node.boot, self.node.next_intent, now.as_nanos());
        let token: String = Sha1::digest(words.as_bytes()).iter().map(|b| format!("{b:02x}")).collect();
        let mutation = Mutation::Create {
            subnet,
            security_groups: self.security_groups_of_enis().to_vec(),
            secondary,
            prefixes,
            tags: BTreeMap::from([(INSTANCE_TAG.to_owned(), instance.to_string())]),
            token,
        };
        self.mutate(mutation, Vec::new(), now);
    }

    /// The configured ones, else the primary's.
    pub(in crate::owner) fn security_groups_of_enis(&self) -> &[String] {
        match self.config.security_groups.as_slice() {
            [] => &self.growth.security_groups,
            configured => configured,
        }
    }

    /// Writes the intent down, then calls.
    pub(super) fn mutate(&mut self, mutation: Mutation, mut batch: Vec<Write>, now: Timestamp) {
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
    pub(super) fn repeat_creates(&mut self, now: Timestamp) {
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
    pub(in crate::owner) fn mutated(
        &mut self,
        id: u64,
        result: Option<Result<Mutated, CloudError>>,
        now: Timestamp,
    ) {
        let Some(record) = self.growth.intent(id).cloned() else { return };
        self.growth.replan();
        if let Some(eni) = record.mutation.eni() {
            self.growth.touched.insert(eni.clone(), now);
        }
        match result {
            None => {
                self.growth.intents.remove(&id);
                self.mark_dirty(RecordId::Intent(id), now);
                // The records that went with it are written with the next commit.
                let back = self.come_back(&record.mutation, None, now);
                if !back.is_empty() {
                    self.commit(Purpose::Housekeeping, back, now);
                }
                let refused = (now + self.config.poll, "an intent could not be recorded".to_owned());
                if let Some(eni) = record.mutation.eni() {
                    self.growth.held.insert(eni.clone(), refused);
                } else {
                    self.growth.create_refused = Some(refused);
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
            (Mutation::Create { subnet, secondary, prefixes, .. }, Mutated::Created(eni)) => {
                self.growth.create_refused = None;
                self.growth.subnets.gave(subnet, Amount::of_parameters(*secondary, *prefixes));
                self.pool.welcome(eni.for_containers());
                match (self.pool.eni(&eni.id), eni.primary) {
                    (None, Some(primary)) => {
                        let record = eni_sync::record(&eni, primary, 0, EniState::Attaching);
                        self.pool.put_eni(record.clone());
                        batch.push(Write::PutEni(record));
                        self.growth.touched.insert(eni.id.clone(), now);
                        self.growth.seen.insert(eni.id.clone(), Seen::Available);
                    }
                    // Of no use: the looks find it by its tag and give it back.
                    (None, None) => self.growth.doubt = Some((AGREEING, now)),
                    (Some(_), _) => {}
                }
                if self.pool.eni(&eni.id).is_some() {
                    for address in eni.for_containers() {
                        batch.extend(self.pool.adopt(address, &eni.id, now).map(Write::PutAddress));
                    }
                }
            }
            (Mutation::Assign { eni, .. }, Mutated::Assigned(addresses)) => {
                self.assigned(eni, Amount::Addresses(1), &addresses, now, &mut batch);
            }
            (Mutation::Assign { eni, .. }, Mutated::AssignedPrefixes(prefixes)) => {
                batch.extend(self.pool.add_prefixes(eni, &prefixes).map(Write::PutEni));
                let addresses: Vec<_> = prefixes.iter().flat_map(addresses_of).collect();
                self.assigned(eni, Amount::Prefixes(1), &addresses, now, &mut batch);
            }
            (Mutation::Unassign { .. }, _) => self.unassigned(mutation, now),
            (Mutation::Attach { eni, .. } | Mutation::Detach { eni, .. }, _) => {
                if matches!(mutation, Mutation::Attach { .. }) {
                    self.growth.attach_refusals = 0;
                }
                self.growth.seen.remove(eni);
                self.driver.wake_by(self.reconcilers.eni_sync, now + self.config.poll);
            }
            (Mutation::Delete { eni }, _) => self.drop_eni(eni, &mut batch),
            // Nothing waits for an attribute: the next look of its period tells whether it is as it should be.
            (Mutation::SetSecurityGroups { .. } | Mutation::SetDeleteOnTermination { .. }, _) => {}
            _ => self.driver.wake(self.reconcilers.eni_sync, now),
        }
        self.commit(Purpose::Housekeeping, batch, now);
    }

    /// Addresses have come to an ENI.
    fn assigned(
        &mut self,
        eni: &EniId,
        kind: Amount,
        addresses: &[Ipv4Addr],
        now: Timestamp,
        batch: &mut Vec<Write>,
    ) {
        self.growth.assign_refused = None;
        if let Some(subnet) = self.pool.eni(eni).map(|e| e.record.subnet.clone()) {
            self.growth.subnets.gave(&subnet, kind);
        }
        self.pool.welcome(addresses.iter().copied());
        let primaries: BTreeSet<_> = self.pool.enis().map(|e| e.record.primary).collect();
        for address in addresses.iter().filter(|a| !primaries.contains(a)) {
            batch.extend(self.pool.adopt(*address, eni, now).map(Write::PutAddress));
        }
        self.wake_host_net(now);
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
            self.unassigned(mutation, now);
            self.driver.wake_by(self.reconcilers.eni_sync, now + self.config.poll);
            return;
        }
        if self.growth.intents.remove(&id).is_some_and(|i| i.doubtful) {
            self.growth.doubt = Some((AGREEING, now));
        }
        let mut batch = vec![Write::DeleteIntent(id)];
        match mutation {
            Mutation::Create { .. } | Mutation::Assign { .. } => self.growing_refused(mutation, error, now),
            Mutation::Unassign { eni, .. } => {
                batch.extend(self.come_back(mutation, Some(error), now));
                self.growth.held.insert(eni.clone(), (until, error.to_string()));
                self.driver.wake_by(self.reconcilers.eni_sync, now + self.config.poll);
            }
            Mutation::Delete { eni } if error.kind == CloudErrorKind::NotFound => {
                self.drop_eni(eni, &mut batch);
            }
            Mutation::Attach { eni, .. }
                if matches!(error.kind, CloudErrorKind::LimitReached | CloudErrorKind::Unauthorized) =>
            {
                // The instance carries no more, or must not: what was created for it is deleted again. The next one will
                // most likely fare no better, and nobody may be waiting: it is tried more and more seldom.
                let times = 1 << self.growth.attach_refusals.min(ATTACH_DOUBLINGS);
                self.growth.attach_refusals += 1;
                let until = now + error.retry_after() * times;
                self.growth.create_refused = Some((until, error.to_string()));
                batch.extend(self.pool.set_state(eni, EniState::Deleting).map(Write::PutEni));
                batch.extend(self.pool.drop_all_free(eni).into_iter().map(Write::DeleteAddress));
            }
            Mutation::SetSecurityGroups { .. } | Mutation::SetDeleteOnTermination { .. } => {
                self.attribute_refused(mutation, error, now);
            }
            Mutation::Attach { eni, .. } | Mutation::Detach { eni, .. } | Mutation::Delete { eni } => {
                // Its state is another than we thought: the next look says which.
                self.growth.held.insert(eni.clone(), (until, error.to_string()));
                self.driver.wake_by(self.reconcilers.eni_sync, now + self.config.poll);
            }
        }
        self.commit(Purpose::Housekeeping, batch, now);
    }

    /// More addresses were refused: by a subnet, by one ENI, or altogether.
    fn growing_refused(&mut self, mutation: &Mutation, error: &CloudError, now: Timestamp) {
        let (until, waiting) = (now + error.retry_after(), self.waiting.len());
        match mutation {
            // A subnet, or its groups, that EC2 does not know gives nothing either: another one may.
            Mutation::Create { subnet, secondary, prefixes, .. }
                if is_of_subnet(error) || error.kind == CloudErrorKind::NotFound =>
            {
                let asked = Amount::of_parameters(*secondary, *prefixes);
                self.growth.subnets.refused(subnet, asked, waiting, error, now);
            }
            Mutation::Assign { eni, count, prefixes } if is_of_subnet(error) => {
                if let Some(subnet) = self.pool.eni(eni).map(|e| e.record.subnet.clone()) {
                    let asked = Amount::of_parameters(*count, *prefixes);
                    self.growth.subnets.refused(&subnet, asked, waiting, error, now);
                }
            }
            Mutation::Assign { eni, .. } => {
                if !is_of_eni(error) {
                    self.growth.assign_refused = Some((until, error.to_string()));
                }
                self.growth.held.insert(eni.clone(), (until, error.to_string()));
                self.driver.wake_by(self.reconcilers.eni_sync, now + self.config.poll);
            }
            _ => self.growth.create_refused = Some((until, error.to_string())),
        }
    }
}

/// Whether it is the subnet that refuses.
fn is_of_subnet(error: &CloudError) -> bool {
    matches!(error.kind, CloudErrorKind::SubnetFull | CloudErrorKind::PrefixesExhausted)
}

/// Whether it is this one ENI that refuses: it has more than we know, or is not what we think.
fn is_of_eni(error: &CloudError) -> bool {
    matches!(error.kind, CloudErrorKind::LimitReached | CloudErrorKind::NotFound | CloudErrorKind::InUse)
}
