//! The strict model of EC2 and of the instance metadata service.
//!
//! Owns one account's view of one instance: its VPC, its subnet, its ENIs with their addresses, what may be asked and
//! how it is refused, and a journal of calls. Pure: time is an argument. Does not own a network: that is laid from
//! what this says.

use crate::limits;
use eni_proto::ids::{EniId, InstanceId, MacAddr, SubnetId};
use ipamd_core::cloud::{
    CloudError, CloudErrorKind, EniAttachment, EniAttachmentStatus, EniObservation, InstanceIdentity,
    InstanceLimits,
};
use ipamd_core::time::Timestamp;
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::net::Ipv4Addr;

/// The most calls that the journal keeps.
const JOURNAL: usize = 10_000;
/// AWS keeps the first four addresses of a subnet and the last for itself.
const RESERVED: u32 = 4;

/// What the account has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setup {
    /// The VPC's CIDR.
    pub vpc_cidr: Ipv4Net,
    /// The subnet of the node.
    pub subnet: Ipv4Net,
    /// The instance's type.
    pub instance_type: String,
    /// How many secondary addresses its primary ENI has.
    pub secondary: u32,
}

/// Why a setup is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SetupError {
    /// The instance type is not in the table.
    #[error("instance type {0:?} is not known; see data/eni-limits.csv")]
    UnknownType(String),
    /// More addresses than the type carries.
    #[error("{instance_type} carries {most} secondary addresses per ENI, {asked} were asked for")]
    TooMany {
        /// The type.
        instance_type: String,
        /// What it carries.
        most: u32,
        /// What was asked.
        asked: u32,
    },
    /// The subnet is not inside the VPC, or too small.
    #[error("subnet {subnet} does not lie in {vpc}, or has no room for {addresses} addresses")]
    Subnet {
        /// The subnet.
        subnet: Ipv4Net,
        /// The VPC.
        vpc: Ipv4Net,
        /// How many it must hold.
        addresses: u32,
    },
}

/// One call, as it was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalEntry {
    /// When, in milliseconds since boot.
    pub at_ms: u64,
    /// The call, as EC2 names it.
    pub call: String,
    /// Its parameters, in words.
    pub parameters: String,
    /// `ok`, or EC2's error code.
    pub outcome: String,
}

/// A fault to inject: the next `count` calls of this name fail or are late.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// The call, as EC2 names it.
    pub call: String,
    /// EC2's error code; none only delays.
    pub error: Option<String>,
    /// How much later the answer comes, in milliseconds.
    pub delay_ms: u64,
    /// How many calls; 0 takes the fault away.
    pub count: u32,
}

/// The model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ec2 {
    setup: Setup,
    instance: InstanceId,
    limits: InstanceLimits,
    enis: Vec<EniObservation>,
    journal: VecDeque<JournalEntry>,
    faults: Vec<Fault>,
    requests: u64,
}

impl Ec2 {
    /// Boots the instance with its primary ENI and that ENI's secondary addresses.
    pub fn boot(setup: Setup) -> Result<Ec2, SetupError> {
        let limits = limits::of(&setup.instance_type)
            .ok_or_else(|| SetupError::UnknownType(setup.instance_type.clone()))?;
        let most = limits.addresses_per_eni - 1;
        if setup.secondary > most {
            let instance_type = setup.instance_type.clone();
            return Err(SetupError::TooMany { instance_type, most, asked: setup.secondary });
        }
        let addresses = setup.secondary + 1;
        let room = setup.subnet.broadcast().to_bits() - setup.subnet.network().to_bits();
        if !setup.vpc_cidr.contains(&setup.subnet) || room < addresses + RESERVED {
            return Err(SetupError::Subnet { subnet: setup.subnet, vpc: setup.vpc_cidr, addresses });
        }
        let instance: InstanceId = "i-0e1c0000000000001".parse().expect("an instance id");
        // Where there is room the node is .10, which reads well.
        let skipped = if room > 2 * (addresses + RESERVED) { 6 } else { 0 };
        let first = setup.subnet.network().to_bits() + RESERVED + skipped;
        let address = |n: u32| Ipv4Addr::from_bits(first + n);
        let primary = EniObservation {
            id: "eni-0e1c0000000000001".parse::<EniId>().expect("an ENI id"),
            mac: MacAddr([0x02, 0xe1, 0xc0, 0, 0, 1]),
            subnet: "subnet-0e1c0000000000001".parse::<SubnetId>().expect("a subnet id"),
            subnet_cidr: setup.subnet,
            primary: address(0),
            secondary: (1..=setup.secondary).map(address).collect(),
            attachment: Some(EniAttachment {
                instance: instance.clone(),
                device_index: 0,
                status: EniAttachmentStatus::Attached,
            }),
 security_groups: Vec::new(),
 tags: Default::default(),
        };
        Ok(Ec2 {
            setup,
            instance,
            limits,
            enis: vec![primary],
            journal: VecDeque::new(),
            faults: Vec::new(),
            requests: 0,
        })
    }

