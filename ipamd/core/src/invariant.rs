//! What must hold of the owner's state after every step.
//!
//! Owns the checks: pure, on state alone. The seeded scheduler runs them after each event, `ipamctl` may run them on
//! a live node. Does not repair anything.

use crate::owner::Owner;
use crate::record::{AddressState, AttachmentId, AttachmentRecord, AttachmentState};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

/// A broken invariant, in words.
pub type Violation = String;

/// All violations; none when the state is sound.
pub fn check(owner: &Owner) -> Vec<Violation> {
    let records = owner.attachments();
    let by_id: BTreeMap<AttachmentId, &Arc<AttachmentRecord>> = records.iter().map(|r| (r.id(), r)).collect();
    let mut broken = Vec::new();
    one_holder_each(&records, &mut broken);
    one_current_each(&records, &mut broken);
    one_link_each(&records, &mut broken);
    for record in owner.pool().addresses() {
        match &record.state {
            AddressState::Allocated { attachment }
            | AddressState::Quarantined { attachment: Some(attachment), .. } => match by_id.get(attachment) {
                Some(holder) if holder.state == AttachmentState::Dying => {
                    broken.push(format!("{} is allocated to {attachment:?}, which is dying", record.address));
                }
                Some(holder) if !holder.addresses.contains(&record.address) => {
                    broken.push(format!(
                        "{} is allocated to {attachment:?}, which does not name it",
                        record.address
                    ));
                }
                Some(_) => {}
                None => broken
                    .push(format!("{} is allocated to {attachment:?}, which is unknown", record.address)),
            },
            AddressState::Free { .. } => {
                if let Some(holder) = records.iter().find(|r| r.addresses.contains(&record.address)) {
                    broken.push(format!("{} is free while {:?} has it", record.address, holder.id()));
                }
            }
            AddressState::Cooling { .. } | AddressState::Quarantined { .. } => {}
        }
    }
    for record in records.iter().filter(|r| r.state != AttachmentState::Dying) {
        for address in &record.addresses {
            let held = owner.pool().address(*address).is_some_and(|a| match &a.state {
                AddressState::Allocated { attachment }
                | AddressState::Quarantined { attachment: Some(attachment), .. } => {
                    *attachment == record.id()
                }
                _ => false,
            });
            if !held {
                broken.push(format!("{:?} has {address}, which the pool does not hold for it", record.id()));
            }
        }
    }
    broken
}

fn one_holder_each(records: &[Arc<AttachmentRecord>], broken: &mut Vec<Violation>) {
    let mut holders: BTreeMap<Ipv4Addr, AttachmentId> = BTreeMap::new();
    for record in records.iter().filter(|r| r.state != AttachmentState::Dying) {
        for address in &record.addresses {
            if let Some(other) = holders.insert(*address, record.id()) {
                broken.push(format!("{address} is held by {other:?} and by {:?}", record.id()));
            }
        }
    }
}

fn one_current_each(records: &[Arc<AttachmentRecord>], broken: &mut Vec<Violation>) {
    let mut seen = BTreeSet::new();
    for record in records.iter().filter(|r| r.state != AttachmentState::Dying) {
        if !seen.insert(&record.key) {
            broken.push(format!("{} has two attachments that are not dying", record.key));
        }
    }
}

fn one_link_each(records: &[Arc<AttachmentRecord>], broken: &mut Vec<Violation>) {
    let mut links = BTreeMap::new();
    for record in records {
        if let Some(other) = links.insert(record.host_ifindex, record.id()) {
            broken.push(format!("ifindex {} is of {other:?} and of {:?}", record.host_ifindex, record.id()));
        }
    }
}
