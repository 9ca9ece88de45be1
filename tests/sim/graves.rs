//! DELs that no daemon answers: they become tombstones, which are found at once, late, or by the next daemon.
//!
//! Owns when a DEL is written down, when its tombstone is handed over, and what its end must mean. The time of a
//! tombstone is that of its DEL's beginning, as the plugin writes it.

use crate::scheduler::{CONTAINERS, History, key};
use crate::world::World;
use eni_proto::ids::{AttachmentKey, NetnsCookie};
use eni_proto::reply;
use ipamd_core::owner::event::{Event, OpId};
use ipamd_core::record::AttachmentState;
use ipamd_core::time::Timestamp;
use ipamd_core::tombstone::Buried;

impl World {
    /// A plugin writes a DEL down; a later one of the key takes the place of an earlier one.
    pub(crate) fn bury(&mut self, key: AttachmentKey, cookie: Option<NetnsCookie>, asked: Timestamp) {
        let buried = Buried { key: key.clone(), cookie, asked, boot: self.boot.clone() };
        self.spool.insert(key, buried);
    }
}

impl History {
    /// A DEL's reply misses its deadline: its plugin writes it down and goes.
    pub(crate) fn lose_del(&mut self) {
        let dels: Vec<OpId> = self
            .plugins
            .iter()
            .filter(|(_, p)| p.add.is_none() && p.check.is_none())
            .map(|(op, _)| *op)
            .collect();
        if dels.is_empty() {
            return;
        }
        let op = dels[self.dice.roll(dels.len())];
        self.say(&format!("DEL {op:?} is written down"));
        if let Some(plugin) = self.plugins.remove(&op) {
            self.written_down(plugin.key, plugin.cookie, plugin.asked);
        }
        self.send(Event::Hangup { op });
    }

    /// What was asked before the DEL is over is promised to nobody; what is asked from now on is newer than it.
    pub(crate) fn written_down(&mut self, key: AttachmentKey, cookie: Option<NetnsCookie>, asked: Timestamp) {
        self.promises.remove(&key);
        self.dels.insert(key.clone(), OpId(self.next_op));
        self.world.bury(key, cookie, asked);
    }

    /// A runtime deletes while there is no daemon, or one that hangs: the request is never read. Which container.
    pub(crate) fn del_unread(&mut self) -> u8 {
        // Mostly of what is there.
        let there: Vec<u8> = (0..CONTAINERS as u8).filter(|c| self.promises.contains_key(&key(*c))).collect();
        let container = match there.len() {
            many @ 1.. if self.dice.chance(70) => there[self.dice.roll(many)],
            _ => self.dice.roll(CONTAINERS) as u8,
        };
        let cookie = self.sandboxes.get(&container).copied().filter(|_| self.dice.chance(50));
        self.say(&format!("DEL {} that nobody reads", key(container)));
        self.written_down(key(container), cookie, self.now);
        container
    }

    /// Such a DEL of something that is there, and mostly the runtime adds it again at once: the spool has not been read.
    pub(crate) fn del_unread_and_go_on(&mut self) {
        self.catch_up();
        let container = self.del_unread();
        if self.dice.chance(50) {
            self.add_to(container);
            self.catch_up();
            self.hand_one_over();
        }
    }

    /// The watch hands one tombstone over.
    pub(crate) fn hand_one_over(&mut self) {
        let waiting: Vec<AttachmentKey> = self.not_handed_over().collect();
        if !waiting.is_empty() {
            let key = waiting[self.dice.roll(waiting.len())].clone();
            self.hand_over(&key);
        }
    }

    /// The start, and the end of a history, hand all of them over.
    pub(crate) fn hand_all_over(&mut self) {
        let waiting: Vec<AttachmentKey> = self.not_handed_over().collect();
        for key in waiting {
            self.hand_over(&key);
        }
    }

    fn not_handed_over(&self) -> impl Iterator<Item = AttachmentKey> {
        let out = |key: &AttachmentKey| self.graves.values().any(|buried| buried.key == *key);
        self.world.spool.keys().filter(move |key| !out(key)).cloned()
    }

    fn hand_over(&mut self, key: &AttachmentKey) {
        let Some(buried) = self.world.spool.get(key).cloned() else { return };
        self.next_op += 1;
        let op = OpId(self.next_op);
        self.say(&format!("tombstone {op:?} {key} of {}", buried.asked.as_millis()));
        self.graves.insert(op, buried.clone());
        self.send(Event::Tombstone { op, tombstone: buried });
    }

    /// The end of a tombstone's operation: its file goes after its commit, and only if it is still the same.
    pub(crate) fn grave_answered(&mut self, buried: &Buried, answer: Option<&reply::Outcome>) {
        if answer != Some(&reply::Outcome::Done) {
            return;
        }
        let meant = self.world.stored.attachments.iter().find(|r| {
            let same = buried.cookie.is_none_or(|cookie| cookie == r.netns_cookie);
            r.key == buried.key && r.state != AttachmentState::Dying && r.created < buried.asked && same
        });
        assert_eq!(meant, None, "a tombstone is unlinked before its commit\n{:#?}", self.trace);
        if self.world.spool.get(&buried.key) == Some(buried) {
            self.world.spool.remove(&buried.key);
        }
    }
}
