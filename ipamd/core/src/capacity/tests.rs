//! Sizing: demand, warm target, minimum, limits, refusals, hysteresis.

use super::*;
use proptest::prelude::*;

fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn targets() -> Targets {
    Targets { warm_enis: 1, minimum_ip: 0, no_release: false, release_after: Duration::from_secs(60) }
}

fn eni(index: u32, state: EniState, free: usize, allocated: usize) -> EniView {
    EniView {
        id: format!("eni-{index}").parse().unwrap(),
        device_index: index,
        state,
        counts: PoolCounts { free, allocated, ..PoolCounts::default() },
        busy: false,
        seen: Some(Seen::Attached),
        assigning: 0,
        stuck: false,
    }
}

/// m5.4xlarge: 8 ENIs of 30 addresses, the primary included.
fn view(enis: Vec<EniView>, waiting: usize) -> View {
    View {
        enis,
        foreign: BTreeSet::new(),
        waiting,
        cooled: 0,
        creating: Vec::new(),
        limits: InstanceLimits::new(8, 30),
        create_refused: None,
        assign_refused: None,
        ask_most: None,
        surplus_since: None,
    }
}

fn creates(plan: &Plan) -> usize {
    plan.steps.iter().filter(|s| matches!(s, Step::Create { .. })).count()
}

#[test]
fn a_full_primary_is_the_warm_target_and_the_first_pod_asks_for_one_more() {
    assert_eq!(plan(&view(vec![eni(0, EniState::InUse, 29, 0)], 0), &targets(), at(0)), Plan::default());
    let first = plan(&view(vec![eni(0, EniState::InUse, 28, 1)], 0), &targets(), at(0));
    assert_eq!(first.steps, [Step::Create { secondary: 29 }]);
    let mut under_way = view(vec![eni(0, EniState::InUse, 28, 1)], 0);
    under_way.creating.push(29);
    assert_eq!(plan(&under_way, &targets(), at(0)).steps, [], "what is under way counts as there");
}

#[test]
fn a_burst_is_met_in_one_step_and_what_the_type_cannot_carry_is_told() {
    let burst = plan(&view(vec![eni(0, EniState::InUse, 0, 29)], 150), &targets(), at(0));
    assert_eq!((creates(&burst), &burst.short), (7, &None), "6 for the demand, 1 warm");
    let too_many = plan(&view(vec![eni(0, EniState::InUse, 0, 29)], 210), &targets(), at(0));
    let (short, why) = too_many.short.unwrap();
    assert_eq!((creates(&Plan { steps: too_many.steps, ..Plan::default() }), short), (7, 7));
    assert!(why.contains("cannot grow") || why.contains("carries"), "{why}");
}

#[test]
fn a_refusal_is_the_reason_until_it_ends() {
    let mut full = view(vec![eni(0, EniState::InUse, 0, 29)], 2);
    full.create_refused = Some((at(30_000), "subnet-1 has no free address".into()));
    let refused = plan(&full, &targets(), at(0));
    assert_eq!(refused.steps, []);
    assert_eq!(refused.short, Some((2, "subnet-1 has no free address".into())));
    assert!(creates(&plan(&full, &targets(), at(30_000))) > 0);
}

#[test]
fn room_on_an_eni_is_filled_before_another_is_created() {
    let some = plan(&view(vec![eni(0, EniState::InUse, 5, 0)], 0), &targets(), at(0));
    assert_eq!(some.steps, [Step::Assign { eni: "eni-0".parse().unwrap(), count: 24 }]);
}

#[test]
fn an_eni_too_many_is_drained_after_the_hysteresis_and_given_back() {
    let enis = || vec![eni(0, EniState::InUse, 29, 0), eni(1, EniState::InUse, 29, 0)];
    let first = plan(&view(enis(), 0), &targets(), at(1_000));
    assert!(first.surplus && first.steps.is_empty());
    assert_eq!(first.again, Some(at(61_000)));
    let mut later = view(enis(), 0);
    later.surplus_since = Some(at(1_000));
    assert_eq!(plan(&later, &targets(), at(61_000)).steps, [Step::Drain { eni: "eni-1".parse().unwrap() }]);
    let kept = Targets { no_release: true, ..targets() };
    assert_eq!(plan(&later, &kept, at(61_000)).steps, []);
    let draining = vec![eni(0, EniState::InUse, 29, 0), eni(1, EniState::Draining, 29, 0)];
    assert_eq!(
        plan(&view(draining, 0), &targets(), at(0)).steps,
        [Step::Detach { eni: "eni-1".parse().unwrap() }]
    );
    let held = vec![eni(0, EniState::InUse, 29, 0), eni(1, EniState::Draining, 28, 1)];
    assert_eq!(plan(&view(held, 0), &targets(), at(0)).steps, [], "what it holds is kept");
}

