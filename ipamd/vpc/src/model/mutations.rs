//! What changes ENIs: create, attach, assign, unassign, detach, delete.
//!
//! Owns the rules of each, in the words of the EC2 API reference. Each call is done as a whole or refused as a whole.
//! Attach and detach only begin here; `transitions` ends them.

use super::journal::parameters;
use super::refusal::Refusal;
use super::tokens::Known;
use super::{Ec2, Effect, Fault, Transition};
use crate::limits;
use eni_proto::ids::{EniId, InstanceId, SubnetId};
use ipamd_core::cloud::{CloudError, EniAttachment, EniAttachmentStatus, EniObservation, Mutated, Mutation};
use ipamd_core::time::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// Device indexes name links on the node (`ens5` and up); no type carries that many.
const MOST_DEVICES: u32 = 32;

impl Ec2 {
    /// Changes something, as `fault` allows: one that strikes before the effect refuses the call, one that strikes
    /// after it lets the call be done and answers its error all the same.
    pub fn mutate(
        &mut self,
        mutation: &Mutation,
        fault: Option<&Fault>,
        now: Timestamp,
    ) -> Result<Mutated, CloudError> {
        let injected = fault.and_then(Refusal::injected);
        let (result, lost) = match (injected, fault.map(|f| f.effect)) {
            (Some(refusal), Some(Effect::Before)) => (Err(refusal), None),
            (lost, _) => (self.apply(mutation, now), lost),
        };
        self.journal.record(mutation.call(), parameters(mutation), result, lost, now)
    }

    fn apply(&mut self, mutation: &Mutation, now: Timestamp) -> Result<Mutated, Refusal> {
        match mutation {
            Mutation::Create { prefixes: 1.., .. } | Mutation::Assign { prefixes: 1.., .. } => {
                Err(Refusal::bad_value("Prefixes are not supported.".to_owned()))
            }
            Mutation::Create { subnet, security_groups, secondary, tags, .. } => {
                match self.tokens.find(mutation) {
                    Known::New => {}
                    Known::Other => return Err(token_mismatch()),
                    // What became of it since: changed, or deleted.
                    Known::Made(made) => {
                        let now = self.enis.iter().find(|e| e.id == made.id).unwrap_or(made);
                        return Ok(Mutated::Created(now.clone()));
                    }
                }
                let eni = self.create(subnet, security_groups, *secondary, tags)?;
                self.tokens.keep(mutation, &eni);
                Ok(Mutated::Created(eni))
            }
            Mutation::Attach { eni, instance, device_index } => {
                self.attach(eni, instance, *device_index, now)
            }
            Mutation::Assign { eni, count, .. } => self.assign(eni, *count).map(Mutated::Assigned),
            Mutation::Unassign { eni, addresses, .. } => self.unassign(eni, addresses),
            Mutation::Detach { eni, .. } => self.detach(eni, now),
            Mutation::Delete { eni } => self.delete(eni),
            Mutation::SetSecurityGroups { eni, security_groups } => {
                self.check_groups(security_groups)?;
                self.find_mut(eni)?.security_groups.clone_from(security_groups);
                Ok(Mutated::Done)
            }
            Mutation::SetDeleteOnTermination { eni, attachment } => {
                let of_eni = self.find_mut(eni)?.attachment.as_mut();
                let Some(found) = of_eni.filter(|at| at.id.as_ref() == Some(attachment)) else {
                    let message = format!("The attachment '{attachment}' does not exist");
                    return Err(Refusal::new("InvalidAttachmentID.NotFound", message));
                };
                found.delete_on_termination = true;
                Ok(Mutated::Done)
            }
        }
    }

