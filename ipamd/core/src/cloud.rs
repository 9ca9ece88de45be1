//! The cloud as core sees it: calls and replies as data, behind two traits in std only.
//!
//! Owns what may be asked of EC2 and of the instance metadata service, what they answer, and how their failures are
//! classed. Implementations live in other crates (the embedded VPC's client, the EC2 SDK's); the simulator answers
//! the same data from the model. Core never awaits: a boxed future carries the answer to whoever does.
//!
//! An answer that failed or is partial is unknown, never empty: nothing is freed on it.

use eni_proto::ids::{EniId, InstanceId, MacAddr, SubnetId};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::time::Duration;

/// An answer on its way.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, CloudError>> + Send + 'a>>;

/// EC2's calls on network interfaces.
pub trait EniApi: Send + Sync {
    /// DescribeNetworkInterfaces, all pages.
    fn describe_enis(&self, scope: &EniScope) -> Answer<'_, Vec<EniObservation>>;

    /// DescribeInstanceTypes for one type.
    fn describe_limits(&self, instance_type: &str) -> Answer<'_, InstanceLimits>;

    /// Changes something at EC2. The caller has committed its intent before.
    fn mutate(&self, mutation: &Mutation) -> Answer<'_, Mutated>;
}

/// Which ENIs to describe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EniScope {
    /// Those attached to an instance (filter `attachment.instance-id`).
    AttachedTo(InstanceId),
    /// Those that carry our tag of an instance, attached or not (filter `tag:eni-cni/instance`).
    TaggedFor(InstanceId),
}

/// The tag of every ENI that we create; its value is the id of the instance that it was created for.
pub const INSTANCE_TAG: &str = "eni-cni/instance";

/// One change at EC2: the verb and all that it needs. What is written down before the call is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mutation {
    /// CreateNetworkInterface, with its secondary addresses and tags in the one call.
    Create {
        /// The subnet.
        subnet: SubnetId,
        /// The security groups.
        security_groups: Vec<String>,
        /// SecondaryPrivateIpAddressCount.
        secondary: u32,
        /// Ipv4PrefixCount: /28 prefixes. Not together with `secondary`.
        #[serde(default)]
        prefixes: u32,
        /// Its tags.
        tags: BTreeMap<String, String>,
        /// ClientToken: a repeated call with the same token and the same parameters answers the same ENI.
        token: String,
    },
    /// AttachNetworkInterface. The answer comes before the ENI is there: describe until `attached`.
    Attach {
        /// The ENI.
        eni: EniId,
        /// The instance.
        instance: InstanceId,
        /// Its device index there, 1 and up.
        device_index: u32,
    },
    /// AssignPrivateIpAddresses by count, of addresses or of prefixes.
    Assign {
        /// The ENI.
        eni: EniId,
        /// SecondaryPrivateIpAddressCount.
        count: u32,
        /// Ipv4PrefixCount: /28 prefixes. Not together with `count`.
        #[serde(default)]
        prefixes: u32,
    },
    /// UnassignPrivateIpAddresses.
    Unassign {
        /// The ENI.
        eni: EniId,
        /// Which secondary addresses.
        addresses: Vec<Ipv4Addr>,
        /// Which prefixes. Not together with `addresses`.
        #[serde(default)]
        prefixes: Vec<Ipv4Net>,
    },
    /// DetachNetworkInterface, not forced. The answer comes before the ENI is gone: describe until `available`.
    Detach {
        /// The ENI.
        eni: EniId,
        /// EC2's id of the attachment (`eni-attach-…`), when a look has told it.
        #[serde(default)]
        attachment: Option<String>,
    },
    /// DeleteNetworkInterface: refused while it is attached.
    Delete {
        /// The ENI.
        eni: EniId,
    },
    /// ModifyNetworkInterfaceAttribute, groups.
    SetSecurityGroups {
        /// The ENI.
        eni: EniId,
        /// All that it is to have.
        security_groups: Vec<String>,
    },
    /// ModifyNetworkInterfaceAttribute, attachment: the ENI is deleted when its instance is terminated.
    SetDeleteOnTermination {
        /// The ENI.
        eni: EniId,
        /// EC2's id of its attachment.
        attachment: String,
    },
}

