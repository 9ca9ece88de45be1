//! What others do to the node: they break the host's network, and runtimes ask whether all is well.
//!
//! Owns when something is broken, and what CHECK and GC must answer. What a broken host is like the fake kernel knows.

use crate::scheduler::{CONTAINERS, Checked, History, Plugin, Promise, key};
use crate::world::Lie;
use eni_proto::error::Code;
use eni_proto::ids::AttachmentKey;
use eni_proto::reply;
use ipamd_core::kernel::{Alias, HostKernel, RouteAction, Trigger};
use ipamd_core::owner::event::{CheckAsk, EffectKind, Event, GcAsk, OpId};
use ipamd_core::record::{AttachmentRecord, AttachmentState};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

impl History {
    /// Others break something of the host; mostly an event tells of it, else the period finds it.
    pub(crate) fn harm(&mut self) {
        if !self.harmed {
            return;
        }
        let (what, which) = (self.dice.roll(16), self.dice.roll(8));
        let trigger = if what == 15 {
            self.delete_pair(which)
        } else {
            let addresses: Vec<Ipv4Addr> = self.owner.pool().addresses().map(|a| a.address).collect();
            let address = (!addresses.is_empty()).then(|| addresses[self.dice.roll(addresses.len())]);
            self.world.kernel.harm(what, which, address)
        };
        let Some(trigger) = trigger else { return };
        if matches!(what, 1 | 6) {
            self.forget_unproven();
        }
        if what == 15 {
            // Without its link one that is not stored as live yet is undone by a restart.
            let stored = &self.world.stored.attachments;
            let live = |key: &AttachmentKey| {
                stored.iter().any(|r| r.key == *key && r.state == AttachmentState::Live)
            };
            self.promises.retain(|key, _| live(key));
        }
        self.say(&format!("harm {what} {which} {trigger:?}"));
        if self.dice.chance(70) {
            self.send(Event::HostChanged(BTreeSet::from([trigger])));
        }
    }

    /// Route or alias prove a link whole: without both, one that is not stored as live yet is undone by a restart.
    fn forget_unproven(&mut self) {
        let view = self.world.kernel.observe().expect("the fake observes");
        let named = |ifindex: u32| {
            view.links.iter().any(|l| l.ifindex == ifindex && Alias::parse(&l.alias).is_some())
        };
        let routed = |ifindex: u32| {
            view.pods_routes.iter().any(|r| r.metric == 0 && r.action == RouteAction::Device { ifindex })
        };
        let proven = |r: &AttachmentRecord| {
            r.state == AttachmentState::Live || named(r.host_ifindex) || routed(r.host_ifindex)
        };
        let stored = &self.world.stored.attachments;
        self.promises.retain(|key, _| stored.iter().any(|r| r.key == *key && proven(r)));
    }

    /// Somebody deletes the link of a promise: its address stays its own, and its sandbox is without it.
    fn delete_pair(&mut self, which: usize) -> Option<Trigger> {
        let (key, promise) = self.promises.iter().nth(which)?;
        let record = self.owner.attachment(key).filter(|r| r.netns_cookie == promise.cookie)?;
        let (key, ifindex) = (key.clone(), record.host_ifindex);
        if self.world.lie == Some(Lie::Blind) {
            self.world.before.insert(ifindex, self.world.kernel.clone());
        }
        self.linkless.insert(ifindex);
        let deleted = self.world.kernel.delete_pair(ifindex);
        let stored = &self.world.stored.attachments;
        if !stored.iter().any(|r| r.host_ifindex == ifindex && r.state != AttachmentState::Adding) {
            // Without its link one that is not stored as live yet is undone by a restart.
            self.promises.remove(&key);
        }
        if !self.sweeps.is_empty() {
            // A GC that runs may look from now on.
            self.drop_linkless();
        }
        self.check_broken(&key);
        deleted.then_some(Trigger::Link)
    }

    /// What has lost its link may be freed by a GC: its address is promised no more.
    fn drop_linkless(&mut self) {
        let owner = &self.owner;
        let linkless = |key: &AttachmentKey| {
            owner.attachment(key).is_some_and(|record| self.linkless.contains(&record.host_ifindex))
        };
        self.promises.retain(|key, _| !linkless(key));
    }

