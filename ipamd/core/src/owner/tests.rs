//! The owner by hand: one event at a time, with a store that commits and a kernel that does as it is told. Random
//! histories with faults and crashes are in the seeded simulation.

mod capacity;
mod check;
mod gc;
mod grow;
mod host;
mod start;
mod status;
mod store;
mod switches;
mod sync;
mod tombstone;
mod watch;

use super::event::PathSight;
use super::*;
use crate::cloud::{
    CloudError, CloudErrorKind, CloudObservation, EniAttachment, EniAttachmentStatus, EniObservation,
    InstanceIdentity, InstanceLimits, Mutated, Mutation,
};
use crate::host_net::model::take;
use crate::host_net::{Planned, Reason};
use crate::kernel::{
    HostAddressView, HostStep, HostStepError, HostView, InetSettings, LinkView, Reaped, WireError,
};
use crate::record::{AttachmentState, Stored, Write};
use eni_proto::ids::{BootId, MacAddr, NetnsCookie};
use eni_proto::request::Mode;
use std::net::Ipv4Addr;
use std::time::Duration;

struct Bench {
    owner: Owner,
    stored: Stored,
    now: Timestamp,
    addresses: u8,
    held: Vec<Effect>,
    hold_wires: bool,
    hold_looks: bool,
    /// Looks at the host are held.
    hold_host: bool,
    wire_error: Option<WireError>,
    commit_error: bool,
    /// The store's file is a new one.
    blank: bool,
    replies: Vec<(OpId, Option<reply::Outcome>)>,
    wires: Vec<crate::kernel::WireSpec>,
    /// What the host looks like.
    view: HostView,
    /// The cloud does not answer.
    no_cloud: bool,
    /// How often EC2 was looked at.
    looks: usize,
    reaped: Vec<crate::kernel::ReapLink>,
    /// No link can be deleted.
    links_stay: bool,
    applied: Vec<HostStep>,
    /// Steps are taken on `view`.
    mends: bool,
    /// What the path of a sandbox says when it is wired.
    wired_path: PathSight,
    /// What the paths of sandboxes say; a namespace where nothing is said.
    paths: BTreeMap<AttachmentKey, PathSight>,
    notes: Vec<Note>,
    /// Which steps the kernel refuses.
    refuses: fn(&HostStep) -> bool,
    /// It refuses them because their link is gone.
    gone: bool,
    /// What the spool answers.
    spool: Result<Option<Buried>, String>,
    /// The stamps that were written: when their round trips began.
    stamps: Vec<Timestamp>,
    /// The store does not answer.
    hold_commits: bool,
    /// What EC2 lets the node do; `None` when nothing is to be changed there.
    ec2: Option<grow::Ec2>,
    /// What the cloud tells otherwise.
    cloud_tells: fn(&mut CloudObservation),
    /// What was asked of EC2.
    mutations: Vec<Mutation>,
    /// What EC2 answers to it.
    mutated: fn(&Mutation) -> Completion,
    /// The names that were to be resolved.
    names: Vec<String>,
    /// What the kernel says to a step that it refuses.
    cause: &'static str,
    /// What they are resolved to.
    resolves: Result<Vec<Ipv4Addr>, String>,
    /// An EC2 that can be changed; none where one full ENI is all.
    small: Option<capacity::SmallEc2>,
    /// Changes at EC2 are held.
    hold_changes: bool,
    /// What the start asks for.
    begun: Option<Outcome>,
}

fn host() -> HostView {
    let link = LinkView {
        ifindex: 2,
        name: "ens5".into(),
        mac: Some(MacAddr([2, 0, 0, 0, 0, 1])),
        group: 0,
        alias: String::new(),
        up: true,
        mtu: 9001,
        kind: String::new(),
        inet: InetSettings::default(),
    };
    let address = HostAddressView { ifindex: 2, address: "10.0.1.10/24".parse().unwrap() };
    HostView { links: vec![link], addresses: vec![address], ..HostView::default() }
}

fn key(container: &str) -> AttachmentKey {
    AttachmentKey {
        network: "vpc".parse().unwrap(),
        container: container.parse().unwrap(),
        ifname: "eth0".parse().unwrap(),
    }
}

