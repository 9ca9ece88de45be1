//! What the owner answers to queries: STATUS, debug.sock, metrics.
//!
//! Owns the reading of its own state, and the words for why ADD is not served or why an ADD failed. Changes nothing.

use super::Owner;
use super::event::Verb;
use crate::kernel::Forward;
use crate::pool::Pool;
use crate::record::AttachmentRecord;
use crate::time::Timestamp;
use eni_proto::debug::{PoolCounts, ReconcilerView};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Whether this node can serve ADD, and what is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// ADDs are served.
    pub ready: bool,
    /// ADDs were served at some time in this boot: a restart does not take the node out of service.
    pub was_ready: bool,
    /// The last commit failed.
    pub store_failing: bool,
    /// What is missing or wrong; empty when all is well.
    pub reasons: Vec<String>,
}

impl Health {
    /// What STATUS answers: a restart that is under way does not count against a node that was ready before.
    pub fn can_serve(&self) -> bool {
        (self.ready || self.was_ready) && !self.store_failing
    }
}

impl Owner {
    /// Whether this node can serve ADD.
    pub fn health(&self) -> Health {
        let mut reasons: Vec<String> = self.why_not_serving().into_iter().collect();
        reasons.extend(self.store_trouble.iter().map(|cause| format!("the store: {cause}")));
        for view in self.driver.views() {
            reasons.extend(view.last_error.map(|e| format!("{}: {e}", view.name)));
        }
        reasons.extend(self.growth.refusals().map(|why| format!("the pool does not grow: {why}")));
        if self.gate.forward == Forward::Legacy {
            let text = "iptables-legacy's filter table is in use, and its FORWARD drops or cannot be read: see that it accepts `-i eni+` and `-o eni+`";
            reasons.push(text.to_owned());
        }
        Health {
            ready: self.gate.open(),
            was_ready: self.node.was_ready,
            store_failing: self.store_trouble.is_some(),
            reasons,
        }
    }

    /// Why a waiting ADD was not served: what EC2 said last, else what is under way.
    pub(super) fn why_waiting(&self) -> String {
        let mut reasons: Vec<String> = self.growth.refusals().map(str::to_owned).collect();
        for reconciler in [self.reconcilers.eni_sync, self.reconcilers.host_net] {
            reasons.extend(self.driver.last_error(reconciler).map(str::to_owned));
        }
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
            let cause = cause.or_else(|| self.driver.last_error(self.reconcilers.eni_sync));
            let text = "the host's part of the data plane is not laid yet";
            return Some(cause.map_or_else(|| text.to_owned(), |c| format!("{text}: {c}")));
        }
        None
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
