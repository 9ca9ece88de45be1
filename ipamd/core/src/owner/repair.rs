//! What the looks at EC2 have left open: primary addresses that nobody has told, CIDRs of the VPC that are not told any
//! more, addresses that EC2 does not name.
//!
//! Owns how often a name is resolved, how many looks must agree, the quarantine of what EC2 has taken from under a
//! container, and the words for all of it. Does not compare (`eni_sync` does) and resolves nothing itself.

use super::event::{EffectKind, Note};
use super::{Owner, Purpose};
use crate::cloud::CloudObservation;
use crate::eni_sync::{self, Skipped, SyncPlan, Unaddressed};
use crate::pool::AGREEING;
use crate::record::{InstanceRecord, Write};
use crate::time::Timestamp;
use eni_proto::ids::EniId;
use ipnet::Ipv4Net;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// So often a private DNS name is resolved, once with each look; then EC2's next answers are what is waited for.
const TRIES: u32 = 5;

/// How far the resolving of a name is.
#[derive(Debug, Clone, Default)]
struct Asked {
    tries: u32,
    /// A try is under way.
    flying: bool,
    /// What the last one failed for, or that the answer does not fit.
    failed: Option<String>,
}

/// What is open.
#[derive(Debug, Clone, Default)]
pub(super) struct Repair {
    /// ENIs whose primary address nobody has told at the last look, with their names.
    unaddressed: Vec<Unaddressed>,
    asked: BTreeMap<EniId, Asked>,
    resolved: BTreeMap<EniId, Vec<Ipv4Addr>>,
    /// A shorter list of CIDRs, and how many looks in a row have told it.
    shorter: Option<(Vec<Ipv4Net>, u32)>,
    /// The ENIs that are left alone, at the last look.
    pub(super) skipped: Vec<Skipped>,
    /// Attributes that EC2 refused to set: not asked again before, and why.
    pub(super) attributes: BTreeMap<EniId, (Timestamp, String)>,
    /// When the last look began that was compared.
    looked: Option<Timestamp>,
}

impl Repair {
    /// How many ENIs wait for their primary address.
    pub(super) fn unaddressed(&self) -> usize {
        self.unaddressed.len()
    }

    /// Whether a name is still tried.
    pub(super) fn is_asking(&self) -> bool {
        let tries = |id: &EniId| self.asked.get(id).is_none_or(|asked| asked.tries < TRIES);
        self.unaddressed.iter().any(|open| open.name.is_some() && tries(&open.eni))
    }

    /// What private DNS names were resolved to.
    pub(super) fn resolved(&self) -> &BTreeMap<EniId, Vec<Ipv4Addr>> {
        &self.resolved
    }

    /// What is open, in words.
    pub(super) fn reasons(&self) -> impl Iterator<Item = String> {
        let open = self.unaddressed.iter().map(|open| {
            let why = match (&open.name, self.asked.get(&open.eni).and_then(|a| a.failed.as_deref())) {
                (None, _) => "and it has no private DNS name".to_owned(),
                (Some(name), None) => format!("and {name} is being resolved"),
                (Some(name), Some(failed)) => format!("and {name} does not lead to it: {failed}"),
            };
            let eni = &open.eni;
            format!(
                "{eni} is not used: neither EC2 nor its record nor the metadata service tells its primary address, {why}"
            )
        });
        let refused = self.attributes.iter().map(|(eni, (_, why))| format!("{eni} is not as wanted: {why}"));
        open.chain(refused)
    }
}

impl Owner {
    /// How old the last look is that was compared, from when it began; none before the first.
    pub fn cloud_age(&self, now: Timestamp) -> Option<std::time::Duration> {
        self.repair.looked.map(|at| now.since(at))
    }

    /// The ENIs of this instance that are left alone.
    pub fn skipped_enis(&self) -> &[Skipped] {
        &self.repair.skipped
    }

    /// The instance as a look tells it. A CIDR of the VPC comes at once and leaves after two looks that agree: the
    /// metadata service is a hint, and what leaves the list is masqueraded from then on.
    pub(super) fn instance_of(&mut self, seen: &CloudObservation) -> InstanceRecord {
        let identity = &seen.identity;
        let told = eni_sync::vpc_cidrs(seen.metadata.as_deref(), identity.primary_mac);
        let known = self.node.instance.as_ref().filter(|known| known.id == identity.instance);
        let vpc_cidrs = match (known.map(|known| known.vpc_cidrs.clone()), told) {
            (None, told) => told.unwrap_or(&identity.vpc_cidrs).to_vec(),
            // The identity is asked once in a life: later it is as old as that.
            (Some(known), None) if self.gate.cloud => known,
            (Some(known), told) => self.cidrs_from(known, told.unwrap_or(&identity.vpc_cidrs)),
        };
        InstanceRecord {
            id: identity.instance.clone(),
            instance_type: identity.instance_type.clone(),
            vpc_cidrs,
        }
    }

