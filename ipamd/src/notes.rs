//! Notes of the owner, to the log and the metrics.
//!
//! Owns the words and levels of the log and which metric a note moves. Decides nothing. Keys are fixed: `attachment`,
//! `address`, `reconciler`, `reason`, `ifindex`.

use crate::metrics::{Metrics, Outcome as MetricOutcome, Phase, TombstoneOutcome, Verb as MetricVerb};
use ipamd_core::limits::Source;
use ipamd_core::owner::event::{Ending, Note, Phases, Verb};
use std::time::Duration;
use tracing::{debug, info, warn};

/// Logs and counts one note.
pub fn record(note: &Note, metrics: &Metrics) {
    match note {
        Note::Ended { verb, key, ending, phases, error } => {
            count(metrics, *verb, *ending, phases);
            let took_us = u64::try_from(phases.total.as_micros()).unwrap_or(u64::MAX);
            match error {
                Some(error) => warn!(attachment = %key, ?verb, ?ending, took_us, %error, "operation ended"),
                None => debug!(attachment = %key, ?verb, ?ending, took_us, "operation ended"),
            }
        }
        Note::Allocated { address, attachment } => {
            debug!(%address, attachment = %attachment.key, "allocated");
        }
        Note::Dying { attachment, why } => debug!(attachment = %attachment.key, reason = ?why, "dying"),
        Note::Tombstone { key, dropped: None } => {
            metrics.tombstone(TombstoneOutcome::Done);
            info!(attachment = %key, "a DEL that came while ipamd did not answer is done now");
        }
        Note::Tombstone { key, dropped: Some(reason) } => {
            metrics.tombstone(TombstoneOutcome::Dropped);
            info!(attachment = %key, %reason, "a DEL that came while ipamd did not answer is dropped");
        }
        Note::Collected { network, named, freed, kept, ending, took } => {
            metrics.collected(freed.len(), kept.len(), outcome(*ending), *took);
            info!(%network, named, freed = freed.len(), kept = kept.len(), "GC: attachments that its list does not name");
            for attachment in freed {
                info!(attachment = %attachment.key, "freed: not named, and its network namespace is gone");
            }
            for (attachment, reason) in kept {
                info!(attachment = %attachment.key, %reason, "kept although it is not named");
            }
        }
        Note::Reaped { gone, kept, took } => {
            metrics.reaped(*gone, kept.len(), *took);
            for (ifindex, reason) in kept {
                warn!(ifindex, reason, "a dying link was kept");
            }
        }
        Note::Restored { attachment, state } => info!(attachment = %attachment.key, state, "restored"),
        Note::OrphanLink { ifindex, alias } => {
            info!(ifindex, alias, "a link of ours without a record is dying");
        }
        Note::Rebuilt { attachment } => {
            warn!(attachment = %attachment.key, "rebuilt from its link: the store was empty");
        }
        Note::WrittenAnew { cause } => warn!(reason = cause, "everything is written to the store anew"),
        Note::CommitFailed { cause } => {
            warn!(reason = cause, "a commit failed");
        }
        Note::UnwireFailed { attachment, cause } => {
            warn!(attachment = %attachment.key, reason = cause, "a sandbox was not taken off whole; its link is reaped");
        }
        Note::HostApplied { steps, failed } => {
            metrics.host_steps(*steps, failed.len());
            info!(steps, failed = failed.len(), "steps on the host's network");
            for error in failed {
                warn!(reason = %error, "a step failed");
            }
        }
        Note::Repaired { trigger, thing, reason, steps, first } => {
            let (trigger, thing, reason) = (trigger.name(), thing.name(), reason.name());
            metrics.repaired(trigger, thing, reason, *steps);
            let first = ipamd_netlink::describe(first);
            warn!(trigger, thing, reason, steps, first, "what others changed on the host is repaired");
        }
        Note::Broken { attachment, trigger } => {
            let trigger = trigger.name();
            metrics.broke(trigger);
            warn!(attachment = %attachment.key, trigger, reason = "its host link is gone", "an attachment is broken until its DEL");
        }
        Note::Reported { kind, text } => {
            warn!(kind = kind.name(), reason = text, "left alone on the host");
        }
        Note::PassFailed { reconciler, cause } => warn!(reconciler, reason = cause, "a pass failed"),
        Note::Ready => info!("ready: ADD is served"),
        of_cloud => record_cloud(of_cloud, metrics),
    }
}

/// Notes of the cloud, of the start and of switches.
fn record_cloud(note: &Note, metrics: &Metrics) {
    match note {
        Note::PoolChanged { arrived, left, missing } => {
            info!(arrived = arrived.len(), left = ?left, "the pool changed");
            if !missing.is_empty() {
                warn!(addresses = ?missing, "EC2 does not name addresses that containers hold: kept");
            }
        }
        Note::Mutated { call, eni, error } => {
            metrics.ec2_call(call, error.is_none());
            let eni = eni.as_ref().map(ToString::to_string).unwrap_or_default();
            match error {
                None => info!(call, eni, "EC2 was changed"),
                Some(error) => warn!(call, eni, reason = %error, "EC2 was not changed"),
            }
        }
        Note::EniState { eni, state } => info!(%eni, state = state.name(), "an ENI's state changed"),
        Note::EniGone { eni } => info!(%eni, "an ENI has left"),
        Note::StartStep { text } => info!(step = text, "start"),
        Note::Limits { source } => match source {
            Source::DescribeInstanceTypes => info!(%source, "what the instance type carries is known"),
            Source::Table(_) => warn!(%source, "what the instance type carries is known"),
        },
        Note::PrimaryFound { eni, address, source } => {
            warn!(%eni, %address, source = source.name(), "EC2 did not tell an ENI's primary address");
        }
        Note::Quarantined { taken, back } => {
            if !taken.is_empty() {
                warn!(addresses = ?taken, "quarantined: EC2 does not name them for this instance, and containers hold them");
            }
            if !back.is_empty() {
                info!(addresses = ?back, "out of quarantine: EC2 names them again");
            }
        }
        Note::Switched { switch, on } => {
            warn!(switch = switch.name(), on, "switched by debug.sock, until the next start");
        }
        // `record` has words for the others.
        _ => debug!(?note, "a note"),
    }
}

fn outcome(ending: Ending) -> MetricOutcome {
    match ending {
        Ending::Ok => MetricOutcome::Ok,
        Ending::Refused => MetricOutcome::Refused,
        Ending::Failed => MetricOutcome::Failed,
        Ending::Cancelled => MetricOutcome::Cancelled,
    }
}

fn count(metrics: &Metrics, verb: Verb, ending: Ending, phases: &Phases) {
    let verb = match verb {
        Verb::Add => MetricVerb::Add,
        Verb::Del => MetricVerb::Del,
        Verb::Check => MetricVerb::Check,
    };
    let outcome = outcome(ending);
    let phase = |phase, took: Option<Duration>| {
        if let Some(took) = took {
            metrics.phase(verb, phase, outcome, took);
        }
    };
    phase(Phase::Queue, phases.queue);
    phase(Phase::Commit, phases.commit);
    phase(Phase::Wire, phases.wire);
    phase(Phase::Total, Some(phases.total));
}
