//! The seeded scheduler: one random step at a time, and the checks after each.
//!
//! Owns the random choice, the effects in flight (the store's in order, the others in any), the virtual clock, the
//! crash and the restart, and the truth about what was answered to whom. Does not carry effects out: `world` does.

use crate::kernel::WIRE_MESSAGES;
use crate::world::{Fault, Lie, World};
use eni_proto::ids::{AttachmentKey, NetnsCookie};
use eni_proto::reply;
use eni_proto::request::Mode;
use ipamd_core::capacity::{PER_PREFIX, PoolMode, Targets};
use ipamd_core::cloud::EniObservation;
use ipamd_core::host_net;
use ipamd_core::invariant;
use ipamd_core::kernel::{DYING_GROUP, FIRST_IFINDEX, HostKernel};
use ipamd_core::owner::event::{AddAsk, Completion, Effect, EffectId, EffectKind, Event, OpId, Outcome};
use ipamd_core::owner::{Owner, OwnerConfig};
use ipamd_core::record::{AddressState, AttachmentState, EniState, Stored};
use ipamd_core::time::Timestamp;
use ipamd_core::tombstone::Buried;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

/// SplitMix64: small, seeded, the same everywhere.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % sides as u64).expect("less than `sides`")
    }

    pub(crate) fn chance(&mut self, percent: usize) -> bool {
        self.roll(100) < percent
    }
}

/// A plugin that waits for its answer.
pub(crate) struct Plugin {
    pub(crate) key: AttachmentKey,
    pub(crate) add: Option<NetnsCookie>,
    /// What a DEL knows of its sandbox.
    pub(crate) cookie: Option<NetnsCookie>,
    /// When it began.
    pub(crate) asked: Timestamp,
    /// A CHECK, with what was known of its key when it began.
    pub(crate) check: Option<Checked>,
}

/// What was known of a key when a CHECK of it began.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Checked {
    /// What it had been promised.
    Promised(Promise),
    /// It has nothing, or its link was deleted: the CHECK must not find that all is well.
    Broken,
}

/// What an answered ADD has promised.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Promise {
    pub(crate) cookie: NetnsCookie,
    pub(crate) address: Ipv4Addr,
}

/// One random history.
pub(crate) struct History {
    seed: u64,
    pub(crate) dice: Dice,
    pub(crate) world: World,
    pub(crate) owner: Owner,
    pub(crate) now: Timestamp,
    pub(crate) next_op: u64,
    pub(crate) plugins: BTreeMap<OpId, Plugin>,
    /// Tombstones that the running daemon has been handed.
    pub(crate) graves: BTreeMap<OpId, Buried>,
    /// Not carried out yet; commits among them in order.
    waiting: Vec<Effect>,
    /// Carried out, not reported yet.
    ended: Vec<(EffectId, Completion)>,
    done: BTreeSet<EffectId>,
    failed: BTreeSet<EffectId>,
    pub(crate) promises: BTreeMap<AttachmentKey, Promise>,
    /// The last DEL that was asked for each key: it takes what an earlier ADD is answered.
    pub(crate) dels: BTreeMap<AttachmentKey, OpId>,
    /// The sandbox that the last ADD of each key named.
    asked: BTreeMap<AttachmentKey, NetnsCookie>,
    /// Keys with a hung-up operation that may still run: nothing is promised to them until the owner is at rest.
    pub(crate) undecided: BTreeSet<AttachmentKey>,
    /// The current sandbox of each container; a dead one is replaced by the next ADD.
    pub(crate) sandboxes: BTreeMap<u8, NetnsCookie>,
    next_cookie: u64,
    faults: bool,
    /// Others break the host in this history; otherwise the store's file is lost. Both at once leave links that nobody can
    /// know: their records are gone, and so is what their aliases said.
    pub(crate) harmed: bool,
    /// Host links that somebody has deleted.
    pub(crate) linkless: BTreeSet<u32>,
    /// GCs that wait for their answer.
    pub(crate) sweeps: BTreeSet<OpId>,
    pub(crate) trace: Vec<String>,
}

pub(crate) const CONTAINERS: usize = 5;

/// Most nodes keep an ENI's worth warm; some count addresses, and some have prefixes where the model's type takes them.
fn config(seed: u64) -> OwnerConfig {
    let released = Targets { release_after: Duration::from_secs(5), ..Targets::default() };
    let targets = match seed % 8 {
        3 | 6 => Targets { warm_ip: Some(WARM_IP), ..released },
        5 => Targets { mode: PoolMode::Prefixes, ..released },
        _ => released,
    };
    let poll = Duration::from_millis(500);
    OwnerConfig { cooldown: Duration::from_secs(2), targets, poll, ..OwnerConfig::default() }
}

