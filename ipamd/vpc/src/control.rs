//! The words of the control socket: one JSON line per request, one per answer.
//!
//! Owns requests and answers. Calls of EC2 and of the metadata service are what `ipamd_core::cloud` asks; the others
//! are for tests and people who want to see.

use crate::model::{Fault, Gap, JournalEntry, Lags, OtherEni, Throttling};
use eni_proto::ids::EniId;
use ipamd_core::cloud::{
    CloudError, EniObservation, EniScope, InstanceIdentity, InstanceLimits, MetadataEni, Mutated, Mutation,
};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// The longest line, in bytes: a thousand addresses are some 20 KiB.
pub const MAX_LINE: usize = 1024 * 1024;

/// A request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// The instance metadata.
    Identity,
    /// The instance metadata of its network interfaces.
    Interfaces,
    /// DescribeNetworkInterfaces.
    DescribeEnis {
        /// Which.
        scope: EniScope,
    },
    /// DescribeInstanceTypes of one type.
    DescribeLimits {
        /// The type.
        instance_type: String,
    },
    /// One of the calls that change ENIs.
    Mutate(Mutation),
    /// The ENIs as they are. No call of EC2: the journal does not have it.
    Enis,
    /// What the source checks have dropped.
    Drops,
    /// The calls so far.
    Journal,
    /// How often each call was made.
    Calls,
    /// Names and addresses of the network.
    Topology,
    /// Injects a fault.
    SetFault(Fault),
    /// Leaves at most that many addresses free in the subnet, as if others held the rest; none gives those back.
    SetSubnetFree {
        /// How many.
        addresses: Option<u32>,
    },
    /// Others hold an address in every /28 of the subnet that is free as a whole, or give those back.
    SetFragmented {
        /// Whether they hold them.
        fragmented: bool,
    },
    /// How far behind describes and the metadata are, and released addresses.
    SetLags(Lags),
    /// Leaves something of an ENI out of what is told, for a time.
    SetGap(Gap),
    /// Throttles calls by token buckets, full now.
    SetThrottling {
        /// By which.
        throttling: Throttling,
        /// How long a throttled caller is asked to wait (by HTTP `Retry-After`, in whole seconds).
        #[serde(default)]
        retry_after_ms: Option<u64>,
    },
    /// Denies these actions, as `CreateNetworkInterface`, and no others.
    SetDenied {
        /// Which.
        actions: BTreeSet<String>,
    },
    /// How many network interfaces the account may have in the Region.
    SetQuota {
        /// How many; none is no quota.
        enis: Option<u32>,
    },
    /// No detaching ends from now on, unless it is forced; or all that hang end.
    SetStuckDetach {
        /// Whether they hang.
        stuck: bool,
    },
    /// CIDRs that were associated with the VPC beside its first; the router knows nothing of them.
    SetMoreCidrs {
        /// Which.
        cidrs: Vec<Ipv4Net>,
    },
    /// How long the role's credentials last that the metadata service gives out from now on.
    SetCredentialLifetime {
        /// In milliseconds.
        lifetime_ms: u64,
    },
    /// Adds an ENI that others made, with its link.
    AddOther(OtherEni),
    /// DetachNetworkInterface with Force.
    ForceDetach {
        /// The ENI.
        eni: EniId,
    },
    /// Ends the program and takes its network away.
    Shutdown,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// To `identity`.
    Identity(InstanceIdentity),
    /// To `interfaces`.
    Interfaces(Vec<MetadataEni>),
    /// To `describe_enis` and `enis`.
    Enis(Vec<EniObservation>),
    /// To `describe_limits`.
    Limits(InstanceLimits),
    /// To `mutate`.
    Mutated(Mutated),
    /// To `drops`: packets by counter; `internet` counts what left the VPC with an address that no public one maps to.
    Drops(BTreeMap<String, u64>),
    /// To `journal`.
    Journal(Vec<JournalEntry>),
    /// To `calls`.
    Calls(BTreeMap<String, u64>),
    /// To `topology`.
    Topology(Box<Topology>),
    /// To `add_other`.
    Added(EniId),
    /// To the others.
    Done,
    /// EC2 or the metadata service refused.
    Refused(CloudError),
    /// The request is not understood or could not be carried out.
    Failed(String),
}

/// Names and addresses of the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    /// The control socket.
    pub control: String,
    /// The node's network namespace: ipamd, the plugin and the runtime live in it.
    pub node_netns: String,
    /// The VPC router's.
    pub router_netns: String,
    /// A host elsewhere in the VPC.
    pub peer_netns: String,
    /// A host on the "internet".
    pub internet_netns: String,
    /// A client outside, whose address reaches ENIs as it is: what a load balancer in IP mode lets through.
    pub client_netns: String,
    /// The VPC's CIDR.
    pub vpc_cidr: Ipv4Net,
    /// The subnet's gateway.
    pub gateway: Ipv4Addr,
    /// The node's primary address.
    pub node_address: Ipv4Addr,
    /// The peer's address.
    pub peer_address: Ipv4Addr,
    /// The internet host's address.
    pub internet_address: Ipv4Addr,
    /// The client's address.
    pub client_address: Ipv4Addr,
    /// The node's first link.
    pub node_link: String,
    /// EC2's endpoint by HTTP, as reached from where the program runs; with `--http` only.
    #[serde(default)]
    pub ec2_endpoint: Option<String>,
    /// The metadata service's, from there.
    #[serde(default)]
    pub imds_endpoint: Option<String>,
    /// Both, as reached from the node and from what it routes: the metadata service's own address.
    #[serde(default)]
    pub node_endpoint: Option<String>,
}