    /// CreateNetworkInterface. "If you don't specify a security group, the default one of the VPC is used."
    fn create(
        &mut self,
        subnet: &SubnetId,
        security_groups: &[String],
        secondary: u32,
        tags: &BTreeMap<String, String>,
    ) -> Result<EniObservation, Refusal> {
        if *subnet != self.subnet_id {
            let message = format!("The subnet ID '{subnet}' does not exist");
            return Err(Refusal::new("InvalidSubnetID.NotFound", message));
        }
        self.check_groups(security_groups)?;
        let known = &self.setup.security_groups;
        let groups = if security_groups.is_empty() { known[..1].to_vec() } else { security_groups.to_vec() };
        self.check_addresses(false, u64::from(secondary) + 1)?;
        let addresses = self.take_addresses(secondary as usize + 1)?;
        let eni = self.bare_eni(&addresses, groups, tags.clone());
        self.enis.push(eni.clone());
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
        let addresses = eni.secondary.len() as u64 + 1;
        let taken: BTreeSet<u32> =
            self.enis.iter().filter_map(|e| e.attachment.as_ref()).map(|a| a.device_index).collect();
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
        self.check_addresses(true, addresses)?;
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

    /// AssignPrivateIpAddresses by count: answers the new addresses only.
    fn assign(&mut self, id: &EniId, count: u32) -> Result<Vec<Ipv4Addr>, Refusal> {
        let eni = self.find(id)?;
        if count == 0 {
            return Err(Refusal::bad_value(
                "secondaryPrivateIpAddressCount must be greater than 0".to_owned(),
            ));
        }
        let attached = eni.attachment.is_some();
        self.check_addresses(attached, eni.secondary.len() as u64 + 1 + u64::from(count))?;
        let addresses = self.take_addresses(count as usize)?;
        self.find_mut(id)?.secondary.extend(&addresses);
        Ok(addresses)
    }

    /// UnassignPrivateIpAddresses: of secondary addresses only ("one or more secondary private IP addresses").
    fn unassign(&mut self, id: &EniId, addresses: &[Ipv4Addr]) -> Result<Mutated, Refusal> {
        let eni = self.find_mut(id)?;
        let gone: BTreeSet<Ipv4Addr> = addresses.iter().copied().collect();
        if gone.is_empty() {
            return Err(Refusal::new("MissingParameter", "No address to unassign was given.".to_owned()));
        }
        if let Some(primary) = eni.primary.filter(|primary| gone.contains(primary)) {
            let message = format!("The primary address {primary} of '{id}' cannot be unassigned.");
            return Err(Refusal::bad_value(message));
        }
        if let Some(unknown) = gone.iter().find(|address| !eni.secondary.contains(address)) {
            let message = format!("Some of the addresses are not assigned to interface {id}: {unknown}");
            return Err(Refusal::bad_value(message));
        }
        eni.secondary.retain(|address| !gone.contains(address));
        self.subnet.release(gone);
        Ok(Mutated::Done)
    }

    /// DetachNetworkInterface. The answer comes while the ENI is `detaching`.
    fn detach(&mut self, id: &EniId, now: Timestamp) -> Result<Mutated, Refusal> {
        let eni = self.find_mut(id)?;
        let Some(attachment) = &mut eni.attachment else {
            // The call names an attachment, and there is none.
            let message = format!("Network interface '{id}' has no attachment.");
            return Err(Refusal::new("InvalidAttachmentID.NotFound", message));
        };
        if attachment.device_index == 0 {
            // "You can't detach a primary network interface from an instance."
            let message = "The network interface at device index 0 cannot be detached.".to_owned();
            return Err(Refusal::new("OperationNotPermitted", message));
        }
        if attachment.status != EniAttachmentStatus::Attached {
            return Err(Refusal::wrong_state(id, attachment.status));
        }
        attachment.status = EniAttachmentStatus::Detaching;
        self.schedule(Transition::Detached(id.clone()), self.setup.detach_ms, now);
        Ok(Mutated::Done)
    }

    /// DeleteNetworkInterface. "You must detach the network interface before you can delete it."
    fn delete(&mut self, id: &EniId) -> Result<Mutated, Refusal> {
        if self.find(id)?.attachment.is_some() {
            return Err(Refusal::in_use(id));
        }
        let place = self.enis.iter().position(|e| e.id == *id).ok_or_else(|| Refusal::no_such_eni(id))?;
        let eni = self.enis.remove(place);
        self.subnet.release(eni.all_addresses());
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

    /// "The number of IP addresses you can assign to a network interface varies by instance type." An ENI that is
    /// attached to nothing has no type: it may have what the largest one carries, and attaching it to a smaller one is
    /// refused.
    fn check_addresses(&self, attached: bool, addresses: u64) -> Result<(), Refusal> {
        let own = self.limits.addresses_per_eni;
        let most = if attached { own } else { own.max(limits::most_addresses()) };
        if addresses > u64::from(most) { Err(Refusal::too_many_addresses()) } else { Ok(()) }
    }

    fn take_addresses(&mut self, count: usize) -> Result<Vec<Ipv4Addr>, Refusal> {
        self.subnet.take(count).ok_or_else(|| Refusal::subnet_full(count, self.subnet.available()))
    }
}

/// "The request uses the same client token as a previous, but non-identical request."
fn token_mismatch() -> Refusal {
    let message = "The client token was used by a request with other parameters.".to_owned();
    Refusal::new("IdempotentParameterMismatch", message)
}
