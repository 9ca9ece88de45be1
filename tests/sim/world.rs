//! What the owner's effects act on: the store's committed records, the kernel's fake, the cloud's answer.
//!
//! Owns carrying out one effect at once, with or without a fault. Does not decide when: the scheduler does.

use crate::kernel::FakeKernel;
use embedded_vpc::limits;
use embedded_vpc::model::{Ec2, Setup, Transition};
use eni_proto::ids::{AttachmentKey, BootId, EniId, MacAddr, NetnsCookie};
use ipamd_core::cloud::{
    CloudError, CloudErrorKind, CloudObservation, EniAttachmentStatus, EniObservation, EniScope, Mutated,
    Mutation,
};
use ipamd_core::kernel::{FIRST_IFINDEX, HostKernel, HostStepError, WireError, WireStep};
use ipamd_core::owner::event::{Completion, Effect, EffectId, EffectKind, PathSight};
use ipamd_core::record::{AttachmentId, Stored, Write};
use ipamd_core::time::Timestamp;
use ipamd_core::tombstone::Buried;
use ipnet::Ipv4Net;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// How an effect goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Not at all.
    None,
    /// It is refused and nothing happens.
    Refused,
    /// It happens and is reported as failed.
    Lost,
}

/// A part of the world that does not do what it says: the checks must see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lie {
    /// The kernel says of links that they are gone, and deletes none.
    Reaper,
    /// The store says of intents that they are written, and loses them.
    Intents,
    /// EC2 forgets client tokens: a create that is repeated makes a second ENI.
    Tokens,
    /// EC2 says of ENIs that they are deleted, and keeps them.
    Delete,
    /// The spool says that nothing was written down.
    Spool,
    /// To a GC the kernel shows no pod's link, nor a sandbox at any path.
    Look,
    /// A CHECK sees the link that somebody has deleted.
    Blind,
}

/// Everything outside the owner.
pub(crate) struct World {
    /// What is durable.
    pub(crate) stored: Stored,
    /// The file is a new one: it takes nothing but everything.
    pub(crate) blank: bool,
    /// The kernel.
    pub(crate) kernel: FakeKernel,
    /// EC2.
    pub(crate) ec2: Ec2,
    /// What its clock says.
    pub(crate) now: Timestamp,
    /// The MACs whose links the running daemon waits for.
    pub(crate) watched: Vec<MacAddr>,
    /// This boot.
    pub(crate) boot: BootId,
    /// What is not done as it is said.
    pub(crate) lie: Option<Lie>,
    /// The ENI that each client token has made.
    made: BTreeMap<String, EniId>,
    /// The looks that GCs have begun.
    pub(crate) gc_looks: BTreeSet<EffectId>,
    /// What a kernel that lies says of a link: how all was before that was deleted.
    pub(crate) before: BTreeMap<u32, FakeKernel>,
    /// The DELs that were written down, by key.
    pub(crate) spool: BTreeMap<AttachmentKey, Buried>,
    /// Which sandbox each operation of the running daemon named.
    pub(crate) sandboxes: BTreeMap<u64, NetnsCookie>,
}

impl World {
    /// A node that has just booted: three ENIs of two addresses are what it can have.
    pub(crate) fn new() -> World {
        let mut setup = Setup::new("test.3x3p", 1);
        (setup.attach_ms, setup.detach_ms) = (100, 100);
        World::of(setup)
    }

    /// A node of another setup that has just booted.
    pub(crate) fn of(setup: Setup) -> World {
        let ec2 = Ec2::boot(setup).expect("a sound setup");
        let primary = ec2.enis()[0].clone();
        let mut kernel = FakeKernel::new();
        let ifindex = kernel.add_host_link("ens5", primary.mac);
        let prefix = primary.subnet_cidr.prefix_len();
        kernel.add_host_address(
            ifindex,
            Ipv4Net::new(primary.primary.expect("an address"), prefix).expect("a prefix length"),
        );
        World {
            stored: Stored::default(),
            blank: false,
            kernel,
            ec2,
            boot: BootId::new("boot-1"),
            now: Timestamp::ZERO,
            lie: None,
            made: BTreeMap::new(),
            gc_looks: BTreeSet::new(),
            before: BTreeMap::new(),
            watched: Vec::new(),
            spool: BTreeMap::new(),
            sandboxes: BTreeMap::new(),
        }
    }

    /// Time goes on: links come and go with their ENIs. Whether one that is waited for has come.
    pub(crate) fn tick(&mut self, now: Timestamp) -> bool {
        self.now = now;
        let mut seen = false;
        for transition in self.ec2.tick(now) {
            let Some(eni) = self.ec2.enis().iter().find(|e| e.id == *transition.eni()) else { continue };
            match transition {
                Transition::Attached(_) => {
                    let index = eni.attachment.as_ref().map_or(0, |a| a.device_index);
                    self.kernel.add_host_link(&format!("ens{}", 5 + index), eni.mac);
                    seen |= self.watched.contains(&eni.mac);
                }
                Transition::Detached(_) => self.kernel.remove_host_link(eni.mac),
            }
        }
        seen
    }