    /// What was set up.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// The ENIs as they are, without a call.
    pub fn enis(&self) -> &[EniObservation] {
        &self.enis
    }

    /// The journal, oldest first.
    pub fn journal(&self) -> impl Iterator<Item = &JournalEntry> {
        self.journal.iter()
    }

    /// Injects a fault, instead of one of the same call.
    pub fn set_fault(&mut self, fault: Fault) {
        self.faults.retain(|f| f.call != fault.call);
        if fault.count > 0 {
            self.faults.push(fault);
        }
    }

    /// Takes the fault of a call, if one is set: how late its answer is, and its error code.
    pub fn take_fault(&mut self, call: &str) -> (u64, Option<String>) {
        let Some(fault) = self.faults.iter_mut().find(|f| f.call == call) else { return (0, None) };
        fault.count -= 1;
        let taken = (fault.delay_ms, fault.error.clone());
        self.faults.retain(|f| f.count > 0);
        taken
    }

    /// The instance identity document and the primary ENI's part of the metadata tree.
    pub fn identity(
        &mut self,
        injected: Option<String>,
        now: Timestamp,
    ) -> Result<InstanceIdentity, CloudError> {
        let refused = injected.map(|code| (code, "injected".to_owned()));
        self.record("InstanceIdentity", String::new(), refused, now)?;
        Ok(InstanceIdentity {
            instance: self.instance.clone(),
            instance_type: self.setup.instance_type.clone(),
            primary_mac: self.enis[0].mac,
            vpc_cidrs: vec![self.setup.vpc_cidr],
        })
    }

    /// DescribeNetworkInterfaces, filtered by attachment.instance-id.
    pub fn describe_enis(
        &mut self,
        instance: &InstanceId,
        injected: Option<String>,
        now: Timestamp,
    ) -> Result<Vec<EniObservation>, CloudError> {
        let refused = injected.map(|code| (code, "injected".to_owned()));
        self.record("DescribeNetworkInterfaces", format!("attachment.instance-id={instance}"), refused, now)?;
        let attached = |e: &&EniObservation| e.attachment.as_ref().is_some_and(|a| a.instance == *instance);
        Ok(self.enis.iter().filter(attached).cloned().collect())
    }

    /// DescribeInstanceTypes for one type.
    pub fn describe_limits(
        &mut self,
        instance_type: &str,
        injected: Option<String>,
        now: Timestamp,
    ) -> Result<InstanceLimits, CloudError> {
        let found = limits::of(instance_type);
        let unknown = || {
            let text = format!("The following supplied instance types do not exist: [{instance_type}]");
            ("InvalidInstanceType".to_owned(), text)
        };
        let refused =
            injected.map(|code| (code, "injected".to_owned())).or_else(|| found.is_none().then(unknown));
        self.record("DescribeInstanceTypes", format!("InstanceType.1={instance_type}"), refused, now)?;
        Ok(found.unwrap_or_else(|| self.limits.clone()))
    }

