//! The planner against a model of a node: its steps are carried out until it has none left.
//!
//! Owns the properties: no limit is ever passed, nothing that is held or cools is given back, the steps come to an end,
//! and then nothing moves while nothing happens.

use super::*;
use proptest::prelude::*;

/// What is given back at once: a prefix, or all addresses outside of prefixes.
#[derive(Debug, Clone, Copy, Default)]
struct Group {
    free: usize,
    held: usize,
    cooling: usize,
}

#[derive(Debug, Clone)]
struct Eni {
    id: EniId,
    index: u32,
    subnet: SubnetId,
    state: EniState,
    seen: Seen,
    singles: Group,
    prefixes: Vec<Group>,
}

#[derive(Debug, Clone)]
struct Node {
    enis: Vec<Eni>,
    limits: InstanceLimits,
    targets: Targets,
    /// Subnets, and whether they have prefixes and addresses.
    subnets: Vec<(SubnetId, bool, bool)>,
    waiting: usize,
    made: u32,
}

impl Eni {
    fn groups(&self) -> impl Iterator<Item = &Group> {
        self.prefixes.iter().chain([&self.singles])
    }

    fn slots(&self) -> usize {
        self.prefixes.len() + self.singles.free + self.singles.held + self.singles.cooling
    }

    fn view(&self) -> EniView {
        let sum = |of: fn(&Group) -> usize| self.groups().map(of).sum::<usize>();
        EniView {
            id: self.id.clone(),
            subnet: self.subnet.clone(),
            device_index: self.index,
            state: self.state,
            counts: PoolCounts {
                free: sum(|g| g.free),
                allocated: sum(|g| g.held),
                cooling: sum(|g| g.cooling),
                quarantined: 0,
            },
            slots: self.slots(),
            free_singles: self.singles.free,
            free_prefixes: self.prefixes.iter().filter(|g| g.free == PER_PREFIX).count(),
            busy: false,
            held: false,
            seen: Some(self.seen),
            assigning: None,
            stuck: false,
        }
    }

    fn add(&mut self, amount: Amount) {
        match amount {
            Amount::Addresses(count) => self.singles.free += count as usize,
            Amount::Prefixes(count) => {
                let new = Group { free: PER_PREFIX, ..Group::default() };
                self.prefixes.extend(vec![new; count as usize]);
            }
        }
    }

    fn total(&self) -> usize {
        self.groups().map(|g| g.free + g.held + g.cooling).sum()
    }
}

impl Node {
    /// After the hysteresis, whatever there is too much of.
    fn view(&self) -> View {
        let refusal = |has: bool| (!has).then(|| (at(u64::from(u32::MAX)), "no".to_owned()));
        let refusals = self.subnets.iter().map(|(id, prefixes, addresses)| {
            let view = SubnetView {
                full: refusal(*addresses),
                no_prefix: refusal(*prefixes),
                ..SubnetView::default()
            };
            (id.clone(), view)
        });
        View {
            enis: self.enis.iter().map(Eni::view).collect(),
            subnets: self.subnets.iter().map(|(id, ..)| id.clone()).collect(),
            refusals: refusals.collect(),
            limits: self.limits.clone(),
            surplus_since: Some(at(0)),
            ..super::view(Vec::new(), self.waiting)
        }
    }

    fn plan(&self) -> Plan {
        plan(&self.view(), &self.targets, at(1_000_000))
    }

