//! The polled driver: `poll` says which reconcilers start a pass now, `next_deadline` when to ask again.
//!
//! Owns one schedule per reconciler. It reads no clock and starts nothing itself, so it runs unchanged under a
//! virtual clock. A pass that outlives its time-out counts as failed and its late end is ignored.

use crate::time::Timestamp;
use eni_proto::debug::ReconcilerView;
use std::time::Duration;

/// How a reconciler is scheduled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// The time between the ends of passes that ended well; none runs on wake-up only.
    pub period: Option<Duration>,
    /// The first wait after a failed pass; doubled with each further one.
    pub backoff: Duration,
    /// The longest wait after failed passes.
    pub backoff_max: Duration,
    /// A pass that takes longer has failed.
    pub timeout: Duration,
}

/// Names a pass: a late end of an older one is told by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pass {
    /// The reconciler, as its place in the driver's list.
    pub reconciler: usize,
    /// Its number.
    pub number: u64,
}

#[derive(Debug, Clone)]
struct Entry {
    name: &'static str,
    schedule: Schedule,
    /// Not before; none until woken.
    due: Option<Timestamp>,
    running: Option<(u64, Timestamp)>,
    /// Woken while running: runs once more at once.
    again: bool,
    /// Woken while running for then: also when the pass that runs fails.
    again_by: Option<Timestamp>,
    number: u64,
    passes: u64,
    failures: u64,
    /// Failed passes in a row.
    streak: u32,
    last_error: Option<String>,
}

/// All reconcilers' schedules.
#[derive(Debug, Clone, Default)]
pub struct Driver {
    entries: Vec<Entry>,
}

impl Driver {
    /// Registers a reconciler, due at once when `due` says so; its place in the list.
    pub fn register(&mut self, name: &'static str, schedule: Schedule, due: Option<Timestamp>) -> usize {
        self.entries.push(Entry {
            name,
            schedule,
            due,
            running: None,
            again: false,
            again_by: None,
            number: 0,
            passes: 0,
            failures: 0,
            streak: 0,
            last_error: None,
        });
        self.entries.len() - 1
    }

    /// Wakes a reconciler: it runs now, or once more after the pass that is running. A back-off is kept.
    pub fn wake(&mut self, reconciler: usize, now: Timestamp) {
        let entry = &mut self.entries[reconciler];
        if entry.running.is_some() {
            entry.again = true;
        } else if entry.streak == 0 {
            entry.due = Some(now);
        }
    }

    /// Wakes a reconciler at `at`, unless it runs sooner. A back-off is kept.
    pub fn wake_by(&mut self, reconciler: usize, at: Timestamp) {
        let entry = &mut self.entries[reconciler];
        if entry.running.is_some() {
            entry.again_by = Some(entry.again_by.map_or(at, |old| old.min(at)));
        } else if entry.streak == 0 {
            entry.due = Some(entry.due.map_or(at, |old| old.min(at)));
        }
    }

    /// Wakes a reconciler that waits after failed passes: it runs after the first of these waits at the latest, however
    /// often it failed.
    pub fn wake_soon(&mut self, reconciler: usize, now: Timestamp) {
        let entry = &mut self.entries[reconciler];
        let soon = now + entry.schedule.backoff;
        if entry.running.is_none() && entry.streak > 0 {
            entry.due = Some(entry.due.map_or(soon, |old| old.min(soon)));
        }
    }

    /// Wakes a reconciler although its last pass failed: what it failed for has come.
    pub fn wake_now(&mut self, reconciler: usize, now: Timestamp) {
        let entry = &mut self.entries[reconciler];
        if entry.running.is_some() {
            entry.again = true;
            entry.again_by = Some(now);
        } else {
            entry.due = Some(now);
        }
    }

    /// The passes to start now. Passes past their time-out are ended as failed first.
    pub fn poll(&mut self, now: Timestamp) -> Vec<Pass> {
        let mut started = Vec::new();
        for (reconciler, entry) in self.entries.iter_mut().enumerate() {
            if let Some((_, until)) = entry.running
                && until <= now
            {
                let timeout = entry.schedule.timeout;
                entry.end(Err(format!("the pass took longer than {} ms", timeout.as_millis())), now);
            }
            if entry.running.is_none() && entry.due.is_some_and(|due| due <= now) {
                entry.number += 1;
                entry.due = None;
                entry.running = Some((entry.number, now + entry.schedule.timeout));
                started.push(Pass { reconciler, number: entry.number });
            }
        }
        started
    }

    /// A pass has ended; false when it is not the one that runs (it was late), and nothing changes.
    pub fn ended(&mut self, pass: Pass, result: Result<(), String>, now: Timestamp) -> bool {
        let current = self.is_running(pass);
        if current {
            self.entries[pass.reconciler].end(result, now);
        }
        current
    }

    /// Whether a pass is the one that runs.
    pub fn is_running(&self, pass: Pass) -> bool {
        self.entries[pass.reconciler].running.is_some_and(|(number, _)| number == pass.number)
    }

    /// Whether a pass of a reconciler runs.
    pub fn is_busy(&self, reconciler: usize) -> bool {
        self.entries[reconciler].running.is_some()
    }

    /// How many passes of a reconciler have begun.
    pub fn begun(&self, reconciler: usize) -> u64 {
        self.entries[reconciler].number
    }

