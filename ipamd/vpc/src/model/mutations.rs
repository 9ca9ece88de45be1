//! What changes ENIs: create, attach, assign, unassign, detach, delete.
//!
//! Owns the rules of each, in the words of the EC2 API reference. Each call is done as a whole or refused as a whole.
//! Attach and detach only begin here; `transitions` ends them.

use super::journal::parameters;
use super::refusal::Refusal;
use super::tokens::Known;
use super::{Ec2, Fault, Transition};
use crate::limits;
use eni_proto::ids::{EniId, InstanceId};
use ipamd_core::cloud::{CloudError, EniAttachment, EniAttachmentStatus, EniObservation, Mutated, Mutation};
use ipamd_core::time::Timestamp;
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

/// Device indexes name links on the node (`ens5` and up); no type carries that many.
const MOST_DEVICES: u32 = 32;

/// What EC2 takes besides, and the calls of core never say.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Extra {
    /// CreateNetworkInterface: Description.
    #[serde(default)]
    pub description: String,
    /// DetachNetworkInterface: Force.
    #[serde(default)]
    pub force: bool,
}

impl Ec2 {
    /// Changes something, as `fault` allows: one that strikes before the effect refuses the call, one that strikes
    /// after it lets the call be done and answers its error all the same.
    pub fn mutate(
        &mut self,
        mutation: &Mutation,
        fault: Option<&Fault>,
        now: Timestamp,
    ) -> Result<Mutated, CloudError> {
        self.mutate_with(mutation, &Extra::default(), fault, now)
    }

    /// The same, with what core never says.
    pub fn mutate_with(
        &mut self,
        mutation: &Mutation,
        extra: &Extra,
        fault: Option<&Fault>,
        now: Timestamp,
    ) -> Result<Mutated, CloudError> {
        let words = parameters(mutation, extra);
        self.call((mutation.call(), false), words, fault, now, |ec2| {
            let done = ec2.apply(mutation, extra, now);
            ec2.history.remember(&ec2.enis, now);
            done
        })
    }

    fn apply(&mut self, mutation: &Mutation, extra: &Extra, now: Timestamp) -> Result<Mutated, Refusal> {
        match mutation {
            Mutation::Create { .. } => self.create_once(mutation, extra),
            Mutation::Attach { eni, instance, device_index } => {
                self.attach(eni, instance, *device_index, now)
            }
            Mutation::Assign { eni, count, prefixes } => self.assign(eni, *count, *prefixes),
            Mutation::Unassign { eni, addresses, prefixes } => self.unassign(eni, addresses, prefixes, now),
            Mutation::Detach { eni, attachment } => self.detach(eni, attachment.as_deref(), extra.force, now),
            Mutation::Delete { eni } => self.delete(eni, now),
            Mutation::SetSecurityGroups { eni, security_groups } => {
                // "You must specify at least one group, even if it's just the default security group in the VPC."
                if security_groups.is_empty() {
                    return Err(Refusal::new("MissingParameter", "No security group was given.".to_owned()));
                }
                self.check_groups(security_groups)?;
                self.find_mut(eni)?.security_groups.clone_from(security_groups);
                Ok(Mutated::Done)
            }
            Mutation::SetDeleteOnTermination { eni, attachment } => {
                let of_eni = self.find_mut(eni)?.attachment.as_mut();
                let Some(found) = of_eni.filter(|at| at.id.as_ref() == Some(attachment)) else {
                    return Err(Refusal::no_such_attachment(attachment));
                };
                found.delete_on_termination = true;
                Ok(Mutated::Done)
            }
        }
    }

    fn create_once(&mut self, create: &Mutation, extra: &Extra) -> Result<Mutated, Refusal> {
        match self.tokens.find(create, extra) {
            Known::New => {}
            Known::Other => return Err(token_mismatch()),
            // What became of it since: changed, or deleted.
            Known::Made(made) => {
                let now = self.enis.iter().find(|e| e.id == made.id).unwrap_or(made);
                return Ok(Mutated::Created(now.clone()));
            }
        }
        let eni = self.create(create, extra)?;
        self.tokens.keep(create, extra, &eni);
        Ok(Mutated::Created(eni))
    }

