//! What is looked at of one attachment, on the host and in its sandbox.
//!
//! Owns the question and the view. Does not say what should be there: `check` does.

use super::{EniRouteView, LinkView, NeighbourView, RouteView, RuleView};
use eni_proto::ids::{Ifname, MacAddr};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// The maps of our nft table that say what becomes of a pod's packets, by the group of the link that they come in by
/// and by their connection's mark.
pub const NFT_MAPS: [&str; 3] = ["from", "known", "back"];

/// What is looked at of one attachment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LookSpec {
    /// The index of both ends.
    pub ifindex: u32,
    /// The sandbox end's name: it is looked for by it when the index is not there.
    pub sandbox_name: Ifname,
    /// The addresses.
    pub addresses: Vec<Ipv4Addr>,
    /// The index of the ENI's link, when it is known.
    pub eni_ifindex: Option<u32>,
    /// The ENI's table; a primary ENI has none of its own.
    pub eni_table: Option<u32>,
}

/// One look at an attachment: taken whole or not at all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachmentView {
    /// The host end, by its index.
    pub link: Option<LinkView>,
    /// The ENI's link.
    pub eni_link: Option<LinkView>,
    /// The pods table's routes to the addresses, whatever they do.
    pub routes: Vec<RouteView>,
    /// The neighbours of the host end.
    pub neighbours: Vec<NeighbourView>,
    /// The IPv4 rules.
    pub rules: Vec<RuleView>,
    /// The routes of our protocol in the ENI's table.
    pub eni_routes: Vec<EniRouteView>,
    /// Our nft table, when it is there.
    pub nft: Option<NftView>,
    /// Inside the sandbox.
    pub sandbox: SandboxView,
}

/// What of our nft table is looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NftView {
    /// The elements of [`NFT_MAPS`]: what becomes of each key.
    pub maps: BTreeMap<String, BTreeMap<u32, String>>,
    /// How many rules each chain has.
    pub rules: BTreeMap<String, usize>,
}

/// The sandbox's side of an attachment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxView {
    /// The link of its index, or else of its name.
    pub link: Option<SandboxLinkView>,
    /// The addresses on the link of its index.
    pub addresses: Vec<Ipv4Net>,
    /// Its unicast routes to the next hop and by default, in any table.
    pub routes: Vec<SandboxRouteView>,
    /// Its neighbours.
    pub neighbours: Vec<NeighbourView>,
}

/// A link inside a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxLinkView {
    /// Its index.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// Its MAC, if it is an Ethernet link.
    pub mac: Option<MacAddr>,
    /// Administratively up.
    pub up: bool,
}

/// A route inside a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SandboxRouteView {
    /// The destination.
    pub destination: Ipv4Net,
    /// The next hop; none for an on-link route.
    pub gateway: Option<Ipv4Addr>,
}
