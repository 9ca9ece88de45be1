//! What is asked of EC2 when something is missing.
//!
//! Owns the order (a draining ENI is taken back, an ENI with room is filled, an ENI is created), the kind of what is asked
//! for in each subnet, and the words for why nothing more comes. Every ENI gets what it gets by one call, and calls on
//! different ENIs go side by side; what an ENI can still take after the call that is under way is waited for, not asked
//! for elsewhere.

use super::goal::{Deficit, Goal, Supply};
use super::{Amount, EniView, PER_PREFIX, Plan, Step, SubnetView, Targets, View, free_places, most_enis};
use crate::record::EniState;
use crate::time::Timestamp;
use eni_proto::ids::SubnetId;
use std::collections::BTreeSet;

/// Growing, as far as it is.
struct Growing<'a> {
    view: &'a View,
    goal: Goal,
    now: Timestamp,
    /// What is still missing.
    left: Deficit,
    /// How many more addresses the pool may have.
    cap: usize,
}

/// What a subnet can be asked for.
struct Offer {
    prefixes: bool,
    /// The most addresses of one call, and the most prefixes.
    most: (usize, usize),
}

/// Undrains, then assigns where there is room, then creates, until the deficit is covered or nothing is possible. How many
/// addresses ENIs can take as soon as what is under way with them has ended: nobody has to be told that nothing comes.
pub(super) fn grow(
    view: &View,
    targets: &Targets,
    goal: Goal,
    deficit: Deficit,
    supply: &Supply,
    now: Timestamp,
    plan: &mut Plan,
) -> usize {
    let cap = cap(targets, supply);
    let mut growing = Growing { view, goal, now, left: undrain(view, deficit, plan), cap };
    let changing = |e: &EniView| e.state == EniState::InUse && e.busy;
    let soon = growing.wait_for(changing);
    let then = growing.assign(plan);
    let later = growing.wait_for(|e| e.state == EniState::Attaching) + growing.wait_for_creates();
    let then = then + growing.create(free_places(view, targets), plan);
    soon + then + later
}

fn cap(targets: &Targets, supply: &Supply) -> usize {
    match targets.max_pods as usize {
        0 => usize::MAX,
        most => most.saturating_sub(supply.all),
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
        let undrain = Step::Undrain { eni: eni.id.clone() };
        plan.steps.retain(|step| *step != Step::Detach { eni: eni.id.clone() } && *step != undrain);
        plan.steps.push(undrain);
        left = left.less(eni.counts.free, eni.counts.cooling);
    }
    left
}

