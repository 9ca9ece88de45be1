//! The strict model of EC2 and of the instance metadata service.
//!
//! Owns one account's view of one instance: its VPC, its subnet, its ENIs with their addresses, what may be asked and
//! how it is refused, and a journal of calls. Pure: time is an argument, nothing waits. What happens by itself happens
//! at `tick` (or `complete`). Does not own a network: that is laid from what this says.

mod fault;
mod journal;
mod mutations;
mod refusal;
mod setup;
mod subnet;
#[cfg(test)]
mod tests;
mod tokens;
mod transitions;

pub use fault::{Effect, Fault};
pub use journal::JournalEntry;
pub use setup::{Setup, SetupError};
pub use transitions::Transition;

use crate::limits;
use eni_proto::ids::{EniId, InstanceId, MacAddr, SubnetId};
use fault::Faults;
use ipamd_core::cloud::{
    CloudError, EniAttachment, EniAttachmentStatus, EniObservation, EniScope, INSTANCE_TAG, InstanceIdentity,
    InstanceLimits, MetadataEni, PLAIN_INTERFACE,
};
use ipamd_core::time::Timestamp;
use journal::Journal;
use refusal::Refusal;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use subnet::Subnet;
use tokens::Tokens;
use transitions::Pending;

/// The model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ec2 {
    setup: Setup,
    instance: InstanceId,
    limits: InstanceLimits,
    subnet_id: SubnetId,
    subnet: Subnet,
    /// In the order of their creation; the first is the primary.
    enis: Vec<EniObservation>,
    /// How many were ever created: ids and MACs are never used again.
    created: u32,
    attached: u32,
    tokens: Tokens,
    /// By time.
    pending: Vec<Pending>,
    journal: Journal,
    faults: Faults,
}

impl Ec2 {
    /// Boots the instance with its primary ENI and that ENI's secondary addresses.
    pub fn boot(setup: Setup) -> Result<Ec2, SetupError> {
        let limits = setup.check()?;
        let mut subnet = Subnet::new(setup.subnet, setup.secondary + 1);
        let addresses = subnet.take(setup.secondary as usize + 1).unwrap_or_default();
        let mut ec2 = Ec2 {
            instance: "i-0e1c0000000000001".parse().expect("an instance id"),
            limits,
            subnet_id: "subnet-0e1c0000000000001".parse().expect("a subnet id"),
            subnet,
            enis: Vec::new(),
            created: 0,
            attached: 0,
            tokens: Tokens::default(),
            pending: Vec::new(),
            journal: Journal::default(),
            faults: Faults::default(),
            setup,
        };
        let mut primary = ec2.bare_eni(&addresses, ec2.setup.security_groups.clone(), BTreeMap::new());
        primary.attachment = Some(EniAttachment {
            instance: ec2.instance.clone(),
            device_index: 0,
            status: EniAttachmentStatus::Attached,
            id: Some(ec2.next_attachment()),
            network_card: 0,
            delete_on_termination: true,
        });
        ec2.enis.push(primary);
        Ok(ec2)
    }

    /// An ENI of these addresses, the first of them its own.
    fn bare_eni(
        &mut self,
        addresses: &[Ipv4Addr],
        security_groups: Vec<String>,
        tags: BTreeMap<String, String>,
    ) -> EniObservation {
        self.created += 1;
        let [_, high, middle, low] = self.created.to_be_bytes();
        EniObservation {
            id: format!("eni-0e1c{:013x}", self.created).parse::<EniId>().expect("an ENI id"),
            mac: MacAddr([0x02, 0xe1, 0xc0, high, middle, low]),
            subnet: self.subnet_id.clone(),
            subnet_cidr: self.setup.subnet,
            primary: Some(addresses[0]),
            secondary: addresses[1..].to_vec(),
            prefixes: Vec::new(),
            attachment: None,
            security_groups,
            tags,
            private_dns_name: Some(private_dns_name(addresses[0])),
            kind: PLAIN_INTERFACE.to_owned(),
        }
    }

    fn next_attachment(&mut self) -> String {
        self.attached += 1;
        format!("eni-attach-0e1c{:013x}", self.attached)
    }

    /// What was set up.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// The instance.
    pub fn instance(&self) -> &InstanceId {
        &self.instance
    }

    /// The ENIs as they are, without a call, in the order of their creation; the first is the primary.
    pub fn enis(&self) -> &[EniObservation] {
        &self.enis
    }

    /// The journal, oldest first.
    pub fn journal(&self) -> impl Iterator<Item = &JournalEntry> {
        self.journal.entries()
    }

    /// How often each call was made, refused ones too.
    pub fn calls(&self) -> &BTreeMap<String, u64> {
        self.journal.counts()
    }

