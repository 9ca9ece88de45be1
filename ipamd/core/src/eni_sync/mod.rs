//! What EC2 says the ENIs are and hold, against what the pool holds.
//!
//! Owns the planner: which ENIs come, change their record or state, or are gone, which addresses come, which free
//! addresses go, which held ones are missing, which attributes at EC2 are not as wanted; where an ENI's primary address is
//! from (`primary`) and which ENIs are left alone (`standing`). EC2 is the truth. What the metadata service says fills
//! gaps and takes nothing away: it lags and is partial. Nothing is dropped on one look: two agreeing ones are needed, and
//! an address that a sandbox holds is kept whatever EC2 says. Does not ask EC2 nor change the pool.

mod primary;
mod standing;

pub use primary::{Source, Unaddressed};
pub use standing::{SkipReason, Skipped};

use crate::capacity::Seen;
use crate::cloud::{EniAttachmentStatus, EniObservation, INSTANCE_TAG, MetadataEni, Mutation};
use crate::pool::Pool;
use crate::record::{AddressState, EniRecord, EniState};
use eni_proto::ids::{EniId, InstanceId, MacAddr};
use ipnet::Ipv4Net;
use standing::Standing;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

/// The oldest look that is compared, counted from when it began: EC2 may have changed what an older one tells.
pub const OLDEST: Duration = Duration::from_secs(60);

/// The steps of one pass.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SyncPlan {
    /// ENIs that are new or differ from their record.
    pub enis: Vec<EniRecord>,
    /// What became of each managed ENI's attachment; one that is on its way is not named.
    pub seen: BTreeMap<EniId, Seen>,
    /// ENIs that we laid and that are attached to this instance no more.
    pub apart: Vec<EniId>,
    /// ENIs of the pool that EC2 does not know, or that are another instance's now.
    pub absent: Vec<EniId>,
    /// ENIs that carry our tag, are attached to nothing and have no record: left by a crash.
    pub strangers: Vec<EniRecord>,
    /// Primary addresses that EC2 did not tell this time, nor a record, and who told them.
    pub found: Vec<(EniId, Ipv4Addr, Source)>,
    /// ENIs whose own primary address nobody has told: they cannot be used yet.
    pub unaddressed: Vec<Unaddressed>,
    /// ENIs of this instance that are left alone.
    pub skipped: Vec<Skipped>,
    /// Device indexes on network card 0 that those have.
    pub foreign: BTreeSet<u32>,
    /// ENIs of the pool that a tag forbids to change.
    pub frozen: BTreeSet<EniId>,
    /// The security groups of new ENIs: the configured ones, else the primary's; none while these are not told.
    pub security_groups: Vec<String>,
    /// Attributes of our ENIs that are not as wanted: at most one change of an ENI.
    pub attributes: Vec<Mutation>,
    /// Addresses that are new.
    pub arrived: Vec<(Ipv4Addr, EniId)>,
    /// Addresses that are named, the known ones.
    pub named: Vec<(Ipv4Addr, EniId)>,
    /// Addresses that are not named and that nobody holds: free, cooling, or kept out of use for that.
    pub unnamed: Vec<Ipv4Addr>,
    /// Held addresses that are not named.
    pub missing: Vec<Ipv4Addr>,
}

/// What one look tells.
#[derive(Debug, Clone, Copy)]
pub struct Look<'a> {
    /// This instance.
    pub instance: &'a InstanceId,
    /// The ENIs: those attached to it, and, when `tagged`, those that carry our tag of it.
    pub enis: &'a [EniObservation],
    /// Whether ENIs that are attached to nothing were asked for, too: only then a missing one is absent.
    pub tagged: bool,
    /// ENIs that were changed since the look began: what it says of their attachment is old.
    pub stale: &'a BTreeSet<EniId>,
    /// What the metadata service says; none is unknown.
    pub metadata: Option<&'a [MetadataEni]>,
    /// What private DNS names were resolved to.
    pub resolved: &'a BTreeMap<EniId, Vec<Ipv4Addr>>,
    /// The security groups that our ENIs are to have; empty: the primary's.
    pub security_groups: &'a [String],
}

