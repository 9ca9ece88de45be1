//! The pass of `host_net`: look at the host, lay what is missing, mend what others broke.
//!
//! Owns what woke each look, which attachments a look may judge, the transition to `broken`, and what is told of a pass:
//! each repair with its trigger and reason, what is left alone, who undoes a repair each time. Does not plan
//! (`host_net` does) and does not watch: events come in.

use super::event::{EffectId, EffectKind, Note};
use super::{Owner, Purpose, concern};
use crate::host_net::foreign::{self, Report, ReportKind};
use crate::host_net::{self, LinkSight, Planned, Reason, Wanted, WantedPod, peer, requirement};
use crate::kernel::{Forward, HostStep, HostStepError, HostView, RouteAction, Thing, Trigger};
use crate::reconcile::driver::Pass;
use crate::record::{AttachmentRecord, AttachmentState, EniRecord, Write};
use crate::time::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

/// So often one and the same step may be a repair before somebody is taken to undo it each time. From then on the pass
/// that takes it counts as failed, and the driver's growing wait is what bounds the fight.
const CONTESTED: u32 = 8;
/// A repair that was not needed for so long is nobody's fight any more.
const CALM: Duration = Duration::from_secs(60);
/// The most steps that are remembered for that: more than a node has routes.
const REMEMBERED: usize = 16 * 1024;

/// What is known of the host beside the pool.
#[derive(Debug, Clone, Default)]
pub(super) struct HostWatch {
    /// How often others' changes were told.
    pub(super) events: u64,
    /// By what told of them: the last of these times.
    told: BTreeMap<Trigger, u64>,
    /// What has told of changes since the last look began.
    pub(super) triggers: BTreeSet<Trigger>,
    /// What woke the pass that runs.
    passing: BTreeSet<Trigger>,
    /// What was laid, pods aside, by the last plan; none before the first: what is laid then is no repair.
    laid: Option<Wanted>,
    /// What tells of the repairs that somebody undoes each time.
    contested: BTreeSet<Trigger>,
    /// By the hash of each step that was a repair lately: how often in a row, and when last.
    repeats: BTreeMap<u64, (u32, Timestamp)>,
    /// What the last look found that is left alone.
    pub(super) reports: Vec<Report>,
    /// What the filter table did with what is forwarded, at the last look.
    pub(super) forward: Forward,
    /// Why amazon-vpc-cni is taken to be active, at the last look.
    peer: Option<String>,
}

/// What the host has when a plan's steps have been taken.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Applying {
    wanted: Wanted,
    prefsrc: Option<Ipv4Addr>,
    links: Vec<(EniRecord, Option<(u32, String)>)>,
    pub(super) steps: Vec<HostStep>,
    /// The steps that are repairs, by their place.
    repairs: BTreeMap<usize, Reason>,
}

impl Applying {
    /// Whether a step failed because a pod's link is gone. That of an ENI which is gone is another matter.
    fn is_of_dead_pod(&self, error: &HostStepError) -> bool {
        let step = error.index.and_then(|index| self.steps.get(index));
        let link = step.and_then(|step| match step {
            HostStep::AddRoute(route) | HostStep::DeleteRoute(route) => match route.action {
                RouteAction::Device { ifindex } => Some(ifindex),
                RouteAction::Unreachable => None,
            },
            HostStep::SetNeighbour(neighbour) => Some(neighbour.ifindex),
            HostStep::SetLink { ifindex, .. }
            | HostStep::SetMac { ifindex, .. }
            | HostStep::SetAlias { ifindex, .. }
            | HostStep::SetName { ifindex, .. } => Some(*ifindex),
            _ => None,
        });
        error.gone && link.is_some_and(|ifindex| self.number(ifindex).is_none())
    }

    /// The number of the ENI whose link has an index.
    pub(super) fn number(&self, ifindex: u32) -> Option<u32> {
        let has = |link: &Option<(u32, String)>| link.as_ref().is_some_and(|(index, _)| *index == ifindex);
        self.links.iter().find(|(_, link)| has(link)).map(|(eni, _)| eni.number())
    }
}