impl Growing<'_> {
    fn offer(&self, subnet: &SubnetId) -> Option<Offer> {
        let none = SubnetView::default();
        let refused = self.view.refusals.get(subnet).unwrap_or(&none);
        if holds(refused.full.as_ref(), self.now) {
            return None;
        }
        let most = |most: Option<u32>| most.map_or(usize::MAX, |most| most as usize);
        let prefixes = self.goal.prefixes && !holds(refused.no_prefix.as_ref(), self.now);
        Some(Offer { prefixes, most: (most(refused.most), most(refused.most_prefixes)) })
    }

    /// What one call asks for where so many slots are free; nothing when that would be nothing.
    fn amount(&self, room: usize, offer: &Offer) -> Option<Amount> {
        let missing = self.left.most();
        if missing == 0 {
            return None;
        }
        if offer.prefixes {
            let count = missing.div_ceil(PER_PREFIX).min(room).min(offer.most.1).min(self.cap / PER_PREFIX);
            if count > 0 {
                return Some(Amount::new(true, count));
            }
            // Fewer than a prefix are left below the most that the pool may have: single ones.
        }
        let wanted = match (self.goal.whole, offer.prefixes) {
            (true, _) => room,
            (false, true) => self.cap,
            (false, false) => missing,
        };
        let count = wanted.min(room).min(offer.most.0).min(self.cap);
        (count > 0).then(|| Amount::new(false, count))
    }

    fn take(&mut self, amount: Amount) {
        self.left = self.left.less(amount.addresses(), 0);
        self.cap = self.cap.saturating_sub(amount.addresses());
    }

    /// What ENIs can take as soon as what is under way with them has ended is not asked for elsewhere.
    fn wait_for(&mut self, which: impl Fn(&EniView) -> bool) -> usize {
        let per_eni = self.view.per_eni();
        let enis = self.view.enis.iter().filter(|e| which(e) && !e.held && !e.stuck);
        let room = enis.map(|e| self.takes(&e.subnet, e.room(per_eni))).sum();
        self.expect(room)
    }

    fn wait_for_creates(&mut self) -> usize {
        let per_eni = self.view.per_eni();
        let room = |(subnet, amount): &(SubnetId, Amount)| {
            self.takes(subnet, per_eni.saturating_sub(amount.slots()))
        };
        let room = self.view.creating.iter().map(room).sum();
        self.expect(room)
    }

    /// How many addresses so many slots are worth in a subnet. One that is asked for less and less is not counted on.
    fn takes(&self, subnet: &SubnetId, room: usize) -> usize {
        match self.offer(subnet) {
            Some(offer) if offer.prefixes && offer.most.1 == usize::MAX => {
                let whole = room.min(self.cap / PER_PREFIX);
                whole * PER_PREFIX + (room - whole).min(self.cap - whole * PER_PREFIX)
            }
            Some(offer) if !offer.prefixes && offer.most.0 == usize::MAX => room,
            _ => 0,
        }
    }

    fn expect(&mut self, room: usize) -> usize {
        let room = room.min(self.cap);
        self.left = self.left.less(room, 0);
        self.cap -= room;
        room
    }

    /// Fills ENIs; what they can take after that call is waited for, too.
    fn assign(&mut self, plan: &mut Plan) -> usize {
        if holds(self.view.assign_refused.as_ref(), self.now) {
            return 0;
        }
        let per_eni = self.view.per_eni();
        let mut enis: Vec<&EniView> =
            self.view.enis.iter().filter(|e| e.state == EniState::InUse && !e.busy && !e.stuck).collect();
        // The fullest first, as addresses are handed out: the others drain.
        enis.sort_by_key(|e| (std::cmp::Reverse(e.counts.allocated), e.device_index));
        let mut then = 0;
        for eni in enis {
            let room = eni.room(per_eni);
            let amount = self.offer(&eni.subnet).and_then(|offer| self.amount(room, &offer));
            if let Some(amount) = amount {
                plan.steps.push(Step::Assign { eni: eni.id.clone(), amount });
                self.take(amount);
                then += self.expect(self.takes(&eni.subnet, room.saturating_sub(amount.slots())));
            }
        }
        then
    }

    fn create(&mut self, places: usize, plan: &mut Plan) -> usize {
        let mut then = 0;
        if holds(self.view.create_refused.as_ref(), self.now) {
            return then;
        }
        let per_eni = self.view.per_eni();
        // A subnet that had not as many as were asked for is asked by one call at a time.
        let mut asked: BTreeSet<&SubnetId> = self.view.creating.iter().map(|(subnet, _)| subnet).collect();
        for _ in 0..places {
            let found = self.view.subnets.iter().find_map(|subnet| {
                let offer = self.offer(subnet)?;
                let limit = if offer.prefixes { offer.most.1 } else { offer.most.0 };
                if limit != usize::MAX && asked.contains(subnet) {
                    return None;
                }
                self.amount(per_eni, &offer).map(|amount| (subnet, amount))
            });
            let Some((subnet, amount)) = found else { break };
            asked.insert(subnet);
            plan.steps.push(Step::Create { subnet: subnet.clone(), amount });
            self.take(amount);
            then += self.expect(self.takes(subnet, per_eni.saturating_sub(amount.slots())));
        }
        then
    }
}

fn holds(refused: Option<&(Timestamp, String)>, now: Timestamp) -> bool {
    refused.is_some_and(|(until, _)| *until > now)
}

/// The true reason why nothing more comes than the `creates` ENIs that are planned.
pub(super) fn why_not(
    view: &View,
    targets: &Targets,
    supply: &Supply,
    creates: usize,
    now: Timestamp,
) -> String {
    let general = [&view.create_refused, &view.assign_refused].into_iter().flatten();
    let used: BTreeSet<&SubnetId> =
        view.subnets.iter().chain(view.enis.iter().map(|eni| &eni.subnet)).collect();
    let of_subnets = used.into_iter().filter_map(|subnet| view.refusals.get(subnet));
    let of_subnets = of_subnets.flat_map(|refused| refused.full.iter().chain(&refused.no_prefix));
    let refused = general.chain(of_subnets).filter(|(until, _)| *until > now);
    let mut reasons: Vec<String> = Vec::new();
    for (_, why) in refused {
        if !reasons.contains(why) {
            reasons.push(why.clone());
        }
    }
    if cap(targets, supply) == 0 {
        reasons
            .push(format!("capacity.max_pods is {}, and the pool has as many addresses", targets.max_pods));
    }
    if free_places(view, targets) <= creates {
        let others = match view.foreign.len() {
            0 => String::new(),
            n => format!(" ({n} of them are others')"),
        };
        let most = most_enis(view, targets);
        let who = if most < view.limits.enis && targets.max_enis > 0 {
            format!("capacity.max_enis allows {most}")
        } else {
            format!("the instance type carries {}", view.limits.enis)
        };
        let slots = if targets.mode == super::PoolMode::Prefixes && view.limits.prefixes {
            "secondary addresses or prefixes"
        } else {
            "secondary addresses"
        };
        reasons.push(format!("{who} ENIs{others} of {} {slots}, and the node has them", view.per_eni()));
    }
    if reasons.is_empty() { "the pool cannot grow now".to_owned() } else { reasons.join("; ") }
}
