//! What is observed of the host's own network, and the steps that change it.
//!
//! Owns the views of links, routes, rules, neighbours, addresses and the filter table, and one step for each change.
//! Does not plan.

use eni_proto::ids::MacAddr;
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

/// A link on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkView {
    /// Its index.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// Its MAC, if it is an Ethernet link.
    pub mac: Option<MacAddr>,
    /// Its group.
    pub group: u32,
    /// Its alias; empty when it has none.
    pub alias: String,
    /// Administratively up.
    pub up: bool,
    /// MTU in bytes.
    pub mtu: u32,
    /// `veth` and the like; empty for hardware.
    pub kind: String,
    /// The per-link IPv4 settings.
    pub inet: InetSettings,
}

/// Per-link IPv4 settings (IFLA_INET_CONF), as far as we set them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, Hash)]
pub struct InetSettings {
    /// `forwarding`.
    pub forwarding: bool,
    /// `rp_filter`: 0, 1 (strict) or 2 (loose).
    pub rp_filter: u8,
    /// `send_redirects`.
    pub send_redirects: bool,
}

/// Settings of an ENI's link.
pub const ENI_INET: InetSettings = InetSettings { forwarding: true, rp_filter: 2, send_redirects: false };
/// Settings of a pod's host end: strict, so that a sandbox cannot send with another's address.
pub const POD_INET: InetSettings = InetSettings { forwarding: true, rp_filter: 1, send_redirects: false };

/// What a route does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Hash)]
#[serde(rename_all = "snake_case")]
pub enum RouteAction {
    /// On-link by a device.
    Device {
        /// Its index.
        ifindex: u32,
    },
    /// Answered "host unreachable".
    Unreachable,
}

/// A route of the pods table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Hash)]
pub struct RouteView {
    /// The destination.
    pub destination: Ipv4Net,
    /// RTA_PRIORITY; 0 when absent.
    pub metric: u32,
    /// What it does.
    pub action: RouteAction,
    /// RTA_PREFSRC.
    pub prefsrc: Option<Ipv4Addr>,
    /// `rtm_protocol`.
    pub protocol: u8,
}

/// A route of an ENI's own table, by that ENI's link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Hash)]
pub struct EniRouteView {
    /// Its table: [`super::ENI_TABLE`] plus K.
    pub table: u32,
    /// The destination.
    pub destination: Ipv4Net,
    /// The next hop; without one the destination is on the link.
    pub gateway: Option<Ipv4Addr>,
    /// The link.
    pub ifindex: u32,
    /// RTA_PRIORITY; 0 when absent.
    pub metric: u32,
    /// `rtm_protocol`.
    pub protocol: u8,
}

/// A rule's selector by the packet's mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Hash)]
pub struct Mark {
    /// The value of the bits that the mask has.
    pub value: u32,
    /// The mask.
    pub mask: u32,
}

/// An IPv4 rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RuleView {
    /// Its priority.
    pub priority: u32,
    /// The table that it looks up.
    pub table: u32,
    /// Its protocol number.
    pub protocol: u8,
    /// The mark that it selects, if it does.
    pub mark: Option<Mark>,
    /// Whether it has any selector beside a mark.
    pub other_selector: bool,
}

/// A neighbour of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Hash)]
pub struct NeighbourView {
    /// The link.
    pub ifindex: u32,
    /// The address.
    pub address: Ipv4Addr,
    /// Its MAC.
    pub mac: MacAddr,
    /// NUD_PERMANENT.
    pub permanent: bool,
}

/// An IPv4 address on a host link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Hash)]
pub struct HostAddressView {
    /// The link.
    pub ifindex: u32,
    /// The address with its prefix length.
    pub address: Ipv4Net,
}

/// A chain of the filter table that forwarded packets pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Hash)]
pub enum FilterChain {
    /// The base chain.
    Forward,
    /// dockerd's chain for the operator's rules, which FORWARD jumps to first.
    DockerUser,
}

impl FilterChain {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            FilterChain::Forward => "FORWARD",
            FilterChain::DockerUser => "DOCKER-USER",
        }
    }
}

/// What the host's filter table does with what is forwarded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Forward {
    /// Nobody has looked.
    #[default]
    Unknown,
    /// Its policy does not drop.
    Open,
    /// The policy of iptables-nft's FORWARD drops.
    Drops {
        /// Where rules that accept belong.
        chain: FilterChain,
        /// Our two rules are there: in and out of the pods' host ends.
        accepted: bool,
    },
    /// iptables-legacy's filter table is in use, and its FORWARD drops or cannot be read (that needs CAP_NET_RAW). We
    /// cannot lay rules there. Told only when nothing is left to be laid in iptables-nft's.
    Legacy,
}

