//! Waiting on conditions, never on time.
//!
//! Owns the deadline: far beyond what is needed, because it only bounds a failure.

use nix::time::{ClockId, clock_gettime};
use std::thread;
use std::time::Duration;

/// How long a condition may take before the test has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);
const STEP: Duration = Duration::from_millis(10);

/// The machine's clock, to print how long something took; nothing is judged by it.
pub fn clock() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).expect("the clock is read").into()
}

/// Waits until `condition` holds; panics with `what` when it never does.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    assert!(holds_within(PATIENCE, &mut condition), "waited in vain: {what}");
}

/// Whether a condition comes to hold within a span.
pub fn holds_within(span: Duration, mut condition: impl FnMut() -> bool) -> bool {
    for _ in 0..span.as_millis() / STEP.as_millis() {
        if condition() {
            return true;
        }
        thread::sleep(STEP);
    }
    condition()
}
