//! What the owner answers to queries: STATUS, debug.sock, metrics.
//!
//! Owns the reading of its own state, and the words for why ADD is not served or why an ADD failed. Changes nothing.

use super::Owner;
use super::event::Verb;
use crate::host_net::foreign::{Report, ReportKind};
use crate::kernel::Forward;
use crate::pool::Pool;
use crate::record::AttachmentRecord;
use crate::time::Timestamp;
use eni_proto::debug::{PoolCounts, ReconcilerView};
use eni_proto::error::Code;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The most quarantined addresses that are named one by one.
const QUARANTINED_NAMED: usize = 8;

/// Whether this node can serve ADD, and what is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// ADDs are served.
    pub ready: bool,
    /// ADDs were served at some time in this boot: a restart does not take the node out of service.
    pub was_ready: bool,
    /// The last commit failed, the store does not answer, or its disk has no room for another attachment.
    pub store_failing: bool,
    /// The host's part of the data plane is not laid, and has failed to be for the grace: one pass that fails, as one of a
    /// restart may, is tried again.
    pub laying_fails: bool,
    /// No address is free, none is coming, and the operator wants STATUS to say so.
    pub full: bool,
    /// amazon-vpc-cni is active on the node, and that is not to be ignored.
    pub peer_active: bool,
    /// Pods that run are known to lack a part of their steering.
    pub steering_broken: bool,
    /// What is missing or wrong; empty when all is well.
    pub reasons: Vec<String>,
}

impl Health {
    /// The error that STATUS answers; none is success. It says whether this node can *ever* serve ADD now, not whether
    /// it could this moment: its failure takes the node out of service and then evicts its pods. So a restart that is
    /// under way does not count against a node that was ready before, nor does anything of EC2's. That what every pod needs
    /// cannot be laid is [`Code::Impaired`] where pods run; what one pod or one secondary ENI lacks is among the reasons.
    pub fn code(&self) -> Option<Code> {
        let serves = (self.ready || self.was_ready)
            && !self.store_failing
            && !self.laying_fails
            && !self.full
            && !self.peer_active;
        match (self.steering_broken && self.laying_fails, serves) {
            (true, _) => Some(Code::Impaired),
            (false, false) => Some(Code::Unavailable),
            (false, true) => None,
        }
    }
}

impl Owner {
    /// Whether this node can serve ADD.
    pub fn health(&self) -> Health {
        let mut reasons: Vec<String> = self.why_not_serving().into_iter().collect();
        let peer = self.refused_peer();
        reasons.extend(peer.map(str::to_owned).filter(|peer| !reasons.iter().any(|r| r.contains(peer))));
        let pulse = self.pulse.trouble();
        let store = self.store_trouble.iter().chain(&pulse);
        reasons.extend(store.map(|cause| format!("the store: {cause}")));
        reasons.extend(self.no_reserve.iter().map(|cause| format!("the store's disk is full: {cause}")));
        let broken = self.steering_broken.iter();
        reasons.extend(broken.map(|cause| format!("pods that run lack a part of their steering: {cause}")));
        for view in self.driver.views() {
            reasons.extend(view.last_error.map(|e| format!("{}: {e}", view.name)));
        }
        reasons.extend(self.repair.reasons());
        if self.config.no_cloud {
            reasons.push(
                "no-cloud is on: EC2 is neither asked nor changed, what is recorded is served".to_owned(),
            );
        }
        let lost = self
            .pool
            .quarantined()
            .map(|(record, why)| format!("{} is quarantined, its container lives: {why}", record.address));
        reasons.extend(lost.take(QUARANTINED_NAMED));
        reasons.extend(self.growth.refusals().map(|why| format!("the pool does not grow: {why}")));
        let told = |report: &&Report| report.kind != ReportKind::Contested && !report.text.is_empty();
        reasons.extend(self.host.reports.iter().filter(told).map(|report| report.text.clone()));
        if self.host.forward == Forward::Legacy {
            let text = "iptables-legacy's filter table is in use, and its FORWARD drops or cannot be read: see that it accepts `-i eni+` and `-o eni+`";
            reasons.push(text.to_owned());
        }
        let coming = self.growth.under_way().is_some();
        let full = self.config.fail_when_full && self.gate.open() && self.pool.available() == 0 && !coming;
        if full {
            reasons.push("no address is free, and pool.status_when_full is \"fail\"".to_owned());
        }
        Health {
            ready: self.gate.open(),
            was_ready: self.node.was_ready,
            store_failing: self.store_trouble.is_some() || pulse.is_some() || self.no_reserve.is_some(),
            laying_fails: self.gate.overdue && self.driver.last_error(self.reconcilers.host_net).is_some(),
            full,
            peer_active: peer.is_some(),
            steering_broken: self.steering_broken.is_some(),
            reasons,
        }
    }

