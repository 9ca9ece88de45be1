//! What is given back when there is too much.
//!
//! Owns which ENI is drained, and how much is unassigned from which. One thing at a time, and only after there has been too
//! much for long enough; what is held, kept out of use or cooling is never counted as given back. Does not choose the
//! addresses: the pool does.

use super::goal::{Goal, Supply};
use super::{Amount, EniView, PER_PREFIX, Plan, Step, Targets, View, patience};
use crate::record::EniState;
use crate::time::Timestamp;
use std::cmp::Reverse;

/// An ENI too many goes whole; else free addresses or prefixes go, where these are counted.
pub(super) fn shrink(
    view: &View,
    targets: &Targets,
    goal: Goal,
    supply: &Supply,
    now: Timestamp,
    plan: &mut Plan,
) {
    let mut steps: Vec<Step> = Vec::new();
    if let Some(eni) = eni_too_many(view, goal, supply) {
        steps.push(Step::Drain { eni: eni.id.clone() });
    } else {
        unassign(view, goal, over(targets, supply), supply, &mut steps);
    }
    if steps.is_empty() {
        return;
    }
    plan.surplus = true;
    let due = view.surplus_since.unwrap_or(now) + patience(targets, view.regret);
    if due <= now {
        plan.steps.append(&mut steps);
    } else {
        plan.again = Some(due);
    }
}

/// The emptiest secondary ENI without whose addresses the targets are met; of several the last attached.
fn eni_too_many<'a>(view: &'a View, goal: Goal, supply: &Supply) -> Option<&'a EniView> {
    let spare = |eni: &&EniView| {
        let counts = eni.counts;
        let gone = counts.free + counts.cooling;
        let left = supply.have().saturating_sub(gone);
        let met = left >= goal.needed(view) + goal.slack
            && supply.total.saturating_sub(gone) >= goal.minimum
            && supply.have() >= gone;
        // Where single addresses go back, an ENI that is held from keeps what it has; one that has nothing to spare stays.
        let unheld = counts.allocated + counts.quarantined == 0;
        met && if goal.whole { unheld || gone > 0 } else { unheld }
    };
    let usable = |e: &&EniView| e.state == EniState::InUse && e.device_index != 0 && !e.busy && !e.stuck;
    let enis = view.enis.iter().filter(usable);
    enis.filter(spare).min_by_key(|e| (e.counts.allocated, Reverse(e.device_index)))
}

/// How many addresses the pool has beyond the most that it may have.
fn over(targets: &Targets, supply: &Supply) -> usize {
    match targets.max_pods as usize {
        0 => 0,
        most => supply.all.saturating_sub(most),
    }
}

fn unassign(view: &View, goal: Goal, over: usize, supply: &Supply, steps: &mut Vec<Step>) {
    let beyond = supply.have().saturating_sub(goal.needed(view) + goal.slack);
    let beyond = beyond.min(supply.total.saturating_sub(goal.minimum));
    // Prefixes come whole: what is left over of one is not too much.
    let enough = if goal.prefixes { beyond >= PER_PREFIX } else { true };
    let mut spare = if !goal.whole && beyond > goal.slack && enough { beyond } else { 0 };
    let mut over = over;
    let mut enis: Vec<&EniView> =
        view.enis.iter().filter(|e| e.state == EniState::InUse && !e.busy && !e.stuck).collect();
    // The emptiest first: the others are what addresses are handed out from.
    enis.sort_by_key(|e| (e.counts.allocated, Reverse(e.device_index)));
    for eni in enis {
        let prefixes = (spare / PER_PREFIX).max(over.div_ceil(PER_PREFIX)).min(eni.free_prefixes);
        let singles = spare.max(over).min(eni.free_singles);
        let amount = match (prefixes, singles) {
            (0, 0) => continue,
            (0, singles) => Amount::new(false, singles),
            (prefixes, _) => Amount::new(true, prefixes),
        };
        spare = spare.saturating_sub(amount.addresses());
        over = over.saturating_sub(amount.addresses());
        steps.push(Step::Unassign { eni: eni.id.clone(), amount });
    }
}