/// What nodes that count addresses keep free.
const WARM_IP: u32 = 1;

pub(crate) fn key(container: u8) -> AttachmentKey {
    AttachmentKey {
        network: "vpc".parse().expect("a name"),
        container: format!("c{container}").parse().expect("an id"),
        ifname: "eth0".parse().expect("an ifname"),
    }
}

impl History {
    /// A history of this seed: a node that starts for the first time.
    pub(crate) fn new(seed: u64) -> History {
        let mut world = World::new();
        let now = Timestamp::from_millis(1_000);
        let view = world.kernel.observe().expect("the fake observes");
        let (owner, outcome) = Owner::restore(config(seed), world.stored.clone(), &view, &world.boot, now)
            .expect("an empty store");
        let mut history = History {
            seed,
            dice: Dice(seed),
            world,
            owner,
            now,
            next_op: 0,
            plugins: BTreeMap::new(),
            graves: BTreeMap::new(),
            waiting: Vec::new(),
            ended: Vec::new(),
            done: BTreeSet::new(),
            failed: BTreeSet::new(),
            promises: BTreeMap::new(),
            dels: BTreeMap::new(),
            asked: BTreeMap::new(),
            undecided: BTreeSet::new(),
            sandboxes: BTreeMap::new(),
            next_cookie: 100,
            faults: !seed.is_multiple_of(4),
            harmed: seed % 2 == 1,
            linkless: BTreeSet::new(),
            sweeps: BTreeSet::new(),
            trace: Vec::new(),
        };
        history.take(outcome);
        history
    }

    /// In a world that does not do what it says.
    pub(crate) fn with(mut self, lie: Lie) -> History {
        self.world.lie = Some(lie);
        self
    }

    /// The steps of a history, in words.
    pub(crate) fn trace(mut self) -> Vec<String> {
        self.run_steps();
        self.trace
    }

    /// Runs the history and its quiet end; how many steps it took.
    pub(crate) fn run(mut self) -> u64 {
        self.run_steps();
        self.come_to_rest();
        self.trace.len() as u64
    }

    fn run_steps(&mut self) {
        let steps = 60 + self.dice.roll(120);
        for _ in 0..steps {
            self.step();
            self.check();
        }
    }

    fn step(&mut self) {
        // No two of these happen at one instant as a rule.
        self.now = self.now + Duration::from_millis(self.dice.roll(3) as u64);
        match self.dice.roll(100) {
            0..18 => self.add(),
            18..30 => self.del(),
            30..33 => self.hang_up(),
            33..60 => self.carry_out(),
            60..86 => self.report(),
            86..87 => self.wake(),
            87..88 => self.ask_check(),
            88..90 => self.harm(),
            90..91 => self.lose_del(),
            91..92 => self.del_unread_and_go_on(),
            92..93 => self.hand_one_over(),
            93..95 => self.kill_sandbox(),
            95..97 => self.leave_unread(),
            97 => self.lose_the_file(),
            98 => self.gc(),
            _ => self.crash(),
        }
    }

    pub(crate) fn send(&mut self, event: Event) {
        if self.world.tick(self.now) && self.dice.chance(70) {
            let outcome = self.owner.handle(Event::LinkSeen, self.now);
            self.take(outcome);
        }
        let outcome = self.owner.handle(event, self.now);
        self.take(outcome);
    }

    pub(crate) fn say(&mut self, what: &str) {
        self.trace.push(format!("{} {what}", self.now.as_millis()));
    }

    pub(crate) fn take(&mut self, outcome: Outcome) {
        for (op, answer) in outcome.replies {
            self.answered(op, answer);
        }
        self.waiting.extend(outcome.effects);
    }

