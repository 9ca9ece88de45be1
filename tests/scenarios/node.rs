//! A node on a virtual clock.
//!
//! Owns the owner, the time that each effect takes, and the plugins that wait. Time goes on by itself to whatever comes next:
//! the end of an effect, the owner's own deadline, a transition at EC2. Carries effects out by the simulation's `World`,
//! without its faults: what goes wrong here is said of EC2, call by call.

use crate::world::{Fault, World};
use embedded_vpc::model::{Ec2, Effect as FaultEffect, Fault as CallFault, Setup};
use eni_proto::ids::{AttachmentKey, NetnsCookie};
use eni_proto::reply;
use eni_proto::request::Mode;
use ipamd_core::cloud::{
    CloudError, CloudErrorKind, CloudObservation, EniScope, InstanceIdentity, InstanceLimits, Mutated,
    Mutation,
};
use ipamd_core::kernel::HostKernel;
use ipamd_core::owner::event::{AddAsk, Completion, Effect, EffectId, EffectKind, Event, OpId, Outcome};
use ipamd_core::owner::{Owner, OwnerConfig};
use ipamd_core::time::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

/// How long a plugin waits for its answer (proto, the plugin's own deadline).
const PATIENCE: Duration = Duration::from_secs(10);
/// What one call of EC2 takes.
const CALL: Duration = Duration::from_millis(150);

/// How an ADD ended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answer {
    /// After how long.
    pub(crate) took: Duration,
    /// The address, or the error's text; none when the plugin gave up first.
    pub(crate) result: Option<Result<Ipv4Addr, String>>,
}

/// The node.
pub(crate) struct Node {
    pub(crate) owner: Owner,
    pub(crate) world: World,
    pub(crate) now: Timestamp,
    config: OwnerConfig,
    /// What the daemon asks once.
    known: Option<(InstanceIdentity, InstanceLimits)>,
    /// EC2 does not answer at all.
    pub(crate) away: bool,
    waiting: Vec<Effect>,
    ends: BTreeMap<(Timestamp, u64), (EffectId, Completion)>,
    done: BTreeSet<EffectId>,
    failed: BTreeSet<EffectId>,
    next: u64,
    asked: BTreeMap<OpId, (Timestamp, AttachmentKey)>,
    /// The answers, by container.
    pub(crate) answers: BTreeMap<String, Answer>,
}

impl Node {
    /// A node of this type that has just booted, with so many secondary addresses on its primary ENI; ready.
    pub(crate) fn new(instance_type: &str, secondary: u32, change: impl FnOnce(&mut Setup)) -> Node {
        Node::with(OwnerConfig::default(), instance_type, secondary, change)
    }

    /// With another configuration.
    pub(crate) fn with(
        config: OwnerConfig,
        instance_type: &str,
        secondary: u32,
        change: impl FnOnce(&mut Setup),
    ) -> Node {
        let mut setup = Setup::new(instance_type, secondary);
        (setup.attach_ms, setup.detach_ms) = (2_000, 2_000);
        change(&mut setup);
        let mut world = World::of(setup);
        let now = Timestamp::from_millis(1_000);
        let view = world.kernel.observe().expect("the fake observes");
        let (owner, outcome) =
            Owner::restore(config.clone(), world.stored.clone(), &view, &world.boot, now).expect("it fits");
        let mut node = Node {
            owner,
            world,
            now,
            config,
            known: None,
            away: false,
            waiting: Vec::new(),
            ends: BTreeMap::new(),
            done: BTreeSet::new(),
            failed: BTreeSet::new(),
            next: 0,
            asked: BTreeMap::new(),
            answers: BTreeMap::new(),
        };
        node.take(outcome);
        node
    }

    /// kill -9 and a new start from what is durable; what was under way has happened or not as it had begun.
    pub(crate) fn restart(&mut self) {
        let view = self.world.kernel.observe().expect("the fake observes");
        let stored = self.world.stored.clone();
        let (owner, outcome) =
            Owner::restore(self.config.clone(), stored, &view, &self.world.boot, self.now).expect("it fits");
        self.owner = owner;
        self.known = None;
        self.waiting.clear();
        self.ends.clear();
        self.done.clear();
        self.failed.clear();
        self.asked.clear();
        self.take(outcome);
    }

    /// The EC2 of this node.
    pub(crate) fn ec2(&mut self) -> &mut Ec2 {
        &mut self.world.ec2
    }

    /// The next so many calls of this action are refused with a code.
    pub(crate) fn refuse(&mut self, call: &str, code: &str, count: u32) {
        let fault = CallFault {
            call: call.to_owned(),
            error: Some(code.to_owned()),
            delay_ms: 0,
            count,
            effect: FaultEffect::Before,
        };
        self.world.ec2.set_fault(fault);
    }

