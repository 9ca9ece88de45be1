//! The rules of EC2, call by call.

mod late;

use super::*;
use ipamd_core::cloud::{CloudErrorKind, EniScope, INSTANCE_TAG, Mutated, Mutation};

const START: Timestamp = Timestamp::from_millis(1_000);

fn at(ms: u64) -> Timestamp {
    Timestamp::from_millis(1_000 + ms)
}

/// 4 ENIs of 6 addresses; the primary has 2 secondary ones.
fn small() -> Ec2 {
    Ec2::boot(Setup { attach_ms: 100, detach_ms: 200, ..Setup::new("test.4x6", 2) }).unwrap()
}

fn create(ec2: &Ec2, secondary: u32, token: &str) -> Mutation {
    Mutation::Create {
        subnet: ec2.enis()[0].subnet.clone(),
        security_groups: ec2.setup().security_groups.clone(),
        secondary,
        prefixes: 0,
        tags: BTreeMap::from([(INSTANCE_TAG.to_owned(), ec2.instance().to_string())]),
        token: token.to_owned(),
    }
}

fn created(ec2: &mut Ec2, secondary: u32, token: &str) -> EniObservation {
    let mutation = create(ec2, secondary, token);
    match ec2.mutate(&mutation, None, START).unwrap() {
        Mutated::Created(eni) => eni,
        other => panic!("{other:?}"),
    }
}

fn attach(ec2: &Ec2, eni: &EniId, device_index: u32) -> Mutation {
    Mutation::Attach { eni: eni.clone(), instance: ec2.instance().clone(), device_index }
}

/// Creates an ENI and attaches it.
fn attached(ec2: &mut Ec2, secondary: u32, device_index: u32) -> EniId {
    let eni = created(ec2, secondary, &format!("attached-{device_index}")).id;
    let mutation = attach(ec2, &eni, device_index);
    assert_eq!(ec2.mutate(&mutation, None, START), Ok(Mutated::Done));
    ec2.tick(at(100));
    eni
}

fn refused(ec2: &mut Ec2, mutation: &Mutation) -> (String, CloudErrorKind) {
    let error = ec2.mutate(mutation, None, START).unwrap_err();
    assert_eq!(error.call, mutation.call());
    assert!(error.request_id.is_some());
    (error.code.unwrap(), error.kind)
}

fn status(ec2: &Ec2, id: &EniId) -> Option<EniAttachmentStatus> {
    let eni = ec2.enis().iter().find(|e| e.id == *id).unwrap();
    eni.attachment.as_ref().map(|a| a.status)
}

fn code(text: &str, kind: CloudErrorKind) -> (String, CloudErrorKind) {
    (text.to_owned(), kind)
}

#[test]
fn the_instance_boots_with_what_its_type_carries_and_no_more() {
    let ec2 = Ec2::boot(Setup::new("m5.large", 9)).unwrap();
    assert_eq!(ec2.enis()[0].secondary.len(), 9);
    assert_eq!(ec2.enis()[0].primary, Some(Ipv4Addr::new(10, 0, 1, 10)));
    assert!(matches!(
        Ec2::boot(Setup::new("m5.large", 10)),
        Err(SetupError::TooMany { most: 9, asked: 10, .. })
    ));
    let small = Setup { subnet: "10.0.1.0/28".parse().unwrap(), ..Setup::new("m5.large", 9) };
    let ec2 = Ec2::boot(small).unwrap();
    assert!(ec2.enis()[0].secondary.iter().all(|a| *a < Ipv4Addr::new(10, 0, 1, 15)), "never the last");
}

#[test]
fn a_new_eni_has_its_addresses_tags_and_groups_and_is_attached_to_nothing() {
    let mut ec2 = small();
    let eni = created(&mut ec2, 3, "a");
    assert_eq!((eni.secondary.len(), &eni.attachment), (3, &None));
    assert_eq!(eni.security_groups, ec2.setup().security_groups);
    let instance = ec2.instance().clone();
    let tagged = ec2.describe_enis(&EniScope::TaggedFor(instance.clone()), None, START).unwrap();
    assert_eq!(tagged, std::slice::from_ref(&eni), "the primary is not ours");
    let on_instance = ec2.describe_enis(&EniScope::AttachedTo(instance), None, START).unwrap();
    assert_eq!(on_instance.len(), 1);
    let other = created(&mut ec2, 0, "b");
    assert!(other.mac != eni.mac && other.id != eni.id && other.primary != eni.primary);
    let nobody = EniScope::TaggedFor("i-2".parse().unwrap());
    assert_eq!(ec2.describe_enis(&nobody, None, START).unwrap(), []);
}