/// Compares one complete look at EC2 with the pool.
pub fn plan(pool: &Pool, look: &Look<'_>) -> SyncPlan {
    let mut plan = SyncPlan { security_groups: wanted_groups(look), ..SyncPlan::default() };
    let mut named = BTreeSet::new();
    for eni in look.enis {
        let here = eni.attachment.as_ref().filter(|a| a.instance == *look.instance);
        let known = pool.eni(&eni.id).is_some();
        let standing = standing::of(eni, here, look.instance, known);
        match (standing, here) {
            (Standing::Skipped(reason), Some(at)) => {
                // Another card has limits of its own, and its device indexes are not in our way.
                if at.network_card == 0 {
                    plan.foreign.insert(at.device_index);
                }
                let (device_index, network_card) = (at.device_index, at.network_card);
                plan.skipped.push(Skipped { eni: eni.id.clone(), device_index, network_card, reason });
            }
            (Standing::Managed | Standing::Frozen, None) if eni.attachment.is_some() => {
                // Somebody has attached it to another instance. It is that one's now, also when it has our tag.
                if known && !look.stale.contains(&eni.id) {
                    plan.absent.push(eni.id.clone());
                }
            }
            (Standing::Frozen, _) => {
                plan.frozen.insert(eni.id.clone());
                compare(pool, look, eni, &mut plan, &mut named);
            }
            (Standing::Managed, _) => {
                compare(pool, look, eni, &mut plan, &mut named);
                plan.attributes.extend(attribute(look, eni, &plan.security_groups));
            }
            (Standing::Skipped(_) | Standing::Ignored, _) => {}
        }
    }
    let told: BTreeSet<&EniId> = look.enis.iter().map(|e| &e.id).collect();
    let absent = pool.enis().filter(|e| !told.contains(&e.record.id) && !look.stale.contains(&e.record.id));
    // One that is attached is named by either way of asking; one that is not, by its tag alone.
    let absent = absent.filter(|e| look.tagged || e.record.state.is_laid());
    plan.absent.extend(absent.map(|e| e.record.id.clone()));
    not_named(pool, look, &named, &mut plan);
    plan
}

/// The addresses of the pool that a look does not name.
fn not_named(pool: &Pool, look: &Look<'_>, named: &BTreeSet<Ipv4Addr>, plan: &mut SyncPlan) {
    let kept = |record: &&crate::record::AddressRecord| {
        let eni = pool.eni(&record.eni).map(|e| e.record.state);
        !named.contains(&record.address)
            && !look.stale.contains(&record.eni)
            && eni.is_none_or(EniState::is_laid)
    };
    for record in pool.addresses().filter(kept) {
        match &record.state {
            AddressState::Free { .. }
            | AddressState::Cooling { .. }
            | AddressState::Quarantined { attachment: None, .. } => plan.unnamed.push(record.address),
            AddressState::Allocated { .. } | AddressState::Quarantined { .. } => {
                plan.missing.push(record.address);
            }
        }
    }
}

/// The security groups of our ENIs.
fn wanted_groups(look: &Look<'_>) -> Vec<String> {
    if !look.security_groups.is_empty() {
        return look.security_groups.to_vec();
    }
    let primary = look.enis.iter().find(|eni| {
        let at = eni.attachment.as_ref().filter(|at| at.instance == *look.instance);
        at.is_some_and(|at| at.device_index == 0 && at.network_card == 0)
    });
    primary.map(|eni| eni.security_groups.clone()).unwrap_or_default()
}

/// What of an ENI of ours is not as wanted at EC2, once it is attached. The primary's attributes are the operator's.
fn attribute(look: &Look<'_>, eni: &EniObservation, groups: &[String]) -> Option<Mutation> {
    let at = eni.attachment.as_ref().filter(|at| at.status == EniAttachmentStatus::Attached)?;
    let ours = eni.tags.get(INSTANCE_TAG).is_some_and(|tag| tag == look.instance.as_str());
    if at.device_index == 0 || !ours || look.stale.contains(&eni.id) {
        return None;
    }
    if let Some(attachment) = at.id.clone().filter(|_| !at.delete_on_termination) {
        // AttachNetworkInterface has no parameter for it: without it the ENI outlives its instance.
        return Some(Mutation::SetDeleteOnTermination { eni: eni.id.clone(), attachment });
    }
    let set = |groups: &[String]| groups.iter().cloned().collect::<BTreeSet<_>>();
    // None at all is what was not told: every ENI has one.
    let differ = !groups.is_empty() && !eni.security_groups.is_empty();
    (differ && set(groups) != set(&eni.security_groups))
        .then(|| Mutation::SetSecurityGroups { eni: eni.id.clone(), security_groups: groups.to_vec() })
}