fn ask(container: &str, cookie: u64) -> AddAsk {
    AddAsk {
        key: key(container),
        cookie: NetnsCookie(cookie),
        netns: format!("/run/netns/{container}"),
        mode: Mode::Shared,
        mtu: None,
        pod: None,
        deadline: Timestamp::from_millis(1_000_000),
    }
}

impl Bench {
    fn new(addresses: u8) -> Bench {
        Bench::start(addresses, Stored::default(), host(), false)
    }

    /// The start on what is stored and what the host looks like.
    fn start(addresses: u8, stored: Stored, view: HostView, no_cloud: bool) -> Bench {
        Bench::start_refusing(addresses, stored, view, no_cloud, |_| false)
    }

    fn start_refusing(
        addresses: u8,
        stored: Stored,
        view: HostView,
        no_cloud: bool,
        refuses: fn(&HostStep) -> bool,
    ) -> Bench {
        let config = OwnerConfig { cooldown: Duration::from_secs(30), ..OwnerConfig::default() };
        Bench::start_with(config, addresses, stored, view, no_cloud, refuses)
    }

    fn start_with(
        config: OwnerConfig,
        addresses: u8,
        stored: Stored,
        view: HostView,
        no_cloud: bool,
        refuses: fn(&HostStep) -> bool,
    ) -> Bench {
        let mut bench = Bench::bare(config, addresses, stored, view);
        (bench.no_cloud, bench.refuses) = (no_cloud, refuses);
        bench.begin();
        bench
    }

    /// The start of the owner is over, and nothing that it asks for is done yet.
    fn bare(config: OwnerConfig, addresses: u8, stored: Stored, view: HostView) -> Bench {
        let now = Timestamp::from_millis(1000);
        let boot = BootId::new("boot-1");
        let (owner, outcome) = Owner::restore(config, stored.clone(), &view, &boot, now).unwrap();
        Bench {
            owner,
            stored,
            now,
            addresses,
            held: Vec::new(),
            hold_wires: false,
            hold_looks: false,
            hold_host: false,
            wire_error: None,
            commit_error: false,
            blank: false,
            replies: Vec::new(),
            wires: Vec::new(),
            view,
            no_cloud: false,
            looks: 0,
            reaped: Vec::new(),
            links_stay: false,
            applied: Vec::new(),
            mends: false,
            wired_path: PathSight::Namespace,
            paths: BTreeMap::new(),
            notes: Vec::new(),
            refuses: |_| false,
            gone: false,
            spool: Ok(None),
            stamps: Vec::new(),
            hold_commits: false,
            ec2: None,
            cloud_tells: |_| {},
            mutations: Vec::new(),
            mutated: |mutation| panic!("one full ENI is all: {mutation:?}"),
            names: Vec::new(),
            cause: "no",
            resolves: Err("no such host".into()),
            small: None,
            hold_changes: false,
            begun: Some(outcome),
        }
    }

    fn begin(&mut self) {
        if let Some(outcome) = self.begun.take() {
            self.settle(outcome);
        }
    }

    /// The host link of the first wiring.
    fn wired(&self) -> LinkView {
        let spec = &self.wires[0];
        LinkView {
            ifindex: spec.ifindex,
            name: spec.host_name.to_string(),
            mac: Some(spec.host_mac),
            group: spec.group,
            alias: spec.alias.clone(),
            up: true,
            mtu: spec.mtu,
            kind: "veth".into(),
            inet: crate::kernel::POD_INET,
        }
    }

    fn cloud(&self) -> CloudObservation {
        let one = self.one_full_eni();
        match &self.small {
            Some(ec2) => CloudObservation { limits: ec2.limits.clone(), enis: ec2.enis.clone(), ..one },
            None => one,
        }
    }

