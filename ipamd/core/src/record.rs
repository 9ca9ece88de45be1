//! What is kept: the records of the store, and the writes that change them.
//!
//! Owns the shape of each record and of a write batch. Does not own bytes, tables or transactions: the store codes
//! them. A record is the truth about an attachment or address after a restart; nothing outward happens before its
//! record is committed.

use crate::cloud::Mutation;
use crate::time::Timestamp;
use eni_proto::cni::AddResult;
use eni_proto::ids::{AttachmentKey, BootId, EniId, Ifname, InstanceId, MacAddr, NetnsCookie, SubnetId};
use eni_proto::request::Mode;
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

/// Numbers the attachments of this node; never reused while a record of it is left.
pub type Generation = u64;

/// The state of an attachment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttachmentState {
    /// Its ADD is under way: the record is committed beside the wiring.
    Adding,
    /// Wired whole.
    Live,
    /// Its host link is gone while nobody asked for that; the address stays with it until DEL.
    Broken,
    /// Its DEL is committed: the link is being deleted, the address cools.
    Dying,
}

impl AttachmentState {
    /// The state's name, as `debug.sock` shows it.
    pub fn name(self) -> &'static str {
        match self {
            AttachmentState::Adding => "adding",
            AttachmentState::Live => "live",
            AttachmentState::Broken => "broken",
            AttachmentState::Dying => "dying",
        }
    }
}

/// One attachment: what was promised to one interface of one container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachmentRecord {
    /// Network, container id, ifname.
    pub key: AttachmentKey,
    /// Its number: with the key, the record's key in the store.
    pub generation: Generation,
    /// Its state.
    pub state: AttachmentState,
    /// How it is connected; kept so that DEL and GC work when nothing else is known.
    pub mode: Mode,
    /// Its addresses (a set: IPv4 alone has one).
    pub addresses: BTreeSet<Ipv4Addr>,
    /// The ENI whose addresses they are.
    pub eni: EniId,
    /// The sandbox's network namespace.
    pub netns_cookie: NetnsCookie,
    /// CNI_NETNS, as the runtime wrote it: for display, and for what is there once the link is gone.
    pub netns: String,
    /// A network namespace was at that path when ipamd looked there: only then does nothing there say that it is gone.
    #[serde(default)]
    pub netns_seen: bool,
    /// The host link's index: with the alias it names one link per boot.
    pub host_ifindex: u32,
    /// The host link's name.
    pub host_link: Ifname,
    /// The host link's MAC.
    pub host_mac: MacAddr,
    /// The sandbox's MAC.
    pub sandbox_mac: MacAddr,
    /// MTU of both ends, in bytes.
    pub mtu: u32,
    /// `namespace/name` of the pod, when CNI_ARGS named it.
    pub pod: Option<String>,
    /// When it was made.
    pub created: Timestamp,
    /// The boot that `created` belongs to.
    pub boot: BootId,
    /// The witness that has claimed it, once one has listed it.
    pub claimed_by: Option<String>,
    /// When a witness first listed it.
    pub first_seen: Option<Timestamp>,
    /// What ADD answered: an ADD repeated gets the same.
    pub result: AddResult,
}

impl AttachmentRecord {
    /// The record's key in the store.
    pub fn id(&self) -> AttachmentId {
        AttachmentId { key: self.key.clone(), generation: self.generation }
    }
}

/// The key of an attachment's record: of one key at most one generation is not dying.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttachmentId {
    /// Network, container id, ifname.
    pub key: AttachmentKey,
    /// Its number.
    pub generation: Generation,
}

/// The state of an address in the pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AddressState {
    /// May be allocated.
    Free {
        /// Since when: the oldest is picked first.
        since: Timestamp,
    },
    /// Held by an attachment.
    Allocated {
        /// Which.
        attachment: AttachmentId,
    },
    /// Released. Not free before `until`, nor before the attachment's record is gone: that is deleted only when the
    /// link is gone and its conntrack entries are deleted.
    Cooling {
        /// Who held it last.
        attachment: AttachmentId,
        /// The end of the cooldown.
        until: Timestamp,
    },
    /// Kept out of use.
    Quarantined {
        /// Why.
        reason: String,
        /// Who held it, if anybody.
        attachment: Option<AttachmentId>,
    },
}

impl AddressState {
    /// The state's name, as `debug.sock` and the metrics show it.
    pub fn name(&self) -> &'static str {
        match self {
            AddressState::Free { .. } => "free",
            AddressState::Allocated { .. } => "allocated",
            AddressState::Cooling { .. } => "cooling",
            AddressState::Quarantined { .. } => "quarantined",
        }
    }
}

/// One address of the pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressRecord {
    /// The address.
    pub address: Ipv4Addr,
    /// The ENI that holds it at EC2.
    pub eni: EniId,
    /// Its state.
    pub state: AddressState,
    /// How often it was allocated: a late release of another generation frees nothing.
    pub generation: u64,
}

/// The state of an ENI. One that is being created has no id yet: it is an intent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EniState {
    /// Created; not there yet.
    Attaching,
    /// Attached, its addresses may be allocated.
    InUse,
    /// Beyond the warm target: what it holds is kept, nothing more is allocated from it.
    Draining,
    /// On its way out: it holds nothing and is steered no more.
    Detaching,
    /// Detached, to be deleted.
    Deleting,
    /// Detached or deleted by others while containers hold its addresses: these are kept until they are released.
    Lost,
}

