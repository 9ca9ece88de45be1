//! Faults to inject.
//!
//! Owns which are set and how often they are still used. Does not wait: whoever drives the model does, before the call
//! or, when it takes effect all the same, after it.

use serde::{Deserialize, Serialize};

/// Instead of an error's code: the call is not answered at all. By HTTP its connection is closed; with
/// [`Effect::After`] that is a lost reply.
pub const NO_REPLY: &str = "NoReply";

/// The next `count` calls of this name fail or are late.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// The call, as EC2 names it.
    pub call: String,
    /// EC2's error code, or [`NO_REPLY`]; none only delays.
    #[serde(default)]
    pub error: Option<String>,
    /// How much later, in milliseconds.
    #[serde(default)]
    pub delay_ms: u64,
    /// How many calls; 0 takes the fault away.
    pub count: u32,
    /// Where in the call it strikes.
    #[serde(default)]
    pub effect: Effect,
}

/// Where in a call a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Before its effect: a failed call changes nothing, a late one changes it late.
    #[default]
    Before,
    /// After its effect: it is done at once, and the answer is the error or comes late. A lost reply.
    After,
}

/// The faults that are set.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Faults(Vec<Fault>);

impl Faults {
    /// Sets one, instead of one of the same call.
    pub(super) fn set(&mut self, fault: Fault) {
        self.0.retain(|f| f.call != fault.call);
        if fault.count > 0 {
            self.0.push(fault);
        }
    }

    /// Uses up one of a call.
    pub(super) fn take(&mut self, call: &str) -> Option<Fault> {
        let fault = self.0.iter_mut().find(|f| f.call == call)?;
        fault.count -= 1;
        let taken = fault.clone();
        self.0.retain(|f| f.count > 0);
        Some(taken)
    }
}