    /// The next call of this action is carried out, and its answer is lost.
    pub(crate) fn lose_answer(&mut self, call: &str) {
        let error = Some("InternalError".to_owned());
        let effect = FaultEffect::After;
        self.world.ec2.set_fault(CallFault { call: call.to_owned(), error, delay_ms: 0, count: 1, effect });
    }

    /// A container's runtime asks for ADD.
    pub(crate) fn add(&mut self, container: &str) {
        self.next += 1;
        let (op, cookie) = (OpId(self.next), NetnsCookie(1_000 + self.next));
        let key = key(container);
        self.world.kernel.add_sandbox(cookie);
        self.world.sandboxes.insert(op.0, cookie);
        self.asked.insert(op, (self.now, key.clone()));
        let ask = AddAsk {
            key,
            cookie,
            netns: format!("/run/netns/{container}"),
            mode: Mode::Shared,
            mtu: None,
            pod: None,
            deadline: self.now + PATIENCE,
        };
        self.send(Event::Add { op, ask });
    }

    /// A container's runtime asks for DEL.
    pub(crate) fn del(&mut self, container: &str) {
        self.next += 1;
        self.answers.remove(container);
        self.send(Event::Del { op: OpId(self.next), key: key(container) });
    }

    /// The plugin of a container's ADD gives up.
    pub(crate) fn hang_up(&mut self, container: &str) {
        let op = self.asked.iter().find(|(_, (_, k))| *k == key(container)).map(|(op, _)| *op);
        let op = op.expect("an ADD that waits");
        let (since, _) = self.asked.remove(&op).expect("it waits");
        self.answers.insert(container.to_owned(), Answer { took: self.now - since, result: None });
        self.send(Event::Hangup { op });
    }

    /// ADDs that have no answer.
    pub(crate) fn unanswered(&self) -> usize {
        self.asked.len()
    }

    /// The addresses that were answered; an error ends the test.
    pub(crate) fn addresses(&self) -> BTreeMap<String, Ipv4Addr> {
        let address = |(container, answer): (&String, &Answer)| match &answer.result {
            Some(Ok(address)) => (container.clone(), *address),
            other => panic!("{container}: {other:?} after {:?}", answer.took),
        };
        self.answers.iter().map(address).collect()
    }

    /// The one error of a container's ADD.
    pub(crate) fn error(&self, container: &str) -> &str {
        match self.answers.get(container).map(|a| &a.result) {
            Some(Some(Err(text))) => text,
            other => panic!("{container}: {other:?}"),
        }
    }

    /// Lets time go on until something holds; after `most` the test has failed.
    pub(crate) fn until(&mut self, most: Duration, what: &str, holds: impl Fn(&Node) -> bool) {
        let end = self.now + most;
        while !holds(self) {
            assert!(self.step(end), "{what}: not within {most:?}\n{}", self.journal());
        }
    }

    /// Lets that many things happen; how many there were.
    pub(crate) fn steps(&mut self, most: usize) -> usize {
        let end = self.now + Duration::from_secs(600);
        (0..most).take_while(|_| self.step(end)).count()
    }

    /// Lets so much time pass.
    pub(crate) fn pass(&mut self, span: Duration) {
        let end = self.now + span;
        while self.step(end) {}
        self.now = end;
    }

    /// Ready, with no change at EC2 on its way.
    pub(crate) fn settled(&mut self) {
        self.until(Duration::from_secs(120), "the node is settled", |node| {
            let moving = node.world.ec2.next_due().is_some() || !node.world.stored.intents.is_empty();
            node.owner.is_idle() && !moving && node.ends.is_empty() && node.world.stored.node.is_some()
        });
    }

    /// The journal of EC2's calls.
    pub(crate) fn journal(&self) -> String {
        let line = |entry: &embedded_vpc::model::JournalEntry| {
            format!("{:>8} {} {} {}", entry.at_ms, entry.call, entry.parameters, entry.outcome)
        };
        self.world.ec2.journal().map(line).collect::<Vec<_>>().join("\n")
    }

    /// The next thing that happens before `end`; false when nothing does.
    fn step(&mut self, end: Timestamp) -> bool {
        self.begin_effects();
        let ended = self.ends.keys().next().map(|(at, _)| *at);
        let due = self.owner.next_deadline();
        let moved = self.world.ec2.next_due();
        let Some(next) = [ended, due, moved].into_iter().flatten().min().filter(|at| *at <= end) else {
            return false;
        };
        self.now = self.now.max(next);
        if self.world.tick(self.now) {
            self.send(Event::LinkSeen);
        }
        if let Some(entry) = self.ends.first_entry()
            && entry.key().0 <= self.now
        {
            let (id, completion) = entry.remove();
            self.end(id, completion);
        } else {
            self.send(Event::Wake);
        }
        true
    }

    fn end(&mut self, id: EffectId, completion: Completion) {
        let bad =
            matches!(completion, Completion::Committed(Err(_)) | Completion::Blank(_) | Completion::Skipped);
        if bad {
            self.failed.insert(id)
        } else {
            self.done.insert(id)
        };
        self.send(Event::Done { effect: id, completion });
    }