#[test]
fn create_wants_a_known_subnet_and_known_groups() {
    let mut ec2 = small();
    let Mutation::Create { subnet, secondary, tags, .. } = create(&ec2, 0, "") else { unreachable!() };
    let make = |subnet: &SubnetId, groups: &[&str]| Mutation::Create {
        subnet: subnet.clone(),
        security_groups: groups.iter().map(|&g| g.to_owned()).collect(),
        secondary,
        prefixes: 0,
        tags: tags.clone(),
        token: String::new(),
    };
    let unknown = make(&"subnet-2".parse().unwrap(), &[]);
    assert_eq!(refused(&mut ec2, &unknown), code("InvalidSubnetID.NotFound", CloudErrorKind::NotFound));
    let unknown = make(&subnet, &["sg-2"]);
    assert_eq!(refused(&mut ec2, &unknown), code("InvalidGroup.NotFound", CloudErrorKind::NotFound));
    let Ok(Mutated::Created(eni)) = ec2.mutate(&make(&subnet, &[]), None, START) else { panic!() };
    assert_eq!(eni.security_groups, ec2.setup().security_groups[..1], "the default one");
}

#[test]
fn a_token_makes_one_eni_whatever_became_of_it() {
    let mut ec2 = small();
    let eni = created(&mut ec2, 2, "t");
    assert_eq!(created(&mut ec2, 2, "t"), eni);
    let grown = Mutation::Assign { eni: eni.id.clone(), count: 1, prefixes: 0 };
    ec2.mutate(&grown, None, START).unwrap();
    assert_eq!(created(&mut ec2, 2, "t").secondary.len(), 3, "as it is now");
    let other = create(&ec2, 3, "t");
    assert_eq!(refused(&mut ec2, &other), code("IdempotentParameterMismatch", CloudErrorKind::Other));
    ec2.mutate(&Mutation::Delete { eni: eni.id.clone() }, None, START).unwrap();
    assert_eq!(created(&mut ec2, 2, "t"), eni, "as it was made");
    assert_eq!(ec2.enis().len(), 1, "and nothing is made again");
    let attach_again = attach(&ec2, &eni.id, 1);
    let gone = code("InvalidNetworkInterfaceID.NotFound", CloudErrorKind::NotFound);
    assert_eq!(refused(&mut ec2, &attach_again), gone);
    assert_ne!(created(&mut ec2, 2, "").id, created(&mut ec2, 2, "").id, "no token, no idempotence");
}

#[test]
fn a_refused_create_uses_no_token_up() {
    let mut ec2 = small();
    ec2.set_subnet_free(Some(1));
    let mutation = create(&ec2, 2, "t");
    let full = code("InsufficientFreeAddressesInSubnet", CloudErrorKind::SubnetFull);
    assert_eq!(refused(&mut ec2, &mutation), full);
    assert_eq!(ec2.free_addresses(), 1, "all or nothing");
    ec2.set_subnet_free(None);
    assert_eq!(created(&mut ec2, 2, "t").secondary.len(), 2);
}

