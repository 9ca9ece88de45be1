//! How much is enough.
//!
//! Owns what counts as there or coming, and the targets in addresses. Does not say how the difference is made good.

use super::{Amount, PER_PREFIX, PoolMode, Targets, View, total};
use crate::record::EniState;

/// The most addresses that recent demand keeps warm, with prefixes: what lies on four of them costs one call.
const RECENT_MOST: usize = 4 * PER_PREFIX;
/// The most addresses that are asked for beyond `warm_ip` at once.
const SLACK_MOST: usize = 16;

/// What there is and what is coming.
#[derive(Debug, Clone, Copy)]
pub(super) struct Supply {
    /// Free now or soon, on ENIs that are or will be in use.
    pub(super) coming: usize,
    /// Released, free after their cooldown.
    pub(super) cooling: usize,
    /// Addresses that count for the minimum: held ones, and those above.
    pub(super) total: usize,
    /// Held, or kept out of use, wherever they are.
    held: usize,
    /// Every address that the pool has or is getting.
    pub(super) all: usize,
}

impl Supply {
    pub(super) fn of(view: &View) -> Supply {
        let mut supply = Supply { coming: 0, cooling: 0, total: 0, held: 0, all: 0 };
        for eni in &view.enis {
            supply.all += total(&eni.counts) + eni.assigning();
            supply.held += eni.counts.allocated + eni.counts.quarantined;
            if eni.stuck {
                continue;
            }
            match eni.state {
                EniState::Attaching | EniState::InUse => {
                    supply.coming += eni.counts.free + eni.assigning();
                    supply.cooling += eni.counts.cooling;
                    supply.total += total(&eni.counts) + eni.assigning();
                }
                EniState::Draining | EniState::Lost => {
                    supply.total += eni.counts.allocated + eni.counts.quarantined;
                }
                EniState::Detaching | EniState::Deleting => {}
            }
        }
        let created: usize = view.creating.iter().map(|(_, amount)| amount.addresses()).sum();
        supply.coming += created;
        supply.total += created;
        supply.all += created;
        supply
    }

    /// Free ones, now or after their cooldown: what the warm targets count.
    pub(super) fn have(&self) -> usize {
        self.coming + self.cooling
    }
}

/// The targets, in addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Goal {
    /// So many are kept free, beside those that are waited for.
    pub(super) warm: usize,
    /// So many there are at least, held ones included.
    pub(super) minimum: usize,
    /// So many more are asked for when some are missing, and so many more are kept before some go back: whoever comes and
    /// goes within that costs no call.
    pub(super) slack: usize,
    /// An ENI that is asked for anything is filled: that costs as much as adding one address to it.
    pub(super) whole: bool,
    /// New slots are filled with prefixes, where a subnet has some.
    pub(super) prefixes: bool,
}

impl Goal {
    pub(super) fn of(view: &View, targets: &Targets, supply: &Supply) -> Goal {
        let prefixes = targets.mode == PoolMode::Prefixes && view.limits.prefixes;
        let counted = targets.warm_ip.is_some() || targets.minimum_ip > 0;
        let (warm, slack) = if counted {
            let warm = targets.warm_ip.unwrap_or(0) as usize;
            (warm, warm.div_ceil(4).min(SLACK_MOST))
        } else if prefixes {
            let warm = targets.warm_prefixes as usize * PER_PREFIX;
            // Who wants nothing warm gets nothing for yesterday's demand.
            let recent = if warm > 0 { view.recent.min(RECENT_MOST) } else { 0 };
            (warm.max(recent), 0)
        } else {
            (targets.warm_enis as usize * view.per_eni(), 0)
        };
        let minimum = targets.minimum_ip as usize;
        let whole = !counted && !prefixes;
        match targets.max_pods as usize {
            0 => Goal { warm, minimum, slack, whole, prefixes },
            most => {
                let warm = warm.min(most.saturating_sub(supply.held + view.waiting));
                Goal { warm, minimum: minimum.min(most), slack, whole, prefixes }
            }
        }
    }

    /// How many addresses should be free.
    pub(super) fn needed(&self, view: &View) -> usize {
        view.waiting + self.warm
    }

    pub(super) fn deficit(&self, view: &View, supply: &Supply) -> Deficit {
        let (needed, have) = (self.needed(view), supply.have());
        let warm = if have < needed { needed + self.slack - have } else { 0 };
        let minimum = self.minimum.saturating_sub(supply.total);
        Deficit { demand: view.waiting.saturating_sub(supply.coming), targets: warm.max(minimum) }
    }
}

/// How many addresses are missing: for ADDs that wait, which nothing but a free one serves, and for the targets, to which
/// one that cools down counts, too.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deficit {
    demand: usize,
    targets: usize,
}

impl Deficit {
    pub(super) fn most(self) -> usize {
        self.demand.max(self.targets)
    }

    pub(super) fn less(self, free: usize, cooling: usize) -> Deficit {
        Deficit {
            demand: self.demand.saturating_sub(free),
            targets: self.targets.saturating_sub(free + cooling),
        }
    }
}

impl Amount {
    pub(super) fn new(prefixes: bool, count: usize) -> Amount {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        if prefixes { Amount::Prefixes(count) } else { Amount::Addresses(count) }
    }
}
