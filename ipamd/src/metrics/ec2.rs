//! What calls to EC2 cost beside the calls: waits for their turn, and throttled ones.
//!
//! Owns the three counters by action. Does not wait: `executors::budget` does.

use super::defs;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ActionLabels {
    call: &'static str,
}

/// Waits and throttled calls.
#[derive(Debug, Default)]
pub struct Ec2Waits {
    waits: Family<ActionLabels, Counter>,
    seconds: Family<ActionLabels, Counter<f64, AtomicU64>>,
    throttled: Family<ActionLabels, Counter>,
}

impl Ec2Waits {
    /// A call waited for its turn.
    pub fn waited(&self, call: &'static str, waited: Duration) {
        self.waits.get_or_create(&ActionLabels { call }).inc();
        self.seconds.get_or_create(&ActionLabels { call }).inc_by(waited.as_secs_f64());
    }

    /// EC2 throttled a call.
    pub fn throttled(&self, call: &'static str) {
        self.throttled.get_or_create(&ActionLabels { call }).inc();
    }

    /// How many calls of an action waited, and how many were throttled.
    pub fn counts(&self, call: &'static str) -> (u64, u64) {
        let of = |family: &Family<ActionLabels, Counter>| family.get_or_create(&ActionLabels { call }).get();
        (of(&self.waits), of(&self.throttled))
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(defs::EC2_WAITS.name, defs::EC2_WAITS.help, self.waits.clone());
        registry.register(defs::EC2_WAIT_SECONDS.name, defs::EC2_WAIT_SECONDS.help, self.seconds.clone());
        registry.register(defs::EC2_THROTTLED.name, defs::EC2_THROTTLED.help, self.throttled.clone());
    }
}
