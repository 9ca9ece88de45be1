//! When a call to EC2 may be made.
//!
//! Owns a token bucket per API action, as EC2 has one per action, account and Region, but smaller: other nodes call, too.
//! It adapts: a throttled call halves the action's rate, and each that succeeds gives a little of it back. Pure: the
//! instant and the random number come in, a wait goes out. Does not wait, and does not call.

use crate::time::Timestamp;
use std::collections::BTreeMap;
use std::time::Duration;

/// A rate is counted in so many parts: what is given back after a throttled call is one of them per success, so that the
/// full rate needs 32 successes.
const PARTS: u32 = 64;
/// The rate never falls below a sixteenth: a node that never asks never learns that it may.
const PARTS_LEAST: u32 = 4;
/// The longest wait that is made longer at random: others who wait for the same do not come at the same time.
const JITTER_MOST: Duration = Duration::from_secs(1);

/// A token bucket's size, and how fast it fills.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// Calls that may be made at once.
    pub burst: u32,
    /// The time in which one more comes.
    pub interval: Duration,
}

/// EC2's own, per account and Region (EC2 developer guide, "Request throttling for the Amazon EC2 API", request token bucket
/// sizes and refill rates): actions that change nothing 100 and 20 a second, actions that change something 50 and 5 a second.
pub fn published(action: &str) -> Allowance {
    if action.starts_with("Describe") {
        Allowance { burst: 100, interval: Duration::from_millis(50) }
    } else {
        Allowance { burst: 50, interval: Duration::from_millis(200) }
    }
}

/// How much of EC2's allowance one node takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// A node among others: a fifth of the burst (a node that starts creates and attaches up to 15 ENIs at once, and ten
    /// calls of each kind cover all but the largest), a tenth of the rate.
    OfAnAccount,
    /// An EC2 of one's own: more than anybody asks for. It still steps back when it is throttled.
    Alone,
}

impl Part {
    fn of(self, action: &str) -> Allowance {
        let all = published(action);
        match self {
            Part::OfAnAccount => Allowance { burst: all.burst / 5, interval: all.interval * 10 },
            Part::Alone => Allowance { burst: 1000, interval: Duration::from_millis(1) },
        }
    }
}

/// One action's bucket.
#[derive(Debug, Clone)]
struct Bucket {
    allowance: Allowance,
    /// When it will be full again, if nobody takes from it.
    full_at: Timestamp,
    /// Of [`PARTS`]: the rate that is used now.
    parts: u32,
    /// EC2 asked not to be called before.
    not_before: Timestamp,
}

impl Bucket {
    fn interval(&self) -> Duration {
        self.allowance.interval * PARTS / self.parts
    }

    /// When the next token is there.
    fn next(&self, now: Timestamp) -> Timestamp {
        let others = self.interval() * self.allowance.burst.saturating_sub(1);
        let empty_until = now + (self.full_at - now).saturating_sub(others);
        empty_until.max(self.not_before)
    }
}

/// The buckets.
#[derive(Debug, Clone)]
pub struct Budget {
    part: Part,
    buckets: BTreeMap<&'static str, Bucket>,
}

impl Budget {
    /// Full buckets.
    pub fn new(part: Part) -> Budget {
        Budget { part, buckets: BTreeMap::new() }
    }

    /// A turn for a call of an action: how long to wait for it. `random` spreads the waits of those who wait for the same.
    ///
    /// # Errors
    /// The wait, when it would be longer than `longest`: then no turn is taken.
    pub fn take(
        &mut self,
        action: &'static str,
        longest: Duration,
        random: u32,
        now: Timestamp,
    ) -> Result<Duration, Duration> {
        let bucket = self.bucket(action, now);
        let wait = bucket.next(now) - now;
        let wait = wait + jitter(wait, random);
        if wait > longest {
            return Err(wait);
        }
        bucket.full_at = bucket.full_at.max(now) + bucket.interval();
        Ok(wait)
    }

    /// A call was throttled; EC2 may have asked for a wait. The bucket is as empty as EC2's.
    pub fn throttled(&mut self, action: &'static str, asked: Option<Duration>, now: Timestamp) {
        let bucket = self.bucket(action, now);
        bucket.parts = (bucket.parts / 2).max(PARTS_LEAST);
        let empty = now + bucket.interval() * bucket.allowance.burst;
        bucket.full_at = bucket.full_at.max(empty);
        bucket.not_before = bucket.not_before.max(now + asked.unwrap_or_default());
    }

    /// A call was answered, and not throttled.
    pub fn answered(&mut self, action: &'static str, now: Timestamp) {
        let bucket = self.bucket(action, now);
        bucket.parts = (bucket.parts + 1).min(PARTS);
    }

    fn bucket(&mut self, action: &'static str, now: Timestamp) -> &mut Bucket {
        let allowance = self.part.of(action);
        let full = || Bucket { allowance, full_at: now, parts: PARTS, not_before: Timestamp::ZERO };
        self.buckets.entry(action).or_insert_with(full)
    }
}

