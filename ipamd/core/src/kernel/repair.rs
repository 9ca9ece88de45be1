//! Words for what others do to the host's network: what told of it, and what a step mends.
//!
//! Owns two closed lists, which label the metric of repairs. Does not watch and does not plan.

use super::HostStep;

/// What woke a look at the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Trigger {
    /// A link of ours changed or is gone.
    Link,
    /// An IPv4 address came or went.
    Address,
    /// A route of ours went, or one was laid where ours belong.
    Route,
    /// A rule came or went.
    Rule,
    /// A neighbour of ours is gone.
    Neighbour,
    /// IPv4 settings were written.
    Settings,
    /// Our nft table or the filter table was touched.
    Nftables,
    /// The kernel has told that events were lost.
    Overrun,
    /// Nothing: the period has passed, or ipamd has started.
    Period,
    /// The pool, an ENI or a VPC CIDR changed.
    Pool,
}

impl Trigger {
    /// All of them.
    pub const ALL: [Trigger; 10] = [
        Trigger::Link,
        Trigger::Address,
        Trigger::Route,
        Trigger::Rule,
        Trigger::Neighbour,
        Trigger::Settings,
        Trigger::Nftables,
        Trigger::Overrun,
        Trigger::Period,
        Trigger::Pool,
    ];

    /// Its name, as logs and metrics show it.
    pub fn name(self) -> &'static str {
        match self {
            Trigger::Link => "link",
            Trigger::Address => "address",
            Trigger::Route => "route",
            Trigger::Rule => "rule",
            Trigger::Neighbour => "neighbour",
            Trigger::Settings => "settings",
            Trigger::Nftables => "nftables",
            Trigger::Overrun => "overrun",
            Trigger::Period => "period",
            Trigger::Pool => "pool",
        }
    }
}

/// What of the host a step mends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Thing {
    /// A rule.
    Rule,
    /// A route.
    Route,
    /// A link's group, settings, MTU or being up.
    Link,
    /// A link's alias.
    Alias,
    /// A link's MAC.
    Mac,
    /// A link's name.
    Name,
    /// An address on a link.
    Address,
    /// A neighbour.
    Neighbour,
    /// Our nft table.
    Nftables,
    /// The accept rules in the filter table.
    Forward,
}

impl Thing {
    /// Its name, as logs and metrics show it.
    pub fn name(self) -> &'static str {
        match self {
            Thing::Rule => "rule",
            Thing::Route => "route",
            Thing::Link => "link",
            Thing::Alias => "alias",
            Thing::Mac => "mac",
            Thing::Name => "name",
            Thing::Address => "address",
            Thing::Neighbour => "neighbour",
            Thing::Nftables => "nftables",
            Thing::Forward => "forward",
        }
    }

    /// What tells of its damage, the most likely first: a link that goes down takes its routes and neighbours with it,
    /// and an address its routes, without a word.
    pub fn told_by(self) -> &'static [Trigger] {
        match self {
            Thing::Rule => &[Trigger::Rule],
            Thing::Route => &[Trigger::Route, Trigger::Link, Trigger::Address],
            Thing::Link => &[Trigger::Link, Trigger::Settings],
            Thing::Alias | Thing::Mac | Thing::Name => &[Trigger::Link],
            Thing::Address => &[Trigger::Address, Trigger::Link],
            Thing::Neighbour => &[Trigger::Neighbour, Trigger::Link],
            Thing::Nftables | Thing::Forward => &[Trigger::Nftables],
        }
    }
}

impl HostStep {
    /// What it mends.
    pub fn thing(&self) -> Thing {
        match self {
            HostStep::AddRule { .. } | HostStep::DeleteRule { .. } => Thing::Rule,
            HostStep::AddRoute(_)
            | HostStep::DeleteRoute(_)
            | HostStep::AddEniRoute(_)
            | HostStep::DeleteEniRoute(_)
            | HostStep::DeleteMainRoute(_) => Thing::Route,
            HostStep::SetLink { .. } | HostStep::SetMtu { .. } => Thing::Link,
            HostStep::SetAlias { .. } => Thing::Alias,
            HostStep::SetMac { .. } => Thing::Mac,
            HostStep::SetName { .. } => Thing::Name,
            HostStep::AddAddress(_) | HostStep::DeleteAddress(_) => Thing::Address,
            HostStep::SetNeighbour(_) => Thing::Neighbour,
            HostStep::ReplaceNft { .. } => Thing::Nftables,
            HostStep::AcceptForward(_) => Thing::Forward,
        }
    }
}
