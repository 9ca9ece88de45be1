//! The owner's shell: hands effects out, brings completions in, answers plugins.
//!
//! Owns the owner itself, called in place; the descriptors of sandboxes by operation; the effects that wait for
//! others; who waits for which reply. Everything here runs on the main loop and never blocks. Does not decide: the
//! owner does. Does not read sockets: `server::cni` does.

use crate::clock;
use crate::completions::{CompletionSender, Finished, Wake};
use crate::executors::cloud::CloudSender;
use crate::executors::netlink::{Job, JobSender};
use crate::metrics::Metrics;
use crate::notes;
use crate::spool::{Job as SpoolJob, SpoolSender};
use crate::store::StoreHandle;
use eni_proto::ids::MacAddr;
use eni_proto::reply;
use eni_proto::spool::Tombstone;
use ipamd_core::cloud::{CloudError, CloudErrorKind};
use ipamd_core::kernel::{HostStepError, LookSpec, Reaped, WireError, WireStep};
use ipamd_core::owner::Owner;
use ipamd_core::owner::event::{Completion, Effect, EffectId, EffectKind, Event, OpId, Outcome};
use ipamd_core::time::Timestamp;
use ipamd_netlink::fail_point;
use ipamd_netlink::sandbox::SandboxSocket;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use tokio::sync::{oneshot, watch};

/// The queues to the threads that carry effects out.
pub struct Executors {
    /// The store thread.
    pub store: StoreHandle,
    /// The netlink threads.
    pub netlink: JobSender,
    /// The thread of the host's own network: one, because it remembers what it has laid.
    pub host: JobSender,
    /// The reaper.
    pub reaper: JobSender,
    /// The spool's thread.
    pub spool: SpoolSender,
    /// The cloud's task.
    pub cloud: CloudSender,
    /// The MACs whose links are waited for.
    pub links: watch::Sender<Vec<MacAddr>>,
    /// Where their completions go.
    pub done: CompletionSender,
}

/// The shell.
pub struct Shell {
    owner: Owner,
    executors: Executors,
    metrics: Arc<Metrics>,
    sandboxes: BTreeMap<OpId, SandboxSocket>,
    waiting: BTreeMap<OpId, oneshot::Sender<Option<reply::Outcome>>>,
    /// The DELs that no plugin waits for: the spool's thread is told how they ended.
    tombstones: BTreeMap<OpId, Box<Tombstone>>,
    /// Started, not finished.
    flying: BTreeSet<EffectId>,
    /// Not started: something in `after` flies or is held.
    held: BTreeMap<EffectId, Effect>,
    /// Not taken by a full queue. They fly until all that came with them is handed out: what comes after them must
    /// find them.
    refused: VecDeque<(EffectId, Completion)>,
    next_op: u64,
}

impl Shell {
    /// A shell around an owner; `outcome` is what its start asked for.
    pub fn new(owner: Owner, outcome: Outcome, executors: Executors, metrics: Arc<Metrics>) -> Self {
        let mut shell = Shell {
            owner,
            executors,
            metrics,
            sandboxes: BTreeMap::new(),
            waiting: BTreeMap::new(),
            tombstones: BTreeMap::new(),
            flying: BTreeSet::new(),
            held: BTreeMap::new(),
            refused: VecDeque::new(),
            next_op: 0,
        };
        shell.dispatch(outcome);
        shell
    }

    /// The owner, to be asked.
    pub fn owner(&mut self) -> &mut Owner {
        &mut self.owner
    }