    /// Starts what may start: it happens now, and its end comes after its time.
    fn begin_effects(&mut self) {
        self.world.now = self.now;
        while let Some(at) = self.waiting.iter().position(|e| e.after.iter().all(|id| self.done.contains(id)))
        {
            let effect = self.waiting.remove(at);
            let (completion, takes) = self.carry_out(&effect);
            if !matches!(effect.kind, EffectKind::WatchLinks(_) | EffectKind::Stamp { .. }) {
                self.next += 1;
                self.ends.insert((self.now + takes, self.next), (effect.id, completion));
            }
        }
        let skipped = |e: &Effect| e.after.iter().any(|id| self.failed.contains(id));
        let (skip, keep) = std::mem::take(&mut self.waiting).into_iter().partition(skipped);
        self.waiting = keep;
        for effect in Vec::from_iter::<Vec<Effect>>(skip) {
            self.next += 1;
            self.ends.insert((self.now, self.next), (effect.id, Completion::Skipped));
        }
    }

    fn carry_out(&mut self, effect: &Effect) -> (Completion, Duration) {
        let millis = Duration::from_millis;
        match &effect.kind {
            EffectKind::ObserveCloud { tagged } => {
                let seen = self.look(*tagged).map_err(|error| error.to_string());
                (Completion::CloudObserved(seen), if *tagged { 2 * CALL } else { CALL })
            }
            EffectKind::Mutate(mutation) => (Completion::Mutated(self.mutate(mutation)), CALL),
            EffectKind::Commit(_) => (self.world.carry_out(effect, Fault::None), millis(1)),
            EffectKind::Wire(_) | EffectKind::Unwire(_) => {
                (self.world.carry_out(effect, Fault::None), millis(1))
            }
            EffectKind::Reap(_) => (self.world.carry_out(effect, Fault::None), millis(20)),
            _ => (self.world.carry_out(effect, Fault::None), millis(2)),
        }
    }

    fn unreachable(call: &str) -> CloudError {
        CloudError::new(CloudErrorKind::Unreachable, call, "connection timed out")
    }

    /// As the daemon looks: identity and limits by themselves, the ENIs by tag and by attachment.
    fn look(&mut self, tagged: bool) -> Result<CloudObservation, CloudError> {
        if self.away {
            return Err(Node::unreachable("DescribeNetworkInterfaces"));
        }
        let now = self.now;
        let ec2 = &mut self.world.ec2;
        let (identity, limits) = match &self.known {
            Some(known) => known.clone(),
            None => {
                let identity = ec2.identity(None, now)?;
                let limits = ec2.describe_limits(&identity.instance_type, None, now)?;
                self.known.insert((identity, limits)).clone()
            }
        };
        let instance = identity.instance.clone();
        let tags = tagged.then(|| EniScope::TaggedFor(instance.clone()));
        let mut enis = BTreeMap::new();
        for scope in tags.into_iter().chain([EniScope::AttachedTo(instance)]) {
            let fault = ec2.take_fault("DescribeNetworkInterfaces");
            let told = ec2.describe_enis(&scope, fault.as_ref(), now)?;
            enis.extend(told.into_iter().map(|e| (e.id.clone(), e)));
        }
        let metadata = ec2.interfaces(None, now).ok();
        Ok(CloudObservation { identity, limits, enis: enis.into_values().collect(), tagged, metadata })
    }

    fn mutate(&mut self, mutation: &Mutation) -> Result<Mutated, CloudError> {
        let written = self.world.stored.intents.iter().any(|i| i.mutation == *mutation);
        assert!(written, "{} was called without its intent: {mutation:?}", mutation.call());
        if self.away {
            return Err(Node::unreachable(mutation.call()));
        }
        let fault = self.world.ec2.take_fault(mutation.call());
        self.world.ec2.mutate(mutation, fault.as_ref(), self.now)
    }

    fn send(&mut self, event: Event) {
        let outcome = self.owner.handle(event, self.now);
        self.take(outcome);
    }

    fn take(&mut self, outcome: Outcome) {
        self.waiting.extend(outcome.effects);
        for (op, answer) in outcome.replies {
            let Some((since, key)) = self.asked.remove(&op) else { continue };
            let result = answer.map(|answer| match answer {
                reply::Outcome::Added(result) => {
                    Ok(result.ips[0].address.trim_end_matches("/32").parse().expect("an address"))
                }
                reply::Outcome::Failed(error) => Err(format!("{error:?}")),
                other => panic!("an ADD is answered {other:?}"),
            });
            self.answers.insert(key.container.to_string(), Answer { took: self.now - since, result });
        }
    }
}

fn key(container: &str) -> AttachmentKey {
    AttachmentKey {
        network: "vpc".parse().expect("a name"),
        container: container.parse().expect("an id"),
        ifname: "eth0".parse().expect("an ifname"),
    }
}