    fn one_full_eni(&self) -> CloudObservation {
        let instance: eni_proto::ids::InstanceId = "i-1".parse().unwrap();
        CloudObservation {
            identity: InstanceIdentity {
                instance: instance.clone(),
                instance_type: "m5.large".into(),
                primary_mac: MacAddr([2, 0, 0, 0, 0, 1]),
                vpc_cidrs: vec!["10.0.0.0/16".parse().unwrap()],
                region: "eu-central-1".into(),
                availability_zone: "eu-central-1a".into(),
            },
            limits: InstanceLimits::new(self.ec2.as_ref().map_or(1, |_| 3), u32::from(self.addresses) + 1),
            tagged: true,
            enis: std::iter::once(EniObservation {
                id: "eni-1".parse().unwrap(),
                mac: MacAddr([2, 0, 0, 0, 0, 1]),
                subnet: "subnet-1".parse().unwrap(),
                subnet_cidr: "10.0.1.0/24".parse().unwrap(),
                primary: Some(Ipv4Addr::new(10, 0, 1, 10)),
                secondary: (0..self.addresses).map(|n| Ipv4Addr::new(10, 0, 1, 20 + n)).collect(),
                attachment: Some(EniAttachment {
                    instance,
                    device_index: 0,
                    status: EniAttachmentStatus::Attached,
                    id: None,
                    network_card: 0,
                    delete_on_termination: true,
                }),
                prefixes: Vec::new(),
                security_groups: Vec::new(),
                tags: BTreeMap::new(),
                private_dns_name: None,
                kind: "interface".into(),
            })
            .chain(self.ec2.iter().flat_map(|ec2| ec2.enis.clone()))
            .collect(),
            metadata: None,
        }
    }

    fn send(&mut self, event: Event) {
        let outcome = self.owner.handle(event, self.now);
        self.settle(outcome);
    }

    fn settle(&mut self, outcome: Outcome) {
        self.replies.extend(outcome.replies);
        self.notes.extend(outcome.notes);
        for effect in outcome.effects {
            let held = match effect.kind {
                EffectKind::Wire(_) => self.hold_wires,
                EffectKind::Look(_) => self.hold_looks,
                EffectKind::ObserveHost => self.hold_host,
                EffectKind::Commit(_) => self.hold_commits,
                EffectKind::Mutate(_) => self.hold_changes,
                _ => false,
            };
            if held {
                self.held.push(effect);
            } else {
                self.complete(effect);
            }
        }
        assert_eq!(crate::invariant::check(&self.owner), Vec::<String>::new());
    }

    fn complete(&mut self, effect: Effect) {
        let completion = match effect.kind {
            EffectKind::Commit(_) if self.commit_error => Completion::Committed(Err("disk full".into())),
            EffectKind::Commit(batch) if self.blank && batch.first() != Some(&Write::Clear) => {
                Completion::Blank("a new file".into())
            }
            EffectKind::Commit(batch) => {
                self.blank = false;
                self.stored.apply(&batch);
                Completion::Committed(Ok(()))
            }
            EffectKind::Wire(spec) => {
                self.wires.push(*spec);
                Completion::Wired(self.wire_error.take().map_or(Ok(self.wired_path), Err))
            }
            EffectKind::Look(_) => {
                let last = self.wires.last().expect("something was wired");
                Completion::Looked(Ok(Box::new(check::view(self, last))))
            }
            EffectKind::Unwire(_) => Completion::Unwired(Ok(())),
            EffectKind::Reap(links) => {
                let all = links.iter().map(|l| l.ifindex);
                let (gone, kept) = match self.links_stay {
                    true => (Vec::new(), all.map(|ifindex| (ifindex, "it stays".to_owned())).collect()),
                    false => (all.collect(), Vec::new()),
                };
                self.reaped.extend(links);
                Completion::Reaped(Reaped { gone, kept })
            }
            EffectKind::ObserveHost => Completion::HostObserved(Ok(self.view.clone())),
            EffectKind::ApplyHost(steps) => {
                let refused = steps.iter().enumerate().filter(|(_, step)| (self.refuses)(step));
                let error = |(index, step)| HostStepError {
                    index: Some(index),
                    step: format!("{step:?}"),
                    cause: self.cause.into(),
                    gone: self.gone,
                };
                let failed = refused.map(error).collect();
                if self.mends {
                    let taken = steps.iter().filter(|step| !(self.refuses)(step)).cloned();
                    let planned = taken.map(|step| Planned { step, reason: Reason::Missing });
                    take(&mut self.view, &planned.collect::<Vec<_>>());
                }
                self.applied.extend(steps);
                Completion::HostApplied(failed)
            }
            EffectKind::CheckSandboxes(asked) => {
                let seen = asked.into_iter().map(|(id, _)| {
                    let sight = self.paths.get(&id.key).copied().unwrap_or(PathSight::Namespace);
                    (id, sight)
                });
                Completion::SandboxesChecked(seen.collect())
            }
            EffectKind::ObserveCloud { .. } if self.no_cloud => Completion::CloudObserved(Err("away".into())),
            EffectKind::ObserveCloud { .. } => {
                self.looks += 1;
                let mut seen = self.cloud();
                (self.cloud_tells)(&mut seen);
                Completion::CloudObserved(Ok(seen))
            }
            EffectKind::Mutate(mutation) => {
                let intent = self.stored.intents.iter().any(|intent| intent.mutation == mutation);
                assert!(intent, "{mutation:?} was called without its intent");
                let done = match (&mut self.ec2, &mut self.small) {
                    (Some(ec2), _) => Completion::Mutated(ec2.mutate(mutation.clone())),
                    (_, Some(ec2)) => Completion::Mutated(ec2.mutate(&mutation, &self.stored)),
                    _ => (self.mutated)(&mutation),
                };
                self.mutations.push(mutation);
                done
            }
            EffectKind::Resolve(names) => {
                self.names.extend(names.iter().map(|(_, name)| name.clone()));
                let answer = |(eni, _)| (eni, self.resolves.clone());
                Completion::Resolved(names.into_iter().map(answer).collect())
            }
            EffectKind::Consult(_) => Completion::Consulted(self.spool.clone()),
            EffectKind::Stamp { renewed, .. } => return self.stamps.push(renewed),
            EffectKind::WatchLinks(_) => return,
        };
        self.send(Event::Done { effect: effect.id, completion });
    }

