//! How many ENIs and addresses the node should have, and the next steps from what it has to that.
//!
//! Owns the planner: demand of waiting ADDs, one warm ENI, the minimum of addresses, the limits of the instance type,
//! and which ENI is drained and given back. A plain function of what the pool holds, what is under way at EC2 and what
//! EC2 refused lately. Sizing is idempotent: the same view gives the same steps, and what is under way counts as
//! there. Does not call EC2, write intents or answer anybody.

use crate::cloud::InstanceLimits;
use crate::kernel::MAX_ENI_NUMBER;
use crate::record::EniState;
use crate::time::Timestamp;
use eni_proto::debug::PoolCounts;
use eni_proto::ids::EniId;
use std::collections::BTreeSet;
use std::time::Duration;

/// The targets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Targets {
    /// So many ENIs' worth of free addresses are kept ready (the peer's WARM_ENI_TARGET).
    pub warm_enis: u32,
    /// So many addresses the node has at least, held ones included (the peer's MINIMUM_IP_TARGET).
    pub minimum_ip: u32,
    /// Nothing is given back to EC2.
    pub no_release: bool,
    /// How long the node must have had an ENI too many before it is drained.
    pub release_after: Duration,
}

/// One ENI, as the planner sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EniView {
    /// Its id.
    pub id: EniId,
    /// EC2's device index; 0 is the primary, which is never given back.
    pub device_index: u32,
    /// Its state.
    pub state: EniState,
    /// Its addresses in numbers.
    pub counts: PoolCounts,
    /// A change of it is under way at EC2.
    pub busy: bool,
    /// What EC2 said of its attachment last; none when it has not told yet what became of the last change.
    pub seen: Option<Seen>,
    /// Addresses that are being assigned to it.
    pub assigning: u32,
    /// It is in use, and its link has not come for so long that it is not counted on.
    pub stuck: bool,
}

/// An ENI's attachment, as EC2 told it last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// It is attached to nothing.
    Available,
    /// It is attached to this instance.
    Attached,
}

/// All that the planner needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// The ENIs that are managed.
    pub enis: Vec<EniView>,
    /// Device indexes that others' ENIs have: counted in the limit, never touched.
    pub foreign: BTreeSet<u32>,
    /// ADDs that wait for an address.
    pub waiting: usize,
    /// Addresses that are free as soon as their last holders' links are gone, which is under way.
    pub cooled: usize,
    /// Addresses of each ENI that is being created.
    pub creating: Vec<u32>,
    /// What the instance type carries.
    pub limits: InstanceLimits,
    /// Creating is not worth another try before this instant, and why.
    pub create_refused: Option<(Timestamp, String)>,
    /// The same of assigning.
    pub assign_refused: Option<(Timestamp, String)>,
    /// The most addresses that one call may ask for: the subnet had not as many as were asked for.
    pub ask_most: Option<u32>,
    /// Since when there has been an ENI too many.
    pub surplus_since: Option<Timestamp>,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Create an ENI with so many secondary addresses.
    Create {
        /// How many.
        secondary: u32,
    },
    /// Attach one.
    Attach {
        /// Which.
        eni: EniId,
        /// Where: the lowest free device index.
        device_index: u32,
    },
    /// Assign addresses to one.
    Assign {
        /// Which.
        eni: EniId,
        /// How many.
        count: u32,
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

/// What the planner says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The steps to take now.
    pub steps: Vec<Step>,
    /// Of the waiting ADDs, so many will not be served by anything that is under way or planned, with why.
    pub short: Option<(usize, String)>,
    /// Whether there is an ENI too many now: what the next view's `surplus_since` is made from.
    pub surplus: bool,
    /// When to plan again although nothing happens: the end of the hysteresis. That of a refusal is the asker's to know.
    pub again: Option<Timestamp>,
}