#[test]
fn attaching_and_detaching_take_their_time() {
    let mut ec2 = small();
    let eni = created(&mut ec2, 1, "a").id;
    let mutation = attach(&ec2, &eni, 1);
    assert_eq!(ec2.mutate(&mutation, None, START), Ok(Mutated::Done));
    assert_eq!(status(&ec2, &eni), Some(EniAttachmentStatus::Attaching));
    assert_eq!(
        refused(&mut ec2, &Mutation::Detach { eni: eni.clone(), attachment: None }).0,
        "IncorrectState"
    );
    assert_eq!(ec2.next_due(), Some(at(100)));
    assert_eq!(ec2.tick(at(99)), []);
    assert_eq!(ec2.due(at(100)), [Transition::Attached(eni.clone())]);
    assert_eq!(status(&ec2, &eni), Some(EniAttachmentStatus::Attaching), "until somebody says it is done");
    assert_eq!((ec2.present(at(99)).len(), ec2.present(at(100)).len()), (1, 2), "its link comes first");
    assert_eq!(ec2.tick(at(100)), [Transition::Attached(eni.clone())]);
    assert_eq!(status(&ec2, &eni), Some(EniAttachmentStatus::Attached));
    let in_use = code("InvalidNetworkInterface.InUse", CloudErrorKind::InUse);
    assert_eq!(refused(&mut ec2, &mutation), in_use, "not twice");
    let delete = Mutation::Delete { eni: eni.clone() };
    assert_eq!(refused(&mut ec2, &delete), in_use);
    let detach = Mutation::Detach { eni: eni.clone(), attachment: None };
    assert_eq!(ec2.mutate(&detach, None, at(200)), Ok(Mutated::Done));
    assert_eq!(status(&ec2, &eni), Some(EniAttachmentStatus::Detaching));
    assert_eq!(refused(&mut ec2, &detach), code("IncorrectState", CloudErrorKind::InUse));
    assert_eq!(refused(&mut ec2, &delete), in_use, "until it is available");
    assert_eq!(ec2.tick(at(399)), []);
    assert_eq!((ec2.present(at(399)).len(), ec2.present(at(400)).len()), (2, 1), "its link goes first");
    assert_eq!(ec2.tick(at(400)), [Transition::Detached(eni.clone())]);
    assert_eq!(status(&ec2, &eni), None);
    assert_eq!(refused(&mut ec2, &detach).0, "InvalidAttachmentID.NotFound");
    assert_eq!(ec2.mutate(&delete, None, at(401)), Ok(Mutated::Done));
    assert_eq!(
        refused(&mut ec2, &delete),
        code("InvalidNetworkInterfaceID.NotFound", CloudErrorKind::NotFound)
    );
    assert_eq!(ec2.next_due(), None);
}

#[test]
fn the_primary_stays() {
    let mut ec2 = small();
    let primary = ec2.enis()[0].clone();
    let detach = Mutation::Detach { eni: primary.id.clone(), attachment: None };
    assert_eq!(refused(&mut ec2, &detach), code("OperationNotPermitted", CloudErrorKind::Other));
    assert_eq!(refused(&mut ec2, &Mutation::Delete { eni: primary.id }).0, "InvalidNetworkInterface.InUse");
}

#[test]
fn attach_keeps_to_the_types_enis_and_to_free_device_indexes() {
    let mut ec2 = small();
    let first = attached(&mut ec2, 0, 1);
    let spare = created(&mut ec2, 0, "spare").id;
    let other = |device_index| Mutation::Attach {
        eni: spare.clone(),
        instance: "i-2".parse().unwrap(),
        device_index,
    };
    assert_eq!(refused(&mut ec2, &other(2)).0, "InvalidInstanceID.NotFound");
    for (device_index, why) in [(0, "taken"), (1, "taken"), (32, "no such one")] {
        let mutation = attach(&ec2, &spare, device_index);
        assert_eq!(refused(&mut ec2, &mutation).0, "InvalidParameterValue", "{why}");
    }
    attached(&mut ec2, 0, 2);
    attached(&mut ec2, 0, 3);
    let fifth = attach(&ec2, &spare, 4);
    assert_eq!(refused(&mut ec2, &fifth), code("AttachmentLimitExceeded", CloudErrorKind::LimitReached));
    ec2.mutate(&Mutation::Detach { eni: first, attachment: None }, None, at(500)).unwrap();
    assert_eq!(refused(&mut ec2, &fifth).0, "AttachmentLimitExceeded", "one on its way out still counts");
    ec2.tick(at(700));
    assert_eq!(ec2.mutate(&fifth, None, at(700)), Ok(Mutated::Done));
}