    fn release_wires(&mut self) {
        self.hold_wires = false;
        self.release(|kind| matches!(kind, EffectKind::Wire(_)));
    }

    fn release_host(&mut self) {
        self.hold_host = false;
        self.release(|kind| matches!(kind, EffectKind::ObserveHost));
    }

    fn release_commits(&mut self) {
        self.hold_commits = false;
        self.release(|kind| matches!(kind, EffectKind::Commit(_)));
    }

    fn release(&mut self, which: fn(&EffectKind) -> bool) {
        let (now, later) = std::mem::take(&mut self.held).into_iter().partition(|e| which(&e.kind));
        self.held = later;
        for effect in now {
            self.complete(effect);
        }
    }

    fn pass(&mut self, span: Duration) {
        self.now = self.now + span;
        self.send(Event::Wake);
    }

    fn reply(&self, op: u64) -> Option<&reply::Outcome> {
        self.replies.iter().rev().find(|(id, _)| *id == OpId(op)).and_then(|(_, outcome)| outcome.as_ref())
    }

    fn error(&self, op: u64) -> &ReplyError {
        match self.reply(op) {
            Some(reply::Outcome::Failed(error)) => error,
            other => panic!("operation {op} did not fail: {other:?}"),
        }
    }

    fn added(&self, op: u64) -> &eni_proto::cni::AddResult {
        match self.reply(op) {
            Some(reply::Outcome::Added(result)) => result,
            other => panic!("operation {op} did not add: {other:?}"),
        }
    }
}

#[test]
fn an_add_is_committed_wired_and_answered_and_a_second_one_gets_the_same() {
    let mut bench = Bench::new(4);
    bench.send(Event::Add { op: OpId(1), ask: ask("a", 7) });
    let first = bench.added(1).clone();
    assert_eq!(bench.stored.attachments.len(), 1);
    bench.send(Event::Add { op: OpId(2), ask: ask("a", 7) });
    assert_eq!(*bench.added(2), first);
    assert_eq!(bench.wires.len(), 1);
}

#[test]
fn no_reply_leaves_before_both_halves_have_ended() {
    let mut bench = Bench::new(4);
    bench.hold_wires = true;
    bench.send(Event::Add { op: OpId(1), ask: ask("a", 7) });
    assert_eq!(bench.reply(1), None);
    bench.release_wires();
    bench.added(1);
}

#[test]
fn another_sandbox_under_the_same_key_replaces_the_first() {
    let mut bench = Bench::new(4);
    bench.send(Event::Add { op: OpId(1), ask: ask("a", 7) });
    let first = bench.added(1).ips[0].address.clone();
    bench.send(Event::Add { op: OpId(2), ask: ask("a", 8) });
    assert_ne!(bench.added(2).ips[0].address, first, "the old address cools");
    assert_eq!(bench.owner.attachment(&key("a")).unwrap().netns_cookie, NetnsCookie(8));
    let dying = bench.wires[0].ifindex;
    assert_eq!(bench.wires[1].delete_first, [dying], "the old link has the wanted name");
}

