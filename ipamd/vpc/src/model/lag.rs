//! What is told later than it is so: EC2's describes and the instance metadata.
//!
//! Owns what each ENI was like and since when, how far behind each teller is, and what it leaves out altogether. "The
//! Amazon EC2 API follows an eventual consistency model" (EC2 developer guide, "Eventual consistency"): a change may be
//! missing from describes for a while. The metadata service lags both ways, and tells of an ENI before it tells of its
//! addresses. Calls that change something see what is so: only what is told lags.

use super::Ec2;
use eni_proto::ids::EniId;
use ipamd_core::cloud::{EniObservation, MetadataEni};
use ipamd_core::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// How far behind anything may be. What is older is forgotten.
pub const MOST_LAG: Duration = Duration::from_secs(3_600);
/// The most versions that are kept of an ENI: more changes within one lag are not told one by one.
const VERSIONS: usize = 256;

/// How far behind the tellers are, in milliseconds; at most [`MOST_LAG`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Lags {
    /// DescribeNetworkInterfaces tells an ENI as it was so long ago: a new one is missing, a deleted one is there.
    pub describe_ms: u64,
    /// DescribeNetworkInterfaces leaves the own address of an ENI out for so long after its creation.
    pub describe_primary_ms: u64,
    /// The metadata service tells which ENIs were attached so long ago.
    pub metadata_attach_ms: u64,
    /// The metadata service tells the addresses and prefixes that an attached ENI had so long ago.
    pub metadata_addresses_ms: u64,
    /// An address or prefix that was unassigned, or whose ENI was deleted, comes back to the subnet so much later.
    pub release_ms: u64,
}

/// What a teller leaves out of one ENI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GapKind {
    /// The ENI itself, in describes.
    DescribeEni,
    /// Its own address, in describes.
    DescribePrimary,
    /// All of it, in the metadata.
    MetadataEni,
    /// `local-ipv4s`, in the metadata.
    MetadataAddresses,
    /// `ipv4-prefix`, in the metadata.
    MetadataPrefixes,
}

/// A gap to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// Of which ENI.
    pub eni: EniId,
    /// What is left out.
    pub kind: GapKind,
    /// For how long from now, in milliseconds; 0 ends it, none is until then.
    pub for_ms: Option<u64>,
}

/// The gaps that are.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Gaps(Vec<(EniId, GapKind, Option<Timestamp>)>);

impl Gaps {
    fn set(&mut self, gap: Gap, now: Timestamp) {
        self.0.retain(|(eni, kind, _)| (eni, kind) != (&gap.eni, &gap.kind));
        if gap.for_ms != Some(0) {
            let until = gap.for_ms.map(|ms| now + Duration::from_millis(ms));
            self.0.push((gap.eni, gap.kind, until));
        }
    }

    fn has(&self, eni: &EniId, kind: GapKind, now: Timestamp) -> bool {
        let holds = |until: &Option<Timestamp>| until.is_none_or(|until| now < until);
        self.0.iter().any(|(e, k, until)| e == eni && *k == kind && holds(until))
    }
}

/// What an ENI was like; none is deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Past {
    created: Timestamp,
    versions: VecDeque<(Timestamp, Option<EniObservation>)>,
}

/// What every ENI was like.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct History(BTreeMap<EniId, Past>);

impl History {
    /// Writes down what has changed.
    pub(super) fn remember(&mut self, enis: &[EniObservation], now: Timestamp) {
        for eni in enis {
            match self.0.get_mut(&eni.id) {
                Some(past) => past.push(Some(eni), now),
                None => {
                    let versions = VecDeque::from([(now, Some(eni.clone()))]);
                    self.0.insert(eni.id.clone(), Past { created: now, versions });
                }
            }
        }
        for (id, past) in &mut self.0 {
            let is_gone = matches!(past.versions.back(), Some((_, None)));
            if !is_gone && !enis.iter().any(|eni| eni.id == *id) {
                past.push(None, now);
            }
        }
        self.0.retain(|_, past| !past.is_forgotten(now));
    }

    /// What it was like at a time; none where there was no such ENI.
    fn at(&self, id: &EniId, time: Option<Timestamp>) -> Option<&EniObservation> {
        let time = time?;
        let told = self.0.get(id)?.versions.iter().rev().find(|(since, _)| *since <= time)?;
        told.1.as_ref()
    }