impl EniState {
    /// All of them, in the order of an ENI's life.
    pub const ALL: [EniState; 6] = [
        EniState::Attaching,
        EniState::InUse,
        EniState::Draining,
        EniState::Detaching,
        EniState::Deleting,
        EniState::Lost,
    ];

    /// The state's name, as `debug.sock` and the metrics show it.
    pub fn name(self) -> &'static str {
        match self {
            EniState::Attaching => "attaching",
            EniState::InUse => "in_use",
            EniState::Draining => "draining",
            EniState::Detaching => "detaching",
            EniState::Deleting => "deleting",
            EniState::Lost => "lost",
        }
    }

    /// Whether its link, rule, table and addresses are laid on the host.
    pub fn is_laid(self) -> bool {
        matches!(self, EniState::InUse | EniState::Draining)
    }
}

/// One ENI of the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EniRecord {
    /// `eni-…`
    pub id: EniId,
    /// Its MAC: what finds its link.
    pub mac: MacAddr,
    /// EC2's device index; 0 is the primary.
    pub device_index: u32,
    /// Its subnet.
    pub subnet: SubnetId,
    /// Its subnet's CIDR.
    pub subnet_cidr: Ipv4Net,
    /// Its own primary address.
    pub primary: Ipv4Addr,
    /// Its state.
    pub state: EniState,
    /// Its /28 prefixes: what addresses of the pool are given back by them, not one by one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prefixes: Vec<Ipv4Net>,
    /// EC2's id of its attachment, once told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attachment: Option<String>,
}

impl EniRecord {
    /// K: the ENI's number in marks, groups and tables; the primary's is 1.
    pub fn number(&self) -> u32 {
        self.device_index + 1
    }
}

/// What is known of the node itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// The boot that all timestamps of the store belong to.
    pub boot: BootId,
    /// Host ifindexes below this may have been used in this boot.
    pub next_ifindex: u32,
    /// Generations below this may have been used.
    pub next_generation: Generation,
    /// Intents below this may have been used.
    #[serde(default)]
    pub next_intent: u64,
    /// Whether the node was ever ready in this boot.
    pub was_ready: bool,
    /// The instance, once known.
    pub instance: Option<InstanceRecord>,
}

/// The instance, as the metadata service told it last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceRecord {
    /// Its id.
    pub id: InstanceId,
    /// Its type.
    pub instance_type: String,
    /// The VPC's CIDRs.
    pub vpc_cidrs: Vec<Ipv4Net>,
}

/// All that the store holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stored {
    /// The node; none in a new store.
    pub node: Option<NodeRecord>,
    /// The ENIs.
    pub enis: Vec<EniRecord>,
    /// The addresses.
    pub addresses: Vec<AddressRecord>,
    /// The attachments.
    pub attachments: Vec<AttachmentRecord>,
    /// The changes at EC2 whose outcome is not known to be recorded.
    pub intents: Vec<IntentRecord>,
}

/// A change at EC2, written down before its call is made and deleted with its result: after a crash it says what may
/// have happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntentRecord {
    /// Its number.
    pub id: u64,
    /// The call. A create's token makes repeating it safe; the others are resolved by describing.
    pub mutation: Mutation,
    /// When it was written.
    pub made: Timestamp,
}

/// One change of one record. A batch of them is committed whole or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Empty the store: the batch that begins with this holds everything. Nothing else is taken into a file that is
    /// not the one known so far.
    Clear,
    /// Put the node's record.
    PutNode(NodeRecord),
    /// Put an ENI.
    PutEni(EniRecord),
    /// Delete an ENI.
    DeleteEni(EniId),
    /// Put an address.
    PutAddress(AddressRecord),
    /// Delete an address.
    DeleteAddress(Ipv4Addr),
    /// Put an attachment.
    PutAttachment(Arc<AttachmentRecord>),
    /// Delete an attachment.
    DeleteAttachment(AttachmentId),
    /// Put an intent.
    PutIntent(IntentRecord),
    /// Delete an intent.
    DeleteIntent(u64),
}

impl Stored {
    /// What the store holds after a batch: the store's own meaning of [`Write`], used by the fakes.
    pub fn apply(&mut self, batch: &[Write]) {
        for write in batch {
            match write {
                Write::Clear => *self = Stored::default(),
                Write::PutNode(node) => self.node = Some(node.clone()),
                Write::PutEni(eni) => {
                    self.enis.retain(|e| e.id != eni.id);
                    self.enis.push(eni.clone());
                }
                Write::DeleteEni(id) => self.enis.retain(|e| e.id != *id),
                Write::PutAddress(address) => {
                    self.addresses.retain(|a| a.address != address.address);
                    self.addresses.push(address.clone());
                }
                Write::DeleteAddress(address) => self.addresses.retain(|a| a.address != *address),
                Write::PutAttachment(record) => {
                    self.attachments.retain(|a| a.id() != record.id());
                    self.attachments.push(record.as_ref().clone());
                }
                Write::DeleteAttachment(id) => self.attachments.retain(|a| a.id() != *id),
                Write::PutIntent(intent) => {
                    self.intents.retain(|i| i.id != intent.id);
                    self.intents.push(intent.clone());
                }
                Write::DeleteIntent(id) => self.intents.retain(|i| i.id != *id),
            }
        }
    }
}