/// Plans.
pub fn plan(view: &View, targets: &Targets, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    go_on(view, &mut plan);
    let per_eni = view.limits.addresses_per_eni.saturating_sub(1) as usize;
    let supply = Supply::of(view, per_eni);
    let deficit = supply.deficit(view, targets, per_eni);
    if deficit.most() > 0 {
        grow(view, deficit, per_eni, now, &mut plan);
        // Only what somebody waits for is worth an error; a warm target that cannot be met is not.
        let planned = plan.steps.iter().map(|step| gain(step, view)).sum::<usize>();
        let short = view.waiting.saturating_sub(supply.coming + planned + view.cooled);
        // While a subnet is asked for less and less, its last word is not spoken.
        let asked = !view.creating.is_empty() || view.enis.iter().any(|eni| eni.assigning > 0);
        let asking = view.ask_most.is_some() && (planned > 0 || asked);
        if short > 0 && !asking {
            plan.short = Some((short, why_not(view, per_eni, now)));
        }
    } else if !targets.no_release {
        shrink(view, targets, &supply, per_eni, now, &mut plan);
    }
    plan
}

/// What there is and what is coming.
struct Supply {
    /// Free now or soon, on ENIs that are or will be in use.
    coming: usize,
    /// Released, free after their cooldown.
    cooling: usize,
    /// All addresses, held ones included.
    total: usize,
}

impl Supply {
    fn of(view: &View, per_eni: usize) -> Supply {
        let mut supply = Supply { coming: 0, cooling: 0, total: 0 };
        for eni in view.enis.iter().filter(|e| !e.stuck) {
            match eni.state {
                EniState::Attaching | EniState::InUse => {
                    supply.coming += eni.counts.free + eni.assigning as usize;
                    supply.cooling += eni.counts.cooling;
                    supply.total += total(&eni.counts) + eni.assigning as usize;
                }
                EniState::Draining | EniState::Lost => {
                    supply.total += eni.counts.allocated + eni.counts.quarantined;
                }
                EniState::Detaching | EniState::Deleting => {}
            }
        }
        for created in &view.creating {
            supply.coming += (*created as usize).min(per_eni);
            supply.total += *created as usize;
        }
        supply
    }

    /// How many addresses are missing.
    fn deficit(&self, view: &View, targets: &Targets, per_eni: usize) -> Deficit {
        let warm = view.waiting + targets.warm_enis as usize * per_eni;
        let warm = warm.saturating_sub(self.coming + self.cooling);
        let minimum = (targets.minimum_ip as usize).saturating_sub(self.total);
        Deficit { demand: view.waiting.saturating_sub(self.coming), targets: warm.max(minimum) }
    }
}

/// How many addresses are missing: for ADDs that wait, which nothing but a free one serves, and for the targets, to which
/// one that cools down counts, too.
#[derive(Debug, Clone, Copy)]
struct Deficit {
    demand: usize,
    targets: usize,
}

impl Deficit {
    fn most(self) -> usize {
        self.demand.max(self.targets)
    }

    fn less(self, free: usize, cooling: usize) -> Deficit {
        Deficit {
            demand: self.demand.saturating_sub(free),
            targets: self.targets.saturating_sub(free + cooling),
        }
    }
}

fn total(counts: &PoolCounts) -> usize {
    counts.free + counts.allocated + counts.cooling + counts.quarantined
}

fn gain(step: &Step, view: &View) -> usize {
    match step {
        Step::Create { secondary } => *secondary as usize,
        Step::Assign { count, .. } => *count as usize,
        Step::Undrain { eni } => view.enis.iter().find(|e| e.id == *eni).map_or(0, |e| e.counts.free),
        _ => 0,
    }
}