#[test]
fn addresses_keep_to_the_type_once_there_is_one() {
    let mut ec2 = small();
    let limit = code("PrivateIpAddressLimitExceeded", CloudErrorKind::LimitReached);
    let beyond_all = create(&ec2, 64, "x");
    assert_eq!(refused(&mut ec2, &beyond_all), limit, "no type carries 65");
    let large = created(&mut ec2, 63, "large").id;
    let mutation = attach(&ec2, &large, 1);
    assert_eq!(refused(&mut ec2, &mutation), limit, "test.4x6 carries 6");
    assert_eq!(refused(&mut ec2, &Mutation::Assign { eni: large, count: 1, prefixes: 0 }), limit);
    let eni = attached(&mut ec2, 3, 1);
    assert_eq!(
        refused(&mut ec2, &Mutation::Assign { eni: eni.clone(), count: 3, prefixes: 0 }),
        limit,
        "all or nothing"
    );
    assert_eq!(ec2.enis().last().unwrap().secondary.len(), 3);
    assert!(ec2.mutate(&Mutation::Assign { eni: eni.clone(), count: 2, prefixes: 0 }, None, START).is_ok());
    assert_eq!(refused(&mut ec2, &Mutation::Assign { eni, count: 1, prefixes: 0 }), limit);
    let mut large = Ec2::boot(Setup::new("bench.8x150", 149)).unwrap();
    assert_eq!(created(&mut large, 149, "x").secondary.len(), 149, "what the own type carries");
}

#[test]
fn assign_answers_the_new_addresses_and_unassign_wants_known_ones() {
    let mut ec2 = small();
    let eni = ec2.enis()[0].clone();
    let assign = |count| Mutation::Assign { eni: eni.id.clone(), count, prefixes: 0 };
    let Ok(Mutated::Assigned(new)) = ec2.mutate(&assign(2), None, START) else { panic!() };
    assert_eq!(new, [Ipv4Addr::new(10, 0, 1, 13), Ipv4Addr::new(10, 0, 1, 14)]);
    assert_eq!(ec2.enis()[0].secondary, [&eni.secondary[..], &new[..]].concat());
    assert_eq!(refused(&mut ec2, &assign(0)).0, "InvalidParameterValue");
    let unassign = |addresses: &[Ipv4Addr]| Mutation::Unassign {
        eni: eni.id.clone(),
        addresses: addresses.to_vec(),
        prefixes: Vec::new(),
    };
    let bad = code("InvalidParameterValue", CloudErrorKind::Other);
    assert_eq!(refused(&mut ec2, &unassign(&[eni.primary.unwrap()])), bad);
    assert_eq!(refused(&mut ec2, &unassign(&[new[0], Ipv4Addr::new(10, 0, 1, 99)])), bad);
    assert_eq!(refused(&mut ec2, &unassign(&[])).0, "MissingParameter");
    assert_eq!(ec2.enis()[0].secondary.len(), 4, "all or nothing");
    assert_eq!(ec2.mutate(&unassign(&[new[0], new[0]]), None, START), Ok(Mutated::Done));
    assert_eq!(refused(&mut ec2, &unassign(&[new[0]])), bad, "not twice");
    let unknown = Mutation::Assign { eni: "eni-2".parse().unwrap(), count: 1, prefixes: 0 };
    assert_eq!(refused(&mut ec2, &unknown).0, "InvalidNetworkInterfaceID.NotFound");
}

#[test]
fn a_released_address_comes_back_last() {
    let mut ec2 = small();
    let eni = ec2.enis()[0].clone();
    let free = ec2.free_addresses();
    let released = eni.secondary[0];
    let unassign =
        Mutation::Unassign { eni: eni.id.clone(), addresses: vec![released], prefixes: Vec::new() };
    ec2.mutate(&unassign, None, START).unwrap();
    assert_eq!(ec2.free_addresses(), free + 1);
    let gone = created(&mut ec2, 1, "a");
    ec2.mutate(&Mutation::Delete { eni: gone.id }, None, START).unwrap();
    let mut handed_out = Vec::new();
    while ec2.free_addresses() > 0 {
        let secondary = u32::try_from(ec2.free_addresses().min(64)).unwrap() - 1;
        let next = created(&mut ec2, secondary, "");
        handed_out.extend(next.primary);
        handed_out.extend(next.secondary);
    }
    assert_eq!(handed_out.len(), free + 1);
    assert_eq!(handed_out[free - 2..], [released, gone.primary.unwrap(), gone.secondary[0]]);
    let full = code("InsufficientFreeAddressesInSubnet", CloudErrorKind::SubnetFull);
    assert_eq!(refused(&mut ec2, &Mutation::Assign { eni: eni.id, count: 1, prefixes: 0 }), full);
}

