//! The netlink threads and the reaper.
//!
//! Owns two threads with blocking sockets for wiring and taking off (more bring nothing: RTNL serialises the rest), one
//! for the host's own network, and one for group deletes and conntrack, which take milliseconds.
//! Does not decide anything about a failure.

use crate::completions::{CompletionSender, Finished, Wake};
use crate::queue::{Receiver, Sender, bounded};
use ipamd_core::kernel::{HostKernel, HostStep, LookSpec, ReapLink, UnwireSpec, WireError, WireSpec};
use ipamd_core::owner::event::{Completion, EffectId, OpId};
use ipamd_core::record::AttachmentId;
use ipamd_netlink::host::Host;
use ipamd_netlink::sandbox::{self, SandboxSocket};
use std::thread::JoinHandle;

/// The most jobs that wait for a thread: more than the connections that may have one each.
const CAPACITY: usize = 4096;

/// A job for a netlink thread or the reaper.
#[derive(Debug)]
pub enum Job {
    /// Wire a sandbox.
    Wire {
        /// The operation whose sandbox it is.
        op: OpId,
        /// What to make.
        spec: Box<WireSpec>,
        /// The sandbox.
        sandbox: SandboxSocket,
    },
    /// Look at an attachment and into its sandbox.
    Look {
        /// The operation whose sandbox it is.
        op: OpId,
        /// What to look at.
        spec: Box<LookSpec>,
        /// The sandbox.
        sandbox: SandboxSocket,
    },
    /// Take a sandbox off.
    Unwire(UnwireSpec),
    /// Delete dying links.
    Reap(Vec<ReapLink>),
    /// Look at the host.
    Observe,
    /// Take steps on the host's own network.
    Apply(Vec<HostStep>),
    /// Look at the paths of sandboxes.
    CheckSandboxes(Vec<(AttachmentId, String)>),
}

/// A queue to one or several threads; they end when it is dropped.
#[derive(Clone)]
pub struct JobSender {
    queue: Sender<(EffectId, Job, Wake)>,
}

impl JobSender {
    /// Queues a job, whose end uses `wake`; hands it back when the queue is full.
    pub fn submit(&self, effect: EffectId, job: Job, wake: Wake) -> Result<(), Box<Job>> {
        self.queue.try_send((effect, job, wake)).map_err(|(_, job, _)| Box::new(job))
    }
}

/// Starts one thread per host handle on one queue.
pub fn start(
    name: &str,
    hosts: Vec<Host>,
    done: &CompletionSender,
) -> std::io::Result<(JobSender, Vec<JoinHandle<()>>)> {
    let (sender, receiver) = bounded(CAPACITY);
    let mut threads = Vec::new();
    for (number, host) in hosts.into_iter().enumerate() {
        let (receiver, done) = (receiver.clone(), done.clone());
        let builder = std::thread::Builder::new().name(format!("{name}-{number}"));
        threads.push(builder.spawn(move || run(host, &receiver, &done))?);
    }
    Ok((JobSender { queue: sender }, threads))
}

fn run(mut host: Host, jobs: &Receiver<(EffectId, Job, Wake)>, done: &CompletionSender) {
    while let Some((effect, job, wake)) = jobs.recv() {
        done.put(carry_out(&mut host, effect, job), wake);
    }
}

fn carry_out(host: &mut Host, effect: EffectId, job: Job) -> Finished {
    let completion = match job {
        Job::Wire { op, spec, sandbox } => {
            let result = host.wire(&spec, &sandbox).map(|()| sandbox.sight());
            let again =
                matches!(result, Err(WireError::IfindexTaken { .. } | WireError::HostNameTaken { .. }));
            let sandbox = again.then_some(sandbox);
            return Finished::InSandbox { effect, op, completion: Completion::Wired(result), sandbox };
        }
        Job::Look { op, spec, sandbox } => {
            let completion = Completion::Looked(host.look_at(&spec, &sandbox).map(Box::new));
            // The owner answers or looks again: either way the descriptor is closed by the answer.
            return Finished::InSandbox { effect, op, completion, sandbox: Some(sandbox) };
        }
        Job::Unwire(spec) => Completion::Unwired(host.unwire(&spec)),
        Job::Reap(links) => Completion::Reaped(host.reap(&links)),
        Job::Observe => Completion::HostObserved(host.observe()),
        Job::Apply(steps) => Completion::HostApplied(host.apply(&steps)),
        Job::CheckSandboxes(asked) => {
            let seen = asked.into_iter().map(|(id, path)| (id, sandbox::sight(&path)));
            Completion::SandboxesChecked(seen.collect())
        }
    };
    Finished::Effect { effect, completion }
}