    /// Whether EC2 has this address on an ENI that is attached.
    pub(crate) fn is_routed(&self, address: Ipv4Addr) -> bool {
        let attached = self
            .ec2
            .enis()
            .iter()
            .filter(|e| e.attachment.as_ref().is_some_and(|a| a.status == EniAttachmentStatus::Attached));
        attached.flat_map(EniObservation::for_containers).any(|a| a == address)
    }

    /// Whether the node's type takes prefixes.
    pub(crate) fn has_prefixes(&self) -> bool {
        limits::of(&self.ec2.setup().instance_type).is_some_and(|limits| limits.prefixes)
    }

    fn look(&mut self, tagged: bool) -> Result<CloudObservation, CloudError> {
        let identity = self.ec2.identity(None, self.now)?;
        let limits = self.ec2.describe_limits(&identity.instance_type, None, self.now)?;
        let mut enis = BTreeMap::new();
        let instance = identity.instance.clone();
        let tags = tagged.then(|| EniScope::TaggedFor(instance.clone()));
        for scope in tags.into_iter().chain([EniScope::AttachedTo(instance)]) {
            let told = self.ec2.describe_enis(&scope, None, self.now)?;
            enis.extend(told.into_iter().map(|e| (e.id.clone(), e)));
        }
        Ok(CloudObservation { identity, limits, enis: enis.into_values().collect(), tagged, metadata: None })
    }

    fn mutate(&mut self, mutation: &Mutation, fault: Fault) -> Result<Mutated, CloudError> {
        let written = self.stored.intents.iter().any(|i| i.mutation == *mutation);
        // A file that is lost since has taken it along; what is left by a crash then is found by its tag.
        assert!(written || self.blank, "{} was called without its intent: {mutation:?}", mutation.call());
        if fault == Fault::Refused {
            return Err(self.failed(mutation, Some("RequestLimitExceeded")));
        }
        let done = self.change(mutation);
        if fault == Fault::Lost { Err(self.failed(mutation, None)) } else { done }
    }

    /// EC2 does it, honestly or not.
    fn change(&mut self, mutation: &Mutation) -> Result<Mutated, CloudError> {
        let mut asked = mutation.clone();
        match &mut asked {
            Mutation::Delete { .. } if self.lie == Some(Lie::Delete) => return Ok(Mutated::Done),
            Mutation::Create { token, .. } if self.lie == Some(Lie::Tokens) => {
                *token = format!("{token}-{}", self.ec2.enis().len());
            }
            _ => {}
        }
        let done = self.ec2.mutate(&asked, None, self.now);
        if let (Mutation::Create { token, .. }, Ok(Mutated::Created(eni))) = (mutation, &done) {
            let first = self.made.entry(token.clone()).or_insert_with(|| eni.id.clone());
            assert_eq!(*first, eni.id, "one create has made two ENIs");
        }
        done
    }

    fn failed(&self, mutation: &Mutation, code: Option<&str>) -> CloudError {
        let kind = if code.is_some() { CloudErrorKind::Throttled } else { CloudErrorKind::Unreachable };
        CloudError { code: code.map(str::to_owned), ..CloudError::new(kind, mutation.call(), "a fault") }
    }

