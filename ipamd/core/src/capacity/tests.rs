//! Sizing: demand, warm targets, minimum, limits, refusals, hysteresis. What comes of many steps is `model`'s.

mod model;

use super::*;

fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn subnet(number: u32) -> SubnetId {
    format!("subnet-{number}").parse().unwrap()
}

fn prefixed() -> Targets {
    Targets { mode: PoolMode::Prefixes, ..Targets::default() }
}

fn eni(index: u32, state: EniState, free: usize, allocated: usize) -> EniView {
    EniView {
        id: format!("eni-{index}").parse().unwrap(),
        subnet: subnet(1),
        device_index: index,
        state,
        counts: PoolCounts { free, allocated, ..PoolCounts::default() },
        slots: free + allocated,
        free_singles: free,
        free_prefixes: 0,
        busy: false,
        held: false,
        seen: Some(Seen::Attached),
        assigning: None,
        stuck: false,
    }
}

/// One with so many prefixes, wholly free or wholly held.
fn with_prefixes(index: u32, free: usize, held: usize) -> EniView {
    let counts = PoolCounts { free: free * 16, allocated: held * 16, ..PoolCounts::default() };
    let bare = eni(index, EniState::InUse, 0, 0);
    EniView { counts, slots: free + held, free_singles: 0, free_prefixes: free, ..bare }
}

/// m5.4xlarge: 8 ENIs of 30 addresses, the primary included.
fn view(enis: Vec<EniView>, waiting: usize) -> View {
    View {
        enis,
        subnets: vec![subnet(1)],
        refusals: BTreeMap::new(),
        foreign: BTreeSet::new(),
        waiting,
        cooled: 0,
        recent: 0,
        creating: Vec::new(),
        limits: InstanceLimits { prefixes: true, ..InstanceLimits::new(8, 30) },
        create_refused: None,
        assign_refused: None,
        surplus_since: None,
        regret: 0,
    }
}

fn creates(plan: &Plan) -> usize {
    plan.steps.iter().filter(|s| matches!(s, Step::Create { .. })).count()
}

fn assign(index: u32, amount: Amount) -> Step {
    Step::Assign { eni: format!("eni-{index}").parse().unwrap(), amount }
}

fn unassign(index: u32, amount: Amount) -> Step {
    Step::Unassign { eni: format!("eni-{index}").parse().unwrap(), amount }
}

fn create(number: u32, amount: Amount) -> Step {
    Step::Create { subnet: subnet(number), amount }
}

#[test]
fn a_full_primary_is_the_warm_target_and_the_first_pod_asks_for_one_more() {
    let targets = Targets::default();
    assert_eq!(plan(&view(vec![eni(0, EniState::InUse, 29, 0)], 0), &targets, at(0)), Plan::default());
    let first = plan(&view(vec![eni(0, EniState::InUse, 28, 1)], 0), &targets, at(0));
    assert_eq!(first.steps, [create(1, Amount::Addresses(29))]);
    let mut under_way = view(vec![eni(0, EniState::InUse, 28, 1)], 0);
    under_way.creating.push((subnet(1), Amount::Addresses(29)));
    assert_eq!(plan(&under_way, &targets, at(0)).steps, [], "what is under way counts as there");
}

#[test]
fn a_burst_is_met_in_one_step_and_what_the_type_cannot_carry_is_told() {
    let targets = Targets::default();
    let burst = plan(&view(vec![eni(0, EniState::InUse, 0, 29)], 150), &targets, at(0));
    assert_eq!((creates(&burst), &burst.short), (7, &None), "6 for the demand, 1 warm");
    let too_many = plan(&view(vec![eni(0, EniState::InUse, 0, 29)], 210), &targets, at(0));
    let (short, why) = too_many.short.clone().unwrap();
    assert_eq!((creates(&too_many), short), (7, 7));
    assert!(why.contains("cannot grow") || why.contains("carries"), "{why}");
}