    fn record(
        &mut self,
        call: &str,
        parameters: String,
        refused: Option<(String, String)>,
        now: Timestamp,
    ) -> Result<(), CloudError> {
        self.requests += 1;
        let outcome = refused.as_ref().map_or_else(|| "ok".to_owned(), |(code, _)| code.clone());
        let entry = JournalEntry { at_ms: now.as_millis(), call: call.to_owned(), parameters, outcome };
        self.journal.push_back(entry);
        if self.journal.len() > JOURNAL {
            self.journal.pop_front();
        }
        let Some((code, message)) = refused else { return Ok(()) };
        Err(CloudError {
            kind: kind_of(&code),
            call: call.to_owned(),
            message,
            code: Some(code),
            request_id: Some(format!("req-{:08x}", self.requests)),
        })
    }
}

/// EC2's codes, classed (EC2 API reference, "Error codes").
fn kind_of(code: &str) -> CloudErrorKind {
    match code {
        "RequestLimitExceeded" | "Throttling" => CloudErrorKind::Throttled,
        "UnauthorizedOperation" | "AuthFailure" => CloudErrorKind::Unauthorized,
        "Unavailable" | "InternalError" => CloudErrorKind::Unreachable,
        code if code.ends_with(".NotFound") => CloudErrorKind::NotFound,
        _ => CloudErrorKind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setup(secondary: u32) -> Setup {
        Setup {
            vpc_cidr: "10.0.0.0/16".parse().unwrap(),
            subnet: "10.0.1.0/24".parse().unwrap(),
            instance_type: "m5.large".into(),
            secondary,
        }
    }

    #[test]
    fn the_instance_boots_with_what_its_type_carries_and_no_more() {
        let ec2 = Ec2::boot(setup(9)).unwrap();
        assert_eq!(ec2.enis()[0].secondary.len(), 9);
        assert_eq!(ec2.enis()[0].primary, Ipv4Addr::new(10, 0, 1, 10));
        assert!(matches!(Ec2::boot(setup(10)), Err(SetupError::TooMany { most: 9, asked: 10, .. })));
        let odd = Setup { instance_type: "m5.huge".into(), ..setup(1) };
        assert_eq!(Ec2::boot(odd), Err(SetupError::UnknownType("m5.huge".into())));
        let outside = Setup { subnet: "10.1.0.0/24".parse().unwrap(), ..setup(1) };
        assert!(matches!(Ec2::boot(outside), Err(SetupError::Subnet { .. })));
        let small = Setup { subnet: "10.0.1.0/28".parse().unwrap(), ..setup(9) };
        let ec2 = Ec2::boot(small).unwrap();
        assert!(ec2.enis()[0].secondary.iter().all(|a| *a < Ipv4Addr::new(10, 0, 1, 15)), "never the last");
    }

    #[test]
    fn calls_are_journalled_and_faults_are_used_up() {
        let mut ec2 = Ec2::boot(setup(2)).unwrap();
        let now = Timestamp::from_millis(5);
        let instance = ec2.identity(None, now).unwrap().instance;
        assert_eq!(ec2.describe_enis(&instance, None, now).unwrap().len(), 1);
        assert_eq!(ec2.describe_enis(&"i-2".parse().unwrap(), None, now).unwrap().len(), 0);
        assert_eq!(
            ec2.describe_limits("m5.huge", None, now).unwrap_err().code.unwrap(),
            "InvalidInstanceType"
        );
        let fault = Fault {
            call: "DescribeNetworkInterfaces".into(),
            error: Some("RequestLimitExceeded".into()),
            delay_ms: 7,
            count: 1,
        };
        ec2.set_fault(fault);
        let (delay, code) = ec2.take_fault("DescribeNetworkInterfaces");
        assert_eq!(delay, 7);
        assert_eq!(ec2.describe_enis(&instance, code, now).unwrap_err().kind, CloudErrorKind::Throttled);
        assert_eq!(ec2.take_fault("DescribeNetworkInterfaces"), (0, None));
        let outcomes: Vec<&str> = ec2.journal().map(|e| e.outcome.as_str()).collect();
        assert_eq!(outcomes, ["ok", "ok", "ok", "InvalidInstanceType", "RequestLimitExceeded"]);
    }
}
