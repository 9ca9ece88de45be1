//! The words of the control socket: one JSON line per request, one per answer.
//!
//! Owns requests and answers. Calls of EC2 and of the metadata service are what `ipamd_core::cloud` asks; the others
//! are for tests and people who want to see.

use crate::model::{Fault, JournalEntry};
use ipamd_core::cloud::{
    CloudError, EniObservation, EniScope, InstanceIdentity, InstanceLimits, MetadataEni, Mutated, Mutation,
};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
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
}
