//! Each disagreement of EC2, the metadata service and the store.

use super::*;
use crate::cloud::{EniAttachment, PLAIN_INTERFACE};
use crate::time::Timestamp;
use eni_proto::ids::MacAddr;

fn instance() -> InstanceId {
    "i-1".parse().unwrap()
}

fn observation(device_index: u32, secondary: &[u8]) -> EniObservation {
    let at = EniAttachment {
        instance: instance(),
        device_index,
        status: EniAttachmentStatus::Attached,
        id: None,
        network_card: 0,
        delete_on_termination: true,
    };
    EniObservation {
        id: format!("eni-{device_index}").parse().unwrap(),
        mac: MacAddr([2, 0, 0, 0, 0, 1]),
        subnet: "subnet-1".parse().unwrap(),
        subnet_cidr: "10.0.1.0/24".parse().unwrap(),
        primary: Some(Ipv4Addr::new(10, 0, 1, 10)),
        secondary: secondary.iter().map(|n| Ipv4Addr::new(10, 0, 1, *n)).collect(),
        prefixes: Vec::new(),
        attachment: Some(at),
        security_groups: Vec::new(),
        tags: BTreeMap::new(),
        private_dns_name: None,
        kind: PLAIN_INTERFACE.to_owned(),
    }
}

fn ours(mut eni: EniObservation) -> EniObservation {
    eni.tags.insert(INSTANCE_TAG.into(), "i-1".into());
    eni
}

fn look(pool: &Pool, enis: &[EniObservation]) -> SyncPlan {
    look_with(pool, enis, |_| {})
}

/// A look that also tells other things.
fn look_with(pool: &Pool, enis: &[EniObservation], change: impl FnOnce(&mut Told)) -> SyncPlan {
    let mut told = Told::default();
    change(&mut told);
    let (instance, stale) = (instance(), &told.stale);
    plan(
        pool,
        &Look {
            instance: &instance,
            enis,
            tagged: true,
            stale,
            metadata: told.metadata.as_deref(),
            resolved: &told.resolved,
            security_groups: &told.security_groups,
        },
    )
}

#[derive(Default)]
struct Told {
    stale: BTreeSet<EniId>,
    metadata: Option<Vec<MetadataEni>>,
    resolved: BTreeMap<EniId, Vec<Ipv4Addr>>,
    security_groups: Vec<String>,
}

fn metadata(addresses: &[u8]) -> MetadataEni {
    MetadataEni {
        mac: MacAddr([2, 0, 0, 0, 0, 1]),
        id: None,
        device_index: None,
        addresses: addresses.iter().map(|n| Ipv4Addr::new(10, 0, 1, *n)).collect(),
        prefixes: Vec::new(),
        subnet_cidr: None,
        vpc_cidrs: Vec::new(),
    }
}

/// A pool that holds what a look tells.
fn holding(enis: &[EniObservation]) -> Pool {
    let mut pool = Pool::default();
    let first = look(&pool, enis);
    for eni in first.enis {
        pool.put_eni(eni);
    }
    for (address, eni) in first.arrived {
        pool.adopt(address, &eni, Timestamp::ZERO);
    }
    pool
}

fn skipped(device_index: u32, network_card: u32, reason: SkipReason) -> Skipped {
    let eni = format!("eni-{device_index}").parse().unwrap();
    Skipped { eni, device_index, network_card, reason }
}

#[test]
fn the_primary_address_is_never_in_the_pool() {
    let plan = look(&Pool::default(), &[observation(0, &[10, 11, 12])]);
    assert_eq!(plan.enis.len(), 1);
    let arrived: Vec<u8> = plan.arrived.iter().map(|(a, _)| a.octets()[3]).collect();
    assert_eq!(arrived, [11, 12]);
}

#[test]
fn others_enis_are_left_alone_and_counted() {
    let plan = look(&Pool::default(), &[observation(1, &[11])]);
    let skipped = vec![skipped(1, 0, SkipReason::Others)];
    assert_eq!(plan, SyncPlan { foreign: BTreeSet::from([1]), skipped, ..SyncPlan::default() });
    let mut elsewhere = observation(0, &[11]);
    elsewhere.attachment.as_mut().unwrap().instance = "i-2".parse().unwrap();
    assert_eq!(look(&Pool::default(), &[elsewhere]), SyncPlan::default());
}

#[test]
fn ours_are_known_by_their_tag_and_a_leftover_is_a_stranger() {
    let plan = look(&Pool::default(), &[ours(observation(2, &[21]))]);
    assert_eq!((plan.enis[0].state, plan.enis[0].device_index), (EniState::InUse, 2));
    let mut left = ours(observation(3, &[31]));
    left.attachment = None;
    let plan = look(&Pool::default(), &[left]);
    assert_eq!((plan.enis.len(), plan.strangers.len(), plan.arrived.len()), (0, 1, 0));
}

