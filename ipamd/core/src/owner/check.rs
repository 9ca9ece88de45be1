//! CHECK.
//!
//! Owns a CHECK's way from its arrival to its answer: its turn among the operations on its key, the wait until the node
//! serves (as an ADD waits), one look at the attachment, and another one when what differs may be in the middle of being
//! laid. Never waits for EC2, changes nothing, and repairs nothing. What is compared is in `crate::check`.

use super::attachments::Slot;
use super::event::{CheckAsk, DyingReason, EffectKind, Ending, OpId, Verb};
use super::outside::alias;
use super::{Op, Owner, Phase, Purpose};
use crate::check::{Difference, Expected, ExpectedEni, nft_part};
use crate::host_net::nft::Table;
use crate::kernel::{AttachmentView, HostStepError};
use crate::record::{AddressState, AttachmentRecord, AttachmentState};
use crate::time::Timestamp;
use eni_proto::error::{Code, WireError as ReplyError};
use eni_proto::reply;
use std::sync::Arc;

/// The most looks of one CHECK: the first, and one after each pass over the host's network that was under way while
/// it looked. A pass that changes the same thing time and again is no excuse.
const LOOKS: u8 = 4;

/// A CHECK that runs or waits.
#[derive(Debug, Clone)]
pub(super) struct Checking {
    ask: CheckAsk,
    stage: Stage,
    looks: u8,
    /// What the last look has found, while a pass over the host's network may be about it.
    found: Vec<Difference>,
}

#[derive(Debug, Clone)]
enum Stage {
    /// For its turn, for the node to serve, or for a pass to end.
    Waiting,
    /// With what is expected, and the passes over the host's network that had begun before.
    Looking { expected: Box<Expected>, passes: u64 },
}

impl Owner {
    pub(super) fn check(&mut self, id: OpId, ask: CheckAsk, now: Timestamp) {
        // It undoes nothing.
        let op = Op::new(ask.key.clone(), Verb::Check, DyingReason::Del, now);
        let full = self.ops.len() >= self.config.max_waiters;
        self.checks.insert(id, Checking { ask, stage: Stage::Waiting, looks: 0, found: Vec::new() });
        let first = self.enter(id, op);
        if self.draining {
            self.close(id, now);
        } else if full {
            let text = format!("{} operations are under way already", self.config.max_waiters);
            self.end(id, Ending::Refused, Err(ReplyError::new(Code::TryAgainLater, text)), now);
        } else if first {
            self.begin_check(id, now);
        }
    }

    /// The first of its lane.
    pub(super) fn begin_check(&mut self, id: OpId, now: Timestamp) {
        self.set_phase(id, Phase::Checking);
        self.look_when_possible(id, now);
    }

    /// Whether a CHECK waits: ending it undoes nothing.
    pub(super) fn check_waits(&self, id: OpId) -> bool {
        self.checks.get(&id).is_some_and(|c| matches!(c.stage, Stage::Waiting))
    }

    /// The deadline of the CHECK that gives up first.
    pub(super) fn checks_deadline(&self) -> Option<Timestamp> {
        let waiting = self.checks.values().filter(|c| matches!(c.stage, Stage::Waiting));
        waiting.map(|c| c.ask.deadline).min()
    }

    /// CHECKs whose wait is over, or that have waited for too long.
    pub(super) fn go_on_checking(&mut self, now: Timestamp) {
        if self.checks.is_empty() {
            return;
        }
        let waiting: Vec<OpId> = self.checks.keys().copied().filter(|id| self.check_waits(*id)).collect();
        for id in waiting {
            let Some(checking) = self.checks.get(&id) else { continue };
            if checking.ask.deadline <= now {
                let cause = match (self.why_not_serving(), &checking.found[..]) {
                    (Some(why), _) => why,
                    (None, []) => "an operation on the same attachment is under way".to_owned(),
                    (None, found) => listed(found),
                };
                let error =
                    ReplyError::new(Code::TryAgainLater, "it could not be checked in time").cause(cause);
                self.end(id, Ending::Refused, Err(error.advice("see `ipamctl status`")), now);
            } else if self.ops.get(&id).is_some_and(|op| op.phase == Phase::Checking) {
                self.look_when_possible(id, now);
            }
        }
    }

    fn look_when_possible(&mut self, id: OpId, now: Timestamp) {
        let Some(checking) = self.checks.get(&id) else { return };
        let laying = checking.looks > 0 && self.driver.is_busy(self.reconcilers.host_net);
        if !self.gate.open() || laying {
            return;
        }
        let (ask, passes) = (checking.ask.clone(), self.driver.begun(self.reconcilers.host_net));
        let recorded = match self.recorded_for(&ask) {
            Ok(recorded) => recorded,
            Err(difference) => return self.differs(id, &[difference], now),
        };
        let expected = Box::new(self.expected(&recorded));
        let spec = expected.spec();
        if let Some(checking) = self.checks.get_mut(&id) {
            checking.looks += 1;
            checking.stage = Stage::Looking { expected, passes };
        }
        self.begun(id, now);
        self.effect(Some(id), Purpose::Look(id), EffectKind::Look(Box::new(spec)));
    }

    /// The attachment's record, if it is one that may be looked at.
    fn recorded_for(&self, ask: &CheckAsk) -> Result<Arc<AttachmentRecord>, Difference> {
        let differs = |what: &str, expected: String, found: String| Difference {
            what: what.to_owned(),
            expected,
            found,
        };
        let Some(slot) = self.attachments.current(&ask.key) else {
            let dying = !self.attachments.dying_of(&ask.key).is_empty();
            let found = if dying { "one that is being deleted" } else { "none" };
            return Err(differs("the record", "one that is live".to_owned(), found.to_owned()));
        };
        let record = &slot.record;
        if record.netns_cookie != ask.cookie {
            let shown = |cookie| format!("the network namespace {cookie}");
            let (expected, found) = (shown(record.netns_cookie), shown(ask.cookie));
            return Err(differs("the sandbox", expected, found));
        }
        Ok(record.clone())
    }

