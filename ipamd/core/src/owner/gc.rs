//! The verb GC.
//!
//! Owns a GC's way from its list to its answer: it marks the network's attachments that the list does not name, looks at
//! the host once and then at the paths of those whose link is gone, frees those whose network namespace is proven gone, by
//! DEL's transition, and keeps all others with the reason. It is answered when what it frees is committed. Does not judge
//! the evidence: `crate::gc` and `evidence` do.

use super::del::LinkFate;
use super::event::{DyingReason, EffectKind, Ending, GcAsk, Note, OpId, PathSight};
use super::evidence::BATCH;
use super::outside::alias;
use super::{Owner, Purpose};
use crate::gc::{Kept, Netns, netns, unnamed};
use crate::kernel::{HostStepError, HostView};
use crate::record::{AttachmentId, AttachmentRecord};
use crate::time::Timestamp;
use eni_proto::error::{Code, WireError as ReplyError};
use eni_proto::reply::{self, Collected};
use std::collections::BTreeSet;
use std::sync::Arc;

/// A GC that runs.
#[derive(Debug, Clone)]
pub(super) struct Sweep {
    ask: GcAsk,
    arrived: Timestamp,
    /// Not named, at rest, and so looked for.
    candidates: Vec<AttachmentId>,
    /// Their links are gone: their paths are looked at.
    asked: BTreeSet<AttachmentId>,
    kept: Vec<(AttachmentId, Kept)>,
    freed: Vec<AttachmentId>,
    /// Being freed: not committed yet.
    flying: BTreeSet<AttachmentId>,
    /// What went wrong first; the rest goes on.
    trouble: Option<String>,
}

impl Owner {
    pub(super) fn gc(&mut self, id: OpId, ask: GcAsk, now: Timestamp) {
        let valid: BTreeSet<_> = ask.valid.iter().cloned().collect();
        let unnamed = unnamed(&ask.network, &valid, self.attachments.all());
        let marked: BTreeSet<AttachmentId> = unnamed.iter().map(|record| record.id()).collect();
        self.attachments.mark_unnamed(&ask.network, &marked);
        // What somebody is at work on is alive, whatever the list says: its ADD may be younger than the list.
        let (busy, candidates) =
            marked.into_iter().partition::<Vec<_>, _>(|id| self.lanes.contains_key(&id.key));
        let kept = busy.into_iter().map(|id| (id, Kept::UnderWay)).collect();
        let look = !candidates.is_empty();
        let sweep = Sweep {
            ask,
            arrived: now,
            candidates,
            asked: BTreeSet::new(),
            kept,
            freed: Vec::new(),
            flying: BTreeSet::new(),
            trouble: None,
        };
        self.sweeps.insert(id, sweep);
        if look {
            self.effect(None, Purpose::GcLook(id), EffectKind::ObserveHost);
        } else {
            self.end_sweep_when_done(id, now);
        }
    }

    pub(super) fn gc_looked(&mut self, id: OpId, seen: Result<HostView, HostStepError>, now: Timestamp) {
        let Some(sweep) = self.sweeps.get_mut(&id) else { return };
        let candidates = std::mem::take(&mut sweep.candidates);
        match seen {
            Ok(view) => {
                let mut linkless = candidates;
                linkless.retain(|candidate| self.is_linkless(id, candidate, &view));
                self.ask_paths(id, &linkless);
            }
            Err(error) => {
                let why = error.to_string();
                sweep.kept.extend(candidates.into_iter().map(|id| (id, Kept::NotSeen(why.clone()))));
                sweep.trouble = Some(format!("the host could not be looked at: {why}"));
            }
        }
        self.end_sweep_when_done(id, now);
    }

    /// The record of a candidate that may be judged: none when it was ended by somebody else meanwhile, so that nothing
    /// is left to be said of it, and when somebody is at work on it.
    fn at_rest(&mut self, id: OpId, candidate: &AttachmentId) -> Option<Arc<AttachmentRecord>> {
        let current = self.attachments.current(&candidate.key).filter(|slot| slot.record.id() == *candidate);
        let record = current.map(|slot| slot.record.clone())?;
        if self.lanes.contains_key(&candidate.key) {
            self.keep(id, candidate, Kept::UnderWay);
            return None;
        }
        Some(record)
    }

    fn keep(&mut self, id: OpId, candidate: &AttachmentId, why: Kept) {
        if let Some(sweep) = self.sweeps.get_mut(&id) {
            sweep.kept.push((candidate.clone(), why));
        }
    }

