//! What others do to the node: they break the host's network, and runtimes ask whether all is well.
//!
//! Owns when something is broken, and what CHECK and GC must answer. What a broken host is like the fake kernel knows.

use crate::scheduler::{History, Plugin, Promise};
use eni_proto::error::Code;
use eni_proto::ids::AttachmentKey;
use eni_proto::reply;
use ipamd_core::kernel::{FIRST_IFINDEX, HostKernel, Trigger};
use ipamd_core::owner::event::{CheckAsk, Event, GcAsk, OpId};
use ipamd_core::record::AttachmentState;
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
        // A link whose alias is gone before its record is committed is nobody's after a crash: no record, no mark.
        if what == 6 && !self.all_recorded() {
            return;
        }
        let trigger = if what == 15 {
            self.delete_pair(which)
        } else {
            let addresses: Vec<Ipv4Addr> = self.owner.pool().addresses().map(|a| a.address).collect();
            let address = (!addresses.is_empty()).then(|| addresses[self.dice.roll(addresses.len())]);
            self.world.kernel.harm(what, which, address)
        };
        let Some(trigger) = trigger else { return };
        if matches!(what, 1 | 6 | 15) {
            // Link, route and alias prove an attachment whole: without them one that is not stored as live yet is undone by a restart.
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

    fn all_recorded(&mut self) -> bool {
        let links = self.world.kernel.observe().expect("the fake observes").links;
        let stored = &self.world.stored.attachments;
        let recorded =
            |ifindex| stored.iter().any(|r| r.host_ifindex == ifindex && r.state == AttachmentState::Live);
        links.iter().filter(|l| l.ifindex >= FIRST_IFINDEX).all(|l| recorded(l.ifindex))
    }

    /// Somebody deletes the link of a promise: its address stays its own, and its sandbox is without it.
    fn delete_pair(&mut self, which: usize) -> Option<Trigger> {
        let (key, promise) = self.promises.iter().nth(which)?;
        let record = self.owner.attachment(key).filter(|r| r.netns_cookie == promise.cookie)?;
        let ifindex = record.host_ifindex;
        self.linkless.insert(ifindex);
        self.world.kernel.delete_pair(ifindex).then_some(Trigger::Link)
    }

    /// A CHECK of an attachment that was live all the time and whose sandbox lives finds nothing, whatever reconciler
    /// was running; a look that fails is no difference.
    pub(crate) fn checked(&mut self, key: &AttachmentKey, promise: &Promise, answer: Option<reply::Outcome>) {
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
        if self.harmed || self.world.blank {
            return self.wake(); // what others broke differs, and whose link they deleted may go
        }
        let of = self.dice.roll(self.promises.len().max(1));
        let Some((key, promise)) = self.promises.iter().nth(of) else { return self.gc() };
        let (key, promise) = (key.clone(), promise.clone());
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
        let plugin = Plugin { key, add: None, cookie: None, asked: self.now, check: Some(promise) };
        self.plugins.insert(op, plugin);
        self.send(Event::Check { op, ask });
        if self.dice.chance(30) {
            self.gc();
        }
    }

    /// A runtime that knows nobody: only what has lost its sandbox may go. `check_promise` sees what goes too much.
    fn gc(&mut self) {
        self.next_op += 1;
        let op = OpId(self.next_op);
        self.say(&format!("GC {op:?}"));
        self.sweeps.insert(op);
        let ask = GcAsk { network: "vpc".parse().expect("a name"), valid: Vec::new() };
        self.send(Event::Gc { op, ask });
    }

    pub(crate) fn collected(&mut self, op: OpId, answer: Option<&reply::Outcome>) {
        if self.sweeps.remove(&op) {
            self.say(&format!("collected {op:?} {answer:?}"));
        }
    }
}