/// What was begun is carried on, whatever the targets: attach what was created, delete what was detached.
fn go_on(view: &View, plan: &mut Plan) {
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

/// Undrain, then assign where there is room, then create, until the deficit is covered or nothing is possible.
fn grow(view: &View, deficit: Deficit, per_eni: usize, now: Timestamp, plan: &mut Plan) {
    let mut left = undrain(view, deficit, plan);
    let most = view.ask_most.map_or(usize::MAX, |most| most as usize);
    if view.assign_refused.as_ref().is_none_or(|(until, _)| *until <= now) {
        for eni in view.enis.iter().filter(|e| e.state == EniState::InUse && !e.busy) {
            let room = per_eni.saturating_sub(total(&eni.counts) + eni.assigning as usize).min(most);
            if left.most() > 0 && room > 0 {
                // The whole room in one call: filling an ENI costs as much as adding one address to it.
                plan.steps.push(Step::Assign { eni: eni.id.clone(), count: as_u32(room) });
                left = left.less(room, 0);
            }
        }
    }
    let each = per_eni.min(most);
    if view.create_refused.as_ref().is_none_or(|(until, _)| *until <= now) && each > 0 {
        let wanted = if view.ask_most.is_some() { left.most().min(1) } else { left.most().div_ceil(each) };
        for _ in 0..slots(view).min(wanted) {
            plan.steps.push(Step::Create { secondary: as_u32(each) });
        }
    }
}

/// A draining ENI that is not given up yet is the cheapest: no call. What is missing after that.
fn undrain(view: &View, deficit: Deficit, plan: &mut Plan) -> Deficit {
    let mut left = deficit;
    let mut draining: Vec<&EniView> =
        view.enis.iter().filter(|e| e.state == EniState::Draining && !e.busy).collect();
    draining.sort_by_key(|e| std::cmp::Reverse(e.counts.free));
    for eni in draining {
        if left.most() == 0 {
            break;
        }
        plan.steps.retain(|step| *step != Step::Detach { eni: eni.id.clone() });
        plan.steps.push(Step::Undrain { eni: eni.id.clone() });
        left = left.less(eni.counts.free, eni.counts.cooling);
    }
    left
}

fn as_u32(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// How many more ENIs the instance carries, those under way counted.
fn slots(view: &View) -> usize {
    let there = view.enis.iter().filter(|e| !matches!(e.state, EniState::Deleting | EniState::Lost)).count();
    (view.limits.enis.min(MAX_ENI_NUMBER) as usize)
        .saturating_sub(there + view.creating.len() + view.foreign.len())
}

/// The true reason why nothing more comes.
fn why_not(view: &View, per_eni: usize, now: Timestamp) -> String {
    let refused = [&view.create_refused, &view.assign_refused].into_iter().flatten();
    let mut reasons: Vec<String> =
        refused.filter(|(until, _)| *until > now).map(|(_, why)| why.clone()).collect();
    if slots(view) == 0 {
        let others = match view.foreign.len() {
            0 => String::new(),
            n => format!(" ({n} of them are others')"),
        };
        reasons.push(format!(
            "the instance type carries {} ENIs{others} of {per_eni} secondary addresses, and has them",
            view.limits.enis
        ));
    }
    if reasons.is_empty() { "the pool cannot grow now".to_owned() } else { reasons.join("; ") }
}

/// An ENI too many is drained when there has been one for long enough: the emptiest, of these the last attached.
fn shrink(view: &View, targets: &Targets, supply: &Supply, per_eni: usize, now: Timestamp, plan: &mut Plan) {
    let warm = view.waiting + targets.warm_enis as usize * per_eni;
    let in_use = view.enis.iter().filter(|e| e.state == EniState::InUse && e.device_index != 0 && !e.busy);
    let spare = |eni: &&EniView| {
        let left = (supply.coming + supply.cooling).saturating_sub(eni.counts.free + eni.counts.cooling);
        let total = supply.total.saturating_sub(eni.counts.free + eni.counts.cooling);
        left >= warm && total >= targets.minimum_ip as usize
    };
    let Some(eni) =
        in_use.filter(spare).min_by_key(|e| (e.counts.allocated, std::cmp::Reverse(e.device_index)))
    else {
        return;
    };
    plan.surplus = true;
    let due = view.surplus_since.unwrap_or(now) + targets.release_after;
    if due <= now {
        plan.steps.push(Step::Drain { eni: eni.id.clone() });
    } else {
        plan.again = Some(due);
    }
}

#[cfg(test)]
mod tests;