#[test]
fn a_burst_costs_one_call_where_prefixes_are() {
    let burst = plan(&view(vec![with_prefixes(0, 0, 1)], 150), &prefixed(), at(0));
    assert_eq!(burst.steps, [assign(0, Amount::Prefixes(11))], "150 and 16 warm");
    let mut small = view(vec![with_prefixes(0, 0, 3)], 20);
    small.limits.addresses_per_eni = 4;
    let grown = plan(&small, &prefixed(), at(0));
    assert_eq!(grown.steps, [create(1, Amount::Prefixes(3))], "the ENI's slots are full");
    let mut plain = view(vec![eni(0, EniState::InUse, 0, 0)], 0);
    plain.limits.prefixes = false;
    let single = plan(&plain, &prefixed(), at(0)).steps;
    assert_eq!(single, [assign(0, Amount::Addresses(29))], "a type without prefixes is filled as ever");
}

#[test]
fn a_refusal_is_the_reason_until_it_ends() {
    let targets = Targets::default();
    let mut full = view(vec![eni(0, EniState::InUse, 0, 29)], 2);
    full.create_refused = Some((at(30_000), "RequestLimitExceeded".into()));
    let refused = plan(&full, &targets, at(0));
    assert_eq!(refused.steps, []);
    assert_eq!(refused.short, Some((2, "RequestLimitExceeded".into())));
    assert!(creates(&plan(&full, &targets, at(30_000))) > 0);
}

#[test]
fn a_full_subnet_waits_by_itself_and_each_is_named() {
    let targets = Targets { warm_enis: 0, ..Targets::default() };
    let mut two = view(vec![eni(0, EniState::InUse, 5, 20)], 40);
    two.subnets = vec![subnet(1), subnet(2)];
    let full = |why: &str| SubnetView { full: Some((at(30_000), why.into())), ..SubnetView::default() };
    two.refusals.insert(subnet(1), full("subnet-1 is full"));
    let other = plan(&two, &targets, at(0));
    assert_eq!(other.steps, [create(2, Amount::Addresses(29)), create(2, Amount::Addresses(29))]);
    two.refusals.insert(subnet(2), full("subnet-2 is full"));
    let (short, why) = plan(&two, &targets, at(0)).short.unwrap();
    assert_eq!((short, why.as_str()), (35, "subnet-1 is full; subnet-2 is full"));
    let again = plan(&two, &targets, at(30_000)).steps;
    assert_eq!(
        again,
        [assign(0, Amount::Addresses(4)), create(1, Amount::Addresses(29)), create(1, Amount::Addresses(29))]
    );
}

#[test]
fn a_subnet_without_a_prefix_gives_single_addresses_until_it_is_asked_again() {
    let mut one = view(vec![with_prefixes(0, 0, 2)], 5);
    let refused = SubnetView { no_prefix: Some((at(120_000), "no /28".into())), ..SubnetView::default() };
    one.refusals.insert(subnet(1), refused);
    assert_eq!(plan(&one, &prefixed(), at(0)).steps, [assign(0, Amount::Addresses(21))]);
    assert_eq!(plan(&one, &prefixed(), at(120_000)).steps, [assign(0, Amount::Prefixes(2))]);
    one.refusals.insert(subnet(1), SubnetView { most_prefixes: Some(1), ..SubnetView::default() });
    let fewer = plan(&one, &prefixed(), at(0));
    assert_eq!((fewer.steps[0].clone(), &fewer.short), (assign(0, Amount::Prefixes(1)), &None));
}

#[test]
fn room_on_an_eni_is_filled_before_another_is_created() {
    let some = plan(&view(vec![eni(0, EniState::InUse, 5, 0)], 0), &Targets::default(), at(0));
    assert_eq!(some.steps, [assign(0, Amount::Addresses(24))]);
}

