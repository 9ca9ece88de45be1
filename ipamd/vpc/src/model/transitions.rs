//! What happens to attachments by itself: attaching → attached, detaching → available.
//!
//! Owns when each is due. A change is seen only when somebody says that it has happened: `tick` for those who have
//! nothing but the model, `due` and `complete` for the program, which lays or removes the link in between.

use super::Ec2;
use eni_proto::ids::EniId;
use ipamd_core::cloud::{EniAttachmentStatus, EniObservation};
use ipamd_core::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The end of an asynchronous call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transition {
    /// The ENI is attached.
    Attached(EniId),
    /// The ENI is available: attached to nothing.
    Detached(EniId),
}

impl Transition {
    /// The ENI.
    pub fn eni(&self) -> &EniId {
        match self {
            Transition::Attached(eni) | Transition::Detached(eni) => eni,
        }
    }
}

/// A transition and its time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pending {
    at: Timestamp,
    transition: Transition,
}

impl Ec2 {
    /// Lets a transition happen `delay_ms` after `now`.
    pub(super) fn schedule(&mut self, transition: Transition, delay_ms: u64, now: Timestamp) {
        let at = now + Duration::from_millis(delay_ms);
        // Behind those of the same time: they happen in the order of their calls.
        let place = self.pending.partition_point(|p| p.at <= at);
        self.pending.insert(place, Pending { at, transition });
    }

    /// When the next transition is due.
    pub fn next_due(&self) -> Option<Timestamp> {
        self.pending.first().map(|p| p.at)
    }

    /// The transitions whose time has come, in order. They are not done: `complete` does each.
    pub fn due(&self, now: Timestamp) -> Vec<Transition> {
        self.pending.iter().take_while(|p| p.at <= now).map(|p| p.transition.clone()).collect()
    }

    /// The ENIs whose links have to be there once the transitions that are due are done.
    pub fn present(&self, now: Timestamp) -> Vec<EniObservation> {
        let due = self.due(now);
        let is_due = |transition: &Transition| due.contains(transition);
        let present = |eni: &&EniObservation| match eni.attachment.as_ref().map(|a| a.status) {
            None => false,
            Some(EniAttachmentStatus::Attaching) => is_due(&Transition::Attached(eni.id.clone())),
            Some(EniAttachmentStatus::Attached) => true,
            Some(EniAttachmentStatus::Detaching) => !is_due(&Transition::Detached(eni.id.clone())),
        };
        self.enis.iter().filter(present).cloned().collect()
    }

    /// Does one transition; one that is not pending any more is left alone.
    pub fn complete(&mut self, transition: &Transition) {
        let Some(place) = self.pending.iter().position(|p| p.transition == *transition) else { return };
        let at = self.pending.remove(place).at;
        let eni = transition.eni();
        let Some(eni) = self.enis.iter_mut().find(|e| e.id == *eni) else { return };
        match transition {
            Transition::Attached(_) => {
                if let Some(attachment) = &mut eni.attachment {
                    attachment.status = EniAttachmentStatus::Attached;
                }
            }
            Transition::Detached(_) => eni.attachment = None,
        }
        self.history.remember(&self.enis, at);
    }

    /// Lets no detaching end from now on, or lets all end that are stuck: EC2's are known to hang until they are forced
    /// ("Use the Force parameter only as a last resort", API reference, DetachNetworkInterface).
    pub fn set_stuck_detach(&mut self, stuck: bool, now: Timestamp) {
        self.stuck_detach = stuck;
        if !stuck {
            let ids: Vec<EniId> = self.enis.iter().map(|eni| eni.id.clone()).collect();
            for id in ids {
                self.unstick(&id, now);
            }
        }
    }

    /// Lets a detaching that is stuck end now.
    pub(super) fn unstick(&mut self, id: &EniId, now: Timestamp) {
        let transition = Transition::Detached(id.clone());
        let detaching = |eni: &EniObservation| {
            eni.id == *id
                && eni.attachment.as_ref().is_some_and(|a| a.status == EniAttachmentStatus::Detaching)
        };
        let is_pending = self.pending.iter().any(|p| p.transition == transition);
        if !is_pending && self.enis.iter().any(detaching) {
            self.schedule(transition, 0, now);
        }
    }

    /// Does all that is due, and says what.
    pub fn tick(&mut self, now: Timestamp) -> Vec<Transition> {
        let due = self.due(now);
        for transition in &due {
            self.complete(transition);
        }
        due
    }
}