    /// CreateNetworkInterface. "If you don't specify a security group, the default one of the VPC is used."
    fn create(&mut self, create: &Mutation, extra: &Extra) -> Result<EniObservation, Refusal> {
        let Mutation::Create { subnet, security_groups, secondary, prefixes, tags, .. } = create else {
            unreachable!("only creates come here");
        };
        if !tags.is_empty() {
            self.gate.allow("CreateTags")?;
        }
        if *subnet != self.subnet_id {
            return Err(Refusal::no_such_subnet(subnet));
        }
        self.check_groups(security_groups)?;
        if *secondary > 0 && *prefixes > 0 {
            return Err(both_kinds());
        }
        if let Some(quota) = self.quota.filter(|quota| self.enis.len() as u64 >= u64::from(*quota)) {
            return Err(Refusal::quota_reached(quota));
        }
        let known = &self.setup.security_groups;
        let groups = if security_groups.is_empty() { known[..1].to_vec() } else { security_groups.clone() };
        self.check_slots(false, u64::from(*secondary) + u64::from(*prefixes) + 1)?;
        let addresses = self.take_addresses(*secondary as usize + 1)?;
        let blocks = match self.take_prefixes(*prefixes as usize) {
            Ok(blocks) => blocks,
            Err(refusal) => {
                self.subnet.untake(addresses);
                return Err(refusal);
            }
        };
        let mut eni = self.bare_eni(&addresses, groups, tags.clone());
        eni.prefixes = blocks;
        self.enis.push(eni.clone());
        self.descriptions.insert(eni.id.clone(), extra.description.clone());
        Ok(eni)
    }

    /// AttachNetworkInterface. The answer comes while the ENI is `attaching`.
    fn attach(
        &mut self,
        id: &EniId,
        instance: &InstanceId,
        device_index: u32,
        now: Timestamp,
    ) -> Result<Mutated, Refusal> {
        let eni = self.find(id)?;
        if *instance != self.instance {
            let message = format!("The instance ID '{instance}' does not exist");
            return Err(Refusal::new("InvalidInstanceID.NotFound", message));
        }
        if eni.attachment.is_some() {
            return Err(Refusal::in_use(id));
        }
        let (slots, has_prefixes) = (slots(eni), !eni.prefixes.is_empty());
        let taken: BTreeSet<u32> = self.enis_on_card(0).map(|a| a.device_index).collect();
        // "You've reached the limit on the number of network interfaces for your instance type." An ENI counts from
        // the call that attaches it until it is available again.
        if taken.len() as u64 >= u64::from(self.limits.enis) {
            let (count, kind) = (taken.len() + 1, &self.setup.instance_type);
            let message = format!("Interface count {count} exceeds the limit for {kind}");
            return Err(Refusal::new("AttachmentLimitExceeded", message));
        }
        if taken.contains(&device_index) {
            let message = format!(
                "Instance '{instance}' already has an interface attached at device index '{device_index}'."
            );
            return Err(Refusal::bad_value(message));
        }
        if device_index >= MOST_DEVICES {
            return Err(Refusal::bad_value(format!("Invalid device index '{device_index}'.")));
        }
        if has_prefixes && !self.limits.prefixes {
            return Err(self.no_prefixes());
        }
        self.check_slots(true, slots)?;
        let status = EniAttachmentStatus::Attaching;
        let id_of_attachment = self.next_attachment();
        let attachment = EniAttachment {
            instance: instance.clone(),
            device_index,
            status,
            id: Some(id_of_attachment),
            network_card: 0,
            // "false" until it is modified: AttachNetworkInterface has no parameter for it.
            delete_on_termination: false,
        };
        self.find_mut(id)?.attachment = Some(attachment);
        self.schedule(Transition::Attached(id.clone()), self.setup.attach_ms, now);
        Ok(Mutated::Done)
    }