impl Mutation {
    /// The call, as EC2 names it.
    pub fn call(&self) -> &'static str {
        match self {
            Mutation::Create { .. } => "CreateNetworkInterface",
            Mutation::Attach { .. } => "AttachNetworkInterface",
            Mutation::Assign { .. } => "AssignPrivateIpAddresses",
            Mutation::Unassign { .. } => "UnassignPrivateIpAddresses",
            Mutation::Detach { .. } => "DetachNetworkInterface",
            Mutation::Delete { .. } => "DeleteNetworkInterface",
            Mutation::SetSecurityGroups { .. } | Mutation::SetDeleteOnTermination { .. } => {
                "ModifyNetworkInterfaceAttribute"
            }
        }
    }

    /// The ENI that it changes; none for one that is only being created.
    pub fn eni(&self) -> Option<&EniId> {
        match self {
            Mutation::Create { .. } => None,
            Mutation::Attach { eni, .. }
            | Mutation::Assign { eni, .. }
            | Mutation::Unassign { eni, .. }
            | Mutation::Detach { eni, .. }
            | Mutation::Delete { eni }
            | Mutation::SetSecurityGroups { eni, .. }
            | Mutation::SetDeleteOnTermination { eni, .. } => Some(eni),
        }
    }
}

/// What EC2 answered to a change that it made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mutated {
    /// To `Create`: the ENI, not attached.
    Created(EniObservation),
    /// To `Assign` of addresses: the new ones, and no others.
    Assigned(Vec<Ipv4Addr>),
    /// To `Assign` of prefixes: the new ones, and no others.
    AssignedPrefixes(Vec<Ipv4Net>),
    /// To the others.
    Done,
}

/// The instance metadata service (IMDSv2).
pub trait InstanceMetadata: Send + Sync {
    /// Who this instance is and what VPC its primary ENI lies in.
    fn identity(&self) -> Answer<'_, InstanceIdentity>;

    /// What it says of the instance's network interfaces now. A hint: it lags EC2 both ways, for seconds to minutes.
    fn interfaces(&self) -> Answer<'_, Vec<MetadataEni>>;
}

/// What the metadata service says of the instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceIdentity {
    /// The instance's id.
    pub instance: InstanceId,
    /// Its type, as `m5.4xlarge`.
    pub instance_type: String,
    /// The MAC of its primary ENI.
    pub primary_mac: MacAddr,
    /// The IPv4 CIDRs of the VPC, in the order told.
    pub vpc_cidrs: Vec<Ipv4Net>,
    /// Its Region, as `eu-central-1`.
    #[serde(default)]
    pub region: String,
    /// Its availability zone, as `eu-central-1a`.
    #[serde(default)]
    pub availability_zone: String,
}

/// What the metadata service says of one network interface (`network/interfaces/macs/<mac>/`); what is not there yet is
/// none or empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetadataEni {
    /// Its MAC, as the key has it.
    pub mac: MacAddr,
    /// `interface-id`.
    pub id: Option<EniId>,
    /// `device-number`.
    pub device_index: Option<u32>,
    /// `local-ipv4s`, the primary first.
    pub addresses: Vec<Ipv4Addr>,
    /// `ipv4-prefix`.
    pub prefixes: Vec<Ipv4Net>,
    /// `subnet-ipv4-cidr-block`.
    pub subnet_cidr: Option<Ipv4Net>,
    /// `vpc-ipv4-cidr-blocks`.
    pub vpc_cidrs: Vec<Ipv4Net>,
}

