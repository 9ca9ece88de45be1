//! What others do, what is told late, what hangs: rules that no caller sees in one call.

use super::*;
use std::time::Duration;

/// A time when there is a past.
const HOUR: Timestamp = Timestamp::from_millis(3_600_000);

fn after(ms: u64) -> Timestamp {
    HOUR + Duration::from_millis(ms)
}

fn prefix_node(kind: &str) -> Ec2 {
    Ec2::boot(Setup::new(kind, 0)).unwrap()
}

fn told(ec2: &mut Ec2, now: Timestamp) -> Vec<EniId> {
    let scope = EniScope::TaggedFor(ec2.instance().clone());
    ec2.describe_enis(&scope, None, now).unwrap().into_iter().map(|eni| eni.id).collect()
}

fn prefixed(ec2: &mut Ec2, prefixes: u32, token: &str) -> EniId {
    let mut mutation = create(ec2, 0, token);
    if let Mutation::Create { prefixes: asked, .. } = &mut mutation {
        *asked = prefixes;
    }
    let Mutated::Created(eni) = ec2.mutate(&mutation, None, START).unwrap() else { panic!() };
    eni.id
}

#[test]
fn only_nitro_and_bare_metal_types_take_prefixes_once_there_is_a_type() {
    let mut xen = prefix_node("test.4x6");
    let primary = xen.enis()[0].id.clone();
    let assign = Mutation::Assign { eni: primary, count: 0, prefixes: 1 };
    assert_eq!(refused(&mut xen, &assign), code("UnsupportedOperation", CloudErrorKind::Other));
    let free = xen.free_addresses();
    let loose = prefixed(&mut xen, 1, "p");
    assert_eq!(xen.free_addresses(), free - 17, "attached to nothing it has no type");
    let mutation = attach(&xen, &loose, 1);
    assert_eq!(refused(&mut xen, &mutation).0, "UnsupportedOperation");
    let mut nitro = prefix_node("test.4x6p");
    let loose = prefixed(&mut nitro, 6, "p");
    let mutation = attach(&nitro, &loose, 1);
    assert_eq!(refused(&mut nitro, &mutation).0, "PrivateIpAddressLimitExceeded", "six and its own");
    nitro.mutate(&Mutation::Delete { eni: loose }, None, START).unwrap();
    assert_eq!(nitro.free_prefixes(), 14, "they come back whole; own addresses have broken none");
}

#[test]
fn a_create_that_finds_no_prefix_takes_no_address_either() {
    let mut ec2 = prefix_node("test.4x6p");
    ec2.set_fragmented(true);
    let free = ec2.free_addresses();
    let mut mutation = create(&ec2, 0, "p");
    if let Mutation::Create { prefixes, .. } = &mut mutation {
        *prefixes = 1;
    }
    let exhausted = code("InsufficientCidrBlocks", CloudErrorKind::PrefixesExhausted);
    assert_eq!(refused(&mut ec2, &mutation), exhausted);
    assert_eq!(ec2.free_addresses(), free);
    ec2.set_subnet_free(Some(15));
    let too_few = code("InvalidParameterValue", CloudErrorKind::PrefixesExhausted);
    assert_eq!(refused(&mut ec2, &mutation), too_few, "fewer addresses than a prefix has");
}

#[test]
fn describes_tell_the_past_and_calls_see_the_present() {
    let mut ec2 = small();
    ec2.set_lags(Lags { describe_ms: 500, ..Lags::default() });
    let mutation = create(&ec2, 1, "t");
    let Mutated::Created(eni) = ec2.mutate(&mutation, None, HOUR).unwrap() else { panic!() };
    assert_eq!(told(&mut ec2, after(499)), []);
    assert_eq!(told(&mut ec2, after(500)), std::slice::from_ref(&eni.id));
    let mutation = Mutation::Delete { eni: eni.id.clone() };
    ec2.mutate(&mutation, None, after(600)).unwrap();
    assert_eq!(
        told(&mut ec2, after(1_099)),
        std::slice::from_ref(&eni.id),
        "a deleted one is told for a while"
    );
    assert_eq!(ec2.mutate(&mutation, None, after(1_000)).unwrap_err().kind, CloudErrorKind::NotFound);
    assert_eq!(told(&mut ec2, after(1_100)), []);
    ec2.set_lags(Lags { describe_primary_ms: 1_000, ..Lags::default() });
    let mutation = create(&ec2, 1, "u");
    ec2.mutate(&mutation, None, after(2_000)).unwrap();
    let scope = EniScope::TaggedFor(ec2.instance().clone());
    let own = |ec2: &mut Ec2, at| ec2.describe_enis(&scope, None, after(at)).unwrap()[0].primary;
    assert_eq!(own(&mut ec2, 2_999), None);
    assert!(own(&mut ec2, 3_000).is_some());
}

