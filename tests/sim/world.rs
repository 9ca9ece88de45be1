//! What the owner's effects act on: the store's committed records, the kernel's fake, the cloud's answer.
//!
//! Owns carrying out one effect at once, with or without a fault. Does not decide when: the scheduler does.

use crate::kernel::FakeKernel;
use eni_proto::ids::{BootId, InstanceId, MacAddr, NetnsCookie};
use ipamd_core::cloud::{
    CloudObservation, EniAttachment, EniAttachmentStatus, EniObservation, InstanceIdentity, InstanceLimits,
};
use ipamd_core::kernel::{HostKernel, HostStepError, WireError, WireStep};
use ipamd_core::owner::event::{Completion, Effect, EffectKind};
use ipamd_core::record::Stored;
use std::collections::BTreeMap;
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

/// Everything outside the owner.
pub(crate) struct World {
    /// What is durable.
    pub(crate) stored: Stored,
    /// The kernel.
    pub(crate) kernel: FakeKernel,
    /// How many addresses the primary ENI has beside its own.
    pub(crate) addresses: u8,
    /// This boot.
    pub(crate) boot: BootId,
    /// Reports links as gone without deleting them.
    pub(crate) lying_reaper: bool,
    /// Which sandbox each operation of the running daemon named.
    pub(crate) sandboxes: BTreeMap<u64, NetnsCookie>,
}

/// The MAC of the primary ENI.
pub(crate) const PRIMARY_MAC: MacAddr = MacAddr([2, 0xee, 0, 0, 0, 1]);
/// The node's own address.
pub(crate) const PRIMARY: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 10);

impl World {
    /// A node that has just booted.
    pub(crate) fn new(addresses: u8) -> World {
        let mut kernel = FakeKernel::new();
        let ifindex = kernel.add_host_link("ens5", PRIMARY_MAC);
        kernel.add_host_address(ifindex, "10.0.1.10/24".parse().expect("a CIDR"));
        World {
            stored: Stored::default(),
            kernel,
            addresses,
            boot: BootId::new("boot-1"),
            lying_reaper: false,
            sandboxes: BTreeMap::new(),
        }
    }

    /// The addresses of the pool.
    pub(crate) fn pool(&self) -> Vec<Ipv4Addr> {
        (0..self.addresses).map(|n| Ipv4Addr::new(10, 0, 1, 20 + n)).collect()
    }

    fn cloud(&self) -> CloudObservation {
        let instance: InstanceId = "i-1".parse().expect("an instance id");
        CloudObservation {
            identity: InstanceIdentity {
                instance: instance.clone(),
                instance_type: "m5.large".into(),
                primary_mac: PRIMARY_MAC,
                vpc_cidrs: vec!["10.0.0.0/16".parse().expect("a CIDR")],
            },
            limits: InstanceLimits { enis: 3, addresses_per_eni: 10 },
            enis: vec![EniObservation {
                id: "eni-1".parse().expect("an ENI id"),
                mac: PRIMARY_MAC,
                subnet: "subnet-1".parse().expect("a subnet id"),
                subnet_cidr: "10.0.1.0/24".parse().expect("a CIDR"),
                primary: PRIMARY,
                secondary: self.pool(),
                attachment: Some(EniAttachment {
                    instance,
                    device_index: 0,
                    status: EniAttachmentStatus::Attached,
                }),
            }],
        }
    }

    /// Carries one effect out.
    pub(crate) fn carry_out(&mut self, effect: &Effect, fault: Fault) -> Completion {
        let refuse = fault == Fault::Refused;
        match &effect.kind {
            EffectKind::Commit(batch) => {
                if !refuse {
                    self.stored.apply(batch);
                }
                Completion::Committed(if fault == Fault::None { Ok(()) } else { Err("no space".into()) })
            }
            EffectKind::Wire(spec) => {
                let sandbox = effect.op.and_then(|op| self.sandboxes.get(&op.0)).copied();
                let Some(sandbox) = sandbox else { return Completion::Wired(Err(WireError::SandboxGone)) };
                let made = if refuse { Err(refused(false)) } else { self.kernel.wire(spec, &sandbox) };
                Completion::Wired(made.and(if fault == Fault::Lost { Err(refused(true)) } else { Ok(()) }))
            }
            EffectKind::Unwire(spec) => {
                let done = if refuse { Err(step_failed()) } else { self.kernel.unwire(spec) };
                Completion::Unwired(done.and(if fault == Fault::Lost { Err(step_failed()) } else { Ok(()) }))
            }
            EffectKind::Reap(links) => {
                let lie = self.lying_reaper;
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
            EffectKind::ObserveHost => Completion::HostObserved(self.kernel.observe()),
            EffectKind::ApplyHost(steps) => {
                let mut failed = if refuse { Vec::new() } else { self.kernel.apply(steps) };
                if fault != Fault::None {
                    failed.push(step_failed());
                }
                Completion::HostApplied(failed)
            }
            EffectKind::ObserveCloud if fault != Fault::None => {
                Completion::CloudObserved(Err("EC2 is away".into()))
            }
            EffectKind::ObserveCloud => Completion::CloudObserved(Ok(self.cloud())),
        }
    }
}

impl World {
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
    HostStepError { step: "a step".into(), cause: "ENOBUFS".into() }
}
