//! The reconcilers' passes and the gate before the first ADD.
//!
//! Owns the two passes under the driver, `eni_sync` (ask the cloud, take what is new into the pool) and `host_net`
//! (look at the host, lay what is missing), and what must hold before ADDs are served: what the start began is
//! committed and undone, the host's part of the data plane is laid. Does not plan: the planners do.

use super::commit::RecordId;
use super::event::{EffectId, EffectKind, Note};
use super::{Owner, Purpose, concern};
use crate::cloud::{CloudObservation, InstanceLimits};
use crate::eni_sync;
use crate::host_net::{self, Wanted, WantedPod};
use crate::kernel::{Forward, HostStep, HostStepError, HostView, RouteAction};
use crate::reconcile::driver::{Pass, Schedule};
use crate::record::{AttachmentId, AttachmentRecord, AttachmentState, EniRecord, InstanceRecord, Write};
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

/// What the host has when a plan's steps have been taken.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Applying {
    addresses: BTreeSet<Ipv4Addr>,
    prefsrc: Option<Ipv4Addr>,
    links: Vec<(EniRecord, Option<(u32, String)>)>,
    pub(super) steps: Vec<HostStep>,
}

impl Applying {
    /// The number of the ENI whose link has an index.
    pub(super) fn number(&self, ifindex: u32) -> Option<u32> {
        let has = |link: &Option<(u32, String)>| link.as_ref().is_some_and(|(index, _)| *index == ifindex);
        self.links.iter().find(|(_, link)| has(link)).map(|(eni, _)| eni.number())
    }
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
    /// The host's part of the data plane is laid.
    pub(super) laid: bool,
    /// The cloud has answered in this process's life.
    pub(super) cloud: bool,
    /// The limits of the instance type, once known.
    pub(super) limits: Option<InstanceLimits>,
    /// The node's primary address, while its link has it.
    pub(super) prefsrc: Option<Ipv4Addr>,
    /// What the filter table did with what is forwarded, at the last look.
    pub(super) forward: Forward,
    announced: bool,
}

/// Whether a step takes a base route away.
fn is_base_route(step: &HostStep) -> bool {
    matches!(step, HostStep::DeleteRoute(route) if route.action == RouteAction::Unreachable)
}