#[test]
fn counted_addresses_are_asked_for_as_counted_and_override_the_others() {
    let counted =
        Targets { warm_ip: Some(5), minimum_ip: 10, warm_enis: 3, warm_prefixes: 3, ..Targets::default() };
    let first = plan(&view(vec![eni(0, EniState::InUse, 0, 0)], 0), &counted, at(0));
    assert_eq!(first.steps, [assign(0, Amount::Addresses(10))], "the minimum");
    let enough = plan(&view(vec![eni(0, EniState::InUse, 5, 7)], 0), &counted, at(0));
    assert_eq!(enough, Plan::default());
    let fewer = plan(&view(vec![eni(0, EniState::InUse, 4, 8)], 0), &counted, at(0));
    assert_eq!(fewer.steps, [assign(0, Amount::Addresses(3))], "to 5 and 2 more");
    let of_prefixes = Targets { mode: PoolMode::Prefixes, ..counted };
    let grown = plan(&view(vec![with_prefixes(0, 0, 1)], 0), &of_prefixes, at(0));
    assert_eq!(grown.steps, [assign(0, Amount::Prefixes(1))]);
    let only_minimum = Targets { minimum_ip: 10, ..Targets::default() };
    assert_eq!(plan(&view(vec![eni(0, EniState::InUse, 0, 10)], 0), &only_minimum, at(0)).steps, []);
}

#[test]
fn twenty_who_wait_cost_one_call_and_those_who_come_meanwhile_wait_for_it() {
    let counted = Targets { warm_ip: Some(1), ..Targets::default() };
    let mut busy = view(vec![eni(0, EniState::InUse, 0, 5), eni(1, EniState::InUse, 0, 2)], 20);
    let all = plan(&busy, &counted, at(0));
    assert_eq!(all.steps, [assign(0, Amount::Addresses(22))], "20, one warm, and one more");
    busy.enis[0].busy = true;
    busy.enis[0].assigning = Some(Amount::Addresses(3));
    let later = plan(&busy, &counted, at(0));
    assert_eq!((later.steps, later.short), (vec![], None));
    busy.enis[0].held = true;
    busy.enis[0].assigning = None;
    assert_eq!(plan(&busy, &counted, at(0)).steps, [assign(1, Amount::Addresses(22))], "it was refused");
}

#[test]
fn more_than_one_eni_holds_is_asked_for_side_by_side() {
    let counted = Targets { warm_ip: Some(0), ..Targets::default() };
    let enis = vec![eni(0, EniState::InUse, 0, 25), eni(1, EniState::InUse, 0, 20)];
    let steps = plan(&view(enis, 40), &counted, at(0)).steps;
    let wanted =
        [assign(0, Amount::Addresses(4)), assign(1, Amount::Addresses(9)), create(1, Amount::Addresses(27))];
    assert_eq!(steps, wanted, "each filled by one call");
}

#[test]
fn recent_demand_keeps_prefixes_warm_within_bounds() {
    let mut busy = view(vec![with_prefixes(0, 1, 1)], 0);
    busy.recent = 40;
    assert_eq!(plan(&busy, &prefixed(), at(0)).steps, [assign(0, Amount::Prefixes(2))]);
    busy.recent = 1000;
    assert_eq!(plan(&busy, &prefixed(), at(0)).steps, [assign(0, Amount::Prefixes(3))], "64 at most");
    let counted = Targets { warm_ip: Some(2), ..prefixed() };
    assert_eq!(plan(&busy, &counted, at(0)).steps, [], "who counts addresses gets as many as counted");
    assert_eq!(plan(&busy, &Targets { warm_prefixes: 0, ..prefixed() }, at(0)).steps, []);
    assert_eq!(creates(&plan(&view(vec![eni(0, EniState::InUse, 29, 0)], 0), &Targets::default(), at(0))), 0);
}

#[test]
fn the_pool_is_never_larger_than_the_operator_allows() {
    let capped = Targets { max_pods: 40, ..Targets::default() };
    let grown = plan(&view(vec![eni(0, EniState::InUse, 0, 29)], 30), &capped, at(0));
    assert_eq!(grown.steps, [create(1, Amount::Addresses(11))]);
    let (short, why) = grown.short.unwrap();
    assert_eq!(short, 19);
    assert!(why.contains("cannot grow"), "{why}: the next plan has the reason");
    let full = vec![eni(0, EniState::InUse, 0, 29), eni(1, EniState::InUse, 0, 11)];
    let (_, why) = plan(&view(full, 1), &capped, at(0)).short.unwrap();
    assert_eq!(why, "capacity.max_pods is 40, and the pool has as many addresses");
    let of_prefixes = Targets { max_pods: 40, ..prefixed() };
    let two = plan(&view(vec![with_prefixes(0, 0, 1)], 24), &of_prefixes, at(0)).steps;
    assert_eq!(two, [assign(0, Amount::Prefixes(1))]);
    let rest = plan(&view(vec![with_prefixes(0, 0, 2)], 8), &of_prefixes, at(0)).steps;
    assert_eq!(rest, [assign(0, Amount::Addresses(8))], "less than a prefix is left");
    let mut over = view(vec![eni(0, EniState::InUse, 20, 25)], 0);
    over.surplus_since = Some(at(0));
    assert_eq!(plan(&over, &capped, at(60_000)).steps, [unassign(0, Amount::Addresses(5))]);
}

