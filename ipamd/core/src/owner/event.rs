//! What goes into the owner and what comes out of it.
//!
//! Owns events, completions, effects, replies and notes as data. Does not own descriptors (the shell keeps them, by
//! operation) nor how an effect is carried out.

use super::switches::Switch;
use crate::cloud::{CloudError, CloudObservation, InstanceLimits, Mutated, Mutation};
use crate::eni_sync;
use crate::gc::Kept;
use crate::host_net::Reason;
use crate::host_net::foreign::ReportKind;
use crate::kernel::{
    AttachmentView, HostStep, HostStepError, HostView, LookSpec, ReapLink, Reaped, Thing, Trigger,
    UnwireSpec, WireError, WireSpec,
};
use crate::limits;
use crate::record::{AttachmentId, EniState, Write};
use crate::time::Timestamp;
use crate::tombstone::{Buried, Dropped};
use eni_proto::error::WireError as ReplyError;
use eni_proto::ids::{AttachmentKey, EniId, InstanceId, MacAddr, NetnsCookie, NetworkName};
use eni_proto::reply;
use eni_proto::request::{Mode, ValidAttachment};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

/// Names an operation: one ADD, DEL, CHECK or GC of one connection. Given by the shell, never reused while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId(pub u64);

/// Names an effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EffectId(pub u64);

/// What happens to the owner.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A plugin asks for ADD. The shell holds the sandbox's descriptor under `op`.
    Add {
        /// The operation.
        op: OpId,
        /// What is asked.
        ask: AddAsk,
    },
    /// A plugin asks for DEL.
    Del {
        /// The operation.
        op: OpId,
        /// Whose.
        key: AttachmentKey,
    },
    /// A DEL that nobody answered lies in the spool. Its reply says whether it may be unlinked.
    Tombstone {
        /// The operation.
        op: OpId,
        /// What was written down.
        tombstone: Buried,
    },
    /// A plugin asks for CHECK. The shell holds the sandbox's descriptor under `op`.
    Check {
        /// The operation.
        op: OpId,
        /// What is asked.
        ask: CheckAsk,
    },
    /// A plugin asks for GC.
    Gc {
        /// The operation.
        op: OpId,
        /// What is asked.
        ask: GcAsk,
    },
    /// The plugin closed its socket before a reply: nobody waits any more.
    Hangup {
        /// The operation.
        op: OpId,
    },
    /// The plugin died with the reply unread: nobody has the result.
    Unread {
        /// The operation.
        op: OpId,
        /// Whose.
        key: AttachmentKey,
    },
    /// An effect has ended.
    Done {
        /// The effect.
        effect: EffectId,
        /// How.
        completion: Completion,
    },
    /// `next_deadline` has come.
    Wake,
    /// A link of those last named by [`EffectKind::WatchLinks`] is there.
    LinkSeen,
    /// Others have changed the host's network: what has told of it.
    HostChanged(BTreeSet<Trigger>),
    /// The store's reserve for a full disk: why there is none, or that there is one again. Without it only what needs no
    /// new record is served.
    StoreReserve(Option<String>),
    /// A part of a look at the cloud has come before the rest.
    CloudTold(CloudTold),
    /// An operator switches something.
    Switch {
        /// What.
        switch: Switch,
        /// On or off.
        on: bool,
    },
    /// No new ADD from now on: waiting ones are closed without a reply, so that their plugins ask the next ipamd.
    Drain,
}

/// A part of a look at the cloud.
#[derive(Debug, Clone, PartialEq)]
pub enum CloudTold {
    /// Who this instance is.
    Identity {
        /// Its id.
        instance: InstanceId,
        /// Its type.
        instance_type: String,
    },
    /// What its type carries.
    Limits {
        /// The limits.
        limits: InstanceLimits,
        /// Who told them.
        source: limits::Source,
    },
}

