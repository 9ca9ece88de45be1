//! What stands before every call of EC2: how often it may be made, and whether it may be made at all.
//!
//! Owns the token buckets of the actions (EC2 developer guide, "Request throttling for the Amazon EC2 API": each
//! account has per Region one bucket per action, an empty one answers RequestLimitExceeded) and the actions that no
//! policy allows. Both are off until they are set.

use super::refusal::Refusal;
use ipamd_core::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The size of a token bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketSize {
    /// The most tokens that it holds; a call takes one. It is full at first.
    pub capacity: u32,
    /// How many come back per second.
    pub refill: u32,
}

/// "Non-mutating actions" of the table "Request token bucket sizes and refill rates".
pub const NON_MUTATING: BucketSize = BucketSize { capacity: 100, refill: 20 };
/// "Unfiltered and unpaginated non-mutating actions": DescribeNetworkInterfaces is one of them.
pub const UNFILTERED: BucketSize = BucketSize { capacity: 50, refill: 10 };
/// "Mutating actions": AttachNetworkInterface and DetachNetworkInterface are nowhere else.
pub const MUTATING: BucketSize = BucketSize { capacity: 50, refill: 5 };
/// "Uncategorized actions" have sizes of their own; those of [`UNCATEGORIZED`] all have this one.
pub const INTERFACE_ACTION: BucketSize = BucketSize { capacity: 100, refill: 5 };
/// The uncategorized actions among those that the model serves.
pub const UNCATEGORIZED: [&str; 5] = [
    "AssignPrivateIpAddresses",
    "CreateNetworkInterface",
    "DeleteNetworkInterface",
    "ModifyNetworkInterfaceAttribute",
    "UnassignPrivateIpAddresses",
];

/// The published size of an action's bucket; `bare` is a describe with neither a filter nor pages.
pub fn published(action: &str, bare: bool) -> BucketSize {
    match action {
        "DescribeNetworkInterfaces" if bare => UNFILTERED,
        action if UNCATEGORIZED.contains(&action) => INTERFACE_ACTION,
        action if action.starts_with("Describe") => NON_MUTATING,
        _ => MUTATING,
    }
}

/// How calls are throttled.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Throttling {
    /// Not at all.
    #[default]
    Off,
    /// By the buckets that EC2 publishes.
    Published,
    /// These actions by these buckets, all others not at all.
    Buckets(BTreeMap<String, BucketSize>),
}

/// A bucket, in billionths of a token, so that a nanosecond's refill is a whole number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Bucket {
    level: u64,
    at: Timestamp,
}

const TOKEN: u64 = 1_000_000_000;

/// The gate.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Gate {
    throttling: Throttling,
    buckets: BTreeMap<String, Bucket>,
    denied: BTreeSet<String>,
}

impl Gate {
    /// Sets how calls are throttled, with full buckets.
    pub(super) fn throttle(&mut self, throttling: Throttling) {
        self.throttling = throttling;
        self.buckets.clear();
    }

    /// Sets the actions that are not allowed.
    pub(super) fn deny(&mut self, actions: BTreeSet<String>) {
        self.denied = actions;
    }

    /// Lets a call in or says why not. Throttling comes first: it guards what would look at policies.
    pub(super) fn admit(&mut self, action: &str, bare: bool, now: Timestamp) -> Result<(), Refusal> {
        self.take_token(action, bare, now)?;
        self.allow(action)
    }

    /// Whether an action is allowed.
    pub(super) fn allow(&self, action: &str) -> Result<(), Refusal> {
        if self.denied.contains(action) { Err(Refusal::unauthorized(action)) } else { Ok(()) }
    }

    fn take_token(&mut self, action: &str, bare: bool, now: Timestamp) -> Result<(), Refusal> {
        let size = match &self.throttling {
            Throttling::Off => return Ok(()),
            Throttling::Published => published(action, bare),
            Throttling::Buckets(sizes) => match sizes.get(action) {
                Some(size) => *size,
                None => return Ok(()),
            },
        };
        let name = if size == UNFILTERED { format!("{action} unfiltered") } else { action.to_owned() };
        let most = u64::from(size.capacity) * TOKEN;
        let bucket = self.buckets.entry(name).or_insert(Bucket { level: most, at: now });
        let nanos = u64::try_from(now.since(bucket.at).as_nanos()).unwrap_or(u64::MAX);
        let refilled = bucket.level.saturating_add(nanos.saturating_mul(u64::from(size.refill)));
        *bucket = Bucket { level: refilled.min(most), at: bucket.at.max(now) };
        match bucket.level.checked_sub(TOKEN) {
            Some(left) => {
                bucket.level = left;
                Ok(())
            }
            None => Err(Refusal::throttled(action)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(gate: &mut Gate, action: &str, bare: bool, now: Timestamp) -> usize {
        (0..1_000).take_while(|_| gate.admit(action, bare, now).is_ok()).count()
    }

    #[test]
    fn the_published_buckets_empty_and_refill_by_action() {
        let mut gate = Gate::default();
        let at = Timestamp::from_millis;
        assert_eq!(admitted(&mut gate, "CreateNetworkInterface", false, at(0)), 1_000, "off");
        gate.throttle(Throttling::Published);
        assert_eq!(admitted(&mut gate, "CreateNetworkInterface", false, at(0)), 100);
        assert_eq!(admitted(&mut gate, "AttachNetworkInterface", false, at(0)), 50);
        assert_eq!(admitted(&mut gate, "DescribeNetworkInterfaces", false, at(0)), 100);
        assert_eq!(admitted(&mut gate, "DescribeNetworkInterfaces", true, at(0)), 50, "of its own bucket");
        assert_eq!(admitted(&mut gate, "CreateNetworkInterface", false, at(1_000)), 5);
        assert_eq!(admitted(&mut gate, "DescribeNetworkInterfaces", false, at(1_000)), 20);
        assert_eq!(admitted(&mut gate, "AttachNetworkInterface", false, at(1_200)), 6);
        assert_eq!(
            admitted(&mut gate, "AttachNetworkInterface", false, at(1_000_000)),
            50,
            "no more than full"
        );
    }

    #[test]
    fn a_bucket_of_ones_own_concerns_its_action_alone() {
        let mut gate = Gate::default();
        let sizes = BTreeMap::from([("X".to_owned(), BucketSize { capacity: 2, refill: 1 })]);
        gate.throttle(Throttling::Buckets(sizes));
        assert_eq!(admitted(&mut gate, "X", false, Timestamp::ZERO), 2);
        assert_eq!(admitted(&mut gate, "Y", false, Timestamp::ZERO), 1_000);
        assert_eq!(gate.admit("X", false, Timestamp::ZERO).unwrap_err().code, "RequestLimitExceeded");
    }

    #[test]
    fn what_is_denied_is_named() {
        let mut gate = Gate::default();
        gate.deny(BTreeSet::from(["CreateNetworkInterface".to_owned()]));
        let refusal = gate.admit("CreateNetworkInterface", false, Timestamp::ZERO).unwrap_err();
        assert_eq!(refusal.code, "UnauthorizedOperation");
        assert!(gate.admit("DeleteNetworkInterface", false, Timestamp::ZERO).is_ok());
    }
}