#[test]
fn add_del_add_in_one_sandbox_deletes_the_dying_link_first() {
    let mut bench = Bench::new(4);
    bench.send(Event::Add { op: OpId(1), ask: ask("a", 7) });
    bench.send(Event::Del { op: OpId(2), key: key("a") });
    bench.send(Event::Add { op: OpId(3), ask: ask("a", 7) });
    bench.added(3);
    assert_eq!(bench.wires[1].delete_first, [bench.wires[0].ifindex]);
    assert_eq!(bench.stored.attachments.len(), 2, "the dying one keeps its record until it is reaped");
    bench.pass(Duration::from_millis(200));
    assert_eq!(bench.stored.attachments.len(), 1);
}

#[test]
fn del_three_times_succeeds_and_the_address_cools() {
    let mut bench = Bench::new(1);
    bench.send(Event::Add { op: OpId(1), ask: ask("a", 7) });
    for op in 2..5 {
        bench.send(Event::Del { op: OpId(op), key: key("a") });
        assert_eq!(bench.reply(op), Some(&reply::Outcome::Done));
    }
    bench.send(Event::Add { op: OpId(5), ask: ask("b", 8) });
    let error = bench.error(5);
    assert_eq!(error.code, Code::TryAgainLater);
    assert!(error.to_string().contains("1 cooling"), "{error}");
    bench.pass(Duration::from_millis(200));
    bench.pass(Duration::from_secs(30));
    bench.send(Event::Add { op: OpId(6), ask: ask("b", 8) });
    bench.added(6);
}

#[test]
fn a_failed_wiring_is_undone_and_says_why() {
    let mut bench = Bench::new(1);
    bench.wire_error = Some(WireError::IfnameTaken { name: "eth0".into() });
    bench.send(Event::Add { op: OpId(1), ask: ask("a", 7) });
    assert_eq!(bench.error(1).code, Code::InvalidEnvironment);
    assert_eq!(bench.stored.attachments, [], "nothing was made: nothing is left to reap");
    bench.send(Event::Add { op: OpId(2), ask: ask("b", 8) });
    bench.added(2);
}

#[test]
fn a_taken_ifindex_is_followed_by_the_next() {
    let mut bench = Bench::new(1);
    bench.wire_error = Some(WireError::IfindexTaken { ifindex: 1 });
    bench.send(Event::Add { op: OpId(1), ask: ask("a", 7) });
    bench.added(1);
    assert_eq!(bench.wires[1].ifindex, bench.wires[0].ifindex + 1);
    assert_eq!(bench.stored.attachments.len(), 1);
    assert_eq!(bench.stored.attachments[0].host_ifindex, bench.wires[1].ifindex);
}

#[test]
fn a_foreign_link_with_the_name_makes_the_attachment_take_its_own() {
    let mut bench = Bench::new(1);
    bench.wire_error = Some(WireError::HostNameTaken { name: "x".into(), ifindex: 5, group: 0 });
    let mut asked = ask("a", 7);
    asked.pod = Some(("default".into(), "web".into()));
    bench.send(Event::Add { op: OpId(1), ask: asked });
    bench.added(1);
    assert_ne!(bench.wires[0].host_name, bench.wires[1].host_name);
    assert!(bench.wires[1].delete_first.is_empty());
}

#[test]
fn a_plugin_that_dies_has_its_add_undone() {
    let mut bench = Bench::new(2);
    bench.hold_wires = true;
    bench.send(Event::Add { op: OpId(1), ask: ask("a", 7) });
    bench.send(Event::Hangup { op: OpId(1) });
    bench.release_wires();
    assert_eq!(bench.reply(1), None);
    assert!(bench.owner.attachment(&key("a")).is_none());
    bench.send(Event::Add { op: OpId(2), ask: ask("b", 8) });
    bench.added(2);
    bench.send(Event::Unread { op: OpId(2), key: key("b") });
    assert!(bench.owner.attachment(&key("b")).is_none(), "nobody read the result");
}

#[test]
fn an_unread_reply_does_not_undo_what_a_later_add_was_given() {
    let mut bench = Bench::new(2);
    bench.send(Event::Add { op: OpId(1), ask: ask("a", 7) });
    bench.send(Event::Add { op: OpId(2), ask: ask("a", 7) });
    bench.send(Event::Unread { op: OpId(1), key: key("a") });
    assert!(bench.owner.attachment(&key("a")).is_some());
    bench.send(Event::Unread { op: OpId(2), key: key("a") });
    assert!(bench.owner.attachment(&key("a")).is_some(), "nor does the later one's undo the first's");
}

