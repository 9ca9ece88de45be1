//! What EC2 says the ENIs hold, against what the pool holds.
//!
//! Owns the planner: which ENIs and addresses come, which free addresses go, which held ones are missing. The primary
//! ENI alone is managed. Nothing is dropped on one look: two agreeing ones are needed, and an address that a sandbox
//! holds is kept whatever EC2 says. Does not ask EC2 nor change the pool.

use crate::cloud::{EniAttachmentStatus, EniObservation};
use crate::pool::Pool;
use crate::record::{AddressState, EniRecord, EniState};
use eni_proto::ids::{EniId, InstanceId};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;

/// The steps of one pass.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SyncPlan {
    /// ENIs that are new or differ from their record.
    pub enis: Vec<EniRecord>,
    /// Addresses that are new.
    pub arrived: Vec<(Ipv4Addr, EniId)>,
    /// Addresses that are named, the known ones.
    pub seen: Vec<(Ipv4Addr, EniId)>,
    /// Free or cooling addresses that are not named.
    pub unnamed: Vec<Ipv4Addr>,
    /// Held addresses that are not named.
    pub missing: Vec<Ipv4Addr>,
}

/// Compares one complete look at EC2 with the pool.
pub fn plan(pool: &Pool, instance: &InstanceId, observed: &[EniObservation]) -> SyncPlan {
    let mut plan = SyncPlan::default();
    let mut named = BTreeSet::new();
    for eni in observed {
        let Some(attachment) = &eni.attachment else { continue };
        let ours = attachment.instance == *instance && attachment.device_index == 0;
        if !ours || attachment.status != EniAttachmentStatus::Attached {
            continue;
        }
        let record = EniRecord {
            id: eni.id.clone(),
            mac: eni.mac,
            device_index: attachment.device_index,
            subnet: eni.subnet.clone(),
            subnet_cidr: eni.subnet_cidr,
            primary: eni.primary,
            state: EniState::InUse,
        };
        if pool.eni(&eni.id).is_none_or(|known| known.record != record) {
            plan.enis.push(record);
        }
        // The primary address is the node's own: it is never given to a container, whatever an answer lists.
        for address in eni.secondary.iter().filter(|a| **a != eni.primary) {
            named.insert(*address);
            let list = if pool.address(*address).is_some() { &mut plan.seen } else { &mut plan.arrived };
            list.push((*address, eni.id.clone()));
        }
    }
    for record in pool.addresses().filter(|r| !named.contains(&r.address)) {
        match record.state {
            AddressState::Free { .. } | AddressState::Cooling { .. } => plan.unnamed.push(record.address),
            AddressState::Allocated { .. } | AddressState::Quarantined { .. } => {
                plan.missing.push(record.address);
            }
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::EniAttachment;
    use crate::time::Timestamp;
    use eni_proto::ids::MacAddr;

    fn observation(device_index: u32, secondary: &[u8]) -> EniObservation {
        EniObservation {
            id: format!("eni-{device_index}").parse().unwrap(),
            mac: MacAddr([2, 0, 0, 0, 0, 1]),
            subnet: "subnet-1".parse().unwrap(),
            subnet_cidr: "10.0.1.0/24".parse().unwrap(),
            primary: Ipv4Addr::new(10, 0, 1, 10),
            secondary: secondary.iter().map(|n| Ipv4Addr::new(10, 0, 1, *n)).collect(),
            attachment: Some(EniAttachment {
                instance: "i-1".parse().unwrap(),
                device_index,
                status: EniAttachmentStatus::Attached,
            }),
 security_groups: Vec::new(),
 tags: Default::default(),
        }
    }

    #[test]
    fn the_primary_address_is_never_in_the_pool() {
        let plan = plan(&Pool::default(), &"i-1".parse().unwrap(), &[observation(0, &[10, 11, 12])]);
        assert_eq!(plan.enis.len(), 1);
        let arrived: Vec<u8> = plan.arrived.iter().map(|(a, _)| a.octets()[3]).collect();
        assert_eq!(arrived, [11, 12]);
    }

    #[test]
    fn other_instances_and_other_enis_are_left_alone() {
        let empty = SyncPlan::default();
        assert_eq!(plan(&Pool::default(), &"i-2".parse().unwrap(), &[observation(0, &[11])]), empty);
        assert_eq!(plan(&Pool::default(), &"i-1".parse().unwrap(), &[observation(1, &[11])]), empty);
    }

    #[test]
    fn free_and_held_addresses_that_are_not_named_are_told_apart() {
        let mut pool = Pool::default();
        let first = plan(&pool, &"i-1".parse().unwrap(), &[observation(0, &[11, 12])]);
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
        let second = plan(&pool, &"i-1".parse().unwrap(), &[observation(0, &[])]);
        assert_eq!(second.missing, [Ipv4Addr::new(10, 0, 1, 11)]);
        assert_eq!(second.unnamed, [Ipv4Addr::new(10, 0, 1, 12)]);
    }
}
