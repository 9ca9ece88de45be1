//! Looks at EC2 that disagree with the records, with each other and with the metadata service.

use super::*;
use crate::cloud::{INSTANCE_TAG, MetadataEni};
use crate::record::{AddressState, EniState};

const FIRST: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 20);
const SECOND: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 21);
const PERIOD: Duration = Duration::from_secs(30);

fn state(bench: &Bench, address: Ipv4Addr) -> Option<&'static str> {
    bench.owner.pool().address(address).map(|record| record.state.name())
}

fn reasons(bench: &Bench) -> String {
    bench.owner.health().reasons.join("; ")
}

/// Takes looks, one after the other.
fn look(bench: &mut Bench, times: u32) {
    for _ in 0..times {
        let before = bench.looks;
        while bench.looks == before {
            bench.pass(Duration::from_secs(1));
        }
    }
}

/// EC2 names the second address alone.
fn without_the_first(seen: &mut CloudObservation) {
    seen.enis[0].secondary.retain(|address| *address != FIRST);
}

/// EC2 refuses whatever it is asked for.
fn refuses(mutation: &Mutation) -> Completion {
    Completion::Mutated(Err(CloudError {
        code: Some("UnauthorizedOperation".into()),
        ..CloudError::new(CloudErrorKind::Unauthorized, mutation.call(), "no")
    }))
}

/// A second ENI of ours, with one address.
fn with_a_second(seen: &mut CloudObservation) {
    let mut eni = seen.enis[0].clone();
    (eni.id, eni.mac) = ("eni-2".parse().unwrap(), MacAddr([2, 0, 0, 0, 0, 2]));
    (eni.primary, eni.secondary) = (Some(Ipv4Addr::new(10, 0, 1, 50)), vec![Ipv4Addr::new(10, 0, 1, 51)]);
    eni.tags.insert(INSTANCE_TAG.to_owned(), "i-1".to_owned());
    let at = eni.attachment.as_mut().unwrap();
    (at.device_index, at.id) = (1, Some("eni-attach-2".to_owned()));
    seen.enis.push(eni);
}

#[test]
fn a_held_address_that_two_looks_do_not_name_is_quarantined_and_comes_back() {
    let mut bench = Bench::new(2);
    bench.send(Event::Add { op: OpId(1), ask: ask("a", 7) });
    assert_eq!(bench.added(1).ips[0].address, "10.0.1.20/32");
    let link = bench.wired();
    bench.view.links.push(link);
    bench.cloud_tells = without_the_first;
    look(&mut bench, 1);
    assert_eq!(state(&bench, FIRST), Some("allocated"), "one look says nothing");
    look(&mut bench, 1);
    assert_eq!(state(&bench, FIRST), Some("quarantined"));
    let stored = bench.stored.addresses.iter().find(|a| a.address == FIRST).unwrap();
    assert!(matches!(&stored.state, AddressState::Quarantined { attachment: Some(_), .. }), "durable");
    assert!(reasons(&bench).contains("10.0.1.20 is quarantined, its container lives"), "{}", reasons(&bench));
    assert_eq!(bench.owner.attachment(&key("a")).unwrap().state, AttachmentState::Live);
    // An ADD repeated gets what it had.
    bench.send(Event::Add { op: OpId(2), ask: ask("a", 7) });
    assert_eq!(bench.added(2).ips[0].address, "10.0.1.20/32");
    bench.cloud_tells = |_| {};
    look(&mut bench, 1);
    assert_eq!(state(&bench, FIRST), Some("allocated"));
    assert!(!reasons(&bench).contains("quarantined"));
}

#[test]
fn a_quarantined_address_that_is_released_is_given_to_nobody() {
    let mut bench = Bench::new(2);
    bench.send(Event::Add { op: OpId(1), ask: ask("a", 7) });
    (bench.cloud_tells, bench.mutated) = (without_the_first, refuses);
    look(&mut bench, 2);
    bench.send(Event::Del { op: OpId(2), key: key("a") });
    assert_eq!(bench.reply(2), Some(&reply::Outcome::Done));
    assert_eq!(state(&bench, FIRST), Some("cooling"));
    look(&mut bench, 3);
    assert_eq!(state(&bench, FIRST), None, "it has left the pool");
    bench.send(Event::Add { op: OpId(3), ask: ask("b", 8) });
    assert_eq!(bench.added(3).ips[0].address, "10.0.1.21/32");
}

