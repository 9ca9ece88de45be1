//! Evidence that a sandbox is gone, and what it is used for: an address or a name that is needed.
//!
//! Owns which broken attachments there are, which of their sandboxes are proven gone, and their undoing. Gone means that
//! a whole look at the host has not shown the link that we made (number and alias), and that nothing is at the path by
//! which the runtime named the sandbox, where ipamd has seen a namespace before: a container may have deleted its own
//! interface, and to an ipamd that does not see the runtime's mounts nothing is at any path. A look that failed proves
//! nothing. Who is gone is kept in memory alone, and found out again after a restart; where a namespace was seen is in
//! the record. Frees nothing that nobody asks for: that is the collector's.

use super::commit::RecordId;
use super::event::{AddAsk, DyingReason, EffectKind, OpId, PathSight};
use super::{Owner, Phase, Purpose};
use crate::record::{AddressState, AttachmentId, AttachmentRecord, AttachmentState};
use crate::time::Timestamp;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

/// The most paths of one look: a path may lie on a slow file system.
pub(super) const BATCH: usize = 128;

/// What is known of sandboxes whose links are gone.
#[derive(Debug, Clone, Default)]
pub(super) struct Evidence {
    /// The broken attachments.
    broken: BTreeSet<AttachmentId>,
    /// Those whose sandbox's path is to be looked at: what is broken, and what no namespace was seen of yet.
    suspects: BTreeSet<AttachmentId>,
    /// Those whose sandbox is gone.
    gone: BTreeSet<AttachmentId>,
    asking: bool,
    /// Addresses of holders that were undone for ADDs that wait.
    coming: BTreeSet<Ipv4Addr>,
}

impl Evidence {
    /// An attachment's link is gone.
    pub(super) fn suspect(&mut self, id: AttachmentId) {
        self.suspects.insert(id.clone());
        self.broken.insert(id);
    }

    /// Whether a namespace is at an attachment's path is to be seen while its link is there.
    pub(super) fn look_at(&mut self, id: AttachmentId) {
        self.suspects.insert(id);
    }

    /// Whether it is being found out which sandboxes are gone.
    pub(super) fn is_asked(&self) -> bool {
        self.asking || !self.suspects.is_empty()
    }
}

impl Owner {
    /// Looks at the paths of what is suspected, one look at a time.
    pub(super) fn check_sandboxes(&mut self) {
        if self.evidence.asking || self.evidence.suspects.is_empty() || self.draining {
            return;
        }
        self.forget_mended();
        let ids: Vec<AttachmentId> = self.evidence.suspects.iter().take(BATCH).cloned().collect();
        let path = |id: &AttachmentId| self.attachments.get(id).map(|slot| slot.record.netns.clone());
        let asked: Vec<(AttachmentId, String)> =
            ids.iter().filter_map(|id| Some((id.clone(), path(id)?))).collect();
        self.evidence.suspects.retain(|id| !ids.contains(id));
        if !asked.is_empty() {
            self.evidence.asking = true;
            self.effect(None, Purpose::SandboxCheck, EffectKind::CheckSandboxes(asked));
        }
    }

    /// Drops from what is known whatever is not broken any more: a DEL came, or another ADD.
    fn forget_mended(&mut self) {
        let state = |id: &AttachmentId| self.attachments.get(id).map(|slot| slot.record.state);
        let broken = |id: &AttachmentId| state(id) == Some(AttachmentState::Broken);
        self.evidence.broken.retain(broken);
        self.evidence.suspects.retain(|id| broken(id) || state(id) == Some(AttachmentState::Live));
        self.evidence.gone.retain(broken);
    }

    pub(super) fn sandboxes_checked(&mut self, seen: Vec<(AttachmentId, PathSight)>, now: Timestamp) {
        self.evidence.asking = false;
        for (id, sight) in seen {
            if self.says_gone(&id, sight, now) {
                self.evidence.gone.insert(id);
            } else {
                self.evidence.gone.remove(&id);
            }
        }
        self.undo_gone(now);
        // Who waits may have to be refused after all.
        self.growth.replan();
    }