    /// When to poll again.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.entries.iter().filter_map(|e| e.running.map(|(_, until)| until).or(e.due)).min()
    }

    /// A reconciler's name.
    pub fn name(&self, reconciler: usize) -> &'static str {
        self.entries[reconciler].name
    }

    /// Whether a reconciler's last pass failed, and why.
    pub fn last_error(&self, reconciler: usize) -> Option<&str> {
        self.entries[reconciler].last_error.as_deref()
    }

    /// All of them, as `debug.sock` shows them.
    pub fn views(&self) -> Vec<ReconcilerView> {
        let state = |e: &Entry| match (e.running, e.streak) {
            (Some(_), _) => "running",
            (None, 0) => "idle",
            (None, _) => "backing_off",
        };
        let view = |e: &Entry| ReconcilerView {
            name: e.name.to_owned(),
            state: state(e).to_owned(),
            passes: e.passes,
            failures: e.failures,
            last_error: e.last_error.clone(),
        };
        self.entries.iter().map(view).collect()
    }
}

impl Entry {
    fn end(&mut self, result: Result<(), String>, now: Timestamp) {
        self.running = None;
        let again = std::mem::take(&mut self.again);
        let again_by = self.again_by.take();
        match result {
            Ok(()) => {
                self.passes += 1;
                self.streak = 0;
                self.last_error = None;
                self.due = if again { Some(now) } else { self.schedule.period.map(|p| now + p) };
            }
            Err(error) => {
                self.failures += 1;
                self.last_error = Some(error);
                let wait = self.schedule.backoff.saturating_mul(1 << self.streak.min(16));
                self.streak = self.streak.saturating_add(1);
                self.due = Some(now + wait.min(self.schedule.backoff_max));
            }
        }
        self.due = again_by.into_iter().chain(self.due).min();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn driver(period: Option<Duration>) -> Driver {
        let mut driver = Driver::default();
        let schedule = Schedule { period, backoff: SECOND, backoff_max: 8 * SECOND, timeout: 5 * SECOND };
        driver.register("test", schedule, Some(Timestamp::ZERO));
        driver
    }

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn one_pass_at_a_time_then_the_period() {
        let mut driver = driver(Some(30 * SECOND));
        let [pass] = driver.poll(at(0))[..] else { panic!("due at once") };
        assert!(driver.poll(at(10)).is_empty(), "single flight");
        assert!(driver.ended(pass, Ok(()), at(20)));
        assert_eq!(driver.next_deadline(), Some(at(30_020)));
        assert!(driver.poll(at(30_019)).is_empty());
        assert_eq!(driver.poll(at(30_020)).len(), 1);
    }

    #[test]
    fn a_wake_up_while_running_runs_once_more() {
        let mut driver = driver(None);
        let [pass] = driver.poll(at(0))[..] else { panic!("due at once") };
        driver.wake(0, at(1));
        driver.wake(0, at(2));
        driver.ended(pass, Ok(()), at(3));
        let [again] = driver.poll(at(3))[..] else { panic!("woken") };
        driver.ended(again, Ok(()), at(4));
        assert_eq!(driver.next_deadline(), None);
    }

    #[test]
    fn failures_back_off_and_wake_ups_do_not_shorten_it() {
        let mut driver = driver(Some(30 * SECOND));
        for (start, wait) in [(0, 1_000), (1_000, 2_000), (3_000, 4_000), (7_000, 8_000), (15_000, 8_000)] {
            let [pass] = driver.poll(at(start))[..] else { panic!("due at {start}") };
            driver.ended(pass, Err("no".into()), at(start));
            driver.wake(0, at(start));
            assert_eq!(driver.next_deadline(), Some(at(start + wait)));
        }
        assert_eq!(driver.views()[0].failures, 5);
        assert_eq!(driver.views()[0].state, "backing_off");
    }

    #[test]
    fn who_is_woken_soon_waits_no_longer_than_after_the_first_failure() {
        let mut driver = driver(Some(30 * SECOND));
        for start in [0, 1_000, 3_000] {
            let [pass] = driver.poll(at(start))[..] else { panic!("due at {start}") };
            driver.wake_soon(0, at(start));
            driver.ended(pass, Err("no".into()), at(start));
        }
        assert_eq!(driver.next_deadline(), Some(at(7_000)));
        driver.wake_soon(0, at(4_000));
        driver.wake_soon(0, at(4_500));
        assert_eq!(driver.next_deadline(), Some(at(5_000)));
        let [pass] = driver.poll(at(5_000))[..] else { panic!("woken") };
        driver.ended(pass, Ok(()), at(5_000));
        driver.wake_soon(0, at(5_000));
        assert_eq!(
            driver.next_deadline(),
            Some(at(35_000)),
            "it is not at once: that is what a wake-up is for"
        );
    }

    #[test]
    fn a_pass_past_its_time_out_has_failed_and_its_late_end_is_ignored() {
        let mut driver = driver(Some(30 * SECOND));
        let [pass] = driver.poll(at(0))[..] else { panic!("due at once") };
        assert!(driver.poll(at(5_000)).is_empty());
        assert!(driver.last_error(0).is_some());
        assert!(!driver.ended(pass, Ok(()), at(5_001)));
        assert_eq!(driver.views()[0].passes, 0);
    }
}