/// An ADD, checked by the shell.
#[derive(Debug, Clone, PartialEq)]
pub struct AddAsk {
    /// Network, container id, ifname.
    pub key: AttachmentKey,
    /// The sandbox's network namespace, read from the descriptor.
    pub cookie: NetnsCookie,
    /// CNI_NETNS, as the runtime wrote it.
    pub netns: String,
    /// The wanted mode.
    pub mode: Mode,
    /// The wanted MTU; the configured one when absent.
    pub mtu: Option<u32>,
    /// Namespace and name of the pod, when CNI_ARGS named both.
    pub pod: Option<(String, String)>,
    /// When the plugin must have its answer.
    pub deadline: Timestamp,
}

/// A CHECK, checked by the shell.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckAsk {
    /// Network, container id, ifname.
    pub key: AttachmentKey,
    /// The sandbox's network namespace, read from the descriptor.
    pub cookie: NetnsCookie,
    /// The addresses that the runtime believes it has; empty when it does not say.
    pub addresses: Vec<Ipv4Addr>,
    /// When the plugin must have its answer.
    pub deadline: Timestamp,
}

/// A GC, checked by the shell.
#[derive(Debug, Clone, PartialEq)]
pub struct GcAsk {
    /// The network whose attachments the list is about.
    pub network: NetworkName,
    /// Those that the runtime knows. Of ones that are not known here nothing is said.
    pub valid: Vec<ValidAttachment>,
}

/// How an effect ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Completion {
    /// [`EffectKind::Commit`]: durable, or why not.
    Committed(Result<(), String>),
    /// [`EffectKind::Commit`]: not taken, because the store has turned out to be empty. Everything has to be written,
    /// in a batch that begins with [`Write::Clear`].
    Blank(String),
    /// [`EffectKind::Wire`]: it is made, and what the path says by which the runtime named the sandbox.
    Wired(Result<PathSight, WireError>),
    /// [`EffectKind::Unwire`].
    Unwired(Result<(), HostStepError>),
    /// [`EffectKind::Consult`]: what lies there, if anything; a failed look is unknown, never nothing.
    Consulted(Result<Option<Buried>, String>),
    /// [`EffectKind::Reap`].
    Reaped(Reaped),
    /// [`EffectKind::ObserveHost`]; a failed look is unknown, never empty.
    HostObserved(Result<HostView, HostStepError>),
    /// [`EffectKind::CheckSandboxes`].
    SandboxesChecked(Vec<(AttachmentId, PathSight)>),
    /// [`EffectKind::Look`]; a failed look is unknown, never empty.
    Looked(Result<Box<AttachmentView>, HostStepError>),
    /// [`EffectKind::ApplyHost`]: all failures.
    HostApplied(Vec<HostStepError>),
    /// [`EffectKind::ObserveCloud`]; a failed or partial answer is unknown, never empty.
    CloudObserved(Result<CloudObservation, String>),
    /// [`EffectKind::Mutate`]: what EC2 did or why not; see [`CloudError::leaves_open`].
    Mutated(Result<Mutated, CloudError>),
    /// [`EffectKind::Resolve`]: the IPv4 addresses of each name, or why there are none.
    Resolved(Vec<(EniId, Result<Vec<Ipv4Addr>, String>)>),
    /// Not started, because an effect that it comes after has failed.
    Skipped,
}

/// What the path says by which a runtime named a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathSight {
    /// A network namespace is there: the sandbox's, for all that can be told.
    Namespace,
    /// Nothing is there.
    Absent,
    /// What is there is no namespace, or cannot be looked at: without mount propagation a namespace that lives is a
    /// plain empty file.
    Unknown,
}

/// One effect: the shell starts it once all of `after` have succeeded, and reports it skipped when one failed.
#[derive(Debug, Clone, PartialEq)]
pub struct Effect {
    /// Its name.
    pub id: EffectId,
    /// The operation whose descriptor it needs.
    pub op: Option<OpId>,
    /// Effects that must succeed before.
    pub after: Vec<EffectId>,
    /// What to do.
    pub kind: EffectKind,
}