#[test]
fn demand_takes_a_draining_eni_back_before_anything_is_asked_of_ec2() {
    let enis = vec![eni(0, EniState::InUse, 0, 29), eni(1, EniState::Draining, 29, 0)];
    let back = plan(&view(enis, 3), &Targets { warm_enis: 0, ..targets() }, at(0));
    assert_eq!(back.steps, [Step::Undrain { eni: "eni-1".parse().unwrap() }]);
    assert_eq!(back.short, None);
}

#[test]
fn what_cools_down_serves_nobody_who_waits() {
    let mut draining = eni(1, EniState::Draining, 4, 0);
    draining.counts.cooling = 5;
    let few = plan(
        &view(vec![eni(0, EniState::InUse, 0, 29), draining], 5),
        &Targets { warm_enis: 0, ..targets() },
        at(0),
    );
    assert_eq!((creates(&few), &few.short), (1, &None), "four of five are on the draining one");
}

#[test]
fn a_subnet_with_few_addresses_is_asked_for_few() {
    let mut few = view(vec![eni(0, EniState::InUse, 0, 1)], 3);
    few.ask_most = Some(2);
    let asked = plan(&few, &targets(), at(0));
    assert_eq!(asked.steps[0], Step::Assign { eni: "eni-0".parse().unwrap(), count: 2 });
    assert_eq!((creates(&asked), asked.short), (1, None));
}

#[test]
fn what_can_never_be_used_is_no_supply() {
    let mut stuck = eni(1, EniState::InUse, 29, 0);
    stuck.stuck = true;
    let more = plan(&view(vec![eni(0, EniState::InUse, 0, 29), stuck], 1), &targets(), at(0));
    assert!(creates(&more) > 0, "an ENI whose link does not come serves nobody");
    let full = (1..8).map(|index| eni(index, EniState::InUse, 0, 29));
    let mut late = eni(9, EniState::Attaching, 29, 0);
    late.seen = Some(Seen::Available);
    let late = [eni(0, EniState::InUse, 0, 29)].into_iter().chain(full).chain([late]).collect();
    let given_up = plan(&view(late, 0), &targets(), at(0)).steps;
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
    let steps = plan(&all, &targets(), at(0)).steps;
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
    assert_eq!(plan(&all, &targets(), at(0)).steps, [], "one change of an ENI at a time");
}

proptest! {
    #[test]
    fn sizing_is_idempotent_and_never_beyond_the_limits(
        primary in 0usize..30, others in prop::collection::vec((0usize..30, 0usize..30), 0..7),
        waiting in 0usize..300, warm in 0u32..3, minimum in 0u32..260,
    ) {
        let targets = Targets { warm_enis: warm, minimum_ip: minimum, ..targets() };
        let mut enis = vec![eni(0, EniState::InUse, 29 - primary.min(29), primary.min(29))];
        for (n, (free, held)) in others.iter().enumerate() {
            enis.push(eni(n as u32 + 1, EniState::InUse, (*free).min(29 - (*held).min(29)), (*held).min(29)));
        }
        let mut view = view(enis, waiting);
        let first = plan(&view, &targets, at(0));
        prop_assert!(view.enis.len() + creates(&first) <= 8);
        for step in &first.steps {
            match step {
                Step::Create { secondary } => view.creating.push(*secondary),
                Step::Assign { eni, count } => {
                    let eni = view.enis.iter_mut().find(|e| e.id == *eni).unwrap();
                    prop_assert!(total(&eni.counts) + *count as usize <= 29);
                    eni.assigning += count;
                    eni.busy = true;
                }
                _ => {}
            }
        }
        let second = plan(&view, &targets, at(0));
        prop_assert_eq!(second.steps, vec![], "the same view, with what is under way, wants nothing more");
        prop_assert_eq!(second.short.map(|(n, _)| n), first.short.map(|(n, _)| n));
    }
}