    fn eni(&mut self, id: &EniId) -> &mut Eni {
        self.enis.iter_mut().find(|e| e.id == *id).expect("a step names an ENI that is there")
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Create { subnet, amount } => {
                self.made += 1;
                let mut eni = Eni {
                    id: format!("eni-made-{}", self.made).parse().unwrap(),
                    index: 0,
                    subnet: subnet.clone(),
                    state: EniState::Attaching,
                    seen: Seen::Available,
                    singles: Group::default(),
                    prefixes: Vec::new(),
                };
                eni.add(*amount);
                self.enis.push(eni);
            }
            Step::Attach { eni, device_index } => {
                let eni = self.eni(eni);
                (eni.index, eni.state, eni.seen) = (*device_index, EniState::InUse, Seen::Attached);
            }
            Step::Assign { eni, amount } => self.eni(eni).add(*amount),
            Step::Unassign { eni, amount: Amount::Addresses(count) } => {
                let singles = &mut self.eni(eni).singles;
                singles.free = singles.free.checked_sub(*count as usize).expect("only free ones go");
            }
            Step::Unassign { eni, amount: Amount::Prefixes(count) } => {
                let prefixes = &mut self.eni(eni).prefixes;
                for _ in 0..*count {
                    let free = prefixes.iter().position(|g| g.free == PER_PREFIX);
                    prefixes.remove(free.expect("only wholly free ones go"));
                }
            }
            Step::Drain { eni } => self.eni(eni).state = EniState::Draining,
            Step::Undrain { eni } => self.eni(eni).state = EniState::InUse,
            Step::Detach { eni } | Step::Abandon { eni } => {
                let gone = self.eni(eni);
                assert!(gone.groups().all(|g| g.held + g.cooling == 0), "{gone:?} is held");
                (gone.state, gone.seen) = (EniState::Deleting, Seen::Available);
                gone.prefixes.clear();
                gone.singles = Group::default();
            }
            Step::DetachAgain { .. } => panic!("nothing is detached by others"),
            Step::Delete { eni } => self.enis.retain(|e| e.id != *eni),
        }
        self.serve();
    }

    /// Those who wait get what is free.
    fn serve(&mut self) {
        let usable = self.enis.iter_mut().filter(|e| e.state == EniState::InUse);
        for group in usable.flat_map(|e| e.prefixes.iter_mut().chain([&mut e.singles])) {
            let got = group.free.min(self.waiting);
            group.free -= got;
            group.held += got;
            self.waiting -= got;
        }
    }

    /// A pod comes or goes; false when there is none to.
    fn one_moves(&mut self, comes: bool) -> bool {
        let usable = self.enis.iter_mut().filter(|e| e.state == EniState::InUse);
        let mut groups = usable.flat_map(|e| e.prefixes.iter_mut().chain([&mut e.singles]));
        let Some(group) = groups.find(|g| if comes { g.free > 0 } else { g.held > 0 }) else { return false };
        (group.free, group.held) =
            if comes { (group.free - 1, group.held + 1) } else { (group.free + 1, group.held - 1) };
        true
    }

    fn hold_limits(&self, before: &Node) {
        let most = if self.targets.max_enis > 0 { self.targets.max_enis } else { 99 };
        let most = most.min(self.limits.enis) as usize;
        let enis = self.enis.iter().filter(|e| e.state != EniState::Deleting).count();
        assert!(enis <= most.max(before.enis.len()), "{enis} ENIs of {most}");
        for eni in &self.enis {
            let slots = self.limits.addresses_per_eni as usize - 1;
            assert!(eni.slots() <= slots, "{} slots of {slots}: {eni:?}", eni.slots());
        }
        let total = |node: &Node| node.enis.iter().map(Eni::total).sum::<usize>();
        let most = self.targets.max_pods as usize;
        assert!(most == 0 || total(self) <= most.max(total(before)), "{} addresses of {most}", total(self));
    }

    /// Carries steps out until there are none.
    fn settle(&mut self) {
        self.serve();
        for _ in 0..60 {
            let plan = self.plan();
            assert_eq!(self.plan(), plan, "the same view gives the same plan");
            if plan.steps.is_empty() {
                return;
            }
            for step in &plan.steps {
                let before = self.clone();
                self.take(step);
                self.hold_limits(&before);
            }
        }
        panic!("the steps do not come to an end: {:?}\n{self:#?}", self.plan().steps);
    }
}

fn targets() -> impl Strategy<Value = Targets> {
    let wants = (any::<bool>(), 0u32..3, prop::option::of(0u32..30), 0u32..4, 0u32..80);
    let caps = (0u32..5, prop_oneof![Just(0u32), 5u32..120], any::<bool>());
    (wants, caps).prop_map(|(wants, caps)| Targets {
        mode: if wants.0 { PoolMode::Prefixes } else { PoolMode::Addresses },
        warm_enis: wants.1,
        warm_ip: wants.2,
        warm_prefixes: wants.3,
        minimum_ip: if wants.4 < 40 { 0 } else { wants.4 },
        max_enis: caps.0,
        max_pods: caps.1,
        no_release: caps.2,
        release_after: Duration::ZERO,
    })
}