    fn answered(&mut self, op: OpId, answer: Option<reply::Outcome>) {
        if let Some(buried) = self.graves.remove(&op) {
            return self.grave_answered(&buried, answer.as_ref());
        }
        let Some(plugin) = self.plugins.remove(&op) else { return self.collected(op, answer.as_ref()) };
        self.say(&format!("answer {op:?} {} {}", plugin.key, answer.is_some()));
        if let Some(known) = plugin.check {
            return self.checked(&plugin.key, &known, answer);
        }
        match (plugin.add, answer) {
            (Some(cookie), Some(reply::Outcome::Added(result))) if self.dels.get(&plugin.key) < Some(&op) => {
                let text = result.ips[0].address.trim_end_matches("/32");
                let address: Ipv4Addr = text.parse().expect("an address");
                self.promised(&plugin.key, cookie, address);
            }
            (None, Some(reply::Outcome::Done)) => {
                let left = self
                    .world
                    .stored
                    .attachments
                    .iter()
                    .find(|r| r.key == plugin.key && r.state != AttachmentState::Dying);
                assert_eq!(left, None, "a DEL was answered before its commit\n{:#?}", self.trace);
                self.promises.remove(&plugin.key);
            }
            _ => {}
        }
    }

    fn promised(&mut self, key: &AttachmentKey, cookie: NetnsCookie, address: Ipv4Addr) {
        // What was committed may be lost with the file since, and nobody knows yet.
        if !self.world.blank {
            self.recorded(key, cookie, address);
        }
        let asked_last = self.asked.get(key) == Some(&cookie);
        // Broken by others since it was wired: see `harm`.
        let kernel = &self.world.kernel;
        let link = self.owner.attachment(key).map(|record| record.host_ifindex);
        let whole = link.is_some_and(|link| kernel.is_whole(link)) || !kernel.sandbox_lives(cookie);
        if asked_last && whole && !self.undecided.contains(key) {
            self.promises.insert(key.clone(), Promise { cookie, address });
        }
    }

    /// What is answered is committed.
    fn recorded(&self, key: &AttachmentKey, cookie: NetnsCookie, address: Ipv4Addr) {
        let record =
            self.world.stored.attachments.iter().find(|r| {
                r.key == *key && r.state != AttachmentState::Dying && r.addresses.contains(&address)
            });
        let record = record.unwrap_or_else(|| panic!("ADD of {key} was answered before its commit"));
        assert_eq!(record.netns_cookie, cookie, "the record names the sandbox");
        let held = self.world.stored.addresses.iter().find(|a| a.address == address).expect("a record");
        let holder = match &held.state {
            AddressState::Allocated { attachment } => Some(attachment),
            AddressState::Quarantined { attachment, .. } => attachment.as_ref(),
            AddressState::Free { .. } | AddressState::Cooling { .. } => None,
        };
        assert_eq!(holder, Some(&record.id()), "{:?}", held.state);
    }

    fn sandbox(&mut self, container: u8) -> NetnsCookie {
        let known = self.sandboxes.get(&container).copied().filter(|c| self.world.kernel.sandbox_lives(*c));
        if let Some(cookie) = known.filter(|_| self.dice.chance(85)) {
            return cookie;
        }
        self.next_cookie += 1;
        let cookie = NetnsCookie(self.next_cookie);
        self.world.kernel.add_sandbox(cookie);
        self.sandboxes.insert(container, cookie);
        cookie
    }

    fn add(&mut self) {
        let container = self.dice.roll(CONTAINERS) as u8;
        self.add_to(container);
    }

    pub(crate) fn add_to(&mut self, container: u8) {
        let cookie = self.sandbox(container);
        self.next_op += 1;
        let op = OpId(self.next_op);
        let key = key(container);
        self.say(&format!("ADD {op:?} {key} {cookie}"));
        let plugin =
            Plugin { key: key.clone(), add: Some(cookie), cookie: None, asked: self.now, check: None };
        self.plugins.insert(op, plugin);
        // An ADD for another sandbox takes what the key was promised, whether it succeeds or not; so does one of which
        // somebody has deleted the link.
        let broken = self.owner.attachment(&key).is_some_and(|r| self.linkless.contains(&r.host_ifindex));
        if self.asked.insert(key.clone(), cookie) != Some(cookie) || broken {
            self.promises.remove(&key);
        }
        self.world.sandboxes.insert(op.0, cookie);
        let pod = self.dice.chance(50).then(|| ("default".to_owned(), format!("web-{}", container / 2)));
        let deadline = self.now + Duration::from_secs(10);
        let ask = AddAsk {
            key,
            cookie,
            netns: format!("/run/netns/{cookie}"),
            mode: Mode::Shared,
            mtu: None,
            pod,
            deadline,
        };
        self.send(Event::Add { op, ask });
    }

