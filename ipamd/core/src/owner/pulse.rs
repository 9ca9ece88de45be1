//! The round trip through the store that shows that ipamd is not stuck.
//!
//! Owns when it is made, when its answer is late, and that the stamp is renewed by its end alone, and only while STATUS
//! is answered with success: the stamp speaks for an ipamd that does not answer, so it must not say more than ipamd said.
//! Does not write the stamp.

use super::event::EffectKind;
use super::{Owner, Purpose};
use crate::time::Timestamp;
use std::time::Duration;

/// The most time between two round trips: each wakes a few threads, and a node that idles should sleep.
const PERIOD_MOST: Duration = Duration::from_secs(10);
/// So many round trips fit into the grace: one that is late or lost takes nobody out of service.
const PER_GRACE: u32 = 3;
/// After one that failed: what stands in its way may be over.
const AGAIN: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
pub(super) struct Pulse {
    grace: Duration,
    due: Timestamp,
    begun: Option<Timestamp>,
    /// The one under way has taken longer than the grace.
    late: bool,
}

impl Pulse {
    pub(super) fn new(grace: Duration, now: Timestamp) -> Pulse {
        let mut pulse = Pulse { grace, due: now, begun: None, late: false };
        pulse.due = now + pulse.period();
        pulse
    }

    fn period(&self) -> Duration {
        PERIOD_MOST.min(self.grace / PER_GRACE)
    }

    pub(super) fn due(&self) -> Timestamp {
        self.due
    }

    /// The next one is made at once.
    pub(super) fn hurry(&mut self, now: Timestamp) {
        self.due = now;
    }

    /// Why the store is taken for stuck.
    pub(super) fn trouble(&self) -> Option<String> {
        self.late.then(|| format!("the store has not answered for {} s", self.grace.as_secs_f32()))
    }
}

impl Owner {
    pub(super) fn pulse_when_due(&mut self, now: Timestamp) {
        if now < self.pulse.due {
            return;
        }
        self.pulse.due = now + self.pulse.period();
        match self.pulse.begun {
            Some(begun) => self.pulse.late = now - begun >= self.pulse.grace,
            None => {
                self.pulse.begun = Some(now);
                self.commit(Purpose::Pulse, Vec::new(), now);
            }
        }
    }

    pub(super) fn pulse_ended(&mut self, result: &Result<(), String>, now: Timestamp) {
        let Some(begun) = self.pulse.begun.take() else { return };
        self.pulse.late = false;
        if result.is_err() {
            self.pulse.due = now + AGAIN;
        } else if self.health().code().is_none() {
            let grace = self.pulse.grace;
            self.effect(None, Purpose::Stamp, EffectKind::Stamp { renewed: begun, grace });
        }
    }
}