/// Whether a step takes a base route away.
fn is_base_route(step: &HostStep) -> bool {
    matches!(step, HostStep::DeleteRoute(route) if route.action == RouteAction::Unreachable)
}

fn hash_of(step: &HostStep) -> u64 {
    // Without a seed: the same step has the same number in every run.
    let mut hasher = DefaultHasher::new();
    step.hash(&mut hasher);
    hasher.finish()
}

impl HostWatch {
    /// Takes in whether amazon-vpc-cni is active.
    pub(super) fn see_peer(&mut self, view: &HostView) {
        self.peer = peer::sign(view).map(|sign| peer::advice(&sign));
    }

    /// What a repair is put down to: of what woke the pass, what tells of such damage.
    fn told_by(&self, thing: Thing) -> Trigger {
        let likely = thing.told_by().iter().find(|trigger| self.passing.contains(trigger));
        likely.or_else(|| self.passing.first()).copied().unwrap_or(Trigger::Period)
    }

    /// What has told of others' changes since there were `events` of them.
    pub(super) fn told_since(&self, events: u64) -> BTreeSet<Trigger> {
        self.told.iter().filter(|(_, last)| **last > events).map(|(trigger, _)| *trigger).collect()
    }

    /// Whether this tells of more than a fight that is waited out.
    fn is_news(&self, triggers: &BTreeSet<Trigger>) -> bool {
        triggers.iter().any(|trigger| *trigger != Trigger::Pool && !self.contested.contains(trigger))
    }

    /// Counts a repair; true when somebody undoes it each time.
    fn is_contested(&mut self, step: &HostStep, now: Timestamp) -> bool {
        self.repeats.retain(|_, (_, last)| now - *last <= CALM);
        if self.repeats.len() >= REMEMBERED {
            self.repeats.clear();
        }
        let (count, last) = self.repeats.entry(hash_of(step)).or_insert((0, now));
        (*count, *last) = (count.saturating_add(1), now);
        *count > CONTESTED
    }
}

impl Owner {
    /// Others have changed the host, they say.
    pub(super) fn host_told(&mut self, triggers: &BTreeSet<Trigger>, now: Timestamp) {
        self.host.events += 1;
        self.host.told.extend(triggers.iter().map(|trigger| (*trigger, self.host.events)));
        self.host_changed(triggers, now);
    }

    /// The host is looked at now; soon, when passes that failed are waited out: what they failed for may be another thing,
    /// and must not keep this one waiting. A fight over the thing itself is waited out.
    pub(super) fn host_changed(&mut self, triggers: &BTreeSet<Trigger>, now: Timestamp) {
        self.host.triggers.extend(triggers);
        self.driver.wake(self.reconcilers.host_net, now);
        if self.host.is_news(triggers) && !self.driver.is_busy(self.reconcilers.host_net) {
            self.driver.wake_soon(self.reconcilers.host_net, now);
        }
    }

    /// What is wanted of the host has changed, and must be laid whatever the last pass failed for. Not for what a pass
    /// itself finds missing: that would have no pause.
    pub(super) fn wake_host_net(&mut self, now: Timestamp) {
        self.host.triggers.insert(Trigger::Pool);
        self.driver.wake_now(self.reconcilers.host_net, now);
    }

    pub(super) fn look_at_host(&mut self, pass: Pass) {
        self.host.passing = std::mem::take(&mut self.host.triggers);
        if self.host.passing.is_empty() {
            self.host.passing.insert(Trigger::Period);
        }
        // What becomes live while the look is taken may be missing from it.
        let live = self.attachments.all().filter(|r| r.state == AttachmentState::Live);
        let looked = live.map(|r| r.host_ifindex).collect();
        self.effect(None, Purpose::HostObserve(pass, looked), EffectKind::ObserveHost);
    }

