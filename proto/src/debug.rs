//! What `debug.sock` answers: the shapes that `ipamctl` and scripts read.
//!
//! Owns field names and units; each answer names its source. Does not own how it is gathered.

use crate::ids::{AttachmentKey, EniId, InstanceId, MacAddr, NetnsCookie};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// `GET /v1/status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StatusView {
    /// ipamd's version.
    pub version: String,
    /// ipamd's process id.
    pub pid: u32,
    /// Whether ADD is served: the kernel is reconciled and the host's part of the data plane is laid.
    pub ready: bool,
    /// What is missing for `ready`, or what is wrong although ADDs are served; empty when all is well.
    pub reasons: Vec<String>,
    /// The CNI code that STATUS answers now: 0, 50 or 51.
    pub cni_status: u32,
    /// The instance, once the metadata service answered.
    pub instance: Option<InstanceId>,
    /// Its type.
    pub instance_type: Option<String>,
    /// The pool in numbers.
    pub pool: PoolCounts,
    /// Attachments by state.
    pub attachments: BTreeMap<String, usize>,
    /// Steps of the start, in order, with their time in milliseconds since the process began.
    pub start: Vec<StartStep>,
    /// Milliseconds since the process began.
    pub uptime_ms: u64,
    /// Each reconciler's last pass.
    pub reconcilers: Vec<ReconcilerView>,
    /// What on the host is not as it should be and is left alone, by kind; `reasons` has the words.
    #[serde(default)]
    pub host_reports: BTreeMap<String, usize>,
    /// What an operator may switch.
    #[serde(default)]
    pub switches: Vec<SwitchView>,
    /// Milliseconds since the last look at EC2 began that was compared; none before the first.
    #[serde(default)]
    pub cloud_age_ms: Option<u64>,
}

/// `GET /v1/switches`: one row per switch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwitchView {
    /// `no-release`, `no-cloud`.
    pub name: String,
    /// Whether it is on.
    pub on: bool,
    /// Whether the configuration has it on: how it stands after the next start.
    pub configured: bool,
}

/// `GET /v1/limits`: what the instance type carries, and how many pods follow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitsView {
    /// The type.
    pub instance_type: String,
    /// Who told: `DescribeInstanceTypes`, or the built-in table and why.
    pub source: String,
    /// ENIs on network card 0.
    pub enis: u32,
    /// IPv4 addresses of each, its own included.
    pub addresses_per_eni: u32,
    /// Whether they take prefixes.
    pub prefixes: bool,
    /// vCPUs, when known.
    pub vcpus: Option<u32>,
    /// ENIs of the instance that are left alone.
    pub others: Vec<OthersEniView>,
    /// `--max-pods` with single addresses: ENIs × (addresses − 1) + 2, the others' taken off.
    pub max_pods_addresses: u32,
    /// `--max-pods` with prefixes, capped; none where ENIs take none.
    pub max_pods_prefixes: Option<u32>,
    /// What that is capped at.
    pub max_pods_cap: u32,
}

/// An ENI of the instance that is left alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OthersEniView {
    /// The ENI.
    pub id: EniId,
    /// Its device index.
    pub device_index: u32,
    /// Its network card: one on card 0 takes a place of the limit.
    pub network_card: u32,
    /// Why it is left alone.
    pub reason: String,
}

/// A step of the start sequence that is done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StartStep {
    /// The step.
    pub step: String,
    /// When it was done, in milliseconds since the process began.
    pub at_ms: u64,
}

/// A reconciler's own state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReconcilerView {
    /// Its name.
    pub name: String,
    /// `idle`, `running`, `backing_off`.
    pub state: String,
    /// Passes that ended well.
    pub passes: u64,
    /// Passes that failed.
    pub failures: u64,
    /// The last failure, when the last pass failed.
    pub last_error: Option<String>,
}

/// The pool in numbers of addresses; their sum is what EC2 says the ENIs hold, minus the primaries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolCounts {
    /// Held by nobody. Those of an ENI that is attaching or draining are not given out.
    pub free: usize,
    /// Held by an attachment.
    pub allocated: usize,
    /// Released, not to be reused yet.
    pub cooling: usize,
    /// Kept out of use, with a reason.
    pub quarantined: usize,
}

/// `GET /v1/pool`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PoolView {
    /// The sums.
    pub counts: PoolCounts,
    /// Every address.
    pub addresses: Vec<AddressView>,
}

/// One address of the pool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AddressView {
    /// The address.
    pub address: Ipv4Addr,
    /// The ENI that holds it at EC2.
    pub eni: EniId,
    /// `free`, `allocated`, `cooling`, `quarantined`.
    pub state: String,
    /// Who holds it, or held it last while it is cooling.
    pub attachment: Option<AttachmentKey>,
    /// Milliseconds until the cooldown has passed.
    pub cooling_ms: Option<u64>,
    /// Why it is kept out of use.
    pub reason: Option<String>,
    /// How often it was allocated.
    pub generation: u64,
}

/// `GET /v1/enis`: one row per ENI.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EniView {
    /// The ENI.
    pub id: EniId,
    /// Its Ethernet address.
    pub mac: MacAddr,
    /// EC2's device index; 0 is the primary.
    pub device_index: u32,
    /// Its own primary address.
    pub primary: Ipv4Addr,
    /// `creating`, `attaching`, `in_use`, `draining`, `detaching`, `deleting`, `lost`.
    pub state: String,
    /// The link that has its MAC on this node.
    pub link: Option<String>,
    /// Its addresses in numbers.
    pub counts: PoolCounts,
}

/// `GET /v1/attachments`: one row per attachment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AttachmentView {
    /// Network, container id, ifname.
    #[serde(flatten)]
    pub key: AttachmentKey,
    /// `adding`, `live`, `broken`, `pinned`, `dying`.
    pub state: String,
    /// `shared`.
    pub mode: String,
    /// Its addresses.
    pub addresses: Vec<Ipv4Addr>,
    /// The ENI whose addresses they are.
    pub eni: EniId,
    /// Namespace and name of the pod, when known.
    pub pod: Option<String>,
    /// CNI_NETNS as the runtime wrote it.
    pub netns: String,
    /// The sandbox's netns cookie, in hex.
    pub netns_cookie: NetnsCookie,
    /// The host's link.
    pub host_link: String,
    /// The host link's index.
    pub host_ifindex: u32,
    /// Its generation.
    pub generation: u64,
    /// Milliseconds since it was made.
    pub age_ms: u64,
    /// The witness that has claimed it.
    pub claimed_by: Option<String>,
}

/// The envelope of every answer: where it comes from and how old it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer<T> {
    /// `stored`, `host`, `ec2`, `imds` or `runtime`.
    pub source: String,
    /// The answer's age in milliseconds.
    pub age_ms: u64,
    /// The answer.
    pub data: T,
}

/// What `debug.sock` answers instead when a query fails.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Refusal {
    /// What failed and what to do.
    pub error: String,
}
