//! What others do to the instance and the subnet: ENIs that we did not make, limits that we share.
//!
//! Owns what is set up so, outside of any call. The journal does not have it.

use super::gate::Throttling;
use super::{Ec2, SetupError};
use eni_proto::ids::EniId;
use ipamd_core::cloud::{EniAttachment, EniAttachmentStatus, PLAIN_INTERFACE};
use ipamd_core::time::Timestamp;
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The kind that has no addresses and no link: "EFA-only network interfaces don't support IP addresses" (EC2 user
/// guide, "Elastic Fabric Adapter").
pub const EFA_ONLY: &str = "efa-only";

/// An ENI that somebody else made, and attached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OtherEni {
    /// Its device index; none leaves it attached to nothing.
    #[serde(default)]
    pub device_index: Option<u32>,
    /// The network card that it is attached to.
    #[serde(default)]
    pub network_card: u32,
    /// InterfaceType: `interface`, `trunk`, `efa`, `efa-only`, `branch`.
    #[serde(default = "plain")]
    pub kind: String,
    /// Its tags, as the peer's `node.k8s.amazonaws.com/no_manage`.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// How many secondary addresses it has.
    #[serde(default)]
    pub secondary: u32,
    /// How many prefixes.
    #[serde(default)]
    pub prefixes: u32,
    /// DeleteOnTermination.
    #[serde(default)]
    pub delete_on_termination: bool,
}

fn plain() -> String {
    PLAIN_INTERFACE.to_owned()
}

impl Ec2 {
    /// Adds an ENI of others. It is there at once; what the type carries binds others as well.
    pub fn add_other(&mut self, other: &OtherEni, now: Timestamp) -> Result<EniId, SetupError> {
        self.subnet.settle(now);
        let refused = |why: &str| SetupError::Other(why.to_owned());
        if let Some(index) = other.device_index {
            if self.enis_on_card(other.network_card).any(|a| a.device_index == index) {
                return Err(refused("its device index is taken"));
            }
            if other.network_card == 0 && self.enis_on_card(0).count() as u64 >= u64::from(self.limits.enis) {
                return Err(refused("the instance type carries no more"));
            }
        }
        let bare = other.kind == EFA_ONLY;
        let singles = if bare { 0 } else { other.secondary as usize + 1 };
        let prefixes =
            self.subnet.take_prefixes(other.prefixes as usize).ok_or_else(|| refused("no /28 is free"))?;
        let Some(addresses) = self.subnet.take(singles) else {
            self.subnet.release_prefixes(&prefixes, now, now);
            return Err(refused("the subnet is full"));
        };
        let groups = self.setup.security_groups.clone();
        let mut eni = self.bare_eni(&addresses, groups, other.tags.clone());
        eni.prefixes = prefixes;
        eni.kind.clone_from(&other.kind);
        eni.attachment = other.device_index.map(|device_index| EniAttachment {
            instance: self.instance.clone(),
            device_index,
            status: EniAttachmentStatus::Attached,
            id: Some(self.next_attachment()),
            network_card: other.network_card,
            delete_on_termination: other.delete_on_termination,
        });
        let id = eni.id.clone();
        self.enis.push(eni);
        self.history.remember(&self.enis, now);
        Ok(id)
    }

    /// The attachments on one network card.
    pub(super) fn enis_on_card(&self, card: u32) -> impl Iterator<Item = &EniAttachment> {
        self.enis.iter().filter_map(|e| e.attachment.as_ref()).filter(move |a| a.network_card == card)
    }

    /// Leaves at most that many addresses free in the subnet, as if others held the rest; none gives those back.
    pub fn set_subnet_free(&mut self, most: Option<usize>) {
        self.subnet.leave(most);
    }

    /// Others hold an address in every /28 of the subnet that is free as a whole: addresses are left, prefixes are not.
    /// Or they give those back.
    pub fn set_fragmented(&mut self, fragmented: bool) {
        self.subnet.scatter(fragmented);
    }

    /// How many network interfaces the account may have in the Region ("Network interfaces per Region", Amazon VPC
    /// quotas); none is as many as one likes. The instance's count.
    pub fn set_quota(&mut self, enis: Option<u32>) {
        self.quota = enis;
    }

    /// Throttles calls, or ends it.
    pub fn set_throttling(&mut self, throttling: Throttling) {
        self.gate.throttle(throttling);
    }

    /// How long a throttled caller is asked to wait; none asks for nothing.
    pub fn set_retry_after(&mut self, ms: Option<u64>) {
        self.retry_after_ms = ms;
    }

    /// Denies these actions and no others, as `CreateNetworkInterface`. `CreateTags` is asked for as well where an ENI
    /// is created with tags (EC2 user guide, "Grant permission to tag Amazon EC2 resources during creation").
    pub fn set_denied(&mut self, actions: BTreeSet<String>) {
        self.gate.deny(actions);
    }

    /// CIDRs that were associated with the VPC since, beside its first.
    pub fn set_more_cidrs(&mut self, cidrs: Vec<Ipv4Net>) {
        self.more_cidrs = cidrs;
    }

    /// The VPC's CIDRs, the first first.
    pub fn vpc_cidrs(&self) -> Vec<Ipv4Net> {
        std::iter::once(self.setup.vpc_cidr).chain(self.more_cidrs.iter().copied()).collect()
    }
}
