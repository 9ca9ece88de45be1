//! What EC2 says the ENIs are and hold, against what the pool holds.
//!
//! Owns the planner: which ENIs come, change their state or are gone, which addresses come, which free addresses go,
//! which held ones are missing. ENIs that others attached are counted and left alone. Nothing is dropped on one look:
//! two agreeing ones are needed, and an address that a sandbox holds is kept whatever EC2 says. Does not ask EC2 nor
//! change the pool.

use crate::capacity::Seen;
use crate::cloud::{EniAttachmentStatus, EniObservation, INSTANCE_TAG};
use crate::pool::Pool;
use crate::record::{AddressState, EniRecord, EniState};
use eni_proto::ids::{EniId, InstanceId};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// The steps of one pass.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SyncPlan {
    /// ENIs that are new or differ from their record.
    pub enis: Vec<EniRecord>,
    /// What became of each managed ENI's attachment; one that is on its way is not named.
    pub seen: BTreeMap<EniId, Seen>,
    /// ENIs that we laid and that are attached to this instance no more.
    pub apart: Vec<EniId>,
    /// ENIs of the pool that EC2 does not know.
    pub absent: Vec<EniId>,
    /// ENIs that carry our tag, are attached to nothing and have no record: left by a crash.
    pub strangers: Vec<EniRecord>,
    /// ENIs whose own primary address nobody has told: they cannot be used yet.
    pub without_primary: Vec<EniId>,
    /// Device indexes of this instance that others' ENIs have.
    pub foreign: BTreeSet<u32>,
    /// Addresses that are new.
    pub arrived: Vec<(Ipv4Addr, EniId)>,
    /// Addresses that are named, the known ones.
    pub named: Vec<(Ipv4Addr, EniId)>,
    /// Free or cooling addresses that are not named.
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
}

/// Compares one complete look at EC2 with the pool.
pub fn plan(pool: &Pool, look: &Look<'_>) -> SyncPlan {
    let mut plan = SyncPlan::default();
    let mut named = BTreeSet::new();
    for eni in look.enis {
        let here = eni.attachment.as_ref().filter(|a| a.instance == *look.instance);
        let ours = eni.tags.get(INSTANCE_TAG).is_some_and(|tag| tag == look.instance.as_str());
        let managed = ours || here.is_some_and(|a| a.device_index == 0);
        match here {
            Some(at) if !managed => {
                plan.foreign.insert(at.device_index);
            }
            _ if !managed => {}
            _ => compare(pool, look, eni, &mut plan, &mut named),
        }
    }
    let told: BTreeSet<&EniId> = look.enis.iter().map(|e| &e.id).collect();
    let absent = pool.enis().filter(|e| !told.contains(&e.record.id) && !look.stale.contains(&e.record.id));
    // One that is attached is named by either way of asking; one that is not, by its tag alone.
    let absent = absent.filter(|e| look.tagged || e.record.state.is_laid());
    plan.absent = absent.map(|e| e.record.id.clone()).collect();
    let kept = |record: &&crate::record::AddressRecord| {
        let eni = pool.eni(&record.eni).map(|e| e.record.state);
        !named.contains(&record.address)
            && !look.stale.contains(&record.eni)
            && eni.is_none_or(EniState::is_laid)
    };
    for record in pool.addresses().filter(kept) {
        match record.state {
            AddressState::Free { .. } | AddressState::Cooling { .. } => plan.unnamed.push(record.address),
            AddressState::Allocated { .. } | AddressState::Quarantined { .. } => {
                plan.missing.push(record.address);
            }
        }
    }
    plan
}

