//! How many ENIs, prefixes and addresses the node should have, and the next steps from what it has to that.
//!
//! Owns the planner: demand of waiting ADDs, warm targets, the minimum, the limits of the instance type and the operator's,
//! and what is given back. A plain function of what the pool holds, what is under way at EC2 and what EC2 refused lately.
//! Sizing is idempotent: the same view gives the same steps, and what is under way counts as there. `goal` says how much
//! is enough, `grow` asks for what is missing, `shrink` gives back what is too much. Does not call EC2, write intents or
//! answer anybody, and does not choose which addresses go: the pool does.

mod goal;
mod grow;
mod shrink;

use crate::cloud::InstanceLimits;
use crate::kernel::MAX_ENI_NUMBER;
use crate::record::EniState;
use crate::time::Timestamp;
use eni_proto::debug::PoolCounts;
use eni_proto::ids::{EniId, SubnetId};
use goal::{Goal, Supply};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Addresses of a /28 prefix: each of the 16 is usable.
pub const PER_PREFIX: usize = 16;

/// What fills the slots of an ENI. Addresses of both kinds may be there at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PoolMode {
    /// Secondary addresses, one per slot.
    #[default]
    Addresses,
    /// /28 prefixes, 16 addresses per slot (the peer's ENABLE_PREFIX_DELEGATION): where the instance type takes them, and
    /// the subnet has some; single addresses otherwise.
    Prefixes,
}

/// The targets, with the peer's names and meaning. `warm_ip` and `minimum_ip` count addresses; when one of them is set,
/// `warm_enis` and `warm_prefixes` do not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Targets {
    /// What fills the slots.
    pub mode: PoolMode,
    /// So many ENIs' worth of free addresses are kept ready (WARM_ENI_TARGET); not with prefixes.
    pub warm_enis: u32,
    /// So many free addresses are kept ready (WARM_IP_TARGET).
    pub warm_ip: Option<u32>,
    /// So many prefixes' worth of free addresses are kept ready, with prefixes (WARM_PREFIX_TARGET).
    pub warm_prefixes: u32,
    /// So many addresses the node has at least, held ones included (MINIMUM_IP_TARGET); 0 for none.
    pub minimum_ip: u32,
    /// The most ENIs, others' included (MAX_ENI); 0 for as many as the instance type carries.
    pub max_enis: u32,
    /// The most addresses that the pool has; 0 for as many as the ENIs carry.
    pub max_pods: u32,
    /// Nothing is given back to EC2.
    pub no_release: bool,
    /// How long the node must have had too much before some of it is given back.
    pub release_after: Duration,
}

impl Default for Targets {
    fn default() -> Self {
        Targets {
            mode: PoolMode::Addresses,
            warm_enis: 1,
            warm_ip: None,
            warm_prefixes: 1,
            minimum_ip: 0,
            max_enis: 0,
            max_pods: 0,
            no_release: false,
            release_after: Duration::from_secs(60),
        }
    }
}

/// How much one call asks for or gives back: a call is about one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amount {
    /// Single addresses.
    Addresses(u32),
    /// /28 prefixes.
    Prefixes(u32),
}

impl Amount {
    /// How many addresses that is.
    pub fn addresses(self) -> usize {
        match self {
            Amount::Addresses(count) => count as usize,
            Amount::Prefixes(count) => count as usize * PER_PREFIX,
        }
    }

    /// How many slots of an ENI it fills.
    pub fn slots(self) -> usize {
        match self {
            Amount::Addresses(count) | Amount::Prefixes(count) => count as usize,
        }
    }

    /// The parameters of a call: SecondaryPrivateIpAddressCount and Ipv4PrefixCount.
    pub fn parameters(self) -> (u32, u32) {
        match self {
            Amount::Addresses(count) => (count, 0),
            Amount::Prefixes(count) => (0, count),
        }
    }

    /// What such parameters ask for.
    pub fn of_parameters(addresses: u32, prefixes: u32) -> Amount {
        if prefixes > 0 { Amount::Prefixes(prefixes) } else { Amount::Addresses(addresses) }
    }
}

/// One ENI, as the planner sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EniView {
    /// Its id.
    pub id: EniId,
    /// Its subnet.
    pub subnet: SubnetId,
    /// EC2's device index; 0 is the primary, which is never given back.
    pub device_index: u32,
    /// Its state.
    pub state: EniState,
    /// Its addresses in numbers.
    pub counts: PoolCounts,
    /// Its slots that are used: one by each prefix, one by each address outside of prefixes.
    pub slots: usize,
    /// Its free addresses outside of prefixes.
    pub free_singles: usize,
    /// Its prefixes that are wholly free: none of their addresses is held or cools.
    pub free_prefixes: usize,
    /// A change of it is under way at EC2, or one was refused and is not worth another try yet.
    pub busy: bool,
    /// The latter.
    pub held: bool,
    /// What EC2 said of its attachment last; none when it has not told yet what became of the last change.
    pub seen: Option<Seen>,
    /// What is being assigned to it.
    pub assigning: Option<Amount>,
    /// It is in use, and its link has not come for so long that it is not counted on.
    pub stuck: bool,
}

