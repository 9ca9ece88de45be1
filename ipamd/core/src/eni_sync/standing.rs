//! Which of an instance's ENIs are ours to manage.
//!
//! Owns the rules and the tags: the primary always, what carries our tag or has a record, and nothing else. What is left
//! alone is counted where it takes a place of ours, on network card 0, and never touched. Does not compare what an ENI
//! holds.

use crate::cloud::{EniAttachment, EniObservation, INSTANCE_TAG, PLAIN_INTERFACE};
use eni_proto::ids::{EniId, InstanceId};
use std::fmt;

/// The tags that keep an ENI from being managed, when their value is `true`: ours, and the peer's (amazon-vpc-cni's
/// README, "ENI tags related to Allocation").
const NO_MANAGE_TAGS: [&str; 2] = ["eni-cni/no-manage", "node.k8s.amazonaws.com/no_manage"];

/// An ENI of this instance that is left alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Which.
    pub eni: EniId,
    /// Its device index.
    pub device_index: u32,
    /// Its network card.
    pub network_card: u32,
    /// Why.
    pub reason: SkipReason,
}

/// Why an ENI is left alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SkipReason {
    /// Others attached it: it has not our tag.
    Others,
    /// It is of a kind that carries no addresses for containers: a trunk, EFA-only.
    Kind(String),
    /// It is on another network card than the first, whose limits are its own.
    NetworkCard,
    /// A tag says so.
    NoManage,
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SkipReason::Others => f.write_str("attached by others"),
            SkipReason::Kind(kind) => write!(f, "of kind {kind}"),
            SkipReason::NetworkCard => f.write_str("on another network card"),
            SkipReason::NoManage => f.write_str("tagged no-manage"),
        }
    }
}

/// What an ENI is to us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    /// Ours to manage.
    Managed,
    /// Of the pool, and tagged no-manage since: its containers keep what they have, and it is changed no more.
    Frozen,
    /// At this instance, and left alone.
    Skipped(SkipReason),
    /// Nothing of ours.
    Ignored,
}

/// `here` is the ENI's attachment to this instance; `known`: it has a record.
pub(super) fn of(
    eni: &EniObservation,
    here: Option<&EniAttachment>,
    instance: &InstanceId,
    known: bool,
) -> Standing {
    if here.is_some_and(|at| at.device_index == 0 && at.network_card == 0) {
        return Standing::Managed;
    }
    let tagged = |tag: &&str| eni.tags.get(*tag).is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let ours = eni.tags.get(INSTANCE_TAG).is_some_and(|tag| tag == instance.as_str());
    let reason = if eni.kind != PLAIN_INTERFACE {
        SkipReason::Kind(eni.kind.clone())
    } else if here.is_some_and(|at| at.network_card > 0) {
        SkipReason::NetworkCard
    } else if NO_MANAGE_TAGS.iter().any(tagged) {
        if known {
            return Standing::Frozen;
        }
        SkipReason::NoManage
    } else if ours || known {
        return Standing::Managed;
    } else {
        SkipReason::Others
    };
    if here.is_some() { Standing::Skipped(reason) } else { Standing::Ignored }
}
