//! Time as an argument: instants of CLOCK_BOOTTIME and spans between them.
//!
//! Owns the two types. Does not read a clock: the shell does, and passes `now` in, so that every decision can be
//! replayed. CLOCK_BOOTTIME goes on in suspend and is not set by anybody; across boots it is compared with the boot
//! id only.

use serde::{Deserialize, Serialize};
use std::ops::{Add, Sub};
use std::time::Duration;

/// An instant of CLOCK_BOOTTIME, in nanoseconds since this boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The beginning of the boot.
    pub const ZERO: Timestamp = Timestamp(0);

    /// From nanoseconds since boot.
    pub const fn from_nanos(nanos: u64) -> Self {
        Timestamp(nanos)
    }

    /// From milliseconds since boot.
    pub const fn from_millis(millis: u64) -> Self {
        Timestamp(millis * 1_000_000)
    }

    /// Nanoseconds since boot.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Milliseconds since boot.
    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000_000
    }

    /// The time from `earlier` to `self`; zero when `earlier` is the later one.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Timestamp {
    type Output = Timestamp;
    fn add(self, span: Duration) -> Timestamp {
        Timestamp(self.0.saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Timestamp> for Timestamp {
    type Output = Duration;
    fn sub(self, earlier: Timestamp) -> Duration {
        self.since(earlier)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_never_go_below_zero() {
        let early = Timestamp::from_millis(5);
        let late = early + Duration::from_millis(10);
        assert_eq!(late - early, Duration::from_millis(10));
        assert_eq!(early - late, Duration::ZERO);
        assert_eq!(late.as_millis(), 15);
    }
}
