//! What the owner is configured with.
//!
//! Owns the values that decisions depend on, already validated. Does not read a file.

use crate::capacity::Targets;
use eni_proto::ids::SubnetId;
use ipnet::Ipv4Net;
use std::time::Duration;

/// The owner's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnerConfig {
    /// The least time between a release and the next use of an address. Zero is legal: a link that is gone and a
    /// conntrack table without the address still come first.
    pub cooldown: Duration,
    /// MTU of both ends of a sandbox's link, in bytes, unless the network configuration names one.
    pub mtu: u32,
    /// txqueuelen of both ends.
    pub txqueuelen: u32,
    /// MTU of the secondary ENIs' links, in bytes; none leaves it as it is.
    pub eni_mtu: Option<u32>,
    /// Masquerade what leaves the VPC to the node's primary address; otherwise a pod's own ENI carries it unchanged.
    pub snat: bool,
    /// CIDRs that are treated as inside the VPC, beside its own.
    pub extra_vpc_cidrs: Vec<Ipv4Net>,
    /// The most ADDs that wait or run at once.
    pub max_waiters: usize,
    /// How many ENIs and addresses the node should have.
    pub targets: Targets,
    /// Where new ENIs lie, in the order of preference; empty: in the primary's subnet.
    pub subnets: Vec<SubnetId>,
    /// The security groups of our ENIs; empty: the primary's.
    pub security_groups: Vec<String>,
    /// The time between two looks while something at EC2 is on its way.
    pub poll: Duration,
    /// The time between two looks at EC2.
    pub describe_period: Duration,
    /// The time between two looks at the host's network while nothing tells of a change.
    pub host_period: Duration,
    /// Take off the secondary ENIs' links what others put there and what breaks ours.
    pub adopt_links: bool,
    /// How long ipamd may be silent before STATUS fails.
    pub status_grace: Duration,
    /// STATUS fails while no address is free and none is coming.
    pub fail_when_full: bool,
    /// EC2 and the metadata service are neither asked nor changed.
    pub no_cloud: bool,
    /// Wire although amazon-vpc-cni is active on the node.
    pub ignore_peer: bool,
    /// Drop what pods send to the instance metadata service.
    pub block_metadata: bool,
}

impl Default for OwnerConfig {
    fn default() -> Self {
        OwnerConfig {
            cooldown: Duration::from_secs(30),
            mtu: 9001,
            txqueuelen: 1000,
            eni_mtu: None,
            snat: true,
            extra_vpc_cidrs: Vec::new(),
            max_waiters: 512,
            targets: Targets::default(),
            subnets: Vec::new(),
            security_groups: Vec::new(),
            poll: Duration::from_secs(2),
            describe_period: Duration::from_secs(30),
            host_period: Duration::from_secs(60),
            adopt_links: true,
            status_grace: Duration::from_secs(60),
            fail_when_full: false,
            no_cloud: false,
            ignore_peer: false,
            block_metadata: false,
        }
    }
}