/// Settings of the whole network namespace that ipamd does not set: `conf/sysctl.d` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GlobalSettings {
    /// `net.ipv4.ip_forward`.
    pub forwarding: bool,
    /// `net.ipv4.conf.all.send_redirects`: a link's own counts only where this is off.
    pub send_redirects: bool,
    /// `net.ipv4.conf.all.rp_filter`: the larger one of this and a link's own counts.
    pub rp_filter: u8,
}

/// One look at the host: taken whole or not at all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostView {
    /// All links.
    pub links: Vec<LinkView>,
    /// All IPv4 addresses.
    pub addresses: Vec<HostAddressView>,
    /// The routes of the pods table.
    pub pods_routes: Vec<RouteView>,
    /// The routes of our protocol in the ENIs' own tables.
    pub eni_routes: Vec<EniRouteView>,
    /// The routes of the main table by links that are in a secondary ENI's group, whoever laid them.
    pub main_routes: Vec<EniRouteView>,
    /// The IPv4 rules.
    pub rules: Vec<RuleView>,
    /// The IPv4 neighbours of links that have an alias of ours.
    pub neighbours: Vec<NeighbourView>,
    /// The text that our nft table was last laid with, when the table is there and the text is known.
    pub nft: Option<String>,
    /// What the filter table does with what is forwarded.
    pub forward: Forward,
    /// The whole namespace's settings; none when they could not be read.
    pub globals: Option<GlobalSettings>,
    /// What others have that does what we do, in words: amazon-vpc-cni's chains and list, another CNI's list.
    pub others: Vec<String>,
    /// amazon-vpc-cni's list, when it is where runtimes look for lists.
    #[serde(default)]
    pub peer_list: Option<String>,
}

/// One idempotent step on the host's own network, with the reason it is taken for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Hash)]
pub enum HostStep {
    /// Add the rule `priority [fwmark mark] lookup table`.
    AddRule {
        /// Its priority.
        priority: u32,
        /// The table to look up.
        table: u32,
        /// The mark to select; none selects every packet.
        mark: Option<Mark>,
    },
    /// Delete the first such rule of our protocol. Without a mark the kernel takes one with any selector.
    DeleteRule {
        /// Its priority.
        priority: u32,
        /// The table that it looks up.
        table: u32,
        /// The mark that it selects.
        mark: Option<Mark>,
    },
    /// Lay a route in the pods table, replacing one of the same destination and metric. Without `prefsrc` when the
    /// kernel refuses that.
    AddRoute(RouteView),
    /// Delete a route of the pods table.
    DeleteRoute(RouteView),
    /// Set a link's group, per-link settings and, when asked, up.
    SetLink {
        /// The link.
        ifindex: u32,
        /// Its group.
        group: u32,
        /// Its settings.
        inet: InetSettings,
        /// Raise it.
        up: bool,
    },
    /// Give a link its alias again.
    SetAlias {
        /// The link.
        ifindex: u32,
        /// The alias.
        alias: String,
    },
    /// Give a link its MAC again.
    SetMac {
        /// The link.
        ifindex: u32,
        /// The MAC.
        mac: MacAddr,
    },
    /// Give a link its name again.
    SetName {
        /// The link.
        ifindex: u32,
        /// The name.
        name: String,
    },
    /// Set a link's MTU, in bytes.
    SetMtu {
        /// The link.
        ifindex: u32,
        /// The MTU.
        mtu: u32,
    },
    /// Put an address on a link, without a route to its prefix.
    AddAddress(HostAddressView),
    /// Take an address off a link.
    DeleteAddress(HostAddressView),
    /// Lay a route in an ENI's table, replacing one of the same destination and metric.
    AddEniRoute(EniRouteView),
    /// Delete a route of an ENI's table.
    DeleteEniRoute(EniRouteView),
    /// Delete a route that somebody else has laid in the main table by a secondary ENI's link.
    DeleteMainRoute(EniRouteView),
    /// Lay a permanent neighbour.
    SetNeighbour(NeighbourView),
    /// Replace our nft table by this text, atomically.
    ReplaceNft {
        /// What `nft -f -` reads.
        text: String,
    },
    /// Accept what comes in and goes out by the pods' host ends, at the top of a chain of iptables-nft.
    AcceptForward(FilterChain),
}

/// A host step that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{step}: {cause}")]
pub struct HostStepError {
    /// Its place among the steps of its effect; none when it is not one of them, or nobody knows which.
    #[serde(default)]
    pub index: Option<usize>,
    /// The step, in words.
    pub step: String,
    /// The kernel's or nft's words.
    pub cause: String,
    /// The link that it is about is gone.
    #[serde(default)]
    pub gone: bool,
}
