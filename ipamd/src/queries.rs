//! What `debug.sock` and `/metrics` ask, answered from the owner's state.
//!
//! Owns the way from the owner to the snapshot that the outer runtime formats. Copies no attachment: they are behind
//! Arc. Runs on the main loop.

use crate::debug::query::{Snapshot, Want};
use eni_proto::debug::{StartStep, StatusView, SwitchView};
use ipamd_core::owner::{Owner, Switch};
use ipamd_core::time::Timestamp;
use std::cell::RefCell;
use std::time::Duration;

/// What of the process itself is shown.
#[derive(Debug, Clone)]
pub struct About {
    /// When it began.
    pub began: Timestamp,
    /// The steps of its start, in order.
    pub start: RefCell<Vec<StartStep>>,
    /// What the start found worth a word, for as long as it runs.
    pub notes: Vec<String>,
}

/// Puts down that a step of the start is done; when, in milliseconds since the process began.
pub fn step(about: &About, step: &str, now: Timestamp) -> u64 {
    let at_ms = millis(now - about.began);
    about.start.borrow_mut().push(StartStep { step: step.to_owned(), at_ms });
    at_ms
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// How the switches stand.
fn switches(owner: &Owner) -> Vec<SwitchView> {
    let view = |switch: Switch| {
        let (on, configured) = owner.switch(switch);
        SwitchView { name: switch.name().to_owned(), on, configured }
    };
    Switch::ALL.map(view).into()
}

/// The steps of the start: the process's own, and those that the owner has seen done.
fn start(owner: &Owner, about: &About) -> Vec<StartStep> {
    let later = owner
        .start_steps()
        .iter()
        .map(|(at, text)| StartStep { step: text.clone(), at_ms: millis(at.since(about.began)) });
    let mut steps: Vec<StartStep> = about.start.borrow().iter().cloned().chain(later).collect();
    steps.sort_by_key(|step| step.at_ms);
    steps
}

/// Answers one query.
pub fn answer(owner: &mut Owner, want: Want, about: &About, now: Timestamp) -> Snapshot {
    let counts = owner.counts(now);
    let mut snapshot = Snapshot {
        now,
        status: None,
        switches: Vec::new(),
        limits: None,
        addresses: Vec::new(),
        enis: Vec::new(),
        attachments: Vec::new(),
        adds_under_way: owner.adds_under_way(),
        unnamed_attachments: owner.unnamed_attachments(),
    };
    match want {
        Want::Status => snapshot.status = Some(status(owner, counts, about, now)),
        Want::Pool => snapshot.addresses = owner.pool().addresses().cloned().collect(),
        Want::Enis => {
            snapshot.enis = enis(owner);
            snapshot.addresses = owner.pool().addresses().cloned().collect();
        }
        Want::Limits => {
            snapshot.limits = owner.limits_view();
            snapshot.status = Some(status(owner, counts, about, now));
        }
        Want::Switches | Want::Switch { .. } => snapshot.switches = switches(owner),
        Want::Attachments => snapshot.attachments = owner.attachments(),
        Want::Gauges => {
            snapshot.status = Some(status(owner, counts, about, now));
            snapshot.enis = enis(owner);
        }
    }
    snapshot
}

fn enis(owner: &Owner) -> Vec<(ipamd_core::record::EniRecord, Option<String>)> {
    owner.pool().enis().map(|e| (e.record.clone(), e.link.as_ref().map(|(_, name)| name.clone()))).collect()
}

fn status(owner: &Owner, pool: eni_proto::debug::PoolCounts, about: &About, now: Timestamp) -> StatusView {
    let health = owner.health();
    let instance = owner.instance();
    let attachments = owner.attachment_counts().into_iter().map(|(state, n)| (state.to_owned(), n)).collect();
    let mut reasons = health.reasons.clone();
    reasons.extend(about.notes.iter().cloned());
    StatusView {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        ready: health.ready,
        reasons,
        cni_status: health.code().map_or(0, u32::from),
        instance: instance.map(|i| i.id.clone()),
        instance_type: instance.map(|i| i.instance_type.clone()),
        pool,
        attachments,
        start: start(owner, about),
        uptime_ms: millis(now - about.began),
        reconcilers: owner.reconcilers(),
        host_reports: owner.host_reports().into_iter().map(|(kind, n)| (kind.to_owned(), n)).collect(),
        switches: switches(owner),
        cloud_age_ms: owner.cloud_age(now).map(millis),
    }
}