/// Up to half of the wait, and up to half a second.
fn jitter(wait: Duration, random: u32) -> Duration {
    let most = wait.min(JITTER_MOST) / 2;
    let nanos = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(u64::try_from((u128::from(nanos) * u128::from(random)) >> 32).unwrap_or(nanos))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CREATE: &str = "CreateNetworkInterface";
    const DESCRIBE: &str = "DescribeNetworkInterfaces";
    const LONG: Duration = Duration::from_secs(1000);

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(1_000_000 + millis)
    }

    fn budget() -> Budget {
        Budget::new(Part::OfAnAccount)
    }

    /// Takes all that are there at once.
    fn burst(budget: &mut Budget, action: &'static str, now: Timestamp) -> u32 {
        (0..).find(|_| budget.take(action, Duration::ZERO, 0, now).is_err()).unwrap_or(0)
    }

    #[test]
    fn a_burst_goes_at_once_and_what_follows_at_the_rate() {
        let mut budget = budget();
        assert_eq!((burst(&mut budget, CREATE, at(0)), burst(&mut budget, DESCRIBE, at(0))), (10, 20));
        assert_eq!(budget.take(CREATE, LONG, 0, at(0)), Ok(Duration::from_secs(2)));
        assert_eq!(
            budget.take(CREATE, LONG, 0, at(0)),
            Ok(Duration::from_secs(4)),
            "behind the one that waits"
        );
        assert_eq!(burst(&mut budget, DESCRIBE, at(1000)), 2, "two a second, whatever else is asked for");
        assert_eq!(burst(&mut budget, CREATE, at(60_000)), 10, "no more than the bucket holds");
    }

    #[test]
    fn a_wait_that_is_too_long_is_told_and_takes_nothing() {
        let mut budget = budget();
        burst(&mut budget, CREATE, at(0));
        let two = Duration::from_secs(2);
        for _ in 0..3 {
            assert_eq!(budget.take(CREATE, Duration::from_secs(1), 0, at(0)), Err(two));
        }
        assert_eq!(budget.take(CREATE, two, 0, at(0)), Ok(two));
    }

    #[test]
    fn a_throttled_call_halves_the_rate_and_successes_restore_it_slowly() {
        let mut budget = budget();
        budget.throttled(CREATE, None, at(0));
        assert_eq!(
            budget.take(CREATE, LONG, 0, at(0)),
            Ok(Duration::from_secs(4)),
            "the bucket is empty, too"
        );
        budget.throttled(CREATE, None, at(100_000));
        assert_eq!(budget.take(CREATE, LONG, 0, at(100_000)), Ok(Duration::from_secs(8)));
        for _ in 0..10 {
            budget.throttled(CREATE, None, at(200_000));
        }
        assert_eq!(
            budget.take(CREATE, LONG, 0, at(200_000)),
            Ok(Duration::from_secs(32)),
            "a sixteenth is the least"
        );
        for _ in 0..20 {
            budget.answered(CREATE, at(300_000));
        }
        assert_eq!(budget.buckets[CREATE].interval(), Duration::from_secs(2) * 64 / 24);
        for _ in 0..100 {
            budget.answered(CREATE, at(300_000));
        }
        assert_eq!(budget.buckets[CREATE].interval(), Duration::from_secs(2));
        assert_eq!(burst(&mut budget, DESCRIBE, at(0)), 20, "another action is not concerned");
    }

    #[test]
    fn what_ec2_asks_for_is_waited() {
        let mut budget = Budget::new(Part::Alone);
        budget.throttled(CREATE, Some(Duration::from_secs(7)), at(0));
        assert_eq!(budget.take(CREATE, LONG, 0, at(1000)), Ok(Duration::from_secs(6)));
        assert_eq!(budget.take(CREATE, LONG, 0, at(7000)), Ok(Duration::ZERO));
    }

    #[test]
    fn waits_are_spread_and_no_wait_stays_none() {
        let mut budget = budget();
        assert_eq!(budget.take(CREATE, LONG, u32::MAX, at(0)), Ok(Duration::ZERO));
        burst(&mut budget, CREATE, at(0));
        let spread = budget.take(CREATE, LONG, u32::MAX, at(0)).unwrap();
        assert!(spread > Duration::from_millis(2400) && spread < Duration::from_millis(2500), "{spread:?}");
    }

    #[test]
    fn one_who_is_alone_does_not_wait() {
        let mut budget = Budget::new(Part::Alone);
        assert_eq!(burst(&mut budget, CREATE, at(0)), 1000);
    }

    proptest! {
        #[test]
        fn no_more_calls_begin_than_the_bucket_allows(
            asks in prop::collection::vec((0u64..500, any::<u32>(), 0u8..20), 1..200),
        ) {
            let mut budget = budget();
            let (mut now, mut begun) = (0, Vec::new());
            for (later, random, luck) in asks {
                now += later;
                match (luck, budget.take(CREATE, Duration::from_secs(20), random, at(now))) {
                    (0, _) => budget.throttled(CREATE, None, at(now)),
                    (1..9, _) => budget.answered(CREATE, at(now)),
                    _ => {}
                }
                if let Ok(wait) = budget.clone().take(CREATE, LONG, random, at(now)) {
                    prop_assert!(wait <= Duration::from_secs(20 * 32 + 1), "waits are bounded: {:?}", wait);
                }
                if let Ok(wait) = budget.take(CREATE, Duration::from_secs(20), random, at(now)) {
                    begun.push(now + u64::try_from(wait.as_millis()).unwrap());
                }
            }
            begun.sort_unstable();
            // In any span: the burst, and one per two seconds; jitter may move each by half a second.
            for (n, from) in begun.iter().enumerate() {
                for (m, to) in begun.iter().enumerate().skip(n) {
                    let most = 10 + (to - from + 1000) / 2000 + 1;
                    prop_assert!((m - n) as u64 <= most, "{} calls in {} ms", m - n + 1, to - from);
                }
            }
        }
    }
}