    /// Whether the grace is over in which the host's part of the data plane may be unlaid.
    pub(super) fn note_overdue(&mut self, now: Timestamp) {
        self.gate.overdue = !self.gate.laid && now - self.gate.unlaid_since >= self.config.status_grace;
    }

    /// Why a waiting ADD was not served: what EC2 said last, else what is under way.
    pub(super) fn why_waiting(&self) -> String {
        let mut reasons: Vec<String> = self.growth.refusals().map(str::to_owned).collect();
        for reconciler in [self.reconcilers.eni_sync, self.reconcilers.host_net] {
            reasons.extend(self.driver.last_error(reconciler).map(str::to_owned));
        }
        reasons.extend(self.hands_off());
        if reasons.is_empty() {
            reasons.extend(self.growth.under_way());
        }
        if reasons.is_empty() { "the pool is empty".to_owned() } else { reasons.join("; ") }
    }

    pub(super) fn why_not_serving(&self) -> Option<String> {
        if !self.gate.committed() {
            return Some("the start is not recorded yet".to_owned());
        }
        if !self.gate.undoing.is_empty() || !self.gate.orphans.is_empty() {
            return Some("what the last ipamd left half-made is being undone".to_owned());
        }
        if !self.gate.laid {
            let cause = self.driver.last_error(self.reconcilers.host_net);
            let cause =
                cause.or_else(|| self.driver.last_error(self.reconcilers.eni_sync)).map(str::to_owned);
            let cause = cause.or_else(|| self.hands_off());
            let text = "the host's part of the data plane is not laid yet";
            return Some(cause.map_or_else(|| text.to_owned(), |c| format!("{text}: {c}")));
        }
        None
    }

    /// How many things of each kind on the host are not as they should be, and are left alone.
    pub fn host_reports(&self) -> BTreeMap<&'static str, usize> {
        let mut counts: BTreeMap<&'static str, usize> = ReportKind::ALL.map(|kind| (kind.name(), 0)).into();
        for report in &self.host.reports {
            *counts.entry(report.kind.name()).or_default() += 1;
        }
        counts
    }

    /// The pool.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The pool in numbers, as of `now`.
    pub fn counts(&mut self, now: Timestamp) -> PoolCounts {
        self.pool.settle(now);
        self.pool.counts()
    }

    /// All attachments, behind Arc: nothing is copied.
    pub fn attachments(&self) -> Vec<Arc<AttachmentRecord>> {
        self.attachments.all().cloned().collect()
    }

    /// One attachment that is not dying.
    pub fn attachment(&self, key: &eni_proto::ids::AttachmentKey) -> Option<&Arc<AttachmentRecord>> {
        self.attachments.current(key).map(|slot| &slot.record)
    }

    /// How many attachments are in each state.
    pub fn attachment_counts(&self) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        for record in self.attachments.all() {
            *counts.entry(record.state.name()).or_default() += 1;
        }
        counts
    }

    /// How many attachments the last GC of their network did not name.
    pub fn unnamed_attachments(&self) -> usize {
        self.attachments.unnamed()
    }

    /// How many ADDs wait or run.
    pub fn adds_under_way(&self) -> usize {
        self.ops.values().filter(|op| op.verb == Verb::Add).count()
    }

    /// The reconcilers' own state.
    pub fn reconcilers(&self) -> Vec<ReconcilerView> {
        self.driver.views()
    }

    /// The instance, as the metadata service told it last.
    pub fn instance(&self) -> Option<&crate::record::InstanceRecord> {
        self.node.instance.as_ref()
    }

    /// Whether every dying link is deleted.
    pub fn is_reaped(&self) -> bool {
        self.reaper.is_idle() && self.kills.is_empty()
    }

    /// How many attachments there are, dying ones included.
    pub fn attachment_total(&self) -> usize {
        self.attachments.len()
    }
}
