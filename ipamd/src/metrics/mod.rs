//! The metrics.
//!
//! Owns the table of definitions (`defs`), the counters behind it, and how they are shown (`expose`). Gauges are
//! computed from the owner's state at scrape, so they cannot drift from it. Interprets nothing.

pub mod defs;
pub mod ec2;
pub mod expose;

use crate::debug::query::Snapshot;
use crate::store::Replaced;
use crate::telemetry;
use ipamd_core::record::EniState;
use ipamd_netlink::stats::Counters;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The verbs that are timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    /// CNI ADD.
    Add,
    /// CNI DEL.
    Del,
    /// CNI CHECK.
    Check,
    /// CNI GC.
    Gc,
}

/// What became of an attachment that a GC did not name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Unnamed {
    /// Its network namespace is gone.
    Freed,
    /// Its network namespace lives, or nobody knows.
    Kept,
}

/// The phases of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// From its arrival to its first effect.
    Queue,
    /// From its first effect to the commit.
    Commit,
    /// From its first effect to the end of wiring.
    Wire,
    /// From its arrival to its end.
    Total,
}

/// How something ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Done.
    Ok,
    /// Refused before anything was done.
    Refused,
    /// Failed on the way and undone.
    Failed,
    /// Its plugin went away.
    Cancelled,
}

/// Why a connection or request was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refused {
    /// Too many connections.
    TooMany,
    /// The caller is not root.
    NotRoot,
    /// It did not arrive whole in time.
    Slow,
    /// It is no frame.
    BadFrame,
    /// It is no request that is served.
    BadRequest,
}

/// What became of a file in the spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TombstoneOutcome {
    /// Its DEL was done.
    Done,
    /// There was nothing to do.
    Dropped,
    /// It was no tombstone.
    Rejected,
}

macro_rules! label_values {
    ($kind:ident: $($value:ident = $text:literal),*) => {
        impl EncodeLabelValue for $kind {
            fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
                let text = match self {
                    $($kind::$value => $text),*
                };
                std::fmt::Write::write_str(encoder, text)
            }
        }
    };
}
label_values!(Verb: Add = "add", Del = "del", Check = "check", Gc = "gc");
label_values!(Unnamed: Freed = "freed", Kept = "kept");
label_values!(Phase: Queue = "queue", Commit = "commit", Wire = "wire", Total = "total");
label_values!(Outcome: Ok = "ok", Refused = "refused", Failed = "failed", Cancelled = "cancelled");
label_values!(Refused: TooMany = "too_many", NotRoot = "not_root", Slow = "slow", BadFrame = "bad_frame",
    BadRequest = "bad_request");
label_values!(Replaced: Damaged = "damaged", TakenAway = "taken_away", Foreign = "foreign");