#[test]
fn an_enis_state_follows_what_ec2_says_and_an_old_look_changes_nothing() {
    let mut pool = Pool::default();
    let mut eni = ours(observation(1, &[21]));
    pool.put_eni(record(&eni, Ipv4Addr::new(10, 0, 1, 10), 1, EniState::Attaching));
    let id = eni.id.clone();
    eni.attachment.as_mut().unwrap().status = EniAttachmentStatus::Attaching;
    assert_eq!(look(&pool, std::slice::from_ref(&eni)).seen, BTreeMap::new());
    eni.attachment.as_mut().unwrap().status = EniAttachmentStatus::Attached;
    assert_eq!(look(&pool, std::slice::from_ref(&eni)).enis[0].state, EniState::InUse);
    let old = look_with(&pool, &[eni.clone()], |told| told.stale = BTreeSet::from([id.clone()]));
    assert_eq!((old.enis.len(), old.seen.len()), (0, 0));
    pool.set_state(&id, EniState::Detaching);
    eni.attachment = None;
    assert_eq!(look(&pool, &[eni]).enis[0].state, EniState::Deleting);
    assert_eq!(look(&pool, &[]).absent, [id]);
}

#[test]
fn free_and_held_addresses_that_are_not_named_are_told_apart() {
    let mut pool = Pool::default();
    let first = look(&pool, &[observation(0, &[11, 12])]);
    for eni in first.enis {
        pool.set_link(&eni.id.clone(), None);
        pool.put_eni(eni);
    }
    for (address, eni) in first.arrived {
        pool.adopt(address, &eni, Timestamp::ZERO);
    }
    let key = eni_proto::ids::AttachmentKey {
        network: "vpc".parse().unwrap(),
        container: "c".parse().unwrap(),
        ifname: "eth0".parse().unwrap(),
    };
    let holder = crate::record::AttachmentId { key, generation: 1 };
    pool.claim(Ipv4Addr::new(10, 0, 1, 11), &"eni-0".parse().unwrap(), &holder);
    let second = look(&pool, &[observation(0, &[])]);
    assert_eq!(second.missing, [Ipv4Addr::new(10, 0, 1, 11)]);
    assert_eq!(second.unnamed, [Ipv4Addr::new(10, 0, 1, 12)]);
}

#[test]
fn a_primary_that_ec2_does_not_tell_is_the_records_then_the_metadatas_then_the_names() {
    let mut eni = ours(observation(1, &[21]));
    (eni.primary, eni.private_dns_name) = (None, Some("ip-10-0-1-12.ec2.internal".into()));
    let own = |plan: &SyncPlan| plan.enis.first().map(|e| e.primary.octets()[3]);
    let tells = |addresses: &[u8]| {
        let told = metadata(addresses);
        move |all: &mut Told| all.metadata = Some(vec![told])
    };
    let by_metadata = look_with(&Pool::default(), std::slice::from_ref(&eni), tells(&[11, 21]));
    assert_eq!(own(&by_metadata), Some(11));
    assert_eq!(by_metadata.found[0].2, Source::Metadata);
    // What EC2 lists as secondary is no primary, whatever lags.
    let by_name = look_with(&Pool::default(), std::slice::from_ref(&eni), tells(&[21]));
    assert_eq!((own(&by_name), by_name.found[0].2), (Some(12), Source::Name));
    let by_name = look_with(&Pool::default(), std::slice::from_ref(&eni), tells(&[]));
    assert_eq!((own(&by_name), by_name.found[0].2), (Some(12), Source::Name));
    let mut pool = Pool::default();
    pool.put_eni(record(&eni, Ipv4Addr::new(10, 0, 1, 13), 1, EniState::InUse));
    let by_record = look_with(&pool, std::slice::from_ref(&eni), tells(&[11]));
    assert_eq!((by_record.enis.len(), by_record.found.len(), by_record.unaddressed.len()), (0, 0, 0));
    // An entry of another ENI with the same MAC is of an earlier one.
    let mut earlier = metadata(&[11]);
    earlier.id = Some("eni-9".parse().unwrap());
    let plan = look_with(&Pool::default(), &[eni], |told| told.metadata = Some(vec![earlier]));
    assert_eq!(plan.found[0].2, Source::Name);
}