/// One managed ENI that is attached here or to nothing.
fn compare(
    pool: &Pool,
    look: &Look<'_>,
    eni: &EniObservation,
    plan: &mut SyncPlan,
    named: &mut BTreeSet<Ipv4Addr>,
) {
    let known = pool.eni(&eni.id).map(|e| &e.record);
    let status = eni.attachment.as_ref().map(|a| a.status);
    let stale = look.stale.contains(&eni.id);
    let old_state = known.map(|k| k.state);
    let state = match (old_state, status) {
        (Some(state), _) if stale => state,
        (None | Some(EniState::Attaching | EniState::Lost), Some(EniAttachmentStatus::Attached)) => {
            EniState::InUse
        }
        (None, Some(EniAttachmentStatus::Attaching)) => EniState::Attaching,
        (None, Some(EniAttachmentStatus::Detaching)) => EniState::Detaching,
        (Some(EniState::Detaching), None) => EniState::Deleting,
        (None, None) => {
            plan.strangers.push(record(eni, Ipv4Addr::UNSPECIFIED, 0, EniState::Deleting));
            return;
        }
        (Some(state), _) => state,
    };
    if !stale && status.is_none() && old_state.is_some_and(|s| s.is_laid() || s == EniState::Lost) {
        // Detached by somebody else: nothing that it holds is routed to this node.
        plan.apart.push(eni.id.clone());
        return;
    }
    let index = eni.attachment.as_ref().map(|a| a.device_index).or(known.map(|k| k.device_index));
    let Some((primary, source)) = primary::find(eni, known, look.metadata, look.resolved) else {
        let name = eni.private_dns_name.clone().filter(|name| !name.is_empty());
        plan.unaddressed.push(Unaddressed { eni: eni.id.clone(), name });
        return;
    };
    if !matches!(source, Source::Ec2 | Source::Record) {
        plan.found.push((eni.id.clone(), primary, source));
    }
    let mut record = record(eni, primary, index.unwrap_or(0), state);
    if let Some(known) = known.filter(|_| stale) {
        // What has come or gone since is not in this look.
        record.prefixes.clone_from(&known.prefixes);
    }
    if known.is_none_or(|known| *known != record) {
        plan.enis.push(record);
    }
    if !stale {
        match status {
            None => {
                plan.seen.insert(eni.id.clone(), Seen::Available);
            }
            Some(EniAttachmentStatus::Attached) => {
                plan.seen.insert(eni.id.clone(), Seen::Attached);
            }
            Some(EniAttachmentStatus::Attaching | EniAttachmentStatus::Detaching) => {}
        }
    }
    if !matches!(state, EniState::Attaching | EniState::InUse | EniState::Draining) {
        return;
    }
    // The primary address is the node's own: it is never given to a container, whatever an answer lists.
    for address in eni.for_containers().filter(|a| *a != primary) {
        named.insert(address);
        if pool.is_given_back(address) {
            continue; // EC2 has it back, and does not say so yet
        }
        let list = if pool.address(address).is_some() { &mut plan.named } else { &mut plan.arrived };
        list.push((address, eni.id.clone()));
    }
}

/// The record of an ENI that EC2 describes, with the primary address that it is known by.
pub fn record(eni: &EniObservation, primary: Ipv4Addr, device_index: u32, state: EniState) -> EniRecord {
    EniRecord {
        id: eni.id.clone(),
        mac: eni.mac,
        device_index,
        subnet: eni.subnet.clone(),
        subnet_cidr: eni.subnet_cidr,
        primary,
        state,
        prefixes: eni.prefixes.clone(),
        attachment: eni.attachment.as_ref().and_then(|at| at.id.clone()),
    }
}

/// The VPC's CIDRs as the metadata service tells them of the primary ENI; none when it does not, which is unknown.
pub fn vpc_cidrs(metadata: Option<&[MetadataEni]>, primary_mac: MacAddr) -> Option<&[Ipv4Net]> {
    let primary = metadata?.iter().find(|told| told.mac == primary_mac)?;
    Some(primary.vpc_cidrs.as_slice()).filter(|cidrs| !cidrs.is_empty())
}

#[cfg(test)]
mod tests;