    fn cidrs_from(&mut self, known: Vec<Ipv4Net>, told: &[Ipv4Net]) -> Vec<Ipv4Net> {
        if known.iter().all(|cidr| told.contains(cidr)) {
            self.repair.shorter = None;
            return told.to_vec();
        }
        let looks = match self.repair.shorter.take() {
            Some((list, looks)) if list == told => looks + 1,
            _ => 1,
        };
        if looks >= AGREEING {
            return told.to_vec();
        }
        self.repair.shorter = Some((told.to_vec(), looks));
        let new = told.iter().filter(|cidr| !known.contains(cidr)).copied().collect::<Vec<_>>();
        known.into_iter().chain(new).collect()
    }

    /// Takes in what a look has left open, and asks for what may close it.
    pub(super) fn note_open(&mut self, plan: &SyncPlan, begun: Timestamp) {
        let repair = &mut self.repair;
        repair.looked = Some(begun);
        repair.skipped.clone_from(&plan.skipped);
        repair.unaddressed.clone_from(&plan.unaddressed);
        let open: BTreeSet<&EniId> = plan.unaddressed.iter().map(|open| &open.eni).collect();
        repair.asked.retain(|id, _| open.contains(id));
        repair.resolved.retain(|id, _| {
            // An answer that has been used, or that does not fit.
            let unfit = open.contains(id);
            if let Some(asked) = repair.asked.get_mut(id).filter(|_| unfit) {
                asked.failed = Some("no single address of the answer can be the primary".to_owned());
            }
            !unfit && plan.found.iter().any(|(found, ..)| found == id)
        });
        let mut names = Vec::new();
        for open in &plan.unaddressed {
            let Some(name) = &open.name else { continue };
            let asked = repair.asked.entry(open.eni.clone()).or_default();
            if !asked.flying && asked.tries < TRIES {
                (asked.flying, asked.tries) = (true, asked.tries + 1);
                names.push((open.eni.clone(), name.clone()));
            }
        }
        if !names.is_empty() {
            self.effect(None, Purpose::Resolve, EffectKind::Resolve(names));
        }
        for (eni, address, source) in &plan.found {
            self.note(Note::PrimaryFound { eni: eni.clone(), address: *address, source: *source });
        }
    }

    /// Names were resolved, or not: the next look uses what they say.
    pub(super) fn names_resolved(
        &mut self,
        answers: Vec<(EniId, Result<Vec<Ipv4Addr>, String>)>,
        now: Timestamp,
    ) {
        for (eni, answer) in answers {
            let Some(asked) = self.repair.asked.get_mut(&eni) else { continue };
            asked.flying = false;
            match answer {
                Ok(addresses) => {
                    asked.failed = None;
                    self.repair.resolved.insert(eni, addresses);
                    self.driver.wake_now(self.reconcilers.eni_sync, now);
                }
                Err(error) => {
                    asked.failed = Some(error);
                    self.driver.wake_by(self.reconcilers.eni_sync, now + self.config.poll);
                }
            }
        }
    }

    /// Quarantines what EC2 does not name, and takes out of quarantine what it names again. `first`: nothing of this
    /// process's life says that EC2 has what is free.
    pub(super) fn quarantine(
        &mut self,
        plan: &SyncPlan,
        first: bool,
        batch: &mut Vec<Write>,
        now: Timestamp,
    ) {
        let mut back = Vec::new();
        for (address, _) in &plan.named {
            if let Some(record) = self.pool.readmit(*address, now) {
                back.push(*address);
                batch.push(Write::PutAddress(record));
            }
        }
        let mut taken = Vec::new();
        for address in &plan.missing {
            if self.pool.miss(*address) >= AGREEING
                && let Some(record) = self.pool.quarantine(*address, "EC2 does not name it any more")
            {
                taken.push(*address);
                batch.push(Write::PutAddress(record));
            }
        }
        for address in plan.unnamed.iter().filter(|_| first) {
            batch.extend(self.pool.quarantine(*address, "").map(Write::PutAddress));
        }
        if !taken.is_empty() || !back.is_empty() {
            self.note(Note::Quarantined { taken, back });
        }
    }

    /// The addresses of an ENI that is lost: containers keep them, and they lead nowhere.
    pub(super) fn quarantine_eni(&mut self, id: &EniId, batch: &mut Vec<Write>) {
        let of_eni = self.pool.addresses().filter(|record| record.eni == *id).map(|record| record.address);
        let mut taken = Vec::new();
        for address in of_eni.collect::<Vec<_>>() {
            if let Some(record) = self.pool.quarantine(address, "its ENI is not attached to this instance") {
                taken.push(address);
                batch.push(Write::PutAddress(record));
            }
        }
        if !taken.is_empty() {
            self.note(Note::Quarantined { taken, back: Vec::new() });
        }
    }
}