#[test]
fn the_most_enis_are_the_operators_or_the_types() {
    let two = Targets { max_enis: 2, ..Targets::default() };
    let grown = plan(&view(vec![eni(0, EniState::InUse, 0, 29)], 60), &two, at(0));
    assert_eq!(creates(&grown), 1);
    let full = vec![eni(0, EniState::InUse, 0, 29), eni(1, EniState::InUse, 0, 29)];
    let (_, why) = plan(&view(full.clone(), 1), &two, at(0)).short.unwrap();
    assert_eq!(why, "capacity.max_enis allows 2 ENIs of 29 secondary addresses, and the node has them");
    assert_eq!(creates(&plan(&view(full, 1), &Targets { max_enis: 99, ..two }, at(0))), 2);
}

#[test]
fn an_eni_too_many_is_drained_after_the_hysteresis_and_given_back() {
    let targets = Targets::default();
    let enis = || vec![eni(0, EniState::InUse, 29, 0), eni(1, EniState::InUse, 29, 0)];
    let first = plan(&view(enis(), 0), &targets, at(1_000));
    assert!(first.surplus && first.steps.is_empty());
    assert_eq!(first.again, Some(at(61_000)));
    let mut later = view(enis(), 0);
    later.surplus_since = Some(at(1_000));
    assert_eq!(plan(&later, &targets, at(61_000)).steps, [Step::Drain { eni: "eni-1".parse().unwrap() }]);
    later.regret = 1;
    assert_eq!(plan(&later, &targets, at(61_000)).again, Some(at(121_000)), "it was too soon the last time");
    later.regret = 0;
    let kept = Targets { no_release: true, ..targets };
    assert_eq!(plan(&later, &kept, at(61_000)).steps, []);
    let draining = vec![eni(0, EniState::InUse, 29, 0), eni(1, EniState::Draining, 29, 0)];
    assert_eq!(
        plan(&view(draining.clone(), 0), &targets, at(0)).steps,
        [Step::Detach { eni: "eni-1".parse().unwrap() }]
    );
    let undrained = plan(&view(draining, 0), &kept, at(0)).steps;
    assert_eq!(undrained, [Step::Undrain { eni: "eni-1".parse().unwrap() }], "nothing is given back");
    let held = vec![eni(0, EniState::InUse, 29, 0), eni(1, EniState::Draining, 28, 1)];
    assert_eq!(plan(&view(held, 0), &targets, at(0)).steps, [], "what it holds is kept");
}

#[test]
fn free_addresses_and_free_prefixes_go_back_where_they_are_counted() {
    let counted = Targets { warm_ip: Some(4), ..Targets::default() };
    let mut over = view(vec![eni(0, EniState::InUse, 3, 20), eni(1, EniState::InUse, 12, 2)], 0);
    assert_eq!(plan(&over, &counted, at(0)).again, Some(at(60_000)));
    over.surplus_since = Some(at(0));
    let steps = plan(&over, &counted, at(60_000)).steps;
    assert_eq!(steps, [unassign(1, Amount::Addresses(10))], "to 4 and 1 more, from the emptiest");
    over.enis[1].counts.free = 2;
    over.enis[1].free_singles = 2;
    assert_eq!(plan(&over, &counted, at(60_000)), Plan::default(), "within the slack nothing moves");
    let mut prefixes = view(vec![with_prefixes(0, 3, 1)], 0);
    prefixes.surplus_since = Some(at(0));
    assert_eq!(plan(&prefixes, &prefixed(), at(60_000)).steps, [unassign(0, Amount::Prefixes(2))]);
    prefixes.enis[0].free_prefixes = 1;
    assert_eq!(plan(&prefixes, &prefixed(), at(60_000)).steps, [unassign(0, Amount::Prefixes(1))]);
    prefixes.enis[0].free_prefixes = 0;
    assert_eq!(plan(&prefixes, &prefixed(), at(60_000)).steps, [], "none is wholly free");
    let kept = Targets { no_release: true, ..counted };
    assert_eq!(plan(&over, &kept, at(60_000)).steps, []);
}