/// One network interface as EC2 describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EniObservation {
    /// `eni-…`
    pub id: EniId,
    /// Its MAC: what finds its link on the node.
    pub mac: MacAddr,
    /// Its subnet.
    pub subnet: SubnetId,
    /// Its subnet's CIDR; the gateway is the first address after the network's.
    pub subnet_cidr: Ipv4Net,
    /// Its own primary address; none when EC2 did not tell it, as it may for seconds after a change.
    pub primary: Option<Ipv4Addr>,
    /// Its secondary addresses, the primary not among them.
    pub secondary: Vec<Ipv4Addr>,
    /// Its /28 prefixes.
    #[serde(default)]
    pub prefixes: Vec<Ipv4Net>,
    /// Where it is attached, if anywhere.
    pub attachment: Option<EniAttachment>,
    /// Its security groups.
    #[serde(default)]
    pub security_groups: Vec<String>,
    /// Its tags.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// `PrivateDnsName`, when it has one.
    #[serde(default)]
    pub private_dns_name: Option<String>,
    /// `InterfaceType`: `interface`, or one that carries no addresses for containers as `trunk`, `efa-only`, `branch`.
    #[serde(default = "plain_interface")]
    pub kind: String,
}

/// The `InterfaceType` of an ordinary network interface.
pub const PLAIN_INTERFACE: &str = "interface";

fn plain_interface() -> String {
    PLAIN_INTERFACE.to_owned()
}

impl EniObservation {
    /// All of its addresses, its own first.
    pub fn all_addresses(&self) -> impl Iterator<Item = Ipv4Addr> + '_ {
        self.primary.into_iter().chain(self.for_containers())
    }

    /// The addresses that containers may get: the secondary ones and those of the prefixes, never the primary, whatever
    /// an answer lists.
    pub fn for_containers(&self) -> impl Iterator<Item = Ipv4Addr> + '_ {
        let of_prefixes = self.prefixes.iter().flat_map(addresses_of);
        self.secondary.iter().copied().chain(of_prefixes).filter(|address| Some(*address) != self.primary)
    }
}

/// All addresses of a prefix: of a /28 that is delegated to an ENI each of the 16 is usable.
pub fn addresses_of(prefix: &Ipv4Net) -> impl Iterator<Item = Ipv4Addr> + use<> {
    (prefix.network().to_bits()..=prefix.broadcast().to_bits()).map(Ipv4Addr::from_bits)
}

/// The attachment of an ENI to an instance (EC2's use of the word).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EniAttachment {
    /// The instance.
    pub instance: InstanceId,
    /// 0 is the primary.
    pub device_index: u32,
    /// `attaching`, `attached`, `detaching`.
    pub status: EniAttachmentStatus,
    /// EC2's id of it (`eni-attach-…`): what DetachNetworkInterface takes.
    #[serde(default)]
    pub id: Option<String>,
    /// The network card: only 0 is ours to use.
    #[serde(default)]
    pub network_card: u32,
    /// Whether the ENI goes with the instance.
    #[serde(default)]
    pub delete_on_termination: bool,
}

/// EC2's states of an ENI's attachment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EniAttachmentStatus {
    /// On its way; its link may not be there yet.
    Attaching,
    /// There.
    Attached,
    /// On its way out.
    Detaching,
}

/// What an instance type carries (DescribeInstanceTypes, NetworkInfo).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceLimits {
    /// MaximumNetworkInterfaces, on network card 0.
    pub enis: u32,
    /// Ipv4AddressesPerInterface, the primary included.
    pub addresses_per_eni: u32,
    /// Whether its ENIs take prefixes: those of Nitro and bare-metal types do.
    #[serde(default)]
    pub prefixes: bool,
    /// DefaultVCpus, when known: what the advice on the number of pods goes by.
    #[serde(default)]
    pub vcpus: Option<u32>,
}

impl InstanceLimits {
    /// Of a type without prefixes whose vCPUs are not known.
    pub fn new(enis: u32, addresses_per_eni: u32) -> Self {
        InstanceLimits { enis, addresses_per_eni, prefixes: false, vcpus: None }
    }
}

/// All that one look at the cloud tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloudObservation {
    /// The instance.
    pub identity: InstanceIdentity,
    /// What its type carries.
    pub limits: InstanceLimits,
    /// Its ENIs: all that are attached to it and, when `tagged`, all that carry our tag of it.
    pub enis: Vec<EniObservation>,
    /// Whether ENIs of ours that are attached to nothing were asked for, too.
    pub tagged: bool,
    /// What the metadata service says of them; none when it did not answer, which is unknown, not empty.
    #[serde(default)]
    pub metadata: Option<Vec<MetadataEni>>,
}

