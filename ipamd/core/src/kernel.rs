//! The host's network as core sees it: what is asked of the kernel, what it answers, what is observed.
//!
//! Owns the data of every netlink effect and the numbers that mark what is ours. Executors in `ipamd-netlink` carry
//! them out without policy; a stateful fake there behaves as the kernel does. Does not own when or why.

mod host;
mod look;
mod repair;

pub use host::*;
pub use look::*;
pub use repair::*;

use eni_proto::ids::{Ifname, MacAddr, NetnsCookie};
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

/// The routing table of the pods' /32s and of the base routes under them.
pub const PODS_TABLE: u32 = 0x0ec1_0000;
/// The priority of the one rule that looks it up.
pub const PODS_RULE_PRIORITY: u32 = 512;
/// The routing table of ENI K: this plus K, the same number as its link's group.
pub const ENI_TABLE: u32 = 0x0ec1_0100;
/// The priority of the rules that look one up, one per secondary ENI.
pub const ENI_RULE_PRIORITY: u32 = 1536;
/// Our bits of a packet's mark: clear of portmap, kube-proxy, Cilium, Calico and amazon-vpc-cni.
pub const MARK_MASK: u32 = 0x7f;
/// The bit of a connection's mark that steers both directions; below it lies K.
pub const BOTH_DIRECTIONS: u32 = 0x40;
/// The largest K (device index + 1) that is steered: the nft table's maps have room for it in a mark's 0x3f. No
/// instance type has as many ENIs on one card.
pub const MAX_ENI_NUMBER: u32 = 0x1f;
/// The protocol number (rtnetlink's `rtm_protocol`) of every route and rule of ours.
pub const PROTOCOL: u8 = 0xec;
/// The metric of a base route: `unreachable` under a pod's /32 of metric 0.
pub const BASE_ROUTE_METRIC: u32 = 4096;
/// The nft table of ours.
pub const NFT_TABLE: &str = "eni-cni";
/// The nft table that says which ipamd owns this network namespace.
pub const NFT_LOCK_TABLE: &str = "eni-cni-lock";
/// Link group of ENI links: this plus K (K = device index + 1).
pub const ENI_GROUP: u32 = 0x0ec1_0100;
/// Link group of the host ends of pods on ENI K: this plus K.
pub const POD_GROUP: u32 = 0x0ec1_0200;
/// Link group of dying links.
pub const DYING_GROUP: u32 = 0x0ec1_0300;
/// The next hop that every sandbox sees.
pub const SANDBOX_GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// Host ifindexes that we choose start here: far above what the kernel counts to by itself.
pub const FIRST_IFINDEX: u32 = 0x1000_0000;
/// The first word of an alias of ours: the format's version.
pub const ALIAS_TAG: &str = "eni1";

/// All that a sandbox's veth pair needs, both ends: chosen before, so that nothing has to be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireSpec {
    /// The host end's name.
    pub host_name: Ifname,
    /// The index of the host end and, in its own namespace, of the sandbox's end.
    pub ifindex: u32,
    /// The host end's MAC: the sandbox's permanent neighbour.
    pub host_mac: MacAddr,
    /// The sandbox end's name.
    pub sandbox_name: Ifname,
    /// The sandbox end's MAC: the host's permanent neighbour.
    pub sandbox_mac: MacAddr,
    /// MTU of both ends, in bytes.
    pub mtu: u32,
    /// txqueuelen of both ends.
    pub txqueuelen: u32,
    /// The host end's group: names its ENI.
    pub group: u32,
    /// The sandbox's address.
    pub address: Ipv4Addr,
    /// RTA_PREFSRC of the host's route: the node's primary address. Laid without it when the kernel refuses it.
    pub prefsrc: Option<Ipv4Addr>,
    /// The host end's alias: the second copy of the record.
    pub alias: String,
    /// Dying links of ours that are in the way (same sandbox name, same namespace): deleted first.
    pub delete_first: Vec<u32>,
}

/// Where wiring failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WireStep {
    /// Entering or asking the sandbox through its socket.
    Sandbox,
    /// Deleting a dying link that is in the way.
    DeleteFirst,
    /// Creating the pair.
    Create,
    /// The host end: its settings, then up.
    HostEnd,
    /// The sandbox's batch: link up, address, routes, neighbour.
    SandboxBatch,
    /// The host's batch: alias, neighbour, route.
    HostBatch,
}

/// Why a sandbox was not wired. In every case but `Refused` after `Create` nothing was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum WireError {
    /// The ifindex is taken on one side or the other.
    #[error("ifindex {ifindex} is taken")]
    IfindexTaken {
        /// The index.
        ifindex: u32,
    },
    /// A host link has the name.
    #[error("a host link named {name} exists already")]
    HostNameTaken {
        /// The name.
        name: String,
        /// The index of the link that has it.
        ifindex: u32,
        /// Its group.
        group: u32,
    },
    /// The sandbox has an interface of the wanted name.
    #[error("the sandbox has an interface named {name} already")]
    IfnameTaken {
        /// The name.
        name: String,
    },
    /// The sandbox's network namespace is gone.
    #[error("the sandbox's network namespace is gone")]
    SandboxGone,
    /// The kernel refused a message.
    #[error("the kernel refused {step:?}: {text} (errno {errno})")]
    Refused {
        /// Where.
        step: WireStep,
        /// Its errno, positive.
        errno: i32,
        /// errno's name, the kernel's extended text and which message.
        text: String,
        /// Whether the pair was made and may still be there.
        made: bool,
    },
}