    /// AssignPrivateIpAddresses by count, of addresses or of prefixes: answers the new ones only.
    fn assign(&mut self, id: &EniId, count: u32, prefixes: u32) -> Result<Mutated, Refusal> {
        let eni = self.find(id)?;
        if count > 0 && prefixes > 0 {
            return Err(both_kinds());
        }
        if count == 0 && prefixes == 0 {
            return Err(Refusal::bad_value(
                "secondaryPrivateIpAddressCount must be greater than 0".to_owned(),
            ));
        }
        let attached = eni.attachment.is_some();
        if prefixes > 0 && attached && !self.limits.prefixes {
            return Err(self.no_prefixes());
        }
        self.check_slots(attached, slots(eni) + u64::from(count) + u64::from(prefixes))?;
        if prefixes > 0 {
            let blocks = self.take_prefixes(prefixes as usize)?;
            self.find_mut(id)?.prefixes.extend(&blocks);
            return Ok(Mutated::AssignedPrefixes(blocks));
        }
        let addresses = self.take_addresses(count as usize)?;
        self.find_mut(id)?.secondary.extend(&addresses);
        Ok(Mutated::Assigned(addresses))
    }

    /// UnassignPrivateIpAddresses: of secondary addresses only ("one or more secondary private IP addresses"), or of
    /// whole prefixes.
    fn unassign(
        &mut self,
        id: &EniId,
        addresses: &[Ipv4Addr],
        prefixes: &[Ipv4Net],
        now: Timestamp,
    ) -> Result<Mutated, Refusal> {
        let back = self.back_at(now);
        let eni = self.find_mut(id)?;
        let gone: BTreeSet<Ipv4Addr> = addresses.iter().copied().collect();
        let blocks: BTreeSet<Ipv4Net> = prefixes.iter().copied().collect();
        match (gone.is_empty(), blocks.is_empty()) {
            (true, true) => {
                return Err(Refusal::new("MissingParameter", "No address to unassign was given.".to_owned()));
            }
            (false, false) => return Err(both_kinds()),
            _ => {}
        }
        if let Some(primary) = eni.primary.filter(|primary| gone.contains(primary)) {
            let message = format!("The primary address {primary} of '{id}' cannot be unassigned.");
            return Err(Refusal::bad_value(message));
        }
        if let Some(unknown) = gone.iter().find(|address| !eni.secondary.contains(address)) {
            let message = format!("Some of the addresses are not assigned to interface {id}: {unknown}");
            return Err(Refusal::bad_value(message));
        }
        if let Some(unknown) = blocks.iter().find(|block| !eni.prefixes.contains(block)) {
            let message = format!("Some of the prefixes are not assigned to interface {id}: {unknown}");
            return Err(Refusal::bad_value(message));
        }
        eni.secondary.retain(|address| !gone.contains(address));
        eni.prefixes.retain(|block| !blocks.contains(block));
        self.subnet.release(gone, now, back);
        self.subnet.release_prefixes(prefixes, now, back);
        Ok(Mutated::Done)
    }

    /// DetachNetworkInterface. The answer comes while the ENI is `detaching`. It names an attachment: one that is gone
    /// is not found, whatever the ENI has now.
    fn detach(
        &mut self,
        id: &EniId,
        named: Option<&str>,
        force: bool,
        now: Timestamp,
    ) -> Result<Mutated, Refusal> {
        let (stuck, detach_ms) = (self.stuck_detach, self.setup.detach_ms);
        let eni = self.find_mut(id)?;
        if let Some(named) = named
            && eni.attachment.as_ref().is_none_or(|a| a.id.as_deref() != Some(named))
        {
            return Err(Refusal::no_such_attachment(named));
        }
        let Some(attachment) = &mut eni.attachment else {
            // The call names an attachment, and there is none.
            let message = format!("Network interface '{id}' has no attachment.");
            return Err(Refusal::new("InvalidAttachmentID.NotFound", message));
        };
        if attachment.device_index == 0 && attachment.network_card == 0 {
            // "You can't detach a primary network interface from an instance."
            let message = "The network interface at device index 0 cannot be detached.".to_owned();
            return Err(Refusal::new("OperationNotPermitted", message));
        }
        if force && attachment.status == EniAttachmentStatus::Detaching {
            self.unstick(id, now);
            return Ok(Mutated::Done);
        }
        if attachment.status != EniAttachmentStatus::Attached {
            return Err(Refusal::wrong_state(id, attachment.status));
        }
        attachment.status = EniAttachmentStatus::Detaching;
        if force || !stuck {
            self.schedule(Transition::Detached(id.clone()), detach_ms, now);
        }
        Ok(Mutated::Done)
    }