#[test]
fn links_that_stay_are_tried_again_after_a_pause_however_many() {
    const MANY: u8 = 140;
    let mut bench = Bench::new(MANY);
    for n in 0..u64::from(MANY) {
        bench.send(Event::Add { op: OpId(n), ask: ask(&format!("c{n}"), n) });
    }
    bench.links_stay = true;
    for n in 0..u64::from(MANY) {
        bench.send(Event::Del { op: OpId(1000 + n), key: key(&format!("c{n}")) });
    }
    bench.pass(Duration::from_millis(200));
    assert_eq!(bench.reaped.len(), usize::from(MANY), "each once");
    bench.pass(Duration::from_millis(700));
    assert_eq!(bench.reaped.len(), usize::from(MANY));
    bench.links_stay = false;
    bench.pass(Duration::from_millis(100));
    assert_eq!(bench.reaped.len(), 2 * usize::from(MANY));
    assert_eq!(bench.stored.attachments, []);
}

#[test]
fn a_del_waits_for_an_add_that_is_being_wired_and_ends_those_behind_it() {
    let mut bench = Bench::new(4);
    bench.hold_wires = true;
    bench.send(Event::Add { op: OpId(1), ask: ask("a", 7) });
    bench.send(Event::Add { op: OpId(2), ask: ask("a", 7) });
    bench.send(Event::Del { op: OpId(3), key: key("a") });
    assert_eq!(bench.error(2).code, Code::TryAgainLater);
    assert_eq!(bench.reply(3), None);
    bench.release_wires();
    bench.added(1);
    assert_eq!(bench.reply(3), Some(&reply::Outcome::Done));
    assert!(bench.owner.attachment(&key("a")).is_none());
}

#[test]
fn an_address_that_ec2_took_from_its_holder_is_given_to_nobody_after_it() {
    let mut bench = Bench::new(2);
    for (op, name) in [(1, "a"), (2, "b")] {
        bench.send(Event::Add { op: OpId(op), ask: ask(name, op) });
    }
    let taken = bench.added(2).ips[0].address.clone();
    assert_eq!(taken, "10.0.1.21/32");
    // Somebody unassigns it, while it is held.
    bench.addresses = 1;
    bench.pass(Duration::from_secs(30));
    bench.send(Event::Del { op: OpId(3), key: key("b") });
    bench.pass(Duration::from_millis(200));
    // It has cooled down at the same moment in which the next look is due, and the ADD comes before that.
    bench.now = bench.now + Duration::from_millis(29_800);
    bench.send(Event::Add { op: OpId(4), ask: ask("c", 4) });
    assert!(!matches!(bench.reply(4), Some(reply::Outcome::Added(_))), "{:?}", bench.reply(4));
    for _ in 0..3 {
        bench.pass(Duration::from_secs(30));
    }
    assert!(!matches!(bench.reply(4), Some(reply::Outcome::Added(_))), "{:?}", bench.reply(4));
    assert_eq!(bench.owner.pool().addresses().count(), 1, "it is dropped");
}

#[test]
fn a_full_pool_says_so_at_once() {
    let mut bench = Bench::new(1);
    bench.send(Event::Add { op: OpId(1), ask: ask("a", 7) });
    bench.send(Event::Add { op: OpId(2), ask: ask("b", 8) });
    let text = bench.error(2).to_string();
    assert!(text.contains("1 addresses are allocated") && text.contains("carries 1 ENIs"), "{text}");
}

#[test]
fn draining_closes_adds_without_a_reply_and_serves_dels() {
    let mut bench = Bench::new(4);
    bench.send(Event::Add { op: OpId(1), ask: ask("a", 7) });
    bench.send(Event::Drain);
    bench.send(Event::Add { op: OpId(2), ask: ask("b", 8) });
    assert_eq!(bench.replies.last(), Some(&(OpId(2), None)));
    bench.send(Event::Del { op: OpId(3), key: key("a") });
    assert_eq!(bench.reply(3), Some(&reply::Outcome::Done));
    assert!(bench.owner.is_idle());
}
