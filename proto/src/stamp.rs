//! The stamp: the last time that ipamd is known to have been able to serve ADD.
//!
//! Owns its form, its name in the run folder and how old it may be. ipamd renews it, the plugin reads it when ipamd does
//! not answer a STATUS: a restart is not seen by the runtime, a daemon that is gone or stuck is. Does not read or write
//! a file.

use crate::ids::BootId;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The version of the form that this build writes.
pub const VERSION: u32 = 1;

/// Its name in the run folder.
pub const FILE: &str = "stamp.json";

/// The longest file.
pub const FILE_MAX: usize = 4096;

/// What ipamd writes down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// The version of the form.
    pub version: u32,
    /// When its last round trip through the store began: CLOCK_BOOTTIME, in nanoseconds.
    pub renewed_ns: u64,
    /// The boot that `renewed_ns` belongs to.
    pub boot: BootId,
    /// How long ipamd may be silent, in milliseconds: its configuration's `timing.status_grace_ms`.
    pub grace_ms: u64,
}

/// Why a stamp does not vouch for a daemon that does not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stale {
    /// It is of another boot: in this one ipamd was never ready.
    OtherBoot,
    /// It is older than its grace.
    Old {
        /// How old.
        age: Duration,
        /// Its grace.
        grace: Duration,
    },
}

impl std::fmt::Display for Stale {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Stale::OtherBoot => f.write_str("ipamd was never ready since this boot"),
            Stale::Old { age, grace } => write!(
                f,
                "ipamd was last known to serve {} s ago, and may be silent for {} s",
                age.as_secs(),
                grace.as_secs()
            ),
        }
    }
}

impl Stamp {
    /// Whether it vouches for a daemon that does not answer at `now` of `boot`.
    pub fn check(&self, now: Duration, boot: &BootId) -> Result<(), Stale> {
        if self.boot != *boot {
            return Err(Stale::OtherBoot);
        }
        let renewed = Duration::from_nanos(self.renewed_ns);
        // One from the future of this boot was not written by a clock of this machine: it vouches for nothing.
        let age = now.checked_sub(renewed).unwrap_or(Duration::MAX);
        let grace = Duration::from_millis(self.grace_ms);
        if age < grace { Ok(()) } else { Err(Stale::Old { age, grace }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_vouches_within_its_grace_and_its_boot() {
        let boot = BootId::new("boot-1");
        let stamp =
            Stamp { version: VERSION, renewed_ns: 5_000_000_000, boot: boot.clone(), grace_ms: 60_000 };
        let at = |seconds| stamp.check(Duration::from_secs(seconds), &boot);
        assert_eq!(at(5), Ok(()));
        assert_eq!(at(64), Ok(()));
        let (age, grace) = (Duration::from_secs(60), Duration::from_secs(60));
        assert_eq!(at(65), Err(Stale::Old { age, grace }));
        assert!(matches!(at(4), Err(Stale::Old { .. })), "from the future");
        let other = BootId::new("boot-2");
        assert_eq!(stamp.check(Duration::from_secs(6), &other), Err(Stale::OtherBoot));
    }
}