/// A call that failed, with what the cloud said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloudError {
    /// What kind of failure.
    pub kind: CloudErrorKind,
    /// The call, as EC2 names it: `DescribeNetworkInterfaces`.
    pub call: String,
    /// The cloud's words, or the transport's.
    pub message: String,
    /// EC2's error code, when it answered one.
    pub code: Option<String>,
    /// EC2's request id, when it answered one.
    pub request_id: Option<String>,
    /// The action that is not allowed, as `ec2:CreateNetworkInterface`, when that is the failure and EC2 named it.
    #[serde(default)]
    pub denied: Option<String>,
    /// How long EC2 asked to wait, when it did, in milliseconds.
    #[serde(default)]
    pub retry_after_ms: Option<u64>,
}

/// Classes of failure, as far as calls of this crate can meet them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CloudErrorKind {
    /// The service was not reached or did not answer in time.
    Unreachable,
    /// RequestLimitExceeded and its kin.
    Throttled,
    /// The thing asked about does not exist (it may not exist yet).
    NotFound,
    /// It is in another state than the call needs, as an ENI that is attached already.
    InUse,
    /// A limit of the instance type.
    LimitReached,
    /// A quota of the account or the Region.
    QuotaReached,
    /// The subnet has no address left.
    SubnetFull,
    /// The subnet has no free /28 left, though it may have addresses.
    PrefixesExhausted,
    /// Not allowed.
    Unauthorized,
    /// Anything else.
    Other,
}

impl CloudError {
    /// A failure of a call that says no more than its words.
    pub fn new(kind: CloudErrorKind, call: impl Into<String>, message: impl Into<String>) -> Self {
        CloudError {
            kind,
            call: call.into(),
            message: message.into(),
            code: None,
            request_id: None,
            denied: None,
            retry_after_ms: None,
        }
    }

    /// Whether the call may have taken effect all the same: it was not answered, or EC2 failed on the way and says so
    /// (InternalError, Unavailable). Every other code is a refusal: nothing was changed.
    pub fn leaves_open(&self) -> bool {
        self.code.is_none() || self.kind == CloudErrorKind::Unreachable
    }

    /// How long to wait before the same call is worth making again.
    pub fn retry_after(&self) -> Duration {
        let asked = Duration::from_millis(self.retry_after_ms.unwrap_or(0));
        let usual = match self.kind {
            CloudErrorKind::Unreachable | CloudErrorKind::NotFound | CloudErrorKind::InUse => {
                Duration::from_secs(1)
            }
            CloudErrorKind::Throttled | CloudErrorKind::Other => Duration::from_secs(5),
            CloudErrorKind::Unauthorized
            | CloudErrorKind::LimitReached
            | CloudErrorKind::QuotaReached
            | CloudErrorKind::SubnetFull
            | CloudErrorKind::PrefixesExhausted => Duration::from_secs(30),
        };
        usual.max(asked)
    }
}

impl fmt::Display for CloudError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.call, self.message)?;
        match (&self.code, &self.request_id) {
            (Some(code), Some(id)) => write!(f, " ({code}, request id {id})"),
            (Some(code), None) => write!(f, " ({code})"),
            _ => Ok(()),
        }
    }
}

impl std::error::Error for CloudError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ec2_failed_at_may_have_happened_and_what_it_refused_has_not() {
        let error = |kind, code: Option<&str>| CloudError {
            code: code.map(str::to_owned),
            ..CloudError::new(kind, "CreateNetworkInterface", "")
        };
        assert!(error(CloudErrorKind::Unreachable, None).leaves_open(), "no answer");
        assert!(error(CloudErrorKind::Unreachable, Some("InternalError")).leaves_open());
        assert!(!error(CloudErrorKind::Throttled, Some("RequestLimitExceeded")).leaves_open());
        assert!(!error(CloudErrorKind::SubnetFull, Some("InsufficientFreeAddressesInSubnet")).leaves_open());
    }
}