    /// How many addresses the subnet has left (AvailableIpAddressCount).
    pub fn free_addresses(&self) -> usize {
        self.subnet.available()
    }

    /// Leaves at most that many addresses free in the subnet, as if others held the rest; none gives those back.
    pub fn set_subnet_free(&mut self, most: Option<usize>) {
        self.subnet.leave(most);
    }

    /// Injects a fault, instead of one of the same call.
    pub fn set_fault(&mut self, fault: Fault) {
        self.faults.set(fault);
    }

    /// Takes the fault of a call, if one is set. Whoever makes the call waits as it says, and passes it on.
    pub fn take_fault(&mut self, call: &str) -> Option<Fault> {
        self.faults.take(call)
    }

    /// The instance identity document and the primary ENI's part of the metadata tree.
    pub fn identity(
        &mut self,
        fault: Option<&Fault>,
        now: Timestamp,
    ) -> Result<InstanceIdentity, CloudError> {
        let identity = InstanceIdentity {
            instance: self.instance.clone(),
            instance_type: self.setup.instance_type.clone(),
            primary_mac: self.enis[0].mac,
            vpc_cidrs: vec![self.setup.vpc_cidr],
            region: REGION.to_owned(),
            availability_zone: format!("{REGION}a"),
        };
        self.answer("InstanceIdentity", String::new(), Ok(identity), fault, now)
    }

    /// The instance metadata of the network interfaces that are attached.
    pub fn interfaces(
        &mut self,
        fault: Option<&Fault>,
        now: Timestamp,
    ) -> Result<Vec<MetadataEni>, CloudError> {
        let here = |eni: &EniObservation| {
            let attachment = eni.attachment.as_ref()?;
            Some(MetadataEni {
                mac: eni.mac,
                id: Some(eni.id.clone()),
                device_index: Some(attachment.device_index),
                addresses: eni.primary.into_iter().chain(eni.secondary.iter().copied()).collect(),
                prefixes: eni.prefixes.clone(),
                subnet_cidr: Some(eni.subnet_cidr),
                vpc_cidrs: vec![self.setup.vpc_cidr],
            })
        };
        let interfaces = self.enis.iter().filter_map(here).collect();
        self.answer("InstanceInterfaces", String::new(), Ok(interfaces), fault, now)
    }

    /// DescribeNetworkInterfaces, filtered. An ENI is described as `attaching` or `detaching` until its transition is
    /// done.
    pub fn describe_enis(
        &mut self,
        scope: &EniScope,
        fault: Option<&Fault>,
        now: Timestamp,
    ) -> Result<Vec<EniObservation>, CloudError> {
        let matches = |eni: &&EniObservation| match scope {
            EniScope::AttachedTo(instance) => {
                eni.attachment.as_ref().is_some_and(|a| a.instance == *instance)
            }
            EniScope::TaggedFor(instance) => {
                eni.tags.get(INSTANCE_TAG).is_some_and(|value| value == instance.as_str())
            }
        };
        let filter = match scope {
            EniScope::AttachedTo(instance) => format!("attachment.instance-id={instance}"),
            EniScope::TaggedFor(instance) => format!("tag:{INSTANCE_TAG}={instance}"),
        };
        let enis = self.enis.iter().filter(matches).cloned().collect();
        self.answer("DescribeNetworkInterfaces", filter, Ok(enis), fault, now)
    }

    /// DescribeInstanceTypes for one type.
    pub fn describe_limits(
        &mut self,
        instance_type: &str,
        fault: Option<&Fault>,
        now: Timestamp,
    ) -> Result<InstanceLimits, CloudError> {
        let found = limits::of(instance_type).ok_or_else(|| {
            let message = format!("The following supplied instance types do not exist: [{instance_type}]");
            Refusal::new("InvalidInstanceType", message)
        });
        self.answer("DescribeInstanceTypes", format!("InstanceType.1={instance_type}"), found, fault, now)
    }

    /// Writes a call that changes nothing down, and answers it.
    fn answer<T>(
        &mut self,
        call: &str,
        parameters: String,
        found: Result<T, Refusal>,
        fault: Option<&Fault>,
        now: Timestamp,
    ) -> Result<T, CloudError> {
        let found = match fault.and_then(Refusal::injected) {
            Some(refusal) => Err(refusal),
            None => found,
        };
        self.journal.record(call, parameters, found, None, now)
    }
}

/// The Region that the model is in.
const REGION: &str = "eu-central-1";

/// `ip-10-0-1-10.eu-central-1.compute.internal` (VPC user guide, "DNS attributes for your VPC").
fn private_dns_name(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("ip-{a}-{b}-{c}-{d}.{REGION}.compute.internal")
}