impl EniView {
    fn assigning(&self) -> usize {
        self.assigning.map_or(0, Amount::addresses)
    }

    /// Slots that nothing fills, nor what is under way.
    fn room(&self, per_eni: usize) -> usize {
        per_eni.saturating_sub(self.slots + self.assigning.map_or(0, Amount::slots))
    }
}

/// An ENI's attachment, as EC2 told it last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// It is attached to nothing.
    Available,
    /// It is attached to this instance.
    Attached,
}

/// What a subnet refused lately.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SubnetView {
    /// It gives nothing before this instant, and why.
    pub full: Option<(Timestamp, String)>,
    /// It has no /28 left: single addresses are asked for until then; and why.
    pub no_prefix: Option<(Timestamp, String)>,
    /// The most addresses that one call may ask for: it had not as many as were asked for.
    pub most: Option<u32>,
    /// The same of prefixes.
    pub most_prefixes: Option<u32>,
}

/// All that the planner needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// The ENIs that are managed.
    pub enis: Vec<EniView>,
    /// Where new ENIs may lie; the first that is not full is taken.
    pub subnets: Vec<SubnetId>,
    /// What subnets refused lately.
    pub refusals: BTreeMap<SubnetId, SubnetView>,
    /// Device indexes that others' ENIs have: counted in the limit, never touched.
    pub foreign: BTreeSet<u32>,
    /// ADDs that wait for an address.
    pub waiting: usize,
    /// Addresses that are free as soon as their last holders' links are gone, which is under way.
    pub cooled: usize,
    /// Addresses that were handed out in the last seconds.
    pub recent: usize,
    /// Where ENIs are being created, and with what.
    pub creating: Vec<(SubnetId, Amount)>,
    /// What the instance type carries.
    pub limits: InstanceLimits,
    /// Creating is not worth another try before this instant, and why.
    pub create_refused: Option<(Timestamp, String)>,
    /// The same of assigning.
    pub assign_refused: Option<(Timestamp, String)>,
    /// Since when there has been too much.
    pub surplus_since: Option<Timestamp>,
    /// How often `release_after` is doubled: what was given back was asked for again soon.
    pub regret: u32,
}

impl View {
    /// Slots of one ENI: its own primary address fills none of them.
    fn per_eni(&self) -> usize {
        self.limits.addresses_per_eni.saturating_sub(1) as usize
    }
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Create an ENI.
    Create {
        /// Where.
        subnet: SubnetId,
        /// With what.
        amount: Amount,
    },
    /// Attach one.
    Attach {
        /// Which.
        eni: EniId,
        /// Where: the lowest free device index.
        device_index: u32,
    },
    /// Assign addresses or prefixes to one.
    Assign {
        /// Which.
        eni: EniId,
        /// What.
        amount: Amount,
    },
    /// Give free addresses or wholly free prefixes of one back.
    Unassign {
        /// Which.
        eni: EniId,
        /// How much.
        amount: Amount,
    },
    /// Allocate nothing more from one.
    Drain {
        /// Which.
        eni: EniId,
    },
    /// Allocate from a draining one again.
    Undrain {
        /// Which.
        eni: EniId,
    },
    /// Detach an empty one.
    Detach {
        /// Which.
        eni: EniId,
    },
    /// Give up one that was created and for which no device index is left: it is deleted.
    Abandon {
        /// Which.
        eni: EniId,
    },
    /// Ask again for the detaching of one whose detaching did not take effect.
    DetachAgain {
        /// Which.
        eni: EniId,
    },
    /// Delete a detached one.
    Delete {
        /// Which.
        eni: EniId,
    },
}

impl Step {
    /// Whether it makes the pool larger: such steps may wait for a moment, so that one call serves all who come in it.
    pub fn grows(&self) -> bool {
        matches!(self, Step::Create { .. } | Step::Assign { .. } | Step::Undrain { .. })
    }

    /// Whether it gives something back that was there to be used.
    pub fn gives_back(&self) -> bool {
        matches!(self, Step::Drain { .. } | Step::Unassign { .. })
    }
}

/// What the planner says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The steps to take now.
    pub steps: Vec<Step>,
    /// Of the waiting ADDs, so many will not be served by anything that is under way or planned, with why.
    pub short: Option<(usize, String)>,
    /// Whether there is too much now: what the next view's `surplus_since` is made from.
    pub surplus: bool,
    /// When to plan again although nothing happens: the end of the hysteresis. That of a refusal is the asker's to know.
    pub again: Option<Timestamp>,
}