impl WireError {
    /// Whether a pair was made and may still be there.
    pub fn made(&self) -> bool {
        matches!(self, WireError::Refused { made: true, .. })
    }
}

/// DEL's part on the host: the route goes, the link joins the dying group. Idempotent: what is gone is fine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnwireSpec {
    /// The host end's name: what joins the dying group. Its number may be another link's by now.
    pub host_name: Ifname,
    /// The host end's index: whose routes are deleted.
    pub ifindex: u32,
    /// The addresses whose /32 is deleted.
    pub addresses: Vec<Ipv4Addr>,
}

/// A dying link for the reaper.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReapLink {
    /// The host end's index.
    pub ifindex: u32,
    /// The alias's part that identifies the attachment: a link that has another alias is not deleted.
    pub alias: String,
    /// The addresses whose conntrack entries (as source, or as source of the answer) are deleted once the link is gone.
    pub addresses: Vec<Ipv4Addr>,
}

/// What the reaper achieved, by ifindex.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reaped {
    /// Links that are gone and whose addresses have no conntrack entry any more.
    pub gone: Vec<u32>,
    /// Links that are still there, or whose conntrack entries could not be deleted, with why.
    pub kept: Vec<(u32, String)>,
}

/// The kernel as executors and the simulation's fake offer it. Every call is blocking and bounded.
pub trait HostKernel {
    /// What stands for a sandbox: the descriptor of a socket inside it, or a fake's own handle.
    type Sandbox;

    /// Makes a sandbox's veth pair whole.
    fn wire(&mut self, spec: &WireSpec, sandbox: &Self::Sandbox) -> Result<(), WireError>;

    /// Takes a sandbox off: see [`UnwireSpec`].
    fn unwire(&mut self, spec: &UnwireSpec) -> Result<(), HostStepError>;

    /// Deletes dying links, then their conntrack entries.
    fn reap(&mut self, links: &[ReapLink]) -> Reaped;

    /// Takes steps on the host's own network, in order; goes on after a failure and returns all of them.
    fn apply(&mut self, steps: &[HostStep]) -> Vec<HostStepError>;

    /// One look at the host.
    fn observe(&mut self) -> Result<HostView, HostStepError>;

    /// One look at an attachment, on the host and in its sandbox.
    fn look_at(&mut self, spec: &LookSpec, sandbox: &Self::Sandbox) -> Result<AttachmentView, HostStepError>;
}

/// The alias of an attachment's host link: `eni1 <cookie> <container> <ifname> <generation> <network> <pod>`; only
/// the pod is ever cut (the kernel takes 255 bytes).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alias {
    /// The sandbox's netns cookie.
    pub cookie: NetnsCookie,
    /// The container's id.
    pub container: String,
    /// The interface inside the sandbox.
    pub ifname: String,
    /// The attachment's generation.
    pub generation: u64,
    /// The network's name.
    pub network: String,
    /// `namespace/pod`, possibly cut; empty when unknown.
    pub pod: String,
}

/// IFALIASZ - 1.
pub const ALIAS_MAX: usize = 255;

impl Alias {
    /// The alias's text, at most [`ALIAS_MAX`] bytes.
    pub fn render(&self) -> String {
        let Alias { cookie, container, ifname, generation, network, pod } = self;
        let mut text = format!("{ALIAS_TAG} {cookie} {container} {ifname} {generation} {network}");
        if !pod.is_empty() {
            text.push(' ');
            text.push_str(pod);
        }
        let mut end = text.len().min(ALIAS_MAX);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text
    }

    /// Reads an alias back; `None` when it is not of ours.
    pub fn parse(text: &str) -> Option<Alias> {
        let mut words = text.split(' ');
        if words.next()? != ALIAS_TAG {
            return None;
        }
        let cookie = NetnsCookie(u64::from_str_radix(words.next()?, 16).ok()?);
        let container = words.next()?.to_owned();
        let ifname = words.next()?.to_owned();
        let generation = words.next()?.parse().ok()?;
        let network = words.next()?.to_owned();
        let pod = words.next().unwrap_or_default().to_owned();
        Some(Alias { cookie, container, ifname, generation, network, pod })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_is_cut_at_the_pod_only() {
        let alias = Alias {
            cookie: NetnsCookie(0x1f),
            container: "c".repeat(64),
            ifname: "eth0".into(),
            generation: 7,
            network: "n".repeat(100),
            pod: "p".repeat(200),
        };
        let text = alias.render();
        assert_eq!(text.len(), ALIAS_MAX);
        let read = Alias::parse(&text).unwrap();
        assert_eq!((read.container, read.network, read.generation), (alias.container, alias.network, 7));
        assert!(alias.pod.starts_with(&read.pod) && !read.pod.is_empty());
    }

    #[test]
    fn foreign_aliases_are_not_ours() {
        for text in ["", "uplink", "eni2 1f c eth0 1 n", "eni1 zz c eth0 1 n", "eni1 1f c eth0 x n"] {
            assert_eq!(Alias::parse(text), None, "{text:?}");
        }
    }
}