#[test]
fn a_restart_keeps_what_is_quarantined_with_its_holder() {
    let mut bench = Bench::new(2);
    bench.send(Event::Add { op: OpId(1), ask: ask("a", 7) });
    bench.cloud_tells = without_the_first;
    look(&mut bench, 2);
    let mut again = Bench::start(2, bench.stored, host(), true);
    assert_eq!(state(&again, FIRST), Some("quarantined"));
    again.send(Event::Del { op: OpId(2), key: key("a") });
    assert_eq!(state(&again, FIRST), Some("cooling"));
}

#[test]
fn what_the_first_look_after_a_start_does_not_name_is_not_given_out_and_goes_with_the_second() {
    let stored = Bench::new(2).stored;
    let mut bench = Bench::start(2, stored, host(), true);
    bench.no_cloud = false;
    (bench.cloud_tells, bench.mutated) = (without_the_first, refuses);
    look(&mut bench, 1);
    assert_eq!(state(&bench, FIRST), Some("quarantined"));
    bench.send(Event::Add { op: OpId(1), ask: ask("a", 7) });
    assert_eq!(bench.added(1).ips[0].address, "10.0.1.21/32");
    look(&mut bench, 1);
    assert_eq!((state(&bench, FIRST), state(&bench, SECOND)), (None, Some("allocated")));
}

#[test]
fn the_containers_of_an_eni_that_others_detach_keep_quarantined_addresses() {
    let mut bench = Bench::new(1);
    bench.send(Event::Add { op: OpId(1), ask: ask("a", 7) });
    let link = LinkView {
        ifindex: 3,
        name: "ens6".into(),
        mac: Some(MacAddr([2, 0, 0, 0, 0, 2])),
        ..bench.view.links[0].clone()
    };
    bench.view.links.push(link);
    bench.cloud_tells = with_a_second;
    look(&mut bench, 1);
    bench.pass(Duration::from_secs(1));
    bench.send(Event::Add { op: OpId(2), ask: ask("b", 8) });
    assert_eq!(bench.added(2).ips[0].address, "10.0.1.51/32");
    let eni = "eni-2".parse().unwrap();
    bench.cloud_tells = |seen| {
        with_a_second(seen);
        seen.enis[1].attachment = None;
    };
    look(&mut bench, 1);
    assert_eq!(bench.owner.pool().eni(&eni).unwrap().record.state, EniState::InUse);
    look(&mut bench, 1);
    assert_eq!(bench.owner.pool().eni(&eni).unwrap().record.state, EniState::Lost);
    assert_eq!(state(&bench, Ipv4Addr::new(10, 0, 1, 51)), Some("quarantined"));
    assert!(bench.owner.attachment(&key("b")).is_some(), "never forgotten");
    bench.cloud_tells = with_a_second;
    look(&mut bench, 1);
    assert_eq!(bench.owner.pool().eni(&eni).unwrap().record.state, EniState::InUse);
    assert_eq!(state(&bench, Ipv4Addr::new(10, 0, 1, 51)), Some("allocated"));
}

fn metadata(addresses: Vec<Ipv4Addr>, cidrs: &[&str]) -> MetadataEni {
    MetadataEni {
        mac: MacAddr([2, 0, 0, 0, 0, 1]),
        id: None,
        device_index: Some(0),
        addresses,
        prefixes: Vec::new(),
        subnet_cidr: None,
        vpc_cidrs: cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect(),
    }
}

#[test]
fn partial_metadata_frees_nothing() {
    let mut bench = Bench::new(2);
    bench.send(Event::Add { op: OpId(1), ask: ask("a", 7) });
    let before = bench.stored.addresses.clone();
    let lies: [fn(&mut CloudObservation); 3] = [
        |seen| seen.metadata = Some(Vec::new()),
        |seen| seen.metadata = Some(vec![metadata(Vec::new(), &[])]),
        |seen| seen.metadata = Some(vec![metadata(vec![Ipv4Addr::new(10, 0, 1, 10)], &[])]),
    ];
    for lie in lies {
        bench.cloud_tells = lie;
        look(&mut bench, 4);
        assert_eq!(bench.stored.addresses, before);
        assert_eq!(bench.owner.wanted().vpc_cidrs.len(), 1);
    }
}