    /// Whether what is at the path of an attachment whose link is gone says that its sandbox is gone, too. That a namespace
    /// is there is kept: it is what nothing there is believed by later.
    pub(super) fn says_gone(&mut self, id: &AttachmentId, sight: PathSight, now: Timestamp) -> bool {
        let Some(record) = self.attachments.get(id).map(|slot| slot.record.clone()) else { return false };
        if sight == PathSight::Namespace && !record.netns_seen {
            let record = AttachmentRecord { netns_seen: true, ..record.as_ref().clone() };
            self.attachments.put(Arc::new(record));
            self.mark_dirty(RecordId::Attachment(id.clone()), now);
        }
        sight == PathSight::Absent && record.netns_seen
    }

    /// An ADD finds no address: holders whose sandbox is gone are undone. What is broken is looked at again, because a
    /// sandbox may have died since.
    pub(super) fn reclaim(&mut self, now: Timestamp) {
        if self.evidence.broken.is_empty() {
            return;
        }
        self.forget_mended();
        self.undo_gone(now);
        let unknown: Vec<_> = self.evidence.broken.difference(&self.evidence.gone).cloned().collect();
        self.evidence.suspects.extend(unknown);
    }

    /// Undoes as many as there are ADDs that wait for what is neither there nor coming yet.
    fn undo_gone(&mut self, now: Timestamp) {
        if !self.gate.open() {
            return; // who waits, waits for the node to serve, and asks when it does
        }
        self.forget_mended();
        let there = self.pool.available() + self.coming_of_dead();
        let wanted = self.waiting_for_address().saturating_sub(there);
        let ids: Vec<AttachmentId> = self.evidence.gone.iter().take(wanted).cloned().collect();
        for id in ids {
            if let Some(slot) = self.attachments.get(&id) {
                self.evidence.coming.extend(&slot.record.addresses);
            }
            self.kill(&id, DyingReason::SandboxGone, None, now);
        }
        self.forget_mended();
    }

    /// How many addresses of dead holders are on their way to those who wait.
    pub(super) fn coming_of_dead(&mut self) -> usize {
        let pool = &self.pool;
        let cools = |address: &Ipv4Addr| {
            pool.address(*address).is_some_and(|a| matches!(a.state, AddressState::Cooling { .. }))
        };
        self.evidence.coming.retain(cools);
        self.evidence.coming.len()
    }

    /// Undoes the dead holders of what an ADD names: its sandbox, whatever its path said before, or its pod's name. True
    /// when the ADD has to wait for that.
    pub(super) fn undo_dead_holders(&mut self, op: OpId, ask: &AddAsk, now: Timestamp) -> bool {
        if self.evidence.broken.is_empty() {
            return false;
        }
        self.forget_mended();
        let pod = ask.pod.as_ref().map(|(namespace, name)| format!("{namespace}/{name}"));
        let dead = |id: &&AttachmentId| {
            let Some(record) = self.attachments.get(id).map(|slot| &slot.record) else { return false };
            let here = record.netns_cookie == ask.cookie;
            let replaced = !ask.netns.is_empty() && record.netns == ask.netns;
            let same_pod = pod.is_some() && record.pod == pod && self.evidence.gone.contains(*id);
            record.key.ifname == ask.key.ifname && (here || replaced || same_pod)
        };
        let dead: Vec<AttachmentId> = self.evidence.broken.iter().filter(dead).cloned().collect();
        let Some(last) = dead.last().cloned() else { return false };
        self.set_phase(op, Phase::Killing(last.clone()));
        self.begun(op, now);
        for id in &dead {
            let waits = (*id == last).then_some(op);
            self.kill(id, DyingReason::SandboxGone, waits, now);
        }
        self.forget_mended();
        true
    }
}