    /// A CHECK of an attachment that was live all the time and whose sandbox lives finds nothing, whatever reconciler
    /// was running; a look that fails is no difference. One of what is not there, or has no link, never finds that all is
    /// well.
    pub(crate) fn checked(&mut self, key: &AttachmentKey, known: &Checked, answer: Option<reply::Outcome>) {
        let Checked::Promised(promise) = known else {
            assert_ne!(answer, Some(reply::Outcome::Done), "a CHECK of {key} is blind\n{:#?}", self.trace);
            return;
        };
        let stood = self.promises.get(key) == Some(promise);
        let lives = self.world.kernel.sandbox_lives(promise.cookie);
        if let Some(reply::Outcome::Failed(error)) = answer
            && !self.harmed
            && stood
            && lives
        {
            assert_ne!(error.code, Code::Differs, "{error}\n{:#?}", self.trace);
        }
    }

    pub(crate) fn ask_check(&mut self) {
        if self.dice.chance(20) {
            let container = self.dice.roll(CONTAINERS) as u8;
            return self.check_broken(&key(container));
        }
        if self.harmed {
            // What others broke may differ; what has lost its link must, also when nobody has told of it.
            self.catch_up();
            let which = self.dice.roll(4);
            if self.delete_pair(which).is_some() {
                self.say("a link is deleted, and nobody tells");
                self.catch_up();
                // What becomes of its address is judged where somebody tells: see `harm`.
                self.drop_linkless();
            }
            return;
        }
        if self.world.blank {
            return self.wake();
        }
        let of = self.dice.roll(self.promises.len().max(1));
        let Some((key, promise)) = self.promises.iter().nth(of) else { return self.gc() };
        let (key, promise) = (key.clone(), promise.clone());
        self.send_check(key, &promise.clone(), Checked::Promised(promise));
        if self.dice.chance(30) {
            self.gc();
        }
    }

    /// A CHECK of what has nothing, or no link, and of which nothing else is under way.
    fn check_broken(&mut self, key: &AttachmentKey) {
        let busy = self.plugins.values().any(|p| p.key == *key && p.check.is_none())
            || self.graves.values().any(|buried| buried.key == *key)
            || self.world.spool.contains_key(key)
            || self.undecided.contains(key)
            || self.world.blank;
        let record = self.owner.attachment(key);
        let broken = record.is_none_or(|r| self.linkless.contains(&r.host_ifindex));
        if busy || !broken || (record.is_none() && self.promises.contains_key(key)) {
            return;
        }
        let told = record.map(|r| (r.netns_cookie, r.addresses.first().copied()));
        let (cookie, address) = match (told, self.sandboxes.values().next()) {
            (Some((cookie, Some(address))), _) => (cookie, address),
            (_, Some(cookie)) => (*cookie, Ipv4Addr::new(10, 0, 1, 99)),
            _ => return,
        };
        self.send_check(key.clone(), &Promise { cookie, address }, Checked::Broken);
    }

    fn send_check(&mut self, key: AttachmentKey, promise: &Promise, known: Checked) {
        self.next_op += 1;
        let op = OpId(self.next_op);
        self.say(&format!("CHECK {op:?} {key}"));
        self.world.sandboxes.insert(op.0, promise.cookie);
        let ask = CheckAsk {
            key: key.clone(),
            cookie: promise.cookie,
            addresses: vec![promise.address],
            deadline: self.now + Duration::from_secs(10),
        };
        let plugin = Plugin { key, add: None, cookie: None, asked: self.now, check: Some(known) };
        self.plugins.insert(op, plugin);
        self.send(Event::Check { op, ask });
    }

    /// A runtime that knows nobody: only what has lost its sandbox may go. `check_promise` sees what goes too much.
    pub(crate) fn gc(&mut self) {
        if self.world.blank {
            return; // what it has committed may be lost with the file since
        }
        self.drop_linkless();
        self.next_op += 1;
        let op = OpId(self.next_op);
        self.say(&format!("GC {op:?}"));
        self.sweeps.insert(op);
        let ask = GcAsk { network: "vpc".parse().expect("a name"), valid: Vec::new() };
        let outcome = self.owner.handle(Event::Gc { op, ask }, self.now);
        // Its look comes before any that a pass begins.
        let look = outcome.effects.iter().find(|e| matches!(e.kind, EffectKind::ObserveHost));
        self.world.gc_looks.extend(look.map(|effect| effect.id));
        self.take(outcome);
    }

    pub(crate) fn collected(&mut self, op: OpId, answer: Option<&reply::Outcome>) {
        if self.sweeps.remove(&op) {
            self.say(&format!("collected {op:?} {answer:?}"));
        }
    }
}