#[test]
fn demand_takes_a_draining_eni_back_before_anything_is_asked_of_ec2() {
    let enis = vec![eni(0, EniState::InUse, 0, 29), eni(1, EniState::Draining, 29, 0)];
    let back = plan(&view(enis, 3), &Targets { warm_enis: 0, ..Targets::default() }, at(0));
    assert_eq!(back.steps, [Step::Undrain { eni: "eni-1".parse().unwrap() }]);
    assert_eq!(back.short, None);
}

#[test]
fn what_cools_down_serves_nobody_who_waits() {
    let mut draining = eni(1, EniState::Draining, 4, 0);
    draining.counts.cooling = 5;
    let few = plan(
        &view(vec![eni(0, EniState::InUse, 0, 29), draining], 5),
        &Targets { warm_enis: 0, ..Targets::default() },
        at(0),
    );
    assert_eq!((creates(&few), &few.short), (1, &None), "four of five are on the draining one");
}

#[test]
fn a_subnet_with_few_addresses_is_asked_for_few() {
    let mut few = view(vec![eni(0, EniState::InUse, 0, 1)], 3);
    few.refusals.insert(subnet(1), SubnetView { most: Some(2), ..SubnetView::default() });
    let asked = plan(&few, &Targets::default(), at(0));
    assert_eq!(asked.steps[0], assign(0, Amount::Addresses(2)));
    assert_eq!((creates(&asked), asked.short), (1, None));
}

#[test]
fn what_can_never_be_used_is_no_supply() {
    let mut stuck = eni(1, EniState::InUse, 29, 0);
    stuck.stuck = true;
    let more = plan(&view(vec![eni(0, EniState::InUse, 0, 29), stuck], 1), &Targets::default(), at(0));
    assert!(creates(&more) > 0, "an ENI whose link does not come serves nobody");
    let full = (1..8).map(|index| eni(index, EniState::InUse, 0, 29));
    let mut late = eni(9, EniState::Attaching, 29, 0);
    late.seen = Some(Seen::Available);
    let late = [eni(0, EniState::InUse, 0, 29)].into_iter().chain(full).chain([late]).collect();
    let given_up = plan(&view(late, 0), &Targets::default(), at(0)).steps;
    assert_eq!(given_up[0], Step::Abandon { eni: "eni-9".parse().unwrap() }, "others took the last place");
}

#[test]
fn what_was_begun_is_carried_on() {
    let mut created = eni(0, EniState::Attaching, 29, 0);
    created.id = "eni-new".parse().unwrap();
    created.seen = Some(Seen::Available);
    let mut lost = eni(2, EniState::Detaching, 0, 0);
    lost.seen = Some(Seen::Attached);
    let mut detached = eni(3, EniState::Deleting, 0, 0);
    detached.seen = Some(Seen::Available);
    let mut all = view(vec![eni(0, EniState::InUse, 29, 0), created, lost, detached], 0);
    all.foreign.insert(1);
    let steps = plan(&all, &Targets::default(), at(0)).steps;
    assert_eq!(
        steps,
        [
            Step::Attach { eni: "eni-new".parse().unwrap(), device_index: 3 },
            Step::DetachAgain { eni: "eni-2".parse().unwrap() },
            Step::Delete { eni: "eni-3".parse().unwrap() },
        ]
    );
    for one in &mut all.enis {
        one.busy = true;
    }
    assert_eq!(plan(&all, &Targets::default(), at(0)).steps, [], "one change of an ENI at a time");
}