#[test]
fn a_name_without_an_address_is_resolved_and_without_an_answer_the_eni_waits() {
    let mut eni = ours(observation(1, &[21]));
    (eni.primary, eni.private_dns_name) = (None, Some("i-1.ec2.internal".into()));
    let plan = look(&Pool::default(), std::slice::from_ref(&eni));
    let name = Some("i-1.ec2.internal".to_owned());
    assert_eq!(plan.unaddressed, [Unaddressed { eni: eni.id.clone(), name }]);
    assert_eq!((plan.enis.len(), plan.arrived.len()), (0, 0), "it cannot be used yet");
    let answer = |last: &[u8]| last.iter().map(|n| Ipv4Addr::new(10, 0, 1, *n)).collect::<Vec<_>>();
    let resolved = |answer: Vec<Ipv4Addr>| {
        let id = eni.id.clone();
        look_with(&Pool::default(), std::slice::from_ref(&eni), |told| drop(told.resolved.insert(id, answer)))
    };
    assert_eq!(resolved(answer(&[21, 15])).enis[0].primary, Ipv4Addr::new(10, 0, 1, 15));
    assert_eq!(resolved(answer(&[15, 16])).unaddressed.len(), 1, "two are no answer");
    let outside = Ipv4Addr::new(10, 9, 9, 9);
    assert_eq!(resolved(vec![outside]).unaddressed.len(), 1, "it is not of the subnet");
}

#[test]
fn a_changed_device_index_and_subnet_are_taken_over() {
    let eni = ours(observation(1, &[21]));
    let pool = holding(std::slice::from_ref(&eni));
    assert_eq!(look(&pool, std::slice::from_ref(&eni)).enis, []);
    let mut moved = eni.clone();
    moved.attachment.as_mut().unwrap().device_index = 3;
    assert_eq!(look(&pool, &[moved]).enis[0].device_index, 3);
    let mut wider = eni;
    wider.subnet_cidr = "10.0.0.0/22".parse().unwrap();
    assert_eq!(look(&pool, &[wider]).enis[0].subnet_cidr.to_string(), "10.0.0.0/22");
}

#[test]
fn partial_metadata_takes_nothing_away() {
    let enis = [observation(0, &[11, 12]), ours(observation(1, &[21]))];
    let pool = holding(&enis);
    let whole = look(&pool, &enis);
    let lies = [vec![], vec![metadata(&[])], vec![metadata(&[11])], vec![metadata(&[99, 98])]];
    for told in lies {
        assert_eq!(look_with(&pool, &enis, |all| all.metadata = Some(told)), whole);
    }
    assert_eq!((whole.unnamed.len(), whole.missing.len(), whole.absent.len()), (0, 0, 0));
}

#[test]
fn kinds_cards_and_tags_that_are_not_ours_to_manage_are_counted_and_left_alone() {
    let mut trunk = observation(1, &[11]);
    trunk.kind = "trunk".into();
    let mut efa = ours(observation(2, &[]));
    efa.kind = "efa-only".into();
    let mut second_card = ours(observation(1, &[31]));
    second_card.attachment.as_mut().unwrap().network_card = 1;
    let mut kept = ours(observation(4, &[41]));
    kept.tags.insert("eni-cni/no-manage".into(), "true".into());
    let mut peers = ours(observation(5, &[51]));
    peers.tags.insert("node.k8s.amazonaws.com/no_manage".into(), "TRUE".into());
    let plan = look(&Pool::default(), &[trunk, efa, second_card, kept, peers]);
    assert_eq!(plan.foreign, BTreeSet::from([1, 2, 4, 5]), "the second card has indexes of its own");
    assert_eq!(
        plan.skipped,
        [
            skipped(1, 0, SkipReason::Kind("trunk".into())),
            skipped(2, 0, SkipReason::Kind("efa-only".into())),
            skipped(1, 1, SkipReason::NetworkCard),
            skipped(4, 0, SkipReason::NoManage),
            skipped(5, 0, SkipReason::NoManage),
        ]
    );
    assert_eq!((plan.enis.len(), plan.arrived.len(), plan.attributes.len()), (0, 0, 0));
    // A leftover of such a kind is not deleted either.
    let mut left = ours(observation(6, &[]));
    (left.kind, left.attachment) = ("trunk".into(), None);
    assert_eq!(look(&Pool::default(), &[left]).strangers, []);
}