    /// When the owner wants to be woken.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.owner.next_deadline()
    }

    /// Begins an operation: its event is made with its id, its sandbox is kept, its reply comes by the receiver.
    pub fn begin(
        &mut self,
        sandbox: Option<SandboxSocket>,
        event: impl FnOnce(OpId) -> Event,
    ) -> (OpId, oneshot::Receiver<Option<reply::Outcome>>) {
        let op = self.next_op();
        let (sender, receiver) = oneshot::channel();
        self.waiting.insert(op, sender);
        if let Some(sandbox) = sandbox {
            self.sandboxes.insert(op, sandbox);
        }
        self.handle(event(op));
        (op, receiver)
    }

    fn next_op(&mut self) -> OpId {
        self.next_op += 1;
        OpId(self.next_op)
    }

    /// Gives the owner one event and does what it says.
    pub fn handle(&mut self, event: Event) {
        let outcome = self.owner.handle(event, clock::now());
        self.dispatch(outcome);
    }

    /// Takes in what a thread has finished.
    pub fn finished(&mut self, finished: Finished) {
        match finished {
            Finished::Effect { effect, completion } => self.completed(effect, completion),
            Finished::LinkSeen => self.handle(Event::LinkSeen),
            Finished::CloudTold(told) => self.handle(Event::CloudTold(told)),
            Finished::HostChanged(triggers) => self.handle(Event::HostChanged(triggers)),
            Finished::Reserve(missing) => self.handle(Event::StoreReserve(missing)),
            Finished::Tombstone(tombstone) => {
                let op = self.next_op();
                let buried = Tombstone::clone(&tombstone).into();
                self.tombstones.insert(op, tombstone);
                self.handle(Event::Tombstone { op, tombstone: buried });
            }
            Finished::InSandbox { effect, op, completion, sandbox } => {
                // Of an operation that has ended meanwhile nobody would ever close it again.
                if let Some(sandbox) = sandbox.filter(|_| self.waiting.contains_key(&op)) {
                    self.sandboxes.insert(op, sandbox);
                }
                self.completed(effect, completion);
            }
        }
    }

    fn completed(&mut self, effect: EffectId, completion: Completion) {
        fail_point::pass("completion");
        self.flying.remove(&effect);
        let failed = is_failure(&completion);
        self.handle(Event::Done { effect, completion });
        self.release_held(effect, failed);
        self.end_refused();
    }

    fn end_refused(&mut self) {
        while let Some((effect, completion)) = self.refused.pop_front() {
            self.completed(effect, completion);
        }
    }

    /// Starts what waited for `ended`, or reports it skipped.
    fn release_held(&mut self, ended: EffectId, failed: bool) {
        let mut ends = VecDeque::from([(ended, failed)]);
        while let Some((ended, failed)) = ends.pop_front() {
            let waiting: Vec<EffectId> =
                self.held.iter().filter(|(_, e)| e.after.contains(&ended)).map(|(id, _)| *id).collect();
            for id in waiting {
                let Some(mut effect) = self.held.remove(&id) else { continue };
                if failed {
                    self.handle(Event::Done { effect: id, completion: Completion::Skipped });
                    ends.push_back((id, true));
                } else {
                    effect.after.retain(|other| *other != ended);
                    let wake = self.executors.done.wake();
                    self.start_or_hold(effect, wake);
                }
            }
        }
    }

    fn dispatch(&mut self, outcome: Outcome) {
        for note in &outcome.notes {
            notes::record(note, &self.metrics);
        }
        for (op, reply) in outcome.replies {
            // The sandbox's descriptor is closed before the reply: a held one keeps a dead sandbox's links alive.
            self.sandboxes.remove(&op);
            if let Some(tombstone) = self.tombstones.remove(&op) {
                let done = matches!(reply, Some(reply::Outcome::Done));
                // A full queue loses it: then it is handed over again, and has no attachment any more.
                let _ = self.executors.spool.submit(SpoolJob::Settled { tombstone, done });
            } else if let Some(waiting) = self.waiting.remove(&op) {
                // The receiver is gone when the plugin is: nobody to tell.
                let _ = waiting.send(reply);
            }
        }
        let together = is_pair(&outcome.effects).then(|| self.executors.done.wake());
        for effect in outcome.effects {
            let wake = together.clone().unwrap_or_else(|| self.executors.done.wake());
            self.start_or_hold(effect, wake);
        }
        self.end_refused();
    }

    fn start_or_hold(&mut self, mut effect: Effect, wake: Wake) {
        effect.after.retain(|id| self.flying.contains(id) || self.held.contains_key(id));
        if effect.after.is_empty() {
            self.start(effect, wake);
        } else {
            self.held.insert(effect.id, effect);
        }
    }

    fn start(&mut self, effect: Effect, wake: Wake) {
        let id = effect.id;
        self.flying.insert(id);
        let refused = match effect.kind {
            EffectKind::Commit(batch) => self
                .executors
                .store
                .submit(id.0, batch, wake)
                .err()
                .map(|full| Completion::Committed(Err(full.to_string()))),
            EffectKind::Wire(spec) => {
                match effect.op.and_then(|op| Some((op, self.sandboxes.remove(&op)?))) {
                    Some((op, sandbox)) => {
                        let job = Job::Wire { op, spec, sandbox };
                        self.executors
                            .netlink
                            .submit(id, job, wake)
                            .err()
                            .map(|_| Completion::Wired(Err(queue_full())))
                    }
                    None => Some(Completion::Wired(Err(WireError::SandboxGone))),
                }
            }
            EffectKind::Look(spec) => self.start_look(id, effect.op, spec, wake),
            EffectKind::Unwire(spec) => {
                let refused = self.executors.netlink.submit(id, Job::Unwire(spec), wake).err();
                refused.map(|_| Completion::Unwired(Err(step_queue_full("unwire"))))
            }
            EffectKind::Reap(links) => {
                let indexes: Vec<u32> = links.iter().map(|l| l.ifindex).collect();
                self.executors.reaper.submit(id, Job::Reap(links), wake).err().map(|_| {
                    let kept =
                        indexes.into_iter().map(|i| (i, "the reaper's queue is full".to_owned())).collect();
                    Completion::Reaped(Reaped { gone: Vec::new(), kept })
                })
            }
            EffectKind::ObserveHost => {
                let refused = self.executors.host.submit(id, Job::Observe, wake).err();
                refused.map(|_| Completion::HostObserved(Err(step_queue_full("observe"))))
            }
            EffectKind::ApplyHost(steps) => {
                let refused = self.executors.host.submit(id, Job::Apply(steps), wake).err();
                refused.map(|_| Completion::HostApplied(vec![step_queue_full("apply")]))
            }
            EffectKind::CheckSandboxes(asked) => {
                let refused = self.executors.host.submit(id, Job::CheckSandboxes(asked), wake).err();
                refused.map(|_| Completion::SandboxesChecked(Vec::new()))
            }
            EffectKind::ObserveCloud { tagged } => (!self.executors.cloud.observe(id, tagged))
                .then(|| Completion::CloudObserved(Err("the cloud's queue is full".to_owned()))),
            EffectKind::Resolve(names) => {
                let refused = self.executors.cloud.resolve(id, names);
                refused.map(|names| {
                    let full = |(eni, _)| (eni, Err("the cloud's queue is full".to_owned()));
                    Completion::Resolved(names.into_iter().map(full).collect())
                })
            }
            EffectKind::Mutate(mutation) => {
                let call = mutation.call();
                (!self.executors.cloud.mutate(id, mutation))
                    .then(|| Completion::Mutated(Err(never_asked(call))))
            }
            EffectKind::Consult(key) => {
                let job = SpoolJob::Consult { effect: id, key, wake };
                let refused = self.executors.spool.submit(job).err();
                refused.map(|_| Completion::Consulted(Err("the spool's queue is full".to_owned())))
            }
            EffectKind::Stamp { renewed, grace } => {
                self.flying.remove(&id);
                // One that is not written is as old as one that could not be.
                let _ = self.executors.spool.submit(SpoolJob::Stamp { renewed, grace });
                None
            }
            EffectKind::WatchLinks(macs) => {
                self.executors.links.send_replace(macs);
                self.flying.remove(&id);
                None
            }
        };
        self.refused.extend(refused.map(|completion| (id, completion)));
    }

    /// Looks at an attachment in the sandbox of `op`; its end when it cannot.
    fn start_look(
        &mut self,
        id: EffectId,
        op: Option<OpId>,
        spec: Box<LookSpec>,
        wake: Wake,
    ) -> Option<Completion> {
        let step = "look at the attachment";
        let Some((op, sandbox)) = op.and_then(|op| Some((op, self.sandboxes.remove(&op)?))) else {
            let cause = "its sandbox's socket is closed".to_owned();
            let error = HostStepError { index: None, step: step.to_owned(), cause, gone: false };
            return Some(Completion::Looked(Err(error)));
        };
        let refused = self.executors.netlink.submit(id, Job::Look { op, spec, sandbox }, wake).err();
        refused.map(|_| Completion::Looked(Err(step_queue_full(step))))
    }
}

