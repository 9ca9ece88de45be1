//! The reconcilers' passes and the gate before the first ADD.
//!
//! Owns when passes begin under the driver, that of `eni_sync` (ask the cloud, take what is new into the pool), and what
//! must hold before ADDs are served: what the start began is committed and undone, the host's part of the data plane is
//! laid. The pass of `host_net` is `host`'s. Does not plan: the planners do.

use super::commit::RecordId;
use super::event::{EffectId, EffectKind, Note};
use super::start::Step;
use super::{Owner, Purpose};
use crate::cloud::{CloudObservation, InstanceLimits};
use crate::eni_sync;
use crate::kernel::Trigger;
use crate::pool::AGREEING;
use crate::reconcile::driver::{Pass, Schedule};
use crate::record::{AttachmentId, AttachmentRecord, Write};
use crate::time::Timestamp;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

/// Places in the driver's list.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reconcilers {
    pub(super) eni_sync: usize,
    pub(super) host_net: usize,
    pub(super) capacity: usize,
}

/// What stands between the start and the first ADD.
#[derive(Debug, Clone, Default)]
pub(super) struct Gate {
    /// The start's commits that are not durable yet.
    pub(super) committing: BTreeSet<EffectId>,
    /// One of them failed: its records ride with later commits.
    pub(super) commit_failed: bool,
    /// What the start takes off and is not taken off yet.
    pub(super) undoing: BTreeSet<AttachmentId>,
    /// Links without a record that the reaper has not tried to delete yet, or not deleted where the addresses of their
    /// sandboxes are not known.
    pub(super) orphans: BTreeSet<u32>,
    /// The host's part of the data plane is laid: what every pod needs was there or could be laid when it was last tried.
    pub(super) laid: bool,
    /// Since when it is not.
    pub(super) unlaid_since: Timestamp,
    /// It has not been laid for the grace: what is in the way is not a passing thing.
    pub(super) overdue: bool,
    /// The cloud has answered in this process's life.
    pub(super) cloud: bool,
    /// The limits of the instance type, once known.
    pub(super) limits: Option<InstanceLimits>,
    /// The node's primary address, while its link has it.
    pub(super) prefsrc: Option<Ipv4Addr>,
    announced: bool,
}

impl Gate {
    /// The gate of a start.
    pub(super) fn since(now: Timestamp) -> Gate {
        Gate { unlaid_since: now, ..Gate::default() }
    }

    pub(super) fn open(&self) -> bool {
        self.committed() && self.undoing.is_empty() && self.orphans.is_empty() && self.laid
    }

    /// What the start has changed is durable.
    pub(super) fn committed(&self) -> bool {
        self.committing.is_empty() && !self.commit_failed
    }
}

impl Owner {
    pub(super) fn register(&mut self, now: Timestamp) {
        let second = Duration::from_secs(1);
        let eni_sync = self.sync_schedule();
        let capacity =
            Schedule { period: None, backoff: second, backoff_max: 30 * second, timeout: 60 * second };
        let host_net = Schedule { period: Some(self.config.host_period), ..capacity };
        self.reconcilers = Reconcilers {
            eni_sync: self.driver.register("eni_sync", eni_sync, Some(now)),
            host_net: self.driver.register("host_net", host_net, Some(now)),
            capacity: self.driver.register("capacity", capacity, None),
        };
    }

    pub(super) fn start_passes(&mut self, now: Timestamp) {
        for pass in self.driver.poll(now) {
            if pass.reconciler == self.reconcilers.eni_sync && self.config.no_cloud {
                self.pass_ended(pass, Ok(()), now);
            } else if pass.reconciler == self.reconcilers.eni_sync {
                let tagged = self.look_is_tagged();
                self.effect(None, Purpose::CloudObserve(pass, now), EffectKind::ObserveCloud { tagged });
            } else if pass.reconciler == self.reconcilers.capacity {
                self.capacity_pass(pass, now);
            } else {
                self.look_at_host(pass);
            }
        }
    }

    pub(super) fn pass_ended(&mut self, pass: Pass, result: Result<(), String>, now: Timestamp) {
        if let Err(cause) = &result {
            let name = self.driver.name(pass.reconciler);
            self.note(Note::PassFailed { reconciler: name, cause: cause.clone() });
        }
        self.driver.ended(pass, result, now);
    }

