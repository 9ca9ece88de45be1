//! The strict model of EC2 and of the instance metadata service.
//!
//! Owns one account's view of one instance: its VPC, its subnet, its ENIs with their addresses, what may be asked and
//! how it is refused, and a journal of calls. Pure: time is an argument, nothing waits. What happens by itself happens
//! at `tick` (or `complete`). Does not own a network: that is laid from what this says.

mod describe;
mod fault;
mod gate;
mod journal;
mod lag;
mod mutations;
mod others;
mod refusal;
mod setup;
mod subnet;
#[cfg(test)]
mod tests;
mod tokens;
mod transitions;

#[cfg(feature = "http")]
pub(crate) use describe::status_word;
pub use describe::{EniPage, EniQuery, PAGE, SubnetView};
pub use fault::{Effect, Fault, NO_REPLY};
pub use gate::{
    BucketSize, INTERFACE_ACTION, MUTATING, NON_MUTATING, Throttling, UNCATEGORIZED, UNFILTERED, published,
};
pub use journal::JournalEntry;
pub use lag::{Gap, GapKind, Lags, MOST_LAG};
pub use mutations::Extra;
pub use others::{EFA_ONLY, OtherEni};
#[cfg(feature = "http")]
pub(crate) use refusal::{ACCOUNT, ROLE};
pub use setup::{Setup, SetupError};
pub use transitions::Transition;

use eni_proto::ids::{EniId, InstanceId, MacAddr, SubnetId};
use fault::Faults;
use gate::Gate;
use ipamd_core::cloud::{
    CloudError, CloudErrorKind, EniAttachment, EniAttachmentStatus, EniObservation, InstanceIdentity,
    InstanceLimits, MetadataEni, PLAIN_INTERFACE,
};
use ipamd_core::time::Timestamp;
use ipnet::Ipv4Net;
use journal::Journal;
use lag::{Gaps, History};
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
    gate: Gate,
    lags: Lags,
    gaps: Gaps,
    history: History,
    /// The descriptions of ENIs; what has none here has an empty one.
    descriptions: BTreeMap<EniId, String>,
    quota: Option<u32>,
    retry_after_ms: Option<u64>,
    stuck_detach: bool,
    more_cidrs: Vec<Ipv4Net>,
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
            gate: Gate::default(),
            lags: Lags::default(),
            gaps: Gaps::default(),
            history: History::default(),
            descriptions: BTreeMap::new(),
            quota: None,
            retry_after_ms: None,
            stuck_detach: false,
            more_cidrs: Vec::new(),
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
        ec2.history.remember(&ec2.enis, Timestamp::ZERO);
        Ok(ec2)
    }

    /// An ENI of these addresses, the first of them its own; without one it has none of its own.
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
            primary: addresses.first().copied(),
            secondary: addresses.iter().skip(1).copied().collect(),
            prefixes: Vec::new(),
            attachment: None,
            security_groups,
            tags,
            private_dns_name: addresses.first().copied().map(private_dns_name),
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

    /// How many prefixes the subnet has left: EC2 tells nobody.
    pub fn free_prefixes(&self) -> usize {
        self.subnet.prefixes()
    }

    /// The description of an ENI.
    pub fn description(&self, eni: &EniId) -> &str {
        self.descriptions.get(eni).map_or("", String::as_str)
    }

    /// The id of the last request, refused or not.
    pub fn last_request_id(&self) -> String {
        self.journal.last_request_id()
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
            vpc_cidrs: self.vpc_cidrs(),
            region: REGION.to_owned(),
            availability_zone: format!("{REGION}a"),
        };
        self.call(("InstanceIdentity", false), String::new(), fault, now, |_| Ok(identity))
    }

    /// The instance metadata of the network interfaces that are attached.
    pub fn interfaces(
        &mut self,
        fault: Option<&Fault>,
        now: Timestamp,
    ) -> Result<Vec<MetadataEni>, CloudError> {
        self.call(("InstanceInterfaces", false), String::new(), fault, now, |ec2| {
            Ok(ec2.metadata(now).into_iter().map(|(told, _)| told).collect())
        })
    }

    /// One GET of the metadata service, which `find` answers from what it tells now.
    pub fn metadata_get<T>(
        &mut self,
        path: &str,
        fault: Option<&Fault>,
        now: Timestamp,
        find: impl FnOnce(&Ec2) -> Option<T>,
    ) -> Result<T, CloudError> {
        let missing = || Refusal::new("404", format!("{path} is not there"));
        self.call(("InstanceMetadata", false), path.to_owned(), fault, now, |ec2| {
            find(ec2).ok_or_else(missing)
        })
    }

    /// A call that nobody serves, which EC2 refuses by its name or its parameters.
    pub fn refuse(&mut self, call: &str, code: &str, message: &str, now: Timestamp) -> CloudError {
        let refusal = Refusal::new(code, message.to_owned());
        let refused: Result<(), CloudError> =
            self.journal.record(call, String::new(), Err(refusal), None, now);
        refused.expect_err("a refusal is an error")
    }

    /// A call with DryRun: whether it would be allowed is its refusal's code ("If you have the required permissions,
    /// the error response is DryRunOperation. Otherwise, it is UnauthorizedOperation.").
    pub fn dry_run(&mut self, action: &str, now: Timestamp) -> CloudError {
        let message = "Request would have succeeded, but DryRun flag is set.".to_owned();
        let refused: Result<(), CloudError> =
            self.call((action, false), "DryRun=true".to_owned(), None, now, |_| {
                Err(Refusal::new("DryRunOperation", message))
            });
        refused.expect_err("a dry run is never done")
    }

    /// Makes a call: past its fault, the gate and what it does itself, into the journal. `bare` is a describe with
    /// neither a filter nor pages.
    fn call<T>(
        &mut self,
        (name, bare): (&str, bool),
        parameters: String,
        fault: Option<&Fault>,
        now: Timestamp,
        body: impl FnOnce(&mut Ec2) -> Result<T, Refusal>,
    ) -> Result<T, CloudError> {
        self.subnet.settle(now);
        let injected = fault.and_then(Refusal::injected);
        let (result, lost) = match (injected, fault.map(|f| f.effect)) {
            (Some(refusal), Some(Effect::Before)) => (Err(refusal), None),
            (lost, _) => (self.gate.admit(name, bare, now).and_then(|()| body(self)), lost),
        };
        self.journal.record(name, parameters, result, lost, now).map_err(|mut error| {
            if error.kind == CloudErrorKind::Throttled {
                error.retry_after_ms = self.retry_after_ms;
            }
            error
        })
    }
}

/// The Region that the model is in.
pub(crate) const REGION: &str = "eu-central-1";

/// `ip-10-0-1-10.eu-central-1.compute.internal` (VPC user guide, "DNS attributes for your VPC").
fn private_dns_name(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("ip-{a}-{b}-{c}-{d}.{REGION}.compute.internal")
}