    /// DeleteNetworkInterface. "You must detach the network interface before you can delete it."
    fn delete(&mut self, id: &EniId, now: Timestamp) -> Result<Mutated, Refusal> {
        if self.find(id)?.attachment.is_some() {
            return Err(Refusal::in_use(id));
        }
        let place = self.enis.iter().position(|e| e.id == *id).ok_or_else(|| Refusal::no_such_eni(id))?;
        let eni = self.enis.remove(place);
        let back = self.back_at(now);
        self.subnet.release(eni.primary.into_iter().chain(eni.secondary), now, back);
        self.subnet.release_prefixes(&eni.prefixes, now, back);
        self.descriptions.remove(id);
        Ok(Mutated::Done)
    }

    fn check_groups(&self, security_groups: &[String]) -> Result<(), Refusal> {
        let unknown = security_groups.iter().find(|group| !self.setup.security_groups.contains(group));
        unknown.map_or(Ok(()), |group| {
            let message = format!("The security group '{group}' does not exist");
            Err(Refusal::new("InvalidGroup.NotFound", message))
        })
    }

    fn find(&self, id: &EniId) -> Result<&EniObservation, Refusal> {
        self.enis.iter().find(|e| e.id == *id).ok_or_else(|| Refusal::no_such_eni(id))
    }

    fn find_mut(&mut self, id: &EniId) -> Result<&mut EniObservation, Refusal> {
        self.enis.iter_mut().find(|e| e.id == *id).ok_or_else(|| Refusal::no_such_eni(id))
    }

    /// "The number of IP addresses you can assign to a network interface varies by instance type", and a prefix counts
    /// as one of them (EC2 user guide, "Prefix delegation for Amazon EC2 network interfaces": "each prefix counts as
    /// one IP address"). An ENI that is attached to nothing has no type: it may have what the largest one carries, and
    /// attaching it to a smaller one is refused.
    fn check_slots(&self, attached: bool, slots: u64) -> Result<(), Refusal> {
        let own = self.limits.addresses_per_eni;
        let most = if attached { own } else { own.max(limits::most_addresses()) };
        if slots > u64::from(most) { Err(Refusal::too_many_addresses()) } else { Ok(()) }
    }

    /// "IP prefixes are only supported on Nitro-based instances" (same page). The code is not documented.
    fn no_prefixes(&self) -> Refusal {
        let kind = &self.setup.instance_type;
        let message = format!("Prefixes are not supported on instances of type {kind}.");
        Refusal::new("UnsupportedOperation", message)
    }

    /// When what is released now comes back to the subnet.
    fn back_at(&self, now: Timestamp) -> Timestamp {
        now + Duration::from_millis(self.lags.release_ms)
    }

    fn take_addresses(&mut self, count: usize) -> Result<Vec<Ipv4Addr>, Refusal> {
        self.subnet.take(count).ok_or_else(|| Refusal::subnet_full(count, self.subnet.available()))
    }

    fn take_prefixes(&mut self, count: usize) -> Result<Vec<Ipv4Net>, Refusal> {
        self.subnet
            .take_prefixes(count)
            .ok_or_else(|| Refusal::prefixes_exhausted(count, self.subnet.available()))
    }
}

/// How many of its type's addresses an ENI uses up.
fn slots(eni: &EniObservation) -> u64 {
    eni.secondary.len() as u64 + eni.prefixes.len() as u64 + 1
}

/// "You can't specify a count of IPv4 prefixes if you've specified one of the following: […] a count of private IPv4
/// addresses."
fn both_kinds() -> Refusal {
    let message = "Addresses and prefixes cannot be given in one request.".to_owned();
    Refusal::new("InvalidParameterCombination", message)
}

/// "The request uses the same client token as a previous, but non-identical request."
fn token_mismatch() -> Refusal {
    let message = "The client token was used by a request with other parameters.".to_owned();
    Refusal::new("IdempotentParameterMismatch", message)
}