    pub(super) fn cloud_observed(
        &mut self,
        pass: Pass,
        begun: Timestamp,
        seen: Result<CloudObservation, String>,
        now: Timestamp,
    ) {
        if !self.driver.is_running(pass) {
            return; // it took too long and is old: another look has been taken since
        }
        let seen = match seen {
            Ok(seen) => seen,
            Err(cause) => return self.pass_ended(pass, Err(cause), now),
        };
        let instance = self.instance_of(&seen);
        let first = !self.gate.cloud;
        self.gate.cloud = true;
        self.gate.limits = Some(seen.limits.clone());
        let mut batch = Vec::new();
        let renamed = self.node.instance.as_ref() != Some(&instance);
        if renamed {
            self.node.instance = Some(instance);
            batch.push(Write::PutNode(self.node.clone()));
        }
        let stale = self.stale_since(begun);
        let look = eni_sync::Look {
            instance: &seen.identity.instance,
            enis: &seen.enis,
            tagged: seen.tagged,
            stale: &stale,
            metadata: seen.metadata.as_deref(),
            resolved: self.repair.resolved(),
            security_groups: &self.config.security_groups,
        };
        let mut plan = eni_sync::plan(&self.pool, &look);
        self.leave_out_the_late(&mut plan, begun);
        let mut changed = renamed || !plan.enis.is_empty() || !plan.arrived.is_empty();
        for eni in std::mem::take(&mut plan.enis) {
            self.pool.put_eni(eni.clone());
            batch.push(Write::PutEni(eni));
        }
        for (address, eni) in plan.arrived.iter().chain(&plan.named) {
            batch.extend(self.pool.adopt(*address, eni, now).map(Write::PutAddress));
        }
        self.quarantine(&plan, first, &mut batch, now);
        self.note_open(&plan, begun);
        self.rename_enis(now);
        batch.extend(self.take_look(&plan, &seen, begun));
        let left = self.drop_unnamed(&plan.unnamed, &mut batch);
        changed |= !left.is_empty();
        let arrived: Vec<Ipv4Addr> = plan.arrived.iter().map(|(a, _)| *a).collect();
        if changed || !plan.missing.is_empty() {
            self.note(Note::PoolChanged { arrived, left, missing: plan.missing.clone() });
        }
        // Also an ENI that was lost or given up: what is laid for it goes.
        changed |= batch.iter().any(|write| matches!(write, Write::PutEni(_) | Write::DeleteEni(_)));
        if !batch.is_empty() {
            self.commit(Purpose::Housekeeping, batch, now);
        }
        if changed || first {
            self.wake_host_net(now);
        }
        self.adopted(now);
        self.set_attributes(&plan, now);
        self.pass_ended(pass, Ok(()), now);
        self.look_again(now);
        self.begin_waiting(now);
    }

    /// What nobody holds and two looks in a row have not named leaves the pool.
    fn drop_unnamed(&mut self, unnamed: &[Ipv4Addr], batch: &mut Vec<Write>) -> Vec<Ipv4Addr> {
        let mut left = Vec::new();
        for address in unnamed {
            if self.pool.miss(*address) >= AGREEING && self.pool.drop_free(*address) {
                batch.push(Write::DeleteAddress(*address));
                left.push(*address);
            }
        }
        left
    }

    /// Attachments that were rebuilt from their links before EC2 had told its ENIs' ids get them now.
    fn rename_enis(&mut self, now: Timestamp) {
        let named = |r: &AttachmentRecord| {
            let address = r.addresses.first().and_then(|a| self.pool.address(*a));
            address.map(|a| a.eni.clone()).filter(|eni| *eni != r.eni)
        };
        let renamed: Vec<_> =
            self.attachments.all().filter_map(|r| named(r).map(|eni| (r.as_ref().clone(), eni))).collect();
        for (mut record, eni) in renamed {
            record.eni = eni;
            self.mark_dirty(RecordId::Attachment(record.id()), now);
            self.attachments.put(Arc::new(record));
        }
    }

    /// What every pod needs could not be laid: an ADD would be answered with an address whose packets go astray.
    pub(super) fn close_gate(&mut self, now: Timestamp) {
        if self.gate.laid {
            self.gate.laid = false;
            self.gate.unlaid_since = now;
            // Who waits is begun in the order of a start, and it is told that ADDs are served again.
            self.gate.announced = false;
        }
    }

    /// Opens the gate when nothing stands before it any more.
    pub(super) fn gate_progress(&mut self, now: Timestamp) {
        let orphans_gone = self.reaper.orphaned().is_empty();
        if orphans_gone && self.gate.laid && !self.pool.is_all_laid() {
            // This may be the end of a pass that could not lay it: its back-off is kept.
            self.host_changed(&BTreeSet::from([Trigger::Pool]), now);
        }
        if self.gate.open() {
            if !self.gate.announced {
                self.gate.announced = true;
                self.node.was_ready = true;
                self.mark_dirty(RecordId::Node, now);
                // So that it is durable, and the stamp there, at once.
                self.pulse.hurry(now);
                self.note(Note::Ready);
                self.step(Step::Ready, |_| "ready: ADD is served".to_owned(), now);
                self.begin_recorded(now);
            }
            self.begin_waiting(now);
        }
    }
}