    fn del(&mut self) {
        let container = self.dice.roll(CONTAINERS) as u8;
        let cookie = self.sandboxes.get(&container).copied().filter(|_| self.dice.chance(70));
        let key = key(container);
        self.next_op += 1;
        let op = OpId(self.next_op);
        self.say(&format!("DEL {op:?} {key}"));
        // Whatever a live attachment was promised, a DEL takes it from now on.
        self.promises.remove(&key);
        self.dels.insert(key.clone(), op);
        self.plugins.insert(op, Plugin { key: key.clone(), add: None, cookie, asked: self.now, check: None });
        self.send(Event::Del { op, key });
    }

    fn hang_up(&mut self) {
        let ops: Vec<OpId> = self.plugins.keys().copied().collect();
        if !ops.is_empty() {
            let op = ops[self.dice.roll(ops.len())];
            self.say(&format!("hang-up {op:?}"));
            // Whether it still happens is nobody's to know: what its key was promised may be replaced.
            if let Some(plugin) = self.plugins.remove(&op)
                && plugin.check.is_none()
            {
                self.promises.remove(&plugin.key);
                self.undecided.insert(plugin.key);
            }
            self.send(Event::Hangup { op });
        }
    }

    /// The plugin of the last answered ADD died with its reply unread: its promise is nobody's.
    fn leave_unread(&mut self) {
        let op = OpId(self.next_op);
        let key = key(self.dice.roll(CONTAINERS) as u8);
        if !self.plugins.contains_key(&op) && self.world.sandboxes.contains_key(&op.0) {
            self.say(&format!("unread {op:?} {key}"));
            let before = self.owner.attachment(&key).map(|r| r.generation);
            self.send(Event::Unread { op, key: key.clone() });
            if self.owner.attachment(&key).map(|r| r.generation) != before {
                self.promises.remove(&key);
            }
        }
    }

    pub(crate) fn wake(&mut self) {
        let due = self.owner.next_deadline().filter(|_| self.dice.chance(70));
        let spans = [0, 5, 25, 400, 2_500];
        let span = Duration::from_millis(spans[self.dice.roll(spans.len())]);
        self.now = due.unwrap_or(self.now + span).max(self.now);
        self.say("wake");
        self.send(Event::Wake);
    }

    /// The daemon gets on with what it has begun.
    pub(crate) fn catch_up(&mut self) {
        for _ in 0..30 {
            self.carry_out();
            self.report();
        }
    }

    /// One effect that may start is carried out: the store's first, or any other.
    fn carry_out(&mut self) {
        let ready = |e: &Effect| e.after.iter().all(|id| self.done.contains(id));
        let first_commit = self.waiting.iter().position(|e| matches!(e.kind, EffectKind::Commit(_)));
        let may: Vec<usize> = (0..self.waiting.len())
            .filter(|i| ready(&self.waiting[*i]))
            .filter(|i| !matches!(self.waiting[*i].kind, EffectKind::Commit(_)) || Some(*i) == first_commit)
            .collect();
        if may.is_empty() {
            return;
        }
        let effect = self.waiting.remove(may[self.dice.roll(may.len())]);
        let fault = match self.dice.roll(100) {
            0..4 if self.faults => Fault::Refused,
            4..7 if self.faults => Fault::Lost,
            _ => Fault::None,
        };
        self.say(&format!("carry out {:?} {} {fault:?}", effect.id, name(&effect.kind)));
        self.world.now = self.now;
        let completion = self.world.carry_out(&effect, fault);
        if !matches!(effect.kind, EffectKind::WatchLinks(_) | EffectKind::Stamp { .. }) {
            self.ended.push((effect.id, completion));
        }
    }

    /// The end of one effect reaches the owner; what waited for a failed one is reported skipped.
    fn report(&mut self) {
        if self.ended.is_empty() {
            return;
        }
        let at = self.dice.roll(self.ended.len());
        let (id, completion) = self.ended.remove(at);
        self.say(&format!("report {id:?}"));
        let bad =
            matches!(&completion, Completion::Committed(Err(_)) | Completion::Blank(_) | Completion::Skipped);
        if bad {
            self.failed.insert(id);
        } else {
            self.done.insert(id);
        }
        self.send(Event::Done { effect: id, completion });
        let skipped: Vec<EffectId> = self
            .waiting
            .iter()
            .filter(|e| e.after.iter().any(|a| self.failed.contains(a)))
            .map(|e| e.id)
            .collect();
        for id in skipped {
            self.waiting.retain(|e| e.id != id);
            self.ended.push((id, Completion::Skipped));
        }
    }

    fn kill_sandbox(&mut self) {
        let container = self.dice.roll(CONTAINERS) as u8;
        if let Some(cookie) = self.sandboxes.remove(&container) {
            self.say(&format!("sandbox {cookie} dies"));
            self.world.kernel.kill_sandbox(cookie);
        }
    }