/// What to do outside.
#[derive(Debug, Clone, PartialEq)]
pub enum EffectKind {
    /// Commit a batch whole, in the order of emission.
    Commit(Vec<Write>),
    /// Wire the sandbox of `op`.
    Wire(Box<WireSpec>),
    /// Take a sandbox off.
    Unwire(UnwireSpec),
    /// Look into the spool for the tombstone of a key.
    Consult(AttachmentKey),
    /// Renew the stamp. Has no end: one that is not written grows old, which is all that a failure means.
    Stamp {
        /// When the round trip began that it tells of.
        renewed: Timestamp,
        /// How long ipamd may be silent after that.
        grace: Duration,
    },
    /// Delete dying links.
    Reap(Vec<ReapLink>),
    /// Look at the host.
    ObserveHost,
    /// Look at an attachment, in the sandbox of `op`, too.
    Look(Box<LookSpec>),
    /// Take steps on the host's own network.
    ApplyHost(Vec<HostStep>),
    /// Look at the paths of sandboxes.
    CheckSandboxes(Vec<(AttachmentId, String)>),
    /// Ask the cloud about the instance and its ENIs.
    ObserveCloud {
        /// Those, too, that carry our tag and are attached to nothing.
        tagged: bool,
    },
    /// Change something at EC2: its intent is committed.
    Mutate(Mutation),
    /// Resolve the private DNS names of ENIs.
    Resolve(Vec<(EniId, String)>),
    /// Watch for links with these MACs, and no others any more; [`Event::LinkSeen`] when one is there. Has no end.
    WatchLinks(Vec<MacAddr>),
}

/// What the shell has to do after an event.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// Operations that have ended, with what their plugins are answered; none closes the connection without a reply,
    /// so that the plugin asks again (the next ipamd, when this one is ending).
    pub replies: Vec<(OpId, Option<reply::Outcome>)>,
    /// Effects to start.
    pub effects: Vec<Effect>,
    /// What happened, for logs and metrics: core itself never logs.
    pub notes: Vec<Note>,
}

/// The verbs that are operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// CNI ADD.
    Add,
    /// CNI DEL.
    Del,
    /// CNI CHECK.
    Check,
}

/// How an operation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ending {
    /// Done.
    Ok,
    /// Refused before anything was done: pool full, cancelled by a DEL, node draining.
    Refused,
    /// Failed on the way and undone.
    Failed,
    /// Its plugin went away.
    Cancelled,
}

/// How long an operation's phases took; a phase that did not happen is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Phases {
    /// From its arrival to its first effect.
    pub queue: Option<Duration>,
    /// From its first effect to the commit.
    pub commit: Option<Duration>,
    /// From its first effect to the end of wiring or taking off.
    pub wire: Option<Duration>,
    /// From its arrival to its end.
    pub total: Duration,
}