#[test]
fn the_primary_is_managed_whatever_its_tags_and_a_tag_freezes_one_of_the_pool() {
    let tag = |eni: &mut EniObservation| drop(eni.tags.insert("eni-cni/no-manage".into(), "true".into()));
    let mut primary = observation(0, &[11]);
    tag(&mut primary);
    assert_eq!(look(&Pool::default(), &[primary]).arrived.len(), 1);
    let mut eni = ours(observation(1, &[21]));
    eni.attachment.as_mut().unwrap().delete_on_termination = false;
    let pool = holding(std::slice::from_ref(&eni));
    tag(&mut eni);
    let plan = look(&pool, std::slice::from_ref(&eni));
    assert_eq!(plan.frozen, BTreeSet::from([eni.id]));
    assert_eq!((plan.named.len(), plan.missing.len(), plan.attributes.len()), (1, 0, 0));
}

#[test]
fn one_that_has_lost_its_tag_is_still_ours_and_one_at_another_instance_is_not() {
    let mut eni = ours(observation(1, &[21]));
    let pool = holding(std::slice::from_ref(&eni));
    eni.tags.clear();
    let plan = look(&pool, std::slice::from_ref(&eni));
    assert_eq!((plan.named.len(), plan.skipped.len(), plan.unnamed.len()), (1, 0, 0));
    let mut eni = ours(eni);
    eni.attachment.as_mut().unwrap().instance = "i-2".parse().unwrap();
    let plan = look(&pool, std::slice::from_ref(&eni));
    assert_eq!(plan.absent, [eni.id.clone()]);
    assert_eq!(look(&Pool::default(), &[eni]), SyncPlan::default(), "it is no stranger");
}

#[test]
fn one_that_was_lost_and_is_attached_again_is_in_use() {
    let eni = ours(observation(1, &[21]));
    let mut pool = holding(std::slice::from_ref(&eni));
    pool.set_state(&eni.id, EniState::Lost);
    let plan = look(&pool, std::slice::from_ref(&eni));
    assert_eq!((plan.enis[0].state, plan.named.len()), (EniState::InUse, 1));
}

#[test]
fn attributes_that_are_not_as_wanted_are_set_one_at_a_time() {
    let groups = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();
    let mut primary = observation(0, &[]);
    primary.security_groups = groups(&["sg-1", "sg-2"]);
    primary.attachment.as_mut().unwrap().delete_on_termination = false;
    let mut eni = ours(observation(1, &[]));
    eni.security_groups = groups(&["sg-2", "sg-1"]);
    let at = eni.attachment.as_mut().unwrap();
    (at.id, at.delete_on_termination) = (Some("eni-attach-1".into()), false);
    let of = |enis: &[EniObservation]| look(&Pool::default(), enis).attributes;
    let wanted = Mutation::SetDeleteOnTermination { eni: eni.id.clone(), attachment: "eni-attach-1".into() };
    assert_eq!(of(&[primary.clone(), eni.clone()]), [wanted], "the primary's is the operator's");
    eni.attachment.as_mut().unwrap().delete_on_termination = true;
    assert_eq!(of(&[primary.clone(), eni.clone()]), [], "their order says nothing");
    primary.security_groups = groups(&["sg-3"]);
    let set =
        |ids: &[&str]| Mutation::SetSecurityGroups { eni: eni.id.clone(), security_groups: groups(ids) };
    assert_eq!(of(&[primary.clone(), eni.clone()]), [set(&["sg-3"])]);
    let both = [primary, eni.clone()];
    let configured = look_with(&Pool::default(), &both, |told| told.security_groups = groups(&["sg-9"]));
    assert_eq!(configured.attributes, [set(&["sg-9"])]);
    assert_eq!(configured.security_groups, groups(&["sg-9"]), "new ones get them, too");
    // What was not told is not changed: neither the primary's nor its own.
    assert_eq!(of(&[observation(0, &[]), eni.clone()]), []);
    let mut untold = eni.clone();
    untold.security_groups.clear();
    assert_eq!(of(&[both[0].clone(), untold]), []);
    let stale = look_with(&Pool::default(), &both, |told| told.stale = BTreeSet::from([eni.id.clone()]));
    assert_eq!(stale.attributes, []);
}

#[test]
fn vpc_cidrs_are_the_primarys_and_what_is_not_told_is_unknown() {
    let mac = MacAddr([2, 0, 0, 0, 0, 1]);
    let mut told = metadata(&[]);
    assert_eq!(vpc_cidrs(None, mac), None);
    assert_eq!(vpc_cidrs(Some(&[told.clone()]), mac), None, "an entry that is not whole yet");
    told.vpc_cidrs = vec!["10.0.0.0/16".parse().unwrap(), "10.1.0.0/16".parse().unwrap()];
    assert_eq!(vpc_cidrs(Some(&[told.clone()]), mac).map(<[_]>::len), Some(2));
    told.mac = MacAddr([2, 0, 0, 0, 0, 9]);
    assert_eq!(vpc_cidrs(Some(&[told]), mac), None);
}