    /// The store's file is deleted, or damaged: the store takes nothing but everything now.
    fn lose_the_file(&mut self) {
        if self.faults && !self.harmed {
            self.say("the file is lost");
            self.world.stored = Stored::default();
            self.world.blank = true;
        }
    }

    /// kill -9: what was in flight may or may not have been carried out, no completion arrives, memory is gone.
    fn crash(&mut self) {
        self.say("crash");
        // Which ENI a link with another MAC and without its group is, nobody knows after a restart.
        self.world.kernel.heal_strangers();
        let flying = std::mem::take(&mut self.waiting);
        let mut store_open = true;
        for effect in flying {
            let commit = matches!(effect.kind, EffectKind::Commit(_));
            let happens = self.dice.chance(50) && effect.after.iter().all(|id| self.done.contains(id));
            if commit {
                store_open &= happens;
            }
            if !happens || (commit && !store_open) {
                continue;
            }
            if !commit && self.dice.chance(40) {
                let messages = self.dice.roll(WIRE_MESSAGES);
                self.world.carry_out_part(&effect, messages);
            } else {
                self.world.carry_out(&effect, Fault::None);
            }
        }
        self.world.blank = false;
        self.ended.clear();
        self.done.clear();
        self.failed.clear();
        self.graves.clear();
        self.sweeps.clear();
        for plugin in std::mem::take(&mut self.plugins).into_values().filter(|p| p.check.is_none()) {
            self.promises.remove(&plugin.key);
            // Its DEL finds no daemon, unless it is killed, too.
            if plugin.add.is_none() && self.dice.chance(70) {
                self.written_down(plugin.key, plugin.cookie, plugin.asked);
            }
        }
        if self.dice.chance(30) {
            self.del_unread();
        }
        self.undecided.clear();
        self.world.sandboxes.clear();
        self.now = self.now + Duration::from_millis(50);
        let view = self.world.kernel.observe().expect("the fake observes");
        let (owner, outcome) =
            Owner::restore(config(self.seed), self.world.stored.clone(), &view, &self.world.boot, self.now)
                .expect("the same boot");
        self.owner = owner;
        self.next_op += 1;
        self.take(outcome);
        self.hand_all_over();
    }

    fn check(&mut self) {
        if self.owner.is_idle() {
            self.undecided.clear();
        }
        let broken = invariant::check(&self.owner);
        assert!(broken.is_empty(), "{broken:#?}\n{:#?}", self.trace);
        let mut holders: BTreeMap<Ipv4Addr, u32> = BTreeMap::new();
        for (ifindex, address) in self.world.kernel.sandbox_addresses() {
            if let Some(other) = holders.insert(address, ifindex) {
                panic!("{address} is on links {other:x} and {ifindex:x}\n{:#?}", self.trace);
            }
        }
        for (key, promise) in &self.promises {
            self.check_promise(key, promise);
        }
    }

    /// What was answered still holds: the record is there, and the link while its sandbox lives.
    fn check_promise(&self, key: &AttachmentKey, promise: &Promise) {
        if self.plugins.values().any(|p| p.key == *key && p.check.is_none()) {
            return; // a later ADD of the key may be replacing it
        }
        let record = self.owner.attachment(key);
        let lives = self.world.kernel.sandbox_lives(promise.cookie);
        let Some(record) = record.filter(|r| r.netns_cookie == promise.cookie) else {
            if !lives {
                return; // `adding` in the store, its link died with the sandbox: undone at the start
            }
            panic!("{key} was answered {promise:?} and is forgotten\n{:#?}", self.trace);
        };
        assert!(
            record.addresses.contains(&promise.address),
            "{key} lost {}\n{:#?}",
            promise.address,
            self.trace
        );
        let routed = self.world.is_routed(promise.address);
        assert!(routed, "{key} has {}, which is on no attached ENI\n{:#?}", promise.address, self.trace);
        if lives && !self.linkless.contains(&record.host_ifindex) {
            let link = self
                .world
                .kernel
                .sandbox_addresses()
                .iter()
                .any(|(ifindex, address)| *ifindex == record.host_ifindex && *address == promise.address);
            assert!(link, "{key} is alive and has lost its link\n{:#?}", self.trace);
            let dying = self.world.kernel.group_of(record.host_ifindex) == Some(DYING_GROUP);
            assert!(!dying, "{key} is alive and its link is in the dying group\n{:#?}", self.trace);
        }
    }