    /// What the host should hold now.
    pub fn wanted(&self) -> Wanted {
        let number = |eni: &eni_proto::ids::EniId| self.pool.eni(eni).map(|e| e.record.number());
        let of = |state| self.attachments.all().filter(move |r| r.state == state);
        let pod = |r: &Arc<AttachmentRecord>| WantedPod {
            ifindex: r.host_ifindex,
            name: r.host_link.clone(),
            mac: r.host_mac,
            alias: super::outside::alias(r).render(),
            eni_number: number(&r.eni),
            addresses: r.addresses.clone(),
            sandbox_mac: r.sandbox_mac,
        };
        let cidrs = self.node.instance.iter().flat_map(|i| i.vpc_cidrs.iter());
        let known = self.pool.enis().filter_map(|e| Some((e.record.mac, e.link.as_ref()?.0)));
        Wanted {
            enis: self.pool.enis().map(|e| e.record.clone()).filter(|e| e.state.is_laid()).collect(),
            known_links: known.collect(),
            addresses: self.pool.addresses().map(|a| a.address).collect(),
            pods: of(AttachmentState::Live).map(pod).collect(),
            dying: of(AttachmentState::Dying).map(pod).collect(),
            links: self.attachments.all().map(|r| r.host_ifindex).chain(self.reaper.orphan_links()).collect(),
            vpc_cidrs: cidrs.chain(&self.config.extra_vpc_cidrs).copied().collect(),
            snat: self.config.snat,
            eni_mtu: self.config.eni_mtu,
            adopt_links: self.config.adopt_links,
            block_metadata: self.config.block_metadata,
        }
    }

    /// `looked` has the host links of the attachments that were live when the look began: it is judged by those alone.
    pub(super) fn host_observed(
        &mut self,
        pass: Pass,
        looked: &BTreeSet<u32>,
        view: Result<HostView, HostStepError>,
        now: Timestamp,
    ) {
        if !self.driver.is_running(pass) {
            return; // it took too long and is old: another look has been taken since
        }
        let view = match view {
            Ok(view) => view,
            Err(error) => return self.host_ended(pass, Err(error.to_string()), now),
        };
        self.host.forward = view.forward;
        self.host.see_peer(&view);
        self.break_linkless(looked, &view, now);
        if let Some(peer) = self.refused_peer().filter(|_| self.may_stay_off()) {
            return self.pass_ended(pass, Err(peer.to_owned()), now);
        }
        let mut wanted = self.wanted();
        wanted.pods.retain(|pod| looked.contains(&pod.ifindex));
        let mut plan = host_net::plan(&wanted, &view);
        if !self.gate.cloud && self.node.instance.is_none() {
            // A new store: which addresses are ours is not known, so that none of their base routes is unneeded.
            plan.retain(|planned| !is_base_route(&planned.step));
        }
        self.report(&wanted, &view);
        self.withhold(foreign::withheld(&wanted, &view), now);
        let due = self.host.laid.as_ref();
        let due = due.map_or_else(Vec::new, |before| host_net::repairs(&wanted, before, &view, &plan));
        let repair =
            |(index, planned): (usize, &Planned)| due.contains(planned).then_some((index, planned.reason));
        let repairs = plan.iter().enumerate().filter_map(repair).collect();
        let links = host_net::find_links(&wanted, &view);
        let primary = wanted.enis.iter().find(|e| e.device_index == 0).map(|e| e.primary);
        let applying = Applying {
            prefsrc: primary.filter(|p| view.addresses.iter().any(|a| a.address.addr() == *p)),
            links: wanted.enis.iter().map(|e| (e.clone(), links.get(&e.mac).cloned())).collect(),
            wanted: Wanted { pods: Vec::new(), dying: Vec::new(), links: BTreeSet::new(), ..wanted },
            steps: plan.into_iter().map(|p| p.step).collect(),
            repairs,
        };
        let steps = applying.steps.clone();
        // Durable first: an address has its base route only once its record is committed.
        let after = self.commits_in_flight();
        let purpose = Purpose::HostApply(pass, Box::new(applying));
        self.effect_after(None, purpose, EffectKind::ApplyHost(steps), after);
    }