fn group(single: usize) -> impl Strategy<Value = Group> {
    (0..=single, 0..=single).prop_map(move |(held, cooling)| {
        let (held, cooling) = (held, cooling.min(single - held));
        Group { free: single - held - cooling, held, cooling }
    })
}

fn eni(index: u32, slots: usize) -> impl Strategy<Value = Eni> {
    let prefixes = prop::collection::vec(group(PER_PREFIX), 0..=slots.min(3));
    (prefixes, 0..=slots, 1u32..3).prop_flat_map(move |(prefixes, singles, at)| {
        let singles = singles.min(slots - prefixes.len());
        group(singles).prop_map(move |singles| Eni {
            id: format!("eni-{index}").parse().unwrap(),
            index,
            subnet: subnet(at),
            state: EniState::InUse,
            seen: Seen::Attached,
            singles,
            prefixes: prefixes.clone(),
        })
    })
}

fn node() -> impl Strategy<Value = Node> {
    let shape = (2u32..6, 2u32..12, any::<bool>(), 0usize..60);
    (shape, targets(), prop::collection::vec((any::<bool>(), prop::bool::weighted(0.8)), 2)).prop_flat_map(
        |((enis, each, prefixes, waiting), targets, subnets)| {
            let there = (0..enis).map(|index| eni(index, each as usize)).collect::<Vec<_>>();
            (there, 1..=enis as usize).prop_map(move |(mut there, count)| {
                there.truncate(count);
                let limits = InstanceLimits { prefixes, ..InstanceLimits::new(enis, each + 1) };
                let subnets = (1..).zip(&subnets).map(|(n, (p, a))| (subnet(n), *p, *a)).collect();
                Node { enis: there, limits, targets, subnets, waiting, made: 0 }
            })
        },
    )
}

proptest! {
    #[test]
    fn the_steps_keep_within_every_limit_and_come_to_an_end(mut node in node()) {
        node.settle();
        prop_assert_eq!(node.plan().steps, vec![], "nothing moves while nothing happens");
        if node.waiting > 0 {
            let short = node.plan().short;
            prop_assert!(short.is_some(), "{} wait for nothing: {:?}", node.waiting, node);
        }
    }

    #[test]
    fn what_is_under_way_is_not_asked_for_again(node in node()) {
        let mut view = node.view();
        let first = plan(&view, &node.targets, at(1_000_000));
        for step in &first.steps {
            match step {
                Step::Create { subnet, amount } => view.creating.push((subnet.clone(), *amount)),
                Step::Assign { eni, amount } => {
                    let eni = view.enis.iter_mut().find(|e| e.id == *eni).unwrap();
                    (eni.assigning, eni.busy) = (Some(*amount), true);
                }
                _ => return Ok(()),
            }
        }
        let second = plan(&view, &node.targets, at(1_000_000));
        prop_assert!(!second.steps.iter().any(Step::grows), "{:?} after {:?}", second.steps, first.steps);
        prop_assert_eq!(second.short.map(|(n, _)| n), first.short.map(|(n, _)| n));
    }

    #[test]
    fn who_comes_and_goes_within_the_slack_costs_no_call(
        mut node in node(), warm in 1u32..30, moves in prop::collection::vec(any::<bool>(), 1..40),
    ) {
        node.targets = Targets { warm_ip: Some(warm), minimum_ip: 0, max_pods: 0, no_release: false, ..node.targets };
        node.targets.mode = PoolMode::Addresses;
        node.subnets.iter_mut().for_each(|s| s.2 = true);
        node.settle();
        let slack = i64::from(warm.div_ceil(4).min(16));
        // From where growing ends; where shrinking never came there may be more than that.
        let free = |node: &Node| node.enis.iter().flat_map(Eni::groups).map(|g| g.free + g.cooling).sum::<usize>();
        if free(&node) as i64 != i64::from(warm) + slack {
            return Ok(());
        }
        let mut off = 0i64;
        for comes in moves {
            let by = if comes { -1 } else { 1 };
            if (off + by).abs() > slack {
                continue;
            }
            if !node.one_moves(comes) {
                continue;
            }
            off += by;
            let steps = node.plan().steps;
            let calls = steps.iter().filter(|s| !matches!(s, Step::Drain { .. } | Step::Undrain { .. } | Step::Detach { .. }));
            prop_assert_eq!(calls.count(), 0, "{:?} at {}", steps, off);
        }
    }
}