#[test]
fn metadata_lags_both_ways_and_addresses_come_after_their_eni() {
    let mut ec2 = small();
    ec2.set_lags(Lags { metadata_attach_ms: 100, metadata_addresses_ms: 300, ..Lags::default() });
    let mutation = create(&ec2, 1, "t");
    let Mutated::Created(eni) = ec2.mutate(&mutation, None, HOUR).unwrap() else { panic!() };
    let mutation = attach(&ec2, &eni.id, 1);
    ec2.mutate(&mutation, None, after(1_000)).unwrap();
    ec2.tick(after(1_100));
    let addresses = |ec2: &Ec2, at| {
        let all = ec2.metadata(after(at));
        all.into_iter().find(|(told, _)| told.mac == eni.mac).map(|(told, _)| told.addresses.len())
    };
    assert_eq!(addresses(&ec2, 1_099), None);
    assert_eq!(addresses(&ec2, 1_100), Some(0), "a tree without local-ipv4s");
    assert_eq!(addresses(&ec2, 1_300), Some(2));
    let mutation = Mutation::Assign { eni: eni.id.clone(), count: 1, prefixes: 0 };
    ec2.mutate(&mutation, None, after(2_000)).unwrap();
    assert_eq!((addresses(&ec2, 2_299), addresses(&ec2, 2_300)), (Some(2), Some(3)));
    ec2.mutate(&Mutation::Detach { eni: eni.id.clone(), attachment: None }, None, after(3_000)).unwrap();
    ec2.tick(after(3_200));
    assert_eq!((addresses(&ec2, 3_299), addresses(&ec2, 3_300)), (Some(3), None), "gone as late");
}

#[test]
fn gaps_end_by_themselves_or_when_they_are_ended() {
    let mut ec2 = small();
    let eni = created(&mut ec2, 1, "t");
    let gap = |kind, for_ms| Gap { eni: eni.id.clone(), kind, for_ms };
    ec2.set_gap(gap(GapKind::DescribeEni, Some(100)), HOUR);
    assert_eq!(told(&mut ec2, after(99)), []);
    assert_eq!(told(&mut ec2, after(100)), std::slice::from_ref(&eni.id));
    ec2.set_gap(gap(GapKind::DescribeEni, None), HOUR);
    assert_eq!(told(&mut ec2, after(1_000_000)), []);
    ec2.set_gap(gap(GapKind::DescribeEni, Some(0)), HOUR);
    assert_eq!(told(&mut ec2, HOUR), std::slice::from_ref(&eni.id));
    let primary = ec2.enis()[0].id.clone();
    for (kind, left) in [(GapKind::MetadataAddresses, Some(0)), (GapKind::MetadataEni, None)] {
        ec2.set_gap(Gap { eni: primary.clone(), kind, for_ms: None }, HOUR);
        let first = ec2.metadata(HOUR).into_iter().next().map(|(told, _)| told.addresses.len());
        assert_eq!(first, left, "{kind:?}");
    }
}