    /// Faults stop, every container is deleted: nothing may stay.
    fn come_to_rest(&mut self) {
        self.faults = false;
        for container in 0..CONTAINERS as u8 {
            let key = key(container);
            self.next_op += 1;
            let op = OpId(self.next_op);
            self.promises.remove(&key);
            let plugin = Plugin { key: key.clone(), add: None, cookie: None, asked: self.now, check: None };
            self.plugins.insert(op, plugin);
            self.send(Event::Del { op, key });
        }
        for _ in 0..20_000 {
            if self.waiting.is_empty() && self.ended.is_empty() {
                if self.at_rest() && self.host_is_whole() {
                    return;
                }
                self.hand_all_over();
                self.now =
                    self.owner.next_deadline().unwrap_or(self.now + Duration::from_secs(1)).max(self.now);
                self.send(Event::Wake);
            }
            self.carry_out();
            self.report();
            self.check();
        }
        panic!(
            "never at rest: {:#?}\n{:#?}\n{:#?}\n{:#?}",
            self.world.stored,
            self.world.ec2.enis(),
            self.owner.health(),
            &self.trace[self.trace.len().saturating_sub(60)..]
        );
    }

    /// Nothing of what others broke is left, or has to be laid, but what they do not undo.
    fn host_is_whole(&mut self) -> bool {
        let view = self.world.kernel.observe().expect("the fake observes");
        host_net::plan(&self.owner.wanted(), &view).is_empty()
    }

    fn at_rest(&mut self) -> bool {
        let links = self.world.kernel.observe().expect("the fake observes").links;
        let ours = links.iter().filter(|l| l.ifindex >= FIRST_IFINDEX || l.group == DYING_GROUP).count();
        let counts = self.owner.counts(self.now);
        let idle = counts.allocated + counts.cooling == 0;
        let stored = &self.world.stored;
        let settled = stored.attachments.is_empty() && stored.intents.is_empty();
        let answered = self.plugins.is_empty() && self.sweeps.is_empty() && self.world.spool.is_empty();
        ours == 0 && idle && settled && self.nothing_leaks(counts.free) && answered
    }

    /// EC2 has the ENIs, prefixes and addresses that are stored and no others, and none of them is beyond the targets.
    fn nothing_leaks(&self, free: usize) -> bool {
        let enis = self.world.ec2.enis();
        let stored = &self.world.stored;
        let known = |e: &EniObservation| {
            let of_eni = |a: &Ipv4Addr| stored.addresses.iter().any(|r| r.address == *a && r.eni == e.id);
            stored.enis.iter().any(|r| r.id == e.id && r.state == EniState::InUse && r.prefixes == e.prefixes)
                && e.for_containers().all(|a| of_eni(&a))
        };
        let held: usize = enis.iter().map(|e| e.for_containers().count()).sum();
        let same =
            enis.iter().all(known) && stored.enis.len() == enis.len() && stored.addresses.len() == held;
        same && free == held && self.nothing_is_too_much(enis, free)
    }

    fn nothing_is_too_much(&self, enis: &[EniObservation], free: usize) -> bool {
        let targets = config(self.seed).targets;
        let of = |e: &EniObservation| e.for_containers().count();
        let (warm, most) =
            match (targets.warm_ip, self.world.has_prefixes() && targets.mode == PoolMode::Prefixes) {
                // The slack below which nothing moves is one address each way.
                (Some(warm), _) => (warm as usize + 1, warm as usize + 2),
                (None, true) => (PER_PREFIX, 2 * PER_PREFIX - 1),
                (None, false) => (2, usize::MAX),
            };
        free <= most && enis.iter().skip(1).all(|e| free - of(e) < warm)
    }
}

fn name(kind: &EffectKind) -> &'static str {
    match kind {
        EffectKind::Commit(_) => "commit",
        EffectKind::Wire(_) => "wire",
        EffectKind::Look(_) => "look",
        EffectKind::Unwire(_) => "unwire",
        EffectKind::Reap(_) => "reap",
        EffectKind::ObserveHost => "observe host",
        EffectKind::ApplyHost(_) => "apply host",
        EffectKind::CheckSandboxes(_) => "check sandboxes",
        EffectKind::ObserveCloud { .. } => "observe cloud",
        EffectKind::Resolve(_) => "resolve names",
        EffectKind::Mutate(mutation) => mutation.call(),
        EffectKind::WatchLinks(_) => "watch links",
        EffectKind::Consult(_) => "consult",
        EffectKind::Stamp { .. } => "stamp",
    }
}