    /// What the records alone say.
    fn recorded_differences(&self, ask: &CheckAsk, record: &AttachmentRecord) -> Vec<Difference> {
        let mut found = Vec::new();
        let mut put = |what: String, expected: String, is: String| {
            found.push(Difference { what, expected, found: is });
        };
        if record.state != AttachmentState::Live {
            put("the record".to_owned(), "one that is live".to_owned(), record.state.name().to_owned());
        }
        for address in &record.addresses {
            let held = self.pool.address(*address).map(|a| &a.state);
            let by_it = matches!(held, Some(AddressState::Allocated { attachment } | AddressState::Quarantined { attachment: Some(attachment), .. }) if *attachment == record.id());
            if !by_it {
                let is = held.map_or("none", AddressState::name).to_owned();
                put(format!("the record of {address}"), "allocated to it".to_owned(), is);
            }
            if !ask.addresses.is_empty() && !ask.addresses.contains(address) {
                let told: Vec<String> = ask.addresses.iter().take(4).map(ToString::to_string).collect();
                put("the address in prevResult".to_owned(), address.to_string(), told.join(" and "));
            }
        }
        if let Some(eni) = self.pool.eni(&record.eni).filter(|eni| !eni.record.state.is_laid()) {
            let state = eni.record.state.name();
            put(format!("the ENI {}", record.eni), "one in use".to_owned(), state.to_owned());
        }
        found
    }

    fn expected(&self, record: &Arc<AttachmentRecord>) -> Expected {
        let eni = self.pool.eni(&record.eni).filter(|eni| eni.record.state.is_laid());
        let number = eni.map(|eni| eni.record.number());
        let cidrs = self.node.instance.iter().flat_map(|i| i.vpc_cidrs.iter());
        let enis = self.pool.enis().map(|eni| &eni.record).filter(|eni| eni.state.is_laid());
        let table = Table {
            enis: enis.map(|eni| (eni.number(), eni.primary)).collect(),
            vpc_cidrs: cidrs.chain(&self.config.extra_vpc_cidrs).copied().collect(),
            snat: self.config.snat,
            block_metadata: self.config.block_metadata,
        };
        Expected {
            record: record.clone(),
            alias: alias(record).render(),
            eni: eni.map(|eni| ExpectedEni {
                number: eni.record.number(),
                mac: eni.record.mac,
                ifindex: eni.link.as_ref().map(|(index, _)| *index),
                subnet_cidr: eni.record.subnet_cidr,
            }),
            nft: number.filter(|_| self.pool.primary().is_some()).map(|number| nft_part(&table, number)),
            prefsrc: self.gate.prefsrc,
        }
    }

    pub(super) fn looked(&mut self, id: OpId, seen: Result<AttachmentView, HostStepError>, now: Timestamp) {
        let Some(checking) = self.checks.get_mut(&id) else { return };
        let stage = std::mem::replace(&mut checking.stage, Stage::Waiting);
        let (ask, looks) = (checking.ask.clone(), checking.looks);
        let Stage::Looking { expected, passes } = stage else { return };
        if let Some(op) = self.ops.get_mut(&id) {
            op.phases.wire = op.begun.map(|begun| now - begun);
        }
        let cancelled = self.ops.get(&id).is_none_or(|op| op.cancelled);
        let seen = match seen {
            Ok(seen) if !cancelled => seen,
            Ok(_) => {
                let gone = ReplyError::new(Code::TryAgainLater, "the plugin went away");
                return self.end(id, Ending::Cancelled, Err(gone), now);
            }
            Err(error) => {
                let text = "the attachment could not be looked at";
                let error = ReplyError::new(Code::TryAgainLater, text).cause(error.to_string());
                return self.end(id, Ending::Failed, Err(error), now);
            }
        };
        // Something may have ended it while it was looked at: an ADD whose plugin is gone, a GC.
        let still = self.recorded_for(&ask).map(|r| r.generation == expected.record.generation);
        let record = match still {
            Ok(true) => {
                self.attachments.get(&expected.record.id()).map_or(expected.record.clone(), record_of)
            }
            Ok(false) => return self.look_when_possible(id, now),
            Err(difference) => return self.differs(id, &[difference], now),
        };
        let mut found = self.recorded_differences(&ask, &record);
        found.extend(expected.compare(&seen));
        if found.is_empty() {
            return self.end(id, Ending::Ok, Ok(reply::Outcome::Done), now);
        }
        let host_net = self.reconcilers.host_net;
        let laying = self.driver.is_busy(host_net) || self.driver.begun(host_net) != passes;
        if looks < LOOKS && (laying || self.expected(&record) != *expected) {
            if let Some(checking) = self.checks.get_mut(&id) {
                checking.found = found;
            }
            self.look_when_possible(id, now);
        } else {
            self.differs(id, &found, now);
        }
    }

    fn differs(&mut self, id: OpId, found: &[Difference], now: Timestamp) {
        let Some(key) = self.ops.get(&id).map(|op| op.key.clone()) else { return };
        let text = format!("attachment {key} is not as its ADD has made it");
        let error = ReplyError::new(Code::Differs, text).cause(listed(found));
        self.end(id, Ending::Failed, Err(error), now);
    }
}

fn record_of(slot: &Slot) -> Arc<AttachmentRecord> {
    slot.record.clone()
}

fn listed(found: &[Difference]) -> String {
    found.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
