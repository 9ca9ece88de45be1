//! Attributes of our ENIs at EC2: their security groups, and that they go with the instance.
//!
//! Owns when one is set and what a refusal means: that it is told and tried again later. A refusal stops nothing else: an
//! ENI without the wanted groups serves containers. Does not compare: `eni_sync` does.

use super::super::Owner;
use super::Intent;
use crate::cloud::{CloudError, Mutation};
use crate::eni_sync::SyncPlan;
use crate::time::Timestamp;
use std::time::Duration;

/// How long a refused attribute is left alone: what EC2 refuses here is a right or a group, and a person mends that.
const LATER: Duration = Duration::from_secs(300);

impl Owner {
    /// Sets what a look found not as wanted, one change of an ENI at a time.
    pub(in crate::owner) fn set_attributes(&mut self, plan: &SyncPlan, now: Timestamp) {
        let refused = &mut self.repair.attributes;
        refused.retain(|id, (until, _)| {
            *until > now && plan.attributes.iter().any(|wanted| wanted.eni() == Some(id))
        });
        if !self.may_plan() {
            return;
        }
        for wanted in &plan.attributes {
            let Some(eni) = wanted.eni() else { continue };
            let laid = self.pool.eni(eni).is_some_and(|e| e.record.state.is_laid());
            let busy = self.growth.is_changing(eni)
                || self.growth.is_held(eni, now)
                || self.repair.attributes.contains_key(eni);
            if laid && !busy {
                self.mutate(wanted.clone(), Vec::new(), now);
            }
        }
    }

    /// EC2 refused to set an attribute.
    pub(super) fn attribute_refused(&mut self, mutation: &Mutation, error: &CloudError, now: Timestamp) {
        if let Some(eni) = mutation.eni() {
            let until = now + error.retry_after().max(LATER);
            self.repair.attributes.insert(eni.clone(), (until, error.to_string()));
        }
    }

    /// Whether the last plan of capacity is carried out: nothing is called, planned or waited out.
    pub(in crate::owner) fn is_planned(&self) -> bool {
        let calls = |intent: &Intent| {
            !matches!(
                intent.record.mutation,
                Mutation::SetSecurityGroups { .. } | Mutation::SetDeleteOnTermination { .. }
            )
        };
        self.growth.planned.is_some()
            && !self.growth.intents.values().any(calls)
            && !self.driver.is_busy(self.reconcilers.capacity)
    }
}