impl Gate {
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
        let eni_sync = Schedule {
            period: Some(self.config.describe_period),
            backoff: second,
            backoff_max: 30 * second,
            timeout: 60 * second,
        };
        let host_net =
            Schedule { period: None, backoff: second, backoff_max: 30 * second, timeout: 60 * second };
        self.reconcilers = Reconcilers {
            eni_sync: self.driver.register("eni_sync", eni_sync, Some(now)),
            host_net: self.driver.register("host_net", host_net, Some(now)),
            capacity: self.driver.register("capacity", host_net, None),
        };
    }

    pub(super) fn start_passes(&mut self, now: Timestamp) {
        for pass in self.driver.poll(now) {
            if pass.reconciler == self.reconcilers.eni_sync {
                let tagged = self.look_is_tagged();
                self.effect(None, Purpose::CloudObserve(pass, now), EffectKind::ObserveCloud { tagged });
            } else if pass.reconciler == self.reconcilers.capacity {
                self.capacity_pass(pass, now);
            } else {
                self.effect(None, Purpose::HostObserve(pass), EffectKind::ObserveHost);
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
        let instance = InstanceRecord {
            id: seen.identity.instance.clone(),
            instance_type: seen.identity.instance_type.clone(),
            vpc_cidrs: seen.identity.vpc_cidrs.clone(),
        };
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
        };
        let mut plan = eni_sync::plan(&self.pool, &look);
        let mut changed = renamed || !plan.enis.is_empty() || !plan.arrived.is_empty();
        for eni in std::mem::take(&mut plan.enis) {
            self.pool.put_eni(eni.clone());
            batch.push(Write::PutEni(eni));
        }
        for (address, eni) in plan.arrived.iter().chain(&plan.named) {
            batch.extend(self.pool.adopt(*address, eni, now).map(Write::PutAddress));
        }
        self.rename_enis(now);
        batch.extend(self.take_look(&plan, &seen, begun));
        let mut left = Vec::new();
        for address in plan.unnamed {
            if self.pool.miss(address) >= 2 && self.pool.drop_free(address) {
                batch.push(Write::DeleteAddress(address));
                left.push(address);
            }
        }
        changed |= !left.is_empty();
        let arrived: Vec<Ipv4Addr> = plan.arrived.iter().map(|(a, _)| *a).collect();
        if changed || !plan.missing.is_empty() {
            self.note(Note::PoolChanged { arrived, left, missing: plan.missing });
        }
        // Also an ENI that was lost or given up: what is laid for it goes.
        changed |= batch.iter().any(|write| matches!(write, Write::PutEni(_) | Write::DeleteEni(_)));
        if !batch.is_empty() {
            self.commit(Purpose::Housekeeping, batch, now);
        }
        if changed || first {
            self.driver.wake(self.reconcilers.host_net, now);
        }
        self.pass_ended(pass, Ok(()), now);
        self.look_again(now);
        self.begin_waiting(now);
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

    /// What the host should hold now.
    pub fn wanted(&self) -> Wanted {
        let number = |eni: &eni_proto::ids::EniId| self.pool.eni(eni).map(|e| e.record.number());
        let live = self.attachments.all().filter(|r| r.state == AttachmentState::Live);
        let pod = |r: &Arc<AttachmentRecord>| WantedPod {
            ifindex: r.host_ifindex,
            eni_number: number(&r.eni),
            addresses: r.addresses.clone(),
            sandbox_mac: r.sandbox_mac,
        };
        let cidrs = self.node.instance.iter().flat_map(|i| i.vpc_cidrs.iter());
        Wanted {
            enis: self.pool.enis().map(|e| e.record.clone()).filter(|e| e.state.is_laid()).collect(),
            addresses: self.pool.addresses().map(|a| a.address).collect(),
            pods: live.map(pod).collect(),
            links: self.attachments.all().map(|r| r.host_ifindex).chain(self.reaper.orphan_links()).collect(),
            vpc_cidrs: cidrs.chain(&self.config.extra_vpc_cidrs).copied().collect(),
            snat: self.config.snat,
            eni_mtu: self.config.eni_mtu,
        }
    }

    pub(super) fn host_observed(
        &mut self,
        pass: Pass,
        view: Result<HostView, HostStepError>,
        now: Timestamp,
    ) {
        let view = match view {
            Ok(view) => view,
            Err(error) => return self.pass_ended(pass, Err(error.to_string()), now),
        };
        self.gate.forward = view.forward;
        let wanted = self.wanted();
        let mut plan = host_net::plan(&wanted, &view);
        if !self.gate.cloud && self.node.instance.is_none() {
            // A new store: which addresses are ours is not known, so that none of their base routes is unneeded.
            plan.retain(|planned| !is_base_route(&planned.step));
        }
        let links = host_net::find_links(&wanted.enis, &view);
        let primary = wanted.enis.iter().find(|e| e.device_index == 0).map(|e| e.primary);
        let applying = Applying {
            prefsrc: primary.filter(|p| view.addresses.iter().any(|a| a.address.addr() == *p)),
            links: wanted.enis.iter().map(|e| (e.clone(), links.get(&e.mac).cloned())).collect(),
            addresses: wanted.addresses,
            steps: plan.into_iter().map(|p| p.step).collect(),
        };
        let steps = applying.steps.clone();
        // Durable first: an address has its base route only once its record is committed.
        let after = self.commits_in_flight();
        let purpose = Purpose::HostApply(pass, Box::new(applying));
        self.effect_after(None, purpose, EffectKind::ApplyHost(steps), after);
    }

    fn commits_in_flight(&self) -> Vec<EffectId> {
        let flying = |purpose: &Purpose| matches!(purpose, Purpose::Housekeeping);
        self.purposes.iter().filter(|(_, p)| flying(p)).map(|(id, _)| *id).collect()
    }

    pub(super) fn host_applied(
        &mut self,
        pass: Pass,
        done: &Applying,
        failed: &[HostStepError],
        now: Timestamp,
    ) {
        let steps = done.steps.len();
        if steps > 0 {
            self.note(Note::HostApplied { steps, failed: failed.to_vec() });
        }
        let cause = failed
            .first()
            .map(|first| format!("{} of {steps} steps failed; the first: {first}", failed.len()));
        let pods = if failed.is_empty() { Vec::new() } else { self.wanted().pods };
        self.steering_broken = concern::harm(done, failed, &pods);
        let Some(unlaid) = concern::unlaid(done, failed) else {
            return self.pass_ended(pass, cause.map_or(Ok(()), Err), now);
        };
        for (eni, link) in &done.links {
            self.pool.set_link(&eni.id, link.clone());
        }
        let lost = done.links.iter().filter(|(_, link)| link.is_none());
        let lost: Vec<String> = lost.map(|(eni, _)| eni.id.to_string()).collect();
        let orphaned = self.reaper.orphaned();
        // What a failed step concerns is not given out; its links stay known: nobody has to wait for them.
        let off = |address: &Ipv4Addr| {
            let eni = self.pool.address(*address).and_then(|a| self.pool.eni(&a.eni));
            unlaid.addresses.contains(address)
                || eni.is_some_and(|e| unlaid.enis.contains(&e.record.number()))
        };
        let laid = done.addresses.difference(&orphaned).copied().filter(|address| !off(address)).collect();
        self.pool.set_laid(&laid);
        self.gate.prefsrc = done.prefsrc;
        // A secondary whose link is not there serves nothing by itself; the node serves from the others.
        let primary = self.pool.primary();
        self.gate.laid = self.gate.laid || primary.is_some_and(crate::pool::Eni::is_usable);
        let lost = (!lost.is_empty()).then(|| format!("no link has the MAC of {}", lost.join(", ")));
        let result = cause.or(lost).map_or(Ok(()), Err);
        self.pass_ended(pass, result, now);
        self.gate_progress(now);
    }

    /// Opens the gate when nothing stands before it any more.
    pub(super) fn gate_progress(&mut self, now: Timestamp) {
        let orphans_gone = self.reaper.orphaned().is_empty();
        if orphans_gone && self.gate.laid && !self.pool.is_all_laid() {
            self.driver.wake(self.reconcilers.host_net, now);
        }
        if self.gate.open() {
            if !self.gate.announced {
                self.gate.announced = true;
                self.node.was_ready = true;
                self.mark_dirty(RecordId::Node, now);
                // So that it is durable, and the stamp there, at once.
                self.pulse.hurry(now);
                self.note(Note::Ready);
            }
            self.begin_waiting(now);
        }
    }
}