    /// Attachments whose link is gone are broken: there is no handle on the inside of a sandbox. Nothing is freed.
    fn break_linkless(&mut self, looked: &BTreeSet<u32>, view: &HostView, now: Timestamp) {
        let gone = |r: &&Arc<AttachmentRecord>| {
            let alias = super::outside::alias(r).render();
            let seen = host_net::sight(r.host_ifindex, &alias, r.host_link.as_str(), r.host_mac, view);
            r.state == AttachmentState::Live && looked.contains(&r.host_ifindex) && seen == LinkSight::Gone
        };
        let gone: Vec<Arc<AttachmentRecord>> = self.attachments.all().filter(gone).cloned().collect();
        if gone.is_empty() {
            return;
        }
        let trigger = self.host.told_by(Thing::Link);
        let mut batch = Vec::new();
        for record in gone {
            let mut record = record.as_ref().clone();
            record.state = AttachmentState::Broken;
            let record = Arc::new(record);
            self.note(Note::Broken { attachment: record.id(), trigger });
            self.attachments.put(record.clone());
            self.evidence.suspect(record.id());
            batch.push(Write::PutAttachment(record));
        }
        self.commit(Purpose::Housekeeping, batch, now);
    }

    /// What is left alone is told once, when it is first seen.
    fn report(&mut self, wanted: &Wanted, view: &HostView) {
        let reports = foreign::reports(wanted, view);
        let kept = |r: &&Report| r.kind == ReportKind::Contested;
        let contested: Vec<Report> = self.host.reports.iter().filter(kept).cloned().collect();
        for report in reports.iter().filter(|r| !r.text.is_empty() && !self.host.reports.contains(r)) {
            self.out.notes.push(Note::Reported { kind: report.kind, text: report.text.clone() });
        }
        self.host.reports = reports.into_iter().chain(contested).collect();
    }

    /// Addresses that are on a host link and stay there are kept out of use; those that are not any more are free.
    fn withhold(&mut self, withheld: BTreeSet<Ipv4Addr>, now: Timestamp) {
        let changed = self.pool.withhold(withheld, now);
        if !changed.is_empty() {
            self.commit(Purpose::Housekeeping, changed.into_iter().map(Write::PutAddress).collect(), now);
        }
    }

    /// Why nothing is wired, nor changed at EC2: amazon-vpc-cni is active, and that is not to be ignored.
    pub(super) fn refused_peer(&self) -> Option<&str> {
        self.host.peer.as_deref().filter(|_| !self.config.ignore_peer)
    }

    /// Whether nothing of ours is on the host that has to be kept in order.
    fn may_stay_off(&self) -> bool {
        !self.gate.laid && self.attachments.len() == 0
    }

    fn commits_in_flight(&self) -> Vec<EffectId> {
        let flying = |purpose: &Purpose| matches!(purpose, Purpose::Housekeeping);
        self.purposes.iter().filter(|(_, p)| flying(p)).map(|(id, _)| *id).collect()
    }

    pub(super) fn host_applied(
        &mut self,
        pass: Pass,
        done: &Applying,
        failed: &[HostStepError],
        now: Timestamp,
    ) {
        let steps = done.steps.len();
        if steps > 0 {
            self.note(Note::HostApplied { steps, failed: failed.to_vec() });
        }
        let contested = self.note_repairs(done, failed, now);
        // A sandbox that died between the look and the step took its link along: that link's end is told, and judged.
        let failed: Vec<HostStepError> = failed.iter().filter(|e| !done.is_of_dead_pod(e)).cloned().collect();
        let failed = &failed[..];
        let cause = failed
            .first()
            .map(|first| format!("{} of {steps} steps failed; the first: {first}", failed.len()));
        let lacks = |error: &HostStepError| requirement::advice(done.steps.get(error.index?)?, &error.cause);
        let lacks = failed.iter().find_map(lacks);
        let cause = cause.map(|cause| lacks.map_or(cause.clone(), |lacks| format!("{cause}; {lacks}")));
        let pods = if failed.is_empty() { Vec::new() } else { self.wanted().pods };
        self.steering_broken = concern::harm(done, failed, &pods);
        let Some(unlaid) = concern::unlaid(done, failed) else {
            self.close_gate(now);
            return self.host_ended(pass, cause.map_or(Ok(()), Err), now);
        };
        for (eni, link) in &done.links {
            self.pool.set_link(&eni.id, link.clone());
        }
        let lost = done.links.iter().filter(|(_, link)| link.is_none());
        let lost: Vec<String> = lost.map(|(eni, _)| eni.id.to_string()).collect();
        let orphaned = self.reaper.orphaned();
        // What a failed step concerns is not given out; its links stay known: nobody has to wait for them.
        let off = |address: &Ipv4Addr| {
            let eni = self.pool.address(*address).and_then(|a| self.pool.eni(&a.eni));
            unlaid.addresses.contains(address)
                || eni.is_some_and(|e| unlaid.enis.contains(&e.record.number()))
        };
        let addresses = done.wanted.addresses.difference(&orphaned).copied();
        let laid = addresses.filter(|address| !off(address)).collect();
        self.pool.set_laid(&laid);
        self.gate.prefsrc = done.prefsrc;
        // A secondary whose link is not there serves nothing by itself; the node serves from the others.
        let primary = self.pool.primary();
        if primary.is_some_and(crate::pool::Eni::is_usable) {
            self.gate.laid = true;
        }
        let lost = (!lost.is_empty()).then(|| format!("no link has the MAC of {}", lost.join(", ")));
        self.host.laid = Some(self.laid_by(done, &unlaid));
        let result = cause.or(lost).or(contested).map_or(Ok(()), Err);
        self.host_ended(pass, result, now);
        self.gate_progress(now);
    }