/// Something that happened, for logs, events and metrics.
#[derive(Debug, Clone, PartialEq)]
pub enum Note {
    /// An operation has ended.
    Ended {
        /// Its verb.
        verb: Verb,
        /// Whose.
        key: AttachmentKey,
        /// How.
        ending: Ending,
        /// How long its phases took.
        phases: Phases,
        /// The error that was answered.
        error: Option<ReplyError>,
    },
    /// An address was given to an attachment.
    Allocated {
        /// The address.
        address: Ipv4Addr,
        /// To whom.
        attachment: AttachmentId,
    },
    /// An attachment is dying: its addresses cool.
    Dying {
        /// Which.
        attachment: AttachmentId,
        /// Why.
        why: DyingReason,
    },
    /// A tombstone was judged.
    Tombstone {
        /// Whose.
        key: AttachmentKey,
        /// Why its DEL is not done; none when it is.
        dropped: Option<Dropped>,
    },
    /// A GC has ended.
    Collected {
        /// The network.
        network: NetworkName,
        /// How many attachments its list named.
        named: usize,
        /// Not named, and freed: their network namespaces are gone.
        freed: Vec<AttachmentId>,
        /// Not named, and kept, with why.
        kept: Vec<(AttachmentId, Kept)>,
        /// How.
        ending: Ending,
        /// How long it took.
        took: Duration,
    },
    /// The reaper's batch has ended.
    Reaped {
        /// Links gone.
        gone: usize,
        /// Links kept, with why.
        kept: Vec<(u32, String)>,
        /// How long it took.
        took: Duration,
    },
    /// At start: what became of an attachment's record.
    Restored {
        /// Which.
        attachment: AttachmentId,
        /// The state's name.
        state: &'static str,
    },
    /// At start: a link of ours without a record; it is dying.
    OrphanLink {
        /// Its index.
        ifindex: u32,
        /// Its alias.
        alias: String,
    },
    /// At start, with an empty store: a live attachment rebuilt from its link.
    Rebuilt {
        /// Which.
        attachment: AttachmentId,
    },
    /// The store's file is a new one: everything is written to it.
    WrittenAnew {
        /// What the store said.
        cause: String,
    },
    /// A commit failed: it is written again with the next one.
    CommitFailed {
        /// Why.
        cause: String,
    },
    /// A sandbox was not taken off whole; its link is reaped all the same.
    UnwireFailed {
        /// Which.
        attachment: AttachmentId,
        /// Why.
        cause: String,
    },
    /// ENIs or addresses came or went at EC2.
    PoolChanged {
        /// Addresses that came.
        arrived: Vec<Ipv4Addr>,
        /// Free addresses that EC2 did not name twice in a row.
        left: Vec<Ipv4Addr>,
        /// Held addresses that EC2 does not name: kept, their sandboxes live.
        missing: Vec<Ipv4Addr>,
    },
    /// A change at EC2 has ended.
    Mutated {
        /// The call, as EC2 names it.
        call: &'static str,
        /// The ENI; none for a create.
        eni: Option<EniId>,
        /// Why it failed.
        error: Option<CloudError>,
    },
    /// An ENI's state was changed by the planner of capacity.
    EniState {
        /// Which.
        eni: EniId,
        /// The new state.
        state: EniState,
    },
    /// An ENI has left the pool.
    EniGone {
        /// Which.
        eni: EniId,
    },
    /// Steps were taken on the host's own network.
    HostApplied {
        /// How many.
        steps: usize,
        /// Which failed.
        failed: Vec<HostStepError>,
    },
    /// Something on the host that others had changed is as it was.
    Repaired {
        /// What told of it.
        trigger: Trigger,
        /// What was mended.
        thing: Thing,
        /// What was wrong.
        reason: Reason,
        /// How many steps it took.
        steps: usize,
        /// The first of them.
        first: HostStep,
    },
    /// An attachment's host link is gone, and nobody asked for that: it is broken until its DEL.
    Broken {
        /// Which.
        attachment: AttachmentId,
        /// What told of it.
        trigger: Trigger,
    },
    /// Something on the host is not as it should be, and is left alone.
    Reported {
        /// What it is about.
        kind: ReportKind,
        /// What, and what to do.
        text: String,
    },
    /// A step of the start is done.
    StartStep {
        /// Which, in words.
        text: String,
    },
    /// What the instance type carries is told by another source than before.
    Limits {
        /// Which.
        source: limits::Source,
    },
    /// The primary address of an ENI that EC2 did not tell.
    PrimaryFound {
        /// Whose.
        eni: EniId,
        /// The address.
        address: Ipv4Addr,
        /// Who told it.
        source: eni_sync::Source,
    },
    /// Addresses that containers hold and that EC2 has not named twice, or names again.
    Quarantined {
        /// From now on quarantined.
        taken: Vec<Ipv4Addr>,
        /// Not any more.
        back: Vec<Ipv4Addr>,
    },
    /// An operator has switched something.
    Switched {
        /// What.
        switch: Switch,
        /// On or off.
        on: bool,
    },
    /// A reconciler's pass failed.
    PassFailed {
        /// The reconciler.
        reconciler: &'static str,
        /// Why.
        cause: String,
    },
    /// From now on ADDs are served.
    Ready,
}

/// Why an attachment is dying.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DyingReason {
    /// CNI DEL.
    Del,
    /// A DEL that was written down while ipamd did not answer.
    Tombstone,
    /// Its ADD failed.
    AddFailed,
    /// The plugin of its ADD went away.
    PluginGone,
    /// An ADD of the same key names another sandbox, mode or MTU.
    Replaced,
    /// Its sandbox is gone, and its address or its name is needed.
    SandboxGone,
    /// A GC did not name it, and its network namespace is gone.
    Collected,
    /// At start: its ADD had not been finished.
    HalfMade,
    /// At start: its link was in the dying group already.
    LinkDying,
}