#[test]
fn a_cidr_of_the_vpc_comes_at_once_and_goes_after_two_looks_that_agree() {
    let mut bench = Bench::new(2);
    let cidrs =
        |bench: &Bench| bench.owner.wanted().vpc_cidrs.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(cidrs(&bench), ["10.0.0.0/16"]);
    bench.cloud_tells =
        |seen| seen.metadata = Some(vec![metadata(Vec::new(), &["10.0.0.0/16", "10.1.0.0/16"])]);
    look(&mut bench, 1);
    assert_eq!(cidrs(&bench), ["10.0.0.0/16", "10.1.0.0/16"]);
    bench.pass(Duration::from_secs(1));
    let text = bench.applied.iter().rev().find_map(|step| match step {
        HostStep::ReplaceNft { text } => Some(text.clone()),
        _ => None,
    });
    assert!(text.unwrap().contains("10.1.0.0/16"), "it is not masqueraded from now on");
    // A look without the metadata service, or one that tells no CIDR, is not a look that agrees.
    bench.cloud_tells = |seen| seen.metadata = Some(vec![metadata(Vec::new(), &["10.1.0.0/16"])]);
    look(&mut bench, 1);
    bench.cloud_tells = |seen| seen.metadata = None;
    look(&mut bench, 3);
    assert_eq!(cidrs(&bench).len(), 2);
    bench.cloud_tells = |seen| seen.metadata = Some(vec![metadata(Vec::new(), &["10.1.0.0/16"])]);
    look(&mut bench, 1);
    assert_eq!(cidrs(&bench), ["10.1.0.0/16"]);
}

#[test]
fn changed_security_groups_are_applied_by_an_intent_and_a_refusal_stops_nothing_else() {
    let mut bench = Bench::new(1);
    bench.cloud_tells = |seen| {
        with_a_second(seen);
        seen.enis[0].security_groups = vec!["sg-2".into()];
        seen.enis[1].security_groups = vec!["sg-1".into()];
    };
    bench.mutated = |_| Completion::Mutated(Ok(Mutated::Done));
    look(&mut bench, 1);
    let eni: eni_proto::ids::EniId = "eni-2".parse().unwrap();
    let wanted = Mutation::SetSecurityGroups { eni, security_groups: vec!["sg-2".into()] };
    assert_eq!(bench.mutations, [wanted]);
    assert_eq!(bench.stored.intents, []);
    bench.mutated = refuses;
    look(&mut bench, 1);
    assert_eq!(bench.mutations.len(), 2);
    assert!(
        reasons(&bench).contains("eni-2 is not as wanted: ModifyNetworkInterfaceAttribute"),
        "{}",
        reasons(&bench)
    );
    assert!(!reasons(&bench).contains("does not grow"), "{}", reasons(&bench));
    look(&mut bench, 3);
    assert_eq!(bench.mutations.len(), 2, "it is left alone for minutes");
    bench.mutated = |_| Completion::Mutated(Ok(Mutated::Done));
    bench.pass(Duration::from_secs(300));
    assert_eq!(bench.mutations.len(), 3);
    bench.cloud_tells = |seen| {
        with_a_second(seen);
        seen.enis[0].security_groups = vec!["sg-2".into()];
        seen.enis[1].security_groups = vec!["sg-2".into()];
    };
    look(&mut bench, 2);
    assert!(!reasons(&bench).contains("not as wanted"));
}

#[test]
fn a_tag_that_comes_later_keeps_what_is_held_and_changes_nothing_more() {
    let mut bench = Bench::new(1);
    bench.cloud_tells = with_a_second;
    look(&mut bench, 1);
    bench.cloud_tells = |seen| {
        with_a_second(seen);
        seen.enis[1].tags.insert("eni-cni/no-manage".into(), "true".into());
        seen.enis[1].attachment.as_mut().unwrap().delete_on_termination = false;
    };
    look(&mut bench, 8);
    let eni = bench.owner.pool().eni(&"eni-2".parse().unwrap()).unwrap();
    assert_eq!(eni.record.state, EniState::Draining, "nothing new is allocated from it");
    assert_eq!(bench.mutations, [], "nor is it given back");
}