#[test]
fn a_fault_strikes_before_the_effect_or_after_it() {
    let mut ec2 = small();
    let fault = |effect, count| Fault {
        call: "CreateNetworkInterface".into(),
        error: Some("InternalError".into()),
        delay_ms: 0,
        count,
        effect,
    };
    ec2.set_fault(fault(Effect::Before, 1));
    let mutation = create(&ec2, 1, "t");
    let taken = ec2.take_fault(mutation.call());
    assert_eq!(ec2.mutate(&mutation, taken.as_ref(), START).unwrap_err().kind, CloudErrorKind::Unreachable);
    assert_eq!(ec2.enis().len(), 1);
    assert_eq!(ec2.take_fault(mutation.call()), None, "used up");
    ec2.set_fault(fault(Effect::After, 1));
    let taken = ec2.take_fault(mutation.call());
    assert_eq!(ec2.mutate(&mutation, taken.as_ref(), START).unwrap_err().kind, CloudErrorKind::Unreachable);
    assert_eq!(ec2.enis().len(), 2, "it was done");
    let made = ec2.enis()[1].id.clone();
    assert_eq!(created(&mut ec2, 1, "t").id, made, "the token finds it");
    let outcomes: Vec<_> = ec2.journal().map(|e| (e.outcome.as_str(), e.lost.as_deref())).collect();
    assert_eq!(outcomes, [("InternalError", None), ("ok", Some("InternalError")), ("ok", None)]);
    ec2.set_fault(fault(Effect::After, 1));
    let taken = ec2.take_fault(mutation.call());
    let other = create(&ec2, 2, "t");
    let error = ec2.mutate(&other, taken.as_ref(), START).unwrap_err();
    assert_eq!(error.code.unwrap(), "IdempotentParameterMismatch", "what failed by itself says so");
}

#[test]
fn calls_are_journalled_counted_and_faults_are_used_up() {
    let mut ec2 = small();
    let scope = EniScope::AttachedTo(ec2.identity(None, at(5)).unwrap().instance);
    assert_eq!(ec2.describe_enis(&scope, None, at(5)).unwrap().len(), 1);
    assert_eq!(ec2.describe_limits("m5.huge", None, at(5)).unwrap_err().code.unwrap(), "InvalidInstanceType");
    let call = "DescribeNetworkInterfaces".to_owned();
    let error = Some("RequestLimitExceeded".to_owned());
    ec2.set_fault(Fault { call: call.clone(), error, delay_ms: 7, count: 1, effect: Effect::Before });
    let fault = ec2.take_fault(&call).unwrap();
    assert_eq!(fault.delay_ms, 7);
    let error = ec2.describe_enis(&scope, Some(&fault), at(6)).unwrap_err();
    assert_eq!(error.kind, CloudErrorKind::Throttled);
    assert_eq!(ec2.take_fault(&call), None);
    created(&mut ec2, 1, "t");
    let outcomes: Vec<&str> = ec2.journal().map(|e| e.outcome.as_str()).collect();
    assert_eq!(outcomes, ["ok", "ok", "InvalidInstanceType", "RequestLimitExceeded", "ok"]);
    let last = ec2.journal().last().unwrap();
    assert!(last.parameters.contains("SecondaryPrivateIpAddressCount=1"), "{}", last.parameters);
    assert!(last.parameters.contains("ClientToken=t"), "{}", last.parameters);
    assert_eq!((ec2.calls()[&call], ec2.calls()["CreateNetworkInterface"]), (2, 1));
}

#[test]
fn the_whole_state_survives_as_data() {
    let mut ec2 = small();
    attached(&mut ec2, 2, 1);
    let pending = created(&mut ec2, 0, "p").id;
    let mutation = attach(&ec2, &pending, 2);
    ec2.mutate(&mutation, None, at(300)).unwrap();
    let text = serde_json::to_string(&ec2).unwrap();
    let mut again: Ec2 = serde_json::from_str(&text).unwrap();
    assert_eq!(again, ec2);
    assert_eq!(again.tick(at(400)), [Transition::Attached(pending)]);
}
