//! The steps of the start that come after DEL and STATUS are served, and those that stand before the first ADD of a node
//! without records.
//!
//! Owns which steps there are and when each was done first. The shell has done the earlier ones: lock, store, spool,
//! sockets. Does not wait for any of them: what is recorded is served while AWS is away.

use super::Owner;
use super::event::{CloudTold, Note};
use crate::limits;
use crate::reconcile::driver::Schedule;
use crate::record::EniState;
use crate::time::Timestamp;
use eni_proto::debug::LimitsView;
use std::collections::BTreeSet;

/// A step of the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    /// The metadata service has told who this instance is.
    Identified,
    /// What the instance type carries is known.
    Limits,
    /// A look at EC2 was compared with the records, and what they lacked is mended.
    Repaired,
    /// The ENIs and addresses are in the pool, or have left it.
    Adopted,
    /// The node has what its targets ask for, or EC2 has refused it.
    Provisioned,
    /// ADDs are served.
    Ready,
}

/// What of the start is done.
#[derive(Debug, Clone, Default)]
pub(super) struct Start {
    done: BTreeSet<Step>,
    told: Vec<(Timestamp, String)>,
    /// Who told what the instance type carries.
    pub(super) limits: Option<limits::Source>,
}

impl Owner {
    /// The steps that are done, in order, with when.
    pub fn start_steps(&self) -> &[(Timestamp, String)] {
        &self.start.told
    }

    /// Who told what the instance type carries, once anybody has.
    pub fn limits_source(&self) -> Option<&limits::Source> {
        self.start.limits.as_ref()
    }

    /// What the instance type carries, once known.
    pub fn limits_view(&self) -> Option<LimitsView> {
        let (limits, instance) = (self.gate.limits.as_ref()?, self.node.instance.as_ref()?);
        let source =
            self.start.limits.as_ref().map_or_else(|| "a look at the cloud".to_owned(), ToString::to_string);
        Some(limits::view(&instance.instance_type, limits, source, self.skipped_enis()))
    }

    pub(super) fn step(&mut self, step: Step, text: impl FnOnce(&Owner) -> String, now: Timestamp) {
        if self.start.done.contains(&step) {
            return;
        }
        let text = text(self);
        self.start.done.insert(step);
        self.start.told.push((now, text.clone()));
        self.note(Note::StartStep { text });
    }

    /// A part of the first look has come: the rest may be long in coming.
    pub(super) fn cloud_told(&mut self, told: CloudTold, now: Timestamp) {
        match told {
            CloudTold::Identity { instance, instance_type } => {
                self.step(Step::Identified, |_| format!("identified: {instance} ({instance_type})"), now);
            }
            CloudTold::Limits { limits, source } => {
                let text = format!(
                    "limits: {} ENIs of {} addresses, by {source}",
                    limits.enis, limits.addresses_per_eni
                );
                if self.start.limits.as_ref() != Some(&source) {
                    self.note(Note::Limits { source: source.clone() });
                }
                self.start.limits = Some(source);
                self.step(Step::Limits, |_| text, now);
            }
        }
    }

    /// The first look has been taken into the pool.
    pub(super) fn adopted(&mut self, now: Timestamp) {
        let repaired = |owner: &Owner| match owner.repair.unaddressed() {
            0 => "metadata repaired: every ENI has its primary address".to_owned(),
            n => format!("metadata repaired, {n} ENIs excepted whose primary address nobody has told"),
        };
        self.step(Step::Repaired, repaired, now);
        let adopted = |owner: &Owner| {
            let enis = owner.pool.enis().filter(|e| e.record.state.is_laid()).count();
            format!("adopted: {enis} ENIs with {} addresses", owner.pool.addresses().count())
        };
        self.step(Step::Adopted, adopted, now);
    }

    /// Whether the targets are met is found out when nothing is on its way and the planner asks for nothing.
    pub(super) fn note_provisioned(&mut self, now: Timestamp) {
        let over = self.start.done.contains(&Step::Provisioned);
        if over || !self.start.done.contains(&Step::Adopted) || !self.is_planned() {
            return;
        }
        if self.pool.enis().any(|e| e.record.state == EniState::Attaching) {
            return;
        }
        let provisioned = |owner: &Owner| {
            let free = owner.pool.counts().free;
            match owner.growth.refusals().next() {
                Some(why) => format!("not provisioned, {free} addresses are free: {why}"),
                None => format!("provisioned: {free} addresses are free"),
            }
        };
        self.step(Step::Provisioned, provisioned, now);
    }

    /// How `eni_sync` is scheduled.
    pub(super) fn sync_schedule(&self) -> Schedule {
        let second = std::time::Duration::from_secs(1);
        Schedule {
            period: Some(self.config.describe_period),
            backoff: second,
            backoff_max: 30 * second,
            // One that takes longer is too old to be compared.
            timeout: crate::eni_sync::OLDEST,
        }
    }
}