/// `release_after` is doubled so often at most.
pub const REGRET_MOST: u32 = 5;

/// How long there must have been too much: longer when what was given back was asked for again soon.
pub fn patience(targets: &Targets, regret: u32) -> Duration {
    targets.release_after * 2_u32.pow(regret.min(REGRET_MOST))
}

/// Plans.
pub fn plan(view: &View, targets: &Targets, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    go_on(view, targets, &mut plan);
    let supply = Supply::of(view);
    let goal = Goal::of(view, targets, &supply);
    let deficit = goal.deficit(view, &supply);
    if deficit.most() > 0 {
        let soon = grow::grow(view, targets, goal, deficit, &supply, now, &mut plan);
        // Only what somebody waits for is worth an error; a warm target that cannot be met is not.
        let planned = plan.steps.iter().map(|step| gain(step, view)).sum::<usize>();
        let short = view.waiting.saturating_sub(supply.coming + planned + soon + view.cooled);
        // While a subnet is asked for less and less, its last word is not spoken.
        let asked = !view.creating.is_empty() || view.enis.iter().any(|eni| eni.assigning.is_some());
        let fewer = view.refusals.values().any(|s| s.most.is_some() || s.most_prefixes.is_some());
        if short > 0 && !(fewer && (planned > 0 || asked)) {
            let creates = plan.steps.iter().filter(|step| matches!(step, Step::Create { .. })).count();
            plan.short = Some((short, grow::why_not(view, targets, &supply, creates, now)));
        }
    } else if !targets.no_release {
        shrink::shrink(view, targets, goal, &supply, now, &mut plan);
    }
    plan
}

fn total(counts: &PoolCounts) -> usize {
    counts.free + counts.allocated + counts.cooling + counts.quarantined
}

fn gain(step: &Step, view: &View) -> usize {
    match step {
        Step::Create { amount, .. } | Step::Assign { amount, .. } => amount.addresses(),
        Step::Undrain { eni } => view.enis.iter().find(|e| e.id == *eni).map_or(0, |e| e.counts.free),
        _ => 0,
    }
}

/// What was begun is carried on, whatever the targets: attach what was created, delete what was detached.
fn go_on(view: &View, targets: &Targets, plan: &mut Plan) {
    let mut taken = view.foreign.clone();
    // An index that an attaching ENI was given is its own once EC2 has shown it there; until then it may move.
    taken.extend(view.enis.iter().filter(|e| placed(e)).map(|e| e.device_index));
    for eni in view.enis.iter().filter(|e| !e.busy) {
        match (eni.state, eni.seen) {
            (EniState::Attaching, Some(Seen::Available)) => {
                let free = (1..view.limits.enis.min(MAX_ENI_NUMBER)).find(|index| !taken.contains(index));
                plan.steps.push(match free {
                    Some(device_index) => {
                        taken.insert(device_index);
                        Step::Attach { eni: eni.id.clone(), device_index }
                    }
                    None => Step::Abandon { eni: eni.id.clone() },
                });
            }
            // Nothing is given back: what drains and is still here may as well be used.
            (EniState::Draining, _) if targets.no_release => {
                plan.steps.push(Step::Undrain { eni: eni.id.clone() });
            }
            (EniState::Draining, _)
                if eni.counts.allocated + eni.counts.cooling + eni.counts.quarantined == 0 =>
            {
                plan.steps.push(Step::Detach { eni: eni.id.clone() });
            }
            (EniState::Detaching | EniState::Deleting, Some(Seen::Attached)) => {
                plan.steps.push(Step::DetachAgain { eni: eni.id.clone() });
            }
            (EniState::Deleting, Some(Seen::Available)) => {
                plan.steps.push(Step::Delete { eni: eni.id.clone() });
            }
            _ => {}
        }
    }
}

/// Whether an ENI has its device index for good.
fn placed(eni: &EniView) -> bool {
    match eni.state {
        EniState::Attaching => eni.busy || eni.seen != Some(Seen::Available),
        EniState::InUse | EniState::Draining | EniState::Detaching => true,
        EniState::Deleting => eni.seen == Some(Seen::Attached),
        EniState::Lost => false,
    }
}

/// The most ENIs that the node may have, others' included.
fn most_enis(view: &View, targets: &Targets) -> u32 {
    let carried = view.limits.enis.min(MAX_ENI_NUMBER);
    if targets.max_enis > 0 { carried.min(targets.max_enis) } else { carried }
}

/// How many more ENIs it may have, those under way counted.
fn free_places(view: &View, targets: &Targets) -> usize {
    let there = view.enis.iter().filter(|e| !matches!(e.state, EniState::Deleting | EniState::Lost)).count();
    (most_enis(view, targets) as usize).saturating_sub(there + view.creating.len() + view.foreign.len())
}

#[cfg(test)]
mod tests;