    /// Whether an attachment's link is gone; what has one is kept.
    fn is_linkless(&mut self, id: OpId, candidate: &AttachmentId, view: &HostView) -> bool {
        let Some(record) = self.at_rest(id, candidate) else { return false };
        match netns(&record, &alias(&record).render(), view) {
            Netns::Linkless => return true,
            Netns::Lives => self.keep(id, candidate, Kept::Lives),
            Netns::Unclear(why) => self.keep(id, candidate, Kept::Unclear(why)),
        }
        false
    }

    fn ask_paths(&mut self, id: OpId, linkless: &[AttachmentId]) {
        for batch in linkless.chunks(BATCH) {
            let path = |id: &AttachmentId| self.attachments.get(id).map(|slot| slot.record.netns.clone());
            let asked: Vec<(AttachmentId, String)> =
                batch.iter().filter_map(|one| Some((one.clone(), path(one)?))).collect();
            if let Some(sweep) = self.sweeps.get_mut(&id) {
                sweep.asked.extend(asked.iter().map(|(one, _)| one.clone()));
            }
            let of = asked.iter().map(|(one, _)| one.clone()).collect();
            self.effect(None, Purpose::GcPaths(id, of), EffectKind::CheckSandboxes(asked));
        }
    }

    /// What is at the paths of attachments whose link is gone: each is freed or kept. Of what was not looked at nothing
    /// is known.
    pub(super) fn gc_paths_seen(
        &mut self,
        id: OpId,
        asked: &[AttachmentId],
        seen: &[(AttachmentId, PathSight)],
        now: Timestamp,
    ) {
        for candidate in asked {
            let Some(sweep) = self.sweeps.get_mut(&id) else { return };
            sweep.asked.remove(candidate);
            if self.at_rest(id, candidate).is_none() {
                continue;
            }
            let told = seen.iter().find(|(one, _)| one == candidate);
            let sight = told.map_or(PathSight::Unknown, |(_, sight)| *sight);
            if !self.says_gone(candidate, sight, now) {
                self.keep(id, candidate, Kept::Path(sight));
                continue;
            }
            if let Some(sweep) = self.sweeps.get_mut(&id) {
                sweep.flying.insert(candidate.clone());
            }
            self.end_attachment(candidate, DyingReason::Collected, None, LinkFate::Gone, now);
            if let Some(kill) = self.kills.get_mut(candidate) {
                kill.sweep = Some(id);
            }
        }
        self.end_sweep_when_done(id, now);
    }

    /// The end of one that is freed: its record is committed, or not.
    pub(super) fn swept(
        &mut self,
        id: OpId,
        freed: &AttachmentId,
        committed: &Result<(), String>,
        now: Timestamp,
    ) {
        let Some(sweep) = self.sweeps.get_mut(&id) else { return };
        sweep.flying.remove(freed);
        match committed {
            Ok(()) => sweep.freed.push(freed.clone()),
            Err(cause) => {
                sweep.trouble.get_or_insert_with(|| format!("a release could not be recorded: {cause}"));
            }
        }
        self.end_sweep_when_done(id, now);
    }

    fn end_sweep_when_done(&mut self, id: OpId, now: Timestamp) {
        let runs = |s: &Sweep| !s.candidates.is_empty() || !s.asked.is_empty() || !s.flying.is_empty();
        if self.sweeps.get(&id).is_none_or(runs) {
            return;
        }
        let Some(sweep) = self.sweeps.remove(&id) else { return };
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let (freed, kept) = (number(sweep.freed.len()), number(sweep.kept.len()));
        let (ending, outcome) = match &sweep.trouble {
            None => (Ending::Ok, reply::Outcome::Collected(Collected { freed, kept })),
            Some(cause) => {
                let text =
                    format!("GC of {} did not end well: {freed} freed, {kept} kept", sweep.ask.network);
                let error =
                    ReplyError::new(Code::TryAgainLater, text).cause(cause.clone()).advice("try again");
                (Ending::Failed, reply::Outcome::Failed(Box::new(error)))
            }
        };
        self.out.replies.push((id, Some(outcome)));
        self.note(Note::Collected {
            network: sweep.ask.network,
            named: sweep.ask.valid.len(),
            freed: sweep.freed,
            kept: sweep.kept,
            ending,
            took: now - sweep.arrived,
        });
    }
}
