//! The verb GC.
//!
//! Owns a GC's way from its list to its answer: it marks the network's attachments that the list does not name, looks at
//! the host once, frees those whose network namespace is proven gone, by DEL's transition, and keeps all others with the
//! reason. It is answered when what it frees is committed. Does not judge the evidence: `crate::gc` does.

use super::del::LinkFate;
use super::event::{DyingReason, EffectKind, Ending, GcAsk, Note, OpId};
use super::outside::alias;
use super::{Owner, Purpose};
use crate::gc::{Kept, Netns, netns, unnamed};
use crate::kernel::{HostStepError, HostView};
use crate::record::AttachmentId;
use crate::time::Timestamp;
use eni_proto::error::{Code, WireError as ReplyError};
use eni_proto::reply::{self, Collected};
use std::collections::BTreeSet;

/// A GC that runs.
#[derive(Debug, Clone)]
pub(super) struct Sweep {
    ask: GcAsk,
    arrived: Timestamp,
    /// Not named, at rest, and so looked for.
    candidates: Vec<AttachmentId>,
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
                for candidate in candidates {
                    self.sweep(id, &candidate, &view, now);
                }
            }
            Err(error) => {
                let why = error.to_string();
                sweep.kept.extend(candidates.into_iter().map(|id| (id, Kept::NotSeen(why.clone()))));
                sweep.trouble = Some(format!("the host could not be looked at: {why}"));
            }
        }
        self.end_sweep_when_done(id, now);
    }

    /// Frees one attachment or keeps it.
    fn sweep(&mut self, id: OpId, candidate: &AttachmentId, view: &HostView, now: Timestamp) {
        let current = self.attachments.current(&candidate.key).filter(|slot| slot.record.id() == *candidate);
        // Ended by somebody else meanwhile: nothing is left to be said of it.
        let Some(record) = current.map(|slot| slot.record.clone()) else { return };
        let evidence = if self.lanes.contains_key(&candidate.key) {
            Err(Kept::UnderWay)
        } else {
            match netns(&record, &alias(&record).render(), view) {
                Netns::Gone => Ok(()),
                Netns::Lives => Err(Kept::Lives),
                Netns::Unclear(why) => Err(Kept::Unclear(why)),
            }
        };
        let Some(sweep) = self.sweeps.get_mut(&id) else { return };
        match evidence {
            Err(kept) => sweep.kept.push((candidate.clone(), kept)),
            Ok(()) => {
                sweep.flying.insert(candidate.clone());
                self.end_attachment(candidate, DyingReason::Collected, None, LinkFate::Gone, now);
                if let Some(kill) = self.kills.get_mut(candidate) {
                    kill.sweep = Some(id);
                }
            }
        }
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
        if self.sweeps.get(&id).is_none_or(|s| !s.candidates.is_empty() || !s.flying.is_empty()) {
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