    /// Carries one effect out.
    pub(crate) fn carry_out(&mut self, effect: &Effect, fault: Fault) -> Completion {
        let refuse = fault == Fault::Refused;
        match &effect.kind {
            EffectKind::Commit(batch) if self.blank && batch.first() != Some(&Write::Clear) => {
                Completion::Blank("a new file".into())
            }
            EffectKind::Commit(batch) => {
                self.blank &= refuse;
                if !refuse {
                    self.stored.apply(batch);
                }
                if self.lie == Some(Lie::Intents) {
                    self.stored.intents.clear();
                }
                Completion::Committed(if fault == Fault::None { Ok(()) } else { Err("no space".into()) })
            }
            EffectKind::Wire(spec) => {
                let sandbox = effect.op.and_then(|op| self.sandboxes.get(&op.0)).copied();
                let Some(sandbox) = sandbox else { return Completion::Wired(Err(WireError::SandboxGone)) };
                let made = if refuse { Err(refused(false)) } else { self.kernel.wire(spec, &sandbox) };
                let made = made.and(if fault == Fault::Lost { Err(refused(true)) } else { Ok(()) });
                Completion::Wired(made.map(|()| PathSight::Namespace))
            }
            EffectKind::Look(_) if fault != Fault::None => Completion::Looked(Err(step_failed())),
            EffectKind::Look(spec) => {
                let sandbox = effect.op.and_then(|op| self.sandboxes.get(&op.0)).copied();
                let sandbox = sandbox.ok_or_else(step_failed);
                let kernel = self.before.get_mut(&spec.ifindex).unwrap_or(&mut self.kernel);
                let seen = sandbox.and_then(|sandbox| kernel.look_at(spec, &sandbox));
                Completion::Looked(seen.map(Box::new))
            }
            EffectKind::Unwire(spec) => {
                let done = if refuse { Err(step_failed()) } else { self.kernel.unwire(spec) };
                Completion::Unwired(done.and(if fault == Fault::Lost { Err(step_failed()) } else { Ok(()) }))
            }
            EffectKind::Reap(links) => {
                let lie = self.lie == Some(Lie::Reaper);
                let mut reaped = if refuse || lie {
                    ipamd_core::kernel::Reaped::default()
                } else {
                    self.kernel.reap(links)
                };
                if lie {
                    reaped.gone = links.iter().map(|l| l.ifindex).collect();
                } else if fault != Fault::None {
                    reaped.kept = links.iter().map(|l| (l.ifindex, "busy".to_owned())).collect();
                    reaped.gone.clear();
                }
                Completion::Reaped(reaped)
            }
            EffectKind::ObserveHost if fault != Fault::None => Completion::HostObserved(Err(step_failed())),
            EffectKind::ObserveHost => {
                let mut seen = self.kernel.observe();
                if let Ok(view) = &mut seen
                    && self.lie == Some(Lie::Look)
                    && self.gc_looks.contains(&effect.id)
                {
                    view.links.retain(|link| link.ifindex < FIRST_IFINDEX);
                }
                Completion::HostObserved(seen)
            }
            EffectKind::ApplyHost(steps) => {
                let mut failed = if refuse { Vec::new() } else { self.kernel.apply(steps) };
                if fault != Fault::None {
                    failed.push(step_failed());
                }
                Completion::HostApplied(failed)
            }
            EffectKind::CheckSandboxes(asked) => Completion::SandboxesChecked(self.sights(asked, fault)),
            EffectKind::ObserveCloud { .. } if fault != Fault::None => {
                Completion::CloudObserved(Err("EC2 is away".into()))
            }
            EffectKind::ObserveCloud { tagged } => {
                Completion::CloudObserved(self.look(*tagged).map_err(|e| e.to_string()))
            }
            EffectKind::Resolve(names) => {
                let none = |(eni, _): &(EniId, String)| (eni.clone(), Err("no such host".to_owned()));
                Completion::Resolved(names.iter().map(none).collect())
            }
            EffectKind::Mutate(mutation) => Completion::Mutated(self.mutate(mutation, fault)),
            EffectKind::Consult(_) if fault != Fault::None => Completion::Consulted(Err("EIO".into())),
            EffectKind::Consult(_) if self.lie == Some(Lie::Spool) => Completion::Consulted(Ok(None)),
            EffectKind::Consult(key) => Completion::Consulted(Ok(self.spool.get(key).cloned())),
            EffectKind::Stamp { .. } => Completion::Skipped,
            EffectKind::WatchLinks(macs) => {
                self.watched.clone_from(macs);
                Completion::Skipped
            }
        }
    }
}

impl World {
    /// What the paths of sandboxes say.
    fn sights(&self, asked: &[(AttachmentId, String)], fault: Fault) -> Vec<(AttachmentId, PathSight)> {
        let sight = |id: &AttachmentId| {
            let record = self.stored.attachments.iter().find(|r| r.id() == *id)?;
            let linked = self.kernel.group_of(record.host_ifindex).is_some();
            if self.lie == Some(Lie::Look) && linked {
                return Some(PathSight::Absent);
            }
            Some(match self.kernel.sandbox_lives(record.netns_cookie) {
                true => PathSight::Namespace,
                false if fault == Fault::None => PathSight::Absent,
                false => PathSight::Unknown,
            })
        };
        let seen = asked.iter().filter_map(|(id, _)| Some((id.clone(), sight(id)?)));
        if fault == Fault::Refused { Vec::new() } else { seen.collect() }
    }

    /// What there is of an effect when the daemon dies in the middle of it: its first messages.
    pub(crate) fn carry_out_part(&mut self, effect: &Effect, messages: usize) {
        match &effect.kind {
            EffectKind::Wire(spec) => {
                let sandbox = effect.op.and_then(|op| self.sandboxes.get(&op.0)).copied();
                if let Some(sandbox) = sandbox {
                    // Whether it was refused is nobody's to know any more.
                    let _ = self.kernel.wire_part(spec, sandbox, messages);
                }
            }
            EffectKind::Unwire(spec) => self.kernel.unwire_part(spec, messages > 1),
            EffectKind::Reap(links) => {
                self.kernel.reap(&links[..links.len().min(messages)]);
            }
            EffectKind::ApplyHost(steps) => {
                self.kernel.apply(&steps[..steps.len().min(messages)]);
            }
            _ => {}
        }
    }
}

fn refused(made: bool) -> WireError {
    WireError::Refused { step: WireStep::HostBatch, errno: 105, text: "ENOBUFS".into(), made }
}

fn step_failed() -> HostStepError {
    HostStepError { index: None, step: "a step".into(), cause: "ENOBUFS".into(), gone: false }
}