#[test]
fn a_primary_address_that_nobody_tells_is_resolved_five_times_and_then_told() {
    let mut bench = Bench::new(1);
    bench.cloud_tells = |seen| {
        with_a_second(seen);
        (seen.enis[1].primary, seen.enis[1].private_dns_name) = (None, Some("i-1.ec2.internal".into()));
    };
    look(&mut bench, 10);
    assert_eq!(bench.names.len(), 5);
    let told = reasons(&bench);
    assert!(told.contains("eni-2 is not used") && told.contains("no such host"), "{told}");
    assert_eq!(bench.owner.pool().enis().count(), 1);
    // EC2 tells it at last.
    bench.cloud_tells = with_a_second;
    look(&mut bench, 1);
    assert_eq!(bench.owner.pool().enis().count(), 2);
    assert!(!reasons(&bench).contains("is not used"));
}

#[test]
fn what_a_name_resolves_to_is_the_primary() {
    let mut bench = Bench::new(1);
    bench.resolves = Ok(vec![Ipv4Addr::new(10, 0, 1, 60)]);
    bench.cloud_tells = |seen| {
        with_a_second(seen);
        (seen.enis[1].primary, seen.enis[1].private_dns_name) = (None, Some("i-1.ec2.internal".into()));
    };
    look(&mut bench, 2);
    let eni = bench.owner.pool().eni(&"eni-2".parse().unwrap()).unwrap();
    assert_eq!(eni.record.primary, Ipv4Addr::new(10, 0, 1, 60));
    look(&mut bench, 3);
    assert_eq!(bench.names.len(), 1, "from then on its record tells it");
}

#[test]
fn the_steps_of_the_start_are_told_in_order_and_once() {
    let mut bench = Bench::new(2);
    bench.pass(PERIOD);
    bench.pass(PERIOD);
    let steps: Vec<&str> =
        bench.owner.start_steps().iter().map(|(_, text)| text.split(':').next().unwrap()).collect();
    for step in ["metadata repaired", "adopted", "provisioned", "ready"] {
        assert_eq!(steps.iter().filter(|told| **told == step).count(), 1, "{step}: {steps:?}");
    }
    let ready = bench.owner.start_steps().iter().position(|(_, text)| text.starts_with("ready")).unwrap();
    let adopted = bench.owner.start_steps().iter().position(|(_, text)| text.starts_with("adopted")).unwrap();
    assert!(adopted < ready, "a node without records serves what it has adopted");
}

#[test]
fn with_ec2_away_recorded_and_free_addresses_are_served_and_status_says_so() {
    let mut bench = Bench::new(2);
    bench.send(Event::Add { op: OpId(1), ask: ask("a", 7) });
    bench.pass(Duration::from_secs(1));
    let mut view = host();
    view.links.push(bench.wired());
    let mut bench = Bench::start(2, bench.stored, view, true);
    bench.send(Event::Add { op: OpId(1), ask: ask("a", 7) });
    assert_eq!(bench.added(1).ips[0].address, "10.0.1.20/32", "what was recorded");
    bench.send(Event::Add { op: OpId(2), ask: ask("b", 8) });
    assert_eq!(bench.added(2).ips[0].address, "10.0.1.21/32", "what was free");
    bench.send(Event::Del { op: OpId(3), key: key("a") });
    assert_eq!(bench.reply(3), Some(&reply::Outcome::Done));
    assert_eq!(bench.owner.health().code(), None);
    assert!(reasons(&bench).contains("eni_sync: away"), "{}", reasons(&bench));
    assert_eq!(bench.owner.cloud_age(bench.now), None);
    let steps: Vec<String> = bench.owner.start_steps().iter().map(|(_, text)| text.clone()).collect();
    assert_eq!(steps, ["ready: ADD is served"]);
}
