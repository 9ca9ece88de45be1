//! What `debug.sock` and `/metrics` ask, answered from the owner's state.
//!
//! Owns the way from the owner to the snapshot that the outer runtime formats. Copies no attachment: they are behind
//! Arc. Runs on the main loop.

use crate::debug::query::{Snapshot, Want};
use eni_proto::debug::{StartStep, StatusView};
use ipamd_core::owner::Owner;
use ipamd_core::time::Timestamp;

/// What of the process itself is shown.
#[derive(Debug, Clone)]
pub struct About {
    /// When it began.
    pub began: Timestamp,
    /// The steps of its start, in order.
    pub start: Vec<StartStep>,
    /// What the start found worth a word, for as long as it runs.
    pub notes: Vec<String>,
}

/// Answers one query.
pub fn answer(owner: &mut Owner, want: Want, about: &About, now: Timestamp) -> Snapshot {
    let counts = owner.counts(now);
    let mut snapshot = Snapshot {
        now,
        status: None,
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
        start: about.start.clone(),
        uptime_ms: u64::try_from((now - about.began).as_millis()).unwrap_or(u64::MAX),
        reconcilers: owner.reconcilers(),
        host_reports: owner.host_reports().into_iter().map(|(kind, n)| (kind.to_owned(), n)).collect(),
    }
}