    fn host_ended(&mut self, pass: Pass, result: Result<(), String>, now: Timestamp) {
        self.pass_ended(pass, result, now);
        // What was told while the pass ran is not waited out with what it failed for.
        if self.host.is_news(&self.host.triggers) {
            self.driver.wake_soon(self.reconcilers.host_net, now);
        }
    }

    /// What a plan has laid: what was wanted, without what has no link and what failed the first time.
    fn laid_by(&self, done: &Applying, unlaid: &concern::Unlaid) -> Wanted {
        let mut laid = done.wanted.clone();
        let before = self.host.laid.as_ref();
        let was_eni = |eni: &EniRecord| before.is_some_and(|b| b.enis.iter().any(|e| e.id == eni.id));
        let was_address = |address: &Ipv4Addr| before.is_some_and(|b| b.addresses.contains(address));
        let linkless = |eni: &EniRecord| done.links.iter().any(|(e, link)| e.id == eni.id && link.is_none());
        laid.enis.retain(|eni| !linkless(eni) && (!unlaid.enis.contains(&eni.number()) || was_eni(eni)));
        laid.addresses.retain(|address| !unlaid.addresses.contains(address) || was_address(address));
        laid
    }

    /// Tells of the repairs that a pass has made; what somebody undoes each time.
    fn note_repairs(&mut self, done: &Applying, failed: &[HostStepError], now: Timestamp) -> Option<String> {
        let failed: BTreeSet<Option<usize>> = failed.iter().map(|error| error.index).collect();
        let mut told: BTreeMap<(Thing, Reason), (usize, HostStep)> = BTreeMap::new();
        let mut fights = BTreeSet::new();
        let made = |index: &usize| !failed.contains(&Some(*index)) && !failed.contains(&None);
        for (index, reason) in done.repairs.iter().filter(|(index, _)| made(index)) {
            let step = &done.steps[*index];
            told.entry((step.thing(), *reason)).or_insert_with(|| (0, step.clone())).0 += 1;
            if self.host.is_contested(step, now) {
                fights.insert(step.thing());
            }
        }
        for ((thing, reason), (steps, first)) in told {
            let trigger = self.host.told_by(thing);
            self.note(Note::Repaired { trigger, thing, reason, steps, first });
        }
        self.host.reports.retain(|report| report.kind != ReportKind::Contested);
        self.host.contested = fights.iter().flat_map(|thing| thing.told_by()).copied().collect();
        if fights.is_empty() {
            return None;
        }
        let things: Vec<&str> = fights.into_iter().map(Thing::name).collect();
        let text = format!("somebody undoes what is repaired, each time: {}", things.join(", "));
        self.note(Note::Reported { kind: ReportKind::Contested, text: text.clone() });
        self.host.reports.push(Report { kind: ReportKind::Contested, text: text.clone() });
        Some(text)
    }
}