label_values!(TombstoneOutcome: Done = "done", Dropped = "dropped", Rejected = "rejected");

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TombstoneLabels {
    outcome: TombstoneOutcome,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseLabels {
    verb: Verb,
    phase: Phase,
    outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VerbLabels {
    verb: Verb,
    outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RepairLabels {
    trigger: &'static str,
    thing: &'static str,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TriggerLabels {
    trigger: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    kind: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SwitchLabels {
    switch: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UnnamedLabels {
    outcome: Unnamed,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: Refused,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReplacedLabels {
    reason: Replaced,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    call: String,
    outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    state: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReconcilerLabels {
    reconciler: String,
    outcome: Outcome,
}

/// The counters.
#[derive(Debug)]
pub struct Metrics {
    phases: Family<PhaseLabels, Histogram, fn() -> Histogram>,
    operations: Family<VerbLabels, Counter>,
    commits: Family<OutcomeLabels, Counter>,
    commit_seconds: Histogram,
    commit_batch: Histogram,
    unnamed: Family<UnnamedLabels, Counter>,
    reaped: Counter,
    kept: Counter,
    reap_seconds: Histogram,
    tombstones: Family<TombstoneLabels, Counter>,
    host_steps: Family<OutcomeLabels, Counter>,
    repairs: Family<RepairLabels, Counter>,
    broken: Family<TriggerLabels, Counter>,
    refused: Family<ReasonLabels, Counter>,
    ec2_calls: Family<CallLabels, Counter>,
    store_replaced: Family<ReplacedLabels, Counter>,
    /// Waits for EC2, and throttled calls.
    pub ec2: ec2::Ec2Waits,
    netlink: Arc<Counters>,
}

/// 50 µs to 10 s: an ADD takes about a millisecond, a stuck one seconds.
const SECONDS: [f64; 16] =
    [5e-5, 1e-4, 2e-4, 3e-4, 5e-4, 7.5e-4, 1e-3, 1.5e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 1e-1, 5e-1, 2.0, 10.0];
const BATCHES: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

fn seconds() -> Histogram {
    Histogram::new(SECONDS)
}

impl Metrics {
    /// New counters; netlink's own are read where they are.
    pub fn new(netlink: Arc<Counters>) -> Metrics {
        Metrics {
            phases: Family::new_with_constructor(seconds as fn() -> Histogram),
            operations: Family::default(),
            commits: Family::default(),
            commit_seconds: seconds(),
            commit_batch: Histogram::new(BATCHES),
            unnamed: Family::default(),
            reaped: Counter::default(),
            kept: Counter::default(),
            reap_seconds: seconds(),
            tombstones: Family::default(),
            host_steps: Family::default(),
            repairs: Family::default(),
            broken: Family::default(),
            refused: Family::default(),
            ec2_calls: Family::default(),
            store_replaced: Family::default(),
            ec2: ec2::Ec2Waits::default(),
            netlink,
        }
    }

    /// One phase of an operation; the total counts the operation too.
    pub fn phase(&self, verb: Verb, phase: Phase, outcome: Outcome, took: Duration) {
        self.phases.get_or_create(&PhaseLabels { verb, phase, outcome }).observe(took.as_secs_f64());
        if phase == Phase::Total {
            self.operations.get_or_create(&VerbLabels { verb, outcome }).inc();
        }
    }

    /// One transaction of the store.
    pub fn commit(&self, took: Duration, batches: usize, durable: bool) {
        let outcome = if durable { Outcome::Ok } else { Outcome::Failed };
        self.commits.get_or_create(&OutcomeLabels { outcome }).inc();
        self.commit_seconds.observe(took.as_secs_f64());
        self.commit_batch.observe(batches as f64);
    }

    /// The store's file was replaced by a new one.
    pub fn store_replaced(&self, why: Replaced) {
        self.store_replaced.get_or_create(&ReplacedLabels { reason: why }).inc();
    }

    /// One GC, with what became of the attachments that it did not name.
    pub fn collected(&self, freed: usize, kept: usize, outcome: Outcome, took: Duration) {
        self.phase(Verb::Gc, Phase::Total, outcome, took);
        for (outcome, count) in [(Unnamed::Freed, freed), (Unnamed::Kept, kept)] {
            self.unnamed.get_or_create(&UnnamedLabels { outcome }).inc_by(count as u64);
        }
    }

    /// One batch of the reaper.
    pub fn reaped(&self, gone: usize, kept: usize, took: Duration) {
        self.reaped.inc_by(gone as u64);
        self.kept.inc_by(kept as u64);
        self.reap_seconds.observe(took.as_secs_f64());
    }

    /// A file of the spool.
    pub fn tombstone(&self, outcome: TombstoneOutcome) {
        self.tombstones.get_or_create(&TombstoneLabels { outcome }).inc();
    }

    /// Steps on the host's own network.
    pub fn host_steps(&self, steps: usize, failed: usize) {
        let count =
            |outcome, n: usize| self.host_steps.get_or_create(&OutcomeLabels { outcome }).inc_by(n as u64);
        count(Outcome::Ok, steps.saturating_sub(failed));
        count(Outcome::Failed, failed);
    }

    /// Steps that were repairs.
    pub fn repaired(&self, trigger: &'static str, thing: &'static str, reason: &'static str, steps: usize) {
        self.repairs.get_or_create(&RepairLabels { trigger, thing, reason }).inc_by(steps as u64);
    }

    /// An attachment whose link is gone.
    pub fn broke(&self, trigger: &'static str) {
        self.broken.get_or_create(&TriggerLabels { trigger }).inc();
    }

    /// One change that was asked of EC2.
    pub fn ec2_call(&self, call: &'static str, done: bool) {
        let outcome = if done { Outcome::Ok } else { Outcome::Failed };
        self.ec2_calls.get_or_create(&CallLabels { call: call.to_owned(), outcome }).inc();
    }

    /// A connection or request that was refused.
    pub fn refused(&self, reason: Refused) {
        self.refused.get_or_create(&ReasonLabels { reason }).inc();
    }

    /// Everything, as OpenMetrics text.
    pub fn render(&self, snapshot: &Snapshot) -> String {
        let mut registry = Registry::with_prefix("eni_ipamd");
        self.register(&mut registry);
        register_state(&mut registry, snapshot);
        let mut text = String::new();
        encode(&mut text, &registry).expect("writing to a string does not fail");
        text
    }

    fn register(&self, registry: &mut Registry) {
        macro_rules! put {
            ($def:expr, $metric:expr) => {
                registry.register($def.name, $def.help, $metric.clone())
            };
        }
        put!(defs::OPERATION_SECONDS, self.phases);
        put!(defs::OPERATIONS, self.operations);
        put!(defs::COMMITS, self.commits);
        put!(defs::COMMIT_SECONDS, self.commit_seconds);
        put!(defs::COMMIT_BATCH, self.commit_batch);
        put!(defs::STORE_REPLACED, self.store_replaced);
        put!(defs::GC_UNNAMED, self.unnamed);
        put!(defs::REAPED_LINKS, self.reaped);
        put!(defs::KEPT_LINKS, self.kept);
        put!(defs::REAP_SECONDS, self.reap_seconds);
        put!(defs::TOMBSTONES, self.tombstones);
        put!(defs::HOST_STEPS, self.host_steps);
        put!(defs::HOST_REPAIRS, self.repairs);
        put!(defs::BROKEN, self.broken);
        put!(defs::REFUSED, self.refused);
        put!(defs::EC2_CHANGES, self.ec2_calls);
        self.ec2.register(registry);
        let netlink = [
            (defs::NETLINK_MESSAGES, &self.netlink.messages),
            (defs::NETLINK_SENDS, &self.netlink.sends),
            (defs::NETLINK_ERRORS, &self.netlink.errors),
            (defs::NETFILTER_ERRORS, &self.netlink.netfilter_errors),
            (defs::NFT_RUNS, &self.netlink.nft_runs),
            (defs::IPTABLES_RUNS, &self.netlink.iptables_runs),
        ];
        let netlink = netlink.map(|(def, value)| (def, value.load(Ordering::Relaxed)));
        for (def, value) in netlink.into_iter().chain([(defs::LOG_LINES_DROPPED, telemetry::dropped())]) {
            let counter: Counter = Counter::default();
            counter.inc_by(value);
            put!(def, counter);
        }
    }
}

/// The gauges, from the owner's state.
fn register_state(registry: &mut Registry, snapshot: &Snapshot) {
    let Some(status) = &snapshot.status else { return };
    let by_state = |registry: &mut Registry, def: &defs::Def, counts: BTreeMap<String, usize>| {
        let family = Family::<StateLabels, Gauge>::default();
        for (state, count) in counts {
            family.get_or_create(&StateLabels { state }).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        registry.register(def.name, def.help, family);
    };
    let pool = status.pool;
    let pool = [
        ("free", pool.free),
        ("allocated", pool.allocated),
        ("cooling", pool.cooling),
        ("quarantined", pool.quarantined),
    ];
    by_state(registry, &defs::POOL_ADDRESSES, pool.into_iter().map(|(s, n)| (s.to_owned(), n)).collect());
    let known = ["adding", "live", "broken", "dying"].map(|s| (s.to_owned(), 0));
    let mut attachments = BTreeMap::from(known);
    attachments.extend(status.attachments.clone());
    by_state(registry, &defs::ATTACHMENTS, attachments);
    let mut enis: BTreeMap<String, usize> = EniState::ALL.map(|s| (s.name().to_owned(), 0)).into();
    for (eni, _) in &snapshot.enis {
        *enis.entry(eni.state.name().to_owned()).or_default() += 1;
    }
    by_state(registry, &defs::ENIS, enis);
    let gauge = |registry: &mut Registry, def: &defs::Def, value: i64| {
        let gauge: Gauge = Gauge::default();
        gauge.set(value);
        registry.register(def.name, def.help, gauge);
    };
    gauge(registry, &defs::READY, i64::from(status.ready));
    let unnamed = i64::try_from(snapshot.unnamed_attachments).unwrap_or(i64::MAX);
    gauge(registry, &defs::UNNAMED_ATTACHMENTS, unnamed);
    gauge(registry, &defs::ADDS_UNDER_WAY, i64::try_from(snapshot.adds_under_way).unwrap_or(i64::MAX));
    let passes = Family::<ReconcilerLabels, Counter>::default();
    for view in &status.reconcilers {
        for (outcome, count) in [(Outcome::Ok, view.passes), (Outcome::Failed, view.failures)] {
            passes.get_or_create(&ReconcilerLabels { reconciler: view.name.clone(), outcome }).inc_by(count);
        }
    }
    let reports = Family::<KindLabels, Gauge>::default();
    for (kind, count) in status.host_reports.clone() {
        reports.get_or_create(&KindLabels { kind }).set(i64::try_from(count).unwrap_or(i64::MAX));
    }
    let switches = Family::<SwitchLabels, Gauge>::default();
    for view in &status.switches {
        switches.get_or_create(&SwitchLabels { switch: view.name.clone() }).set(i64::from(view.on));
    }
    registry.register(defs::SWITCHES.name, defs::SWITCHES.help, switches);
    let age = status.cloud_age_ms.map_or(0, |ms| ms / 1000);
    gauge(registry, &defs::CLOUD_AGE_SECONDS, i64::try_from(age).unwrap_or(i64::MAX));
    registry.register(defs::HOST_REPORTS.name, defs::HOST_REPORTS.help, reports);
    registry.register(defs::RECONCILER_PASSES.name, defs::RECONCILER_PASSES.help, passes);
}