#[test]
fn a_detaching_that_hangs_ends_by_force_or_when_it_is_let_go() {
    let mut ec2 = small();
    let (first, second) = (attached(&mut ec2, 0, 1), attached(&mut ec2, 0, 2));
    ec2.set_stuck_detach(true, at(300));
    for eni in [&first, &second] {
        ec2.mutate(&Mutation::Detach { eni: eni.clone(), attachment: None }, None, at(300)).unwrap();
    }
    assert_eq!(ec2.tick(at(1_000_000)), []);
    let detach = Mutation::Detach { eni: first.clone(), attachment: None };
    assert_eq!(refused(&mut ec2, &detach).0, "IncorrectState", "without force");
    let force = Extra { force: true, ..Extra::default() };
    ec2.mutate_with(&detach, &force, None, at(1_000_000)).unwrap();
    assert_eq!(ec2.tick(at(1_000_000)), [Transition::Detached(first)]);
    let last = ec2.journal().last().unwrap();
    assert!(last.parameters.ends_with("Force=true"), "{}", last.parameters);
    ec2.set_stuck_detach(false, at(1_000_100));
    assert_eq!(ec2.tick(at(1_000_100)), [Transition::Detached(second)]);
}

#[test]
fn a_detach_names_an_attachment_and_an_old_one_is_not_found() {
    let mut ec2 = small();
    let eni = attached(&mut ec2, 0, 1);
    let named =
        |attachment: &str| Mutation::Detach { eni: eni.clone(), attachment: Some(attachment.to_owned()) };
    assert_eq!(
        refused(&mut ec2, &named("eni-attach-old")),
        code("InvalidAttachmentID.NotFound", CloudErrorKind::NotFound)
    );
    let own = ec2.enis()[1].attachment.clone().unwrap().id.unwrap();
    assert_eq!(ec2.mutate(&named(&own), None, at(200)), Ok(Mutated::Done));
}

#[test]
fn enis_of_others_take_up_indexes_and_room_on_their_card_alone() {
    let mut ec2 = small();
    let other = |device_index, network_card, kind: &str| OtherEni {
        device_index,
        network_card,
        kind: kind.to_owned(),
        tags: BTreeMap::new(),
        secondary: 0,
        prefixes: 0,
        delete_on_termination: true,
    };
    ec2.add_other(&other(Some(1), 0, "trunk"), HOUR).unwrap();
    ec2.add_other(&other(Some(1), 1, EFA_ONLY), HOUR).unwrap();
    ec2.add_other(&other(None, 0, "interface"), HOUR).unwrap();
    assert!(matches!(ec2.add_other(&other(Some(1), 0, "interface"), HOUR), Err(SetupError::Other(_))));
    let eni = created(&mut ec2, 0, "t").id;
    let mutation = attach(&ec2, &eni, 1);
    assert_eq!(refused(&mut ec2, &mutation).0, "InvalidParameterValue", "the trunk has it");
    ec2.add_other(&other(Some(2), 0, "interface"), HOUR).unwrap();
    ec2.add_other(&other(Some(3), 0, "interface"), HOUR).unwrap();
    let mutation = attach(&ec2, &eni, 4);
    assert_eq!(refused(&mut ec2, &mutation).0, "AttachmentLimitExceeded");
    assert_eq!(ec2.journal().count(), 3, "others' calls are not in it");
}

#[test]
fn what_is_set_and_what_was_survive_as_data() {
    let mut ec2 = prefix_node("test.4x6p");
    let eni = prefixed(&mut ec2, 2, "p");
    ec2.set_lags(Lags { describe_ms: 5, release_ms: 50, ..Lags::default() });
    ec2.set_throttling(Throttling::Published);
    ec2.set_denied(["DeleteNetworkInterface".to_owned()].into());
    ec2.set_gap(Gap { eni: eni.clone(), kind: GapKind::DescribePrimary, for_ms: None }, HOUR);
    let prefixes = ec2.enis()[1].prefixes.clone();
    ec2.mutate(&Mutation::Unassign { eni, addresses: Vec::new(), prefixes }, None, HOUR).unwrap();
    let text = serde_json::to_string(&ec2).unwrap();
    let mut again: Ec2 = serde_json::from_str(&text).unwrap();
    assert_eq!(again, ec2);
    assert_eq!((told(&mut again, after(5)), told(&mut ec2, after(5))).0.len(), 1);
    assert_eq!(again.free_prefixes(), 12, "not back yet");
    told(&mut again, after(50));
    assert_eq!(again.free_prefixes(), 14);
}