/// One managed ENI.
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
    let Some(primary) = eni.primary.or(known.map(|k| k.primary)) else {
        plan.without_primary.push(eni.id.clone());
        return;
    };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::{EniAttachment, PLAIN_INTERFACE};
    use crate::time::Timestamp;
    use eni_proto::ids::MacAddr;

    fn instance() -> InstanceId {
        "i-1".parse().unwrap()
    }

    fn observation(device_index: u32, secondary: &[u8]) -> EniObservation {
        let at = EniAttachment {
            instance: instance(),
            device_index,
            status: EniAttachmentStatus::Attached,
            id: None,
            network_card: 0,
            delete_on_termination: true,
        };
        EniObservation {
            id: format!("eni-{device_index}").parse().unwrap(),
            mac: MacAddr([2, 0, 0, 0, 0, 1]),
            subnet: "subnet-1".parse().unwrap(),
            subnet_cidr: "10.0.1.0/24".parse().unwrap(),
            primary: Some(Ipv4Addr::new(10, 0, 1, 10)),
            secondary: secondary.iter().map(|n| Ipv4Addr::new(10, 0, 1, *n)).collect(),
            prefixes: Vec::new(),
            attachment: Some(at),
            security_groups: Vec::new(),
            tags: BTreeMap::new(),
            private_dns_name: None,
            kind: PLAIN_INTERFACE.to_owned(),
        }
    }

    fn ours(mut eni: EniObservation) -> EniObservation {
        eni.tags.insert(INSTANCE_TAG.into(), "i-1".into());
        eni
    }

    fn look(pool: &Pool, enis: &[EniObservation]) -> SyncPlan {
        let stale = BTreeSet::new();
        plan(pool, &Look { instance: &instance(), enis, tagged: true, stale: &stale })
    }

    #[test]
    fn the_primary_address_is_never_in_the_pool() {
        let plan = look(&Pool::default(), &[observation(0, &[10, 11, 12])]);
        assert_eq!(plan.enis.len(), 1);
        let arrived: Vec<u8> = plan.arrived.iter().map(|(a, _)| a.octets()[3]).collect();
        assert_eq!(arrived, [11, 12]);
    }

    #[test]
    fn others_enis_are_left_alone_and_counted() {
        let plan = look(&Pool::default(), &[observation(1, &[11])]);
        assert_eq!(plan, SyncPlan { foreign: BTreeSet::from([1]), ..SyncPlan::default() });
        let mut elsewhere = observation(0, &[11]);
        elsewhere.attachment.as_mut().unwrap().instance = "i-2".parse().unwrap();
        assert_eq!(look(&Pool::default(), &[elsewhere]), SyncPlan::default());
    }

    #[test]
    fn ours_are_known_by_their_tag_and_a_leftover_is_a_stranger() {
        let plan = look(&Pool::default(), &[ours(observation(2, &[21]))]);
        assert_eq!((plan.enis[0].state, plan.enis[0].device_index), (EniState::InUse, 2));
        let mut left = ours(observation(3, &[31]));
        left.attachment = None;
        let plan = look(&Pool::default(), &[left]);
        assert_eq!((plan.enis.len(), plan.strangers.len(), plan.arrived.len()), (0, 1, 0));
    }

    #[test]
    fn an_enis_state_follows_what_ec2_says_and_an_old_look_changes_nothing() {
        let mut pool = Pool::default();
        let mut eni = ours(observation(1, &[21]));
        pool.put_eni(record(&eni, Ipv4Addr::new(10, 0, 1, 10), 1, EniState::Attaching));
        let id = eni.id.clone();
        eni.attachment.as_mut().unwrap().status = EniAttachmentStatus::Attaching;
        assert_eq!(look(&pool, std::slice::from_ref(&eni)).seen, BTreeMap::new());
        eni.attachment.as_mut().unwrap().status = EniAttachmentStatus::Attached;
        assert_eq!(look(&pool, std::slice::from_ref(&eni)).enis[0].state, EniState::InUse);
        let stale = BTreeSet::from([id.clone()]);
        let old =
            plan(&pool, &Look { instance: &instance(), enis: &[eni.clone()], tagged: true, stale: &stale });
        assert_eq!((old.enis.len(), old.seen.len()), (0, 0));
        pool.set_state(&id, EniState::Detaching);
        eni.attachment = None;
        assert_eq!(look(&pool, &[eni]).enis[0].state, EniState::Deleting);
        assert_eq!(look(&pool, &[]).absent, [id]);
    }

    #[test]
    fn free_and_held_addresses_that_are_not_named_are_told_apart() {
        let mut pool = Pool::default();
        let first = look(&pool, &[observation(0, &[11, 12])]);
        for eni in first.enis {
            pool.set_link(&eni.id.clone(), None);
            pool.put_eni(eni);
        }
        for (address, eni) in first.arrived {
            pool.adopt(address, &eni, Timestamp::ZERO);
        }
        let key = eni_proto::ids::AttachmentKey {
            network: "vpc".parse().unwrap(),
            container: "c".parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
        };
        let holder = crate::record::AttachmentId { key, generation: 1 };
        pool.claim(Ipv4Addr::new(10, 0, 1, 11), &"eni-0".parse().unwrap(), &holder);
        let second = look(&pool, &[observation(0, &[])]);
        assert_eq!(second.missing, [Ipv4Addr::new(10, 0, 1, 11)]);
        assert_eq!(second.unnamed, [Ipv4Addr::new(10, 0, 1, 12)]);
    }
}
