//! What an operator switches off: giving back to EC2, and the cloud altogether.
//!
//! Owns what a switch means for the owner and what is told of it. The configuration says how it stands at a start;
//! `ipamctl switch` changes it until the end of the process and no longer. Does not authorise anybody.

use super::Owner;
use super::event::Note;
use crate::capacity::Plan;
use crate::time::Timestamp;
use std::collections::BTreeMap;

/// A switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Switch {
    /// Nothing is given back to EC2.
    NoRelease,
    /// EC2 and the metadata service are neither asked nor changed: what is recorded is served.
    NoCloud,
}

impl Switch {
    /// All of them.
    pub const ALL: [Switch; 2] = [Switch::NoRelease, Switch::NoCloud];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Switch::NoRelease => "no-release",
            Switch::NoCloud => "no-cloud",
        }
    }

    /// The switch of a name.
    pub fn named(name: &str) -> Option<Switch> {
        Switch::ALL.into_iter().find(|switch| switch.name() == name)
    }
}

/// Switches that stand otherwise than the configuration says, with what it says.
#[derive(Debug, Clone, Default)]
pub(super) struct Switched(BTreeMap<Switch, bool>);

impl Owner {
    /// Whether a switch is on, and whether the configuration has it on.
    pub fn switch(&self, switch: Switch) -> (bool, bool) {
        let on = match switch {
            Switch::NoRelease => self.config.targets.no_release,
            Switch::NoCloud => self.config.no_cloud,
        };
        (on, self.switched.0.get(&switch).copied().unwrap_or(on))
    }

    pub(super) fn set_switch(&mut self, switch: Switch, on: bool, now: Timestamp) {
        let (is, configured) = self.switch(switch);
        if is == on {
            return;
        }
        match switch {
            Switch::NoRelease => self.config.targets.no_release = on,
            Switch::NoCloud => self.config.no_cloud = on,
        }
        self.switched.0.insert(switch, configured);
        self.note(Note::Switched { switch, on });
        self.growth.replan();
        if switch == Switch::NoCloud && !on {
            self.driver.wake_now(self.reconcilers.eni_sync, now);
        }
    }

    /// Why EC2 must not be changed now; none when it may.
    pub(super) fn hands_off(&self) -> Option<String> {
        if self.config.no_cloud {
            return Some("no-cloud is on: EC2 is not asked for more".to_owned());
        }
        self.refused_peer().map(str::to_owned)
    }

    /// With hands off nothing comes: ADDs that no address serves which is free soon are told so at once.
    pub(super) fn refuse_without_growth(&mut self, now: Timestamp) {
        let Some(why) = self.hands_off().filter(|_| self.gate.open()) else { return };
        let cooled = self.reaper.about_to_free(&self.pool, now) + self.pool.available();
        let short = self.waiting_for_address().saturating_sub(cooled);
        if short > 0 {
            self.refuse_short(&Plan { short: Some((short, why)), ..Plan::default() }, now);
        }
    }
}