/// Whether these are one operation's commit and its work on links: the owner goes on when both have ended. Effects that
/// the owner asked for with them, whatever they are, go by themselves.
fn is_pair(effects: &[Effect]) -> bool {
    let kinds: Vec<&EffectKind> = effects.iter().map(|effect| &effect.kind).collect();
    matches!(kinds[..], [EffectKind::Commit(_), EffectKind::Wire(_) | EffectKind::Unwire(_)])
}

fn is_failure(completion: &Completion) -> bool {
    match completion {
        Completion::Committed(result) => result.is_err(),
        Completion::Wired(result) => result.is_err(),
        Completion::Unwired(result) => result.is_err(),
        Completion::HostObserved(result) => result.is_err(),
        Completion::Looked(result) => result.is_err(),
        Completion::CloudObserved(result) => result.is_err(),
        Completion::Mutated(result) => result.is_err(),
        Completion::Consulted(result) => result.is_err(),
        Completion::HostApplied(failed) => !failed.is_empty(),
        Completion::Reaped(_) | Completion::SandboxesChecked(_) | Completion::Resolved(_) => false,
        Completion::Blank(_) | Completion::Skipped => true,
    }
}

/// A call that was not made: as good as refused.
fn never_asked(call: &str) -> CloudError {
    CloudError {
        code: Some("eni-cni.QueueFull".to_owned()),
        ..CloudError::new(CloudErrorKind::Throttled, call, "the cloud's queue is full")
    }
}

fn queue_full() -> WireError {
    WireError::Refused {
        step: WireStep::Sandbox,
        errno: nix::libc::EAGAIN,
        text: "the netlink threads' queue is full".to_owned(),
        made: false,
    }
}

fn step_queue_full(step: &str) -> HostStepError {
    HostStepError {
        index: None,
        step: step.to_owned(),
        cause: "the netlink threads' queue is full".to_owned(),
        gone: false,
    }
}

#[cfg(test)]
mod tests;