    fn created(&self, id: &EniId) -> Timestamp {
        self.0.get(id).map_or(Timestamp::ZERO, |past| past.created)
    }
}

impl Past {
    fn push(&mut self, eni: Option<&EniObservation>, now: Timestamp) {
        let last = self.versions.back();
        if last.is_some_and(|(_, version)| version.as_ref() == eni) {
            return;
        }
        // What happened later than something is told later.
        let since = last.map_or(now, |(since, _)| now.max(*since));
        self.versions.push_back((since, eni.cloned()));
        while self.versions.len() > VERSIONS {
            self.versions.pop_front();
        }
        while self.versions.get(1).is_some_and(|(since, _)| now.since(*since) > MOST_LAG) {
            self.versions.pop_front();
        }
    }

    fn is_forgotten(&self, now: Timestamp) -> bool {
        matches!(self.versions.back(), Some((since, None)) if now.since(*since) > MOST_LAG)
    }
}

/// A time so long ago; none is before the machine's start.
fn ago(now: Timestamp, ms: u64) -> Option<Timestamp> {
    now.as_nanos().checked_sub(ms.saturating_mul(1_000_000)).map(Timestamp::from_nanos)
}

impl Ec2 {
    /// Sets how far behind the tellers are.
    pub fn set_lags(&mut self, lags: Lags) {
        self.lags = lags;
    }

    /// Makes a gap, or ends one.
    pub fn set_gap(&mut self, gap: Gap, now: Timestamp) {
        self.gaps.set(gap, now);
    }

    /// The ENI as it was; without a lag as it is, whatever the time.
    fn as_told(&self, id: &EniId, lag_ms: u64, now: Timestamp) -> Option<&EniObservation> {
        if lag_ms == 0 {
            return self.enis.iter().find(|eni| eni.id == *id);
        }
        self.history.at(id, ago(now, lag_ms))
    }

    /// What DescribeNetworkInterfaces tells now, in the order of creation.
    pub(super) fn told(&self, now: Timestamp) -> Vec<Cow<'_, EniObservation>> {
        if self.lags.describe_ms == 0 && self.lags.describe_primary_ms == 0 && self.gaps.0.is_empty() {
            return self.enis.iter().map(Cow::Borrowed).collect();
        }
        let tell = |id: &EniId| {
            let mut eni = Cow::Borrowed(self.as_told(id, self.lags.describe_ms, now)?);
            if self.gaps.has(id, GapKind::DescribeEni, now) {
                return None;
            }
            let age = now.since(self.history.created(id));
            let young = age < Duration::from_millis(self.lags.describe_primary_ms);
            if young || self.gaps.has(id, GapKind::DescribePrimary, now) {
                eni.to_mut().primary = None;
            }
            Some(eni)
        };
        self.history.0.keys().filter_map(tell).collect()
    }

    /// What the metadata service tells now, each with the ENI that it is about.
    pub fn metadata(&self, now: Timestamp) -> Vec<(MetadataEni, EniObservation)> {
        let tell = |id: &EniId| {
            let eni = self.as_told(id, self.lags.metadata_attach_ms, now)?;
            let attachment = eni.attachment.as_ref()?;
            let has = |kind| self.gaps.has(id, kind, now);
            if has(GapKind::MetadataEni) {
                return None;
            }
            let known = self.as_told(id, self.lags.metadata_addresses_ms, now);
            let known = known.filter(|known| known.attachment.is_some());
            let addresses = known.filter(|_| !has(GapKind::MetadataAddresses)).into_iter();
            let prefixes = known.filter(|_| !has(GapKind::MetadataPrefixes));
            let told = MetadataEni {
                mac: eni.mac,
                id: Some(eni.id.clone()),
                device_index: Some(attachment.device_index),
                addresses: addresses
                    .flat_map(|known| known.primary.into_iter().chain(known.secondary.iter().copied()))
                    .collect(),
                prefixes: prefixes.map(|known| known.prefixes.clone()).unwrap_or_default(),
                subnet_cidr: Some(eni.subnet_cidr),
                vpc_cidrs: self.vpc_cidrs(),
            };
            Some((told, eni.clone()))
        };
        self.history.0.keys().filter_map(tell).collect()
    }
}
