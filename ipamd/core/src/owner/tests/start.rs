//! The start: every row of what becomes of records and links.

use super::*;
use crate::host_net::base_route;
use crate::kernel::{
    Alias, DYING_GROUP, FIRST_IFINDEX, HostStep, NeighbourView, POD_GROUP, POD_INET, PROTOCOL, RouteAction,
    RouteView, WireSpec,
};
use crate::record::{AddressState, AttachmentId, AttachmentRecord};
use ipnet::Ipv4Net;
use std::sync::Arc;

/// What one attachment, wired and answered, has left: its records, and what its wiring was.
fn one_attachment() -> (Stored, WireSpec) {
    let mut bench = Bench::new(1);
    bench.send(Event::Add { op: OpId(1), ask: ask("a", 7) });
    bench.added(1);
    (bench.stored.clone(), bench.wires[0].clone())
}

fn with_state(mut stored: Stored, state: AttachmentState) -> Stored {
    stored.attachments[0].state = state;
    stored
}

/// The host with the link of a wiring; `alias` and `route` are what was still sent.
fn wired(spec: &WireSpec, alias: bool, route: bool) -> HostView {
    let mut view = host();
    view.links.push(LinkView {
        ifindex: spec.ifindex,
        name: spec.host_name.to_string(),
        mac: Some(spec.host_mac),
        group: spec.group,
        alias: if alias { spec.alias.clone() } else { String::new() },
        up: alias,
        mtu: spec.mtu,
        kind: "veth".into(),
        inet: POD_INET,
    });
    view.neighbours.push(NeighbourView {
        ifindex: spec.ifindex,
        address: spec.address,
        mac: spec.sandbox_mac,
        permanent: true,
    });
    view.pods_routes.push(base_route(spec.address));
    if route {
        view.pods_routes.push(RouteView {
            destination: Ipv4Net::from(spec.address),
            metric: 0,
            action: RouteAction::Device { ifindex: spec.ifindex },
            prefsrc: spec.prefsrc,
            protocol: PROTOCOL,
        });
    }
    view
}

fn state(bench: &Bench) -> Option<AttachmentState> {
    bench.owner.attachment(&key("a")).map(|record| record.state)
}

fn address_state(bench: &Bench, spec: &WireSpec) -> AddressState {
    bench.owner.pool().address(spec.address).expect("it is in the pool").state.clone()
}

fn reaped(bench: &Bench) -> Vec<u32> {
    bench.reaped.iter().map(|link| link.ifindex).collect()
}

/// No record is left, nor a link.
fn ended(bench: &mut Bench, spec: &WireSpec) {
    assert_eq!(state(bench), None);
    bench.pass(Duration::from_millis(200));
    assert_eq!(reaped(bench), [spec.ifindex], "its link is deleted");
    assert_eq!(bench.stored.attachments, [], "and its record with it");
}

/// Its DEL is finished, and the address is free once it has cooled.
fn finished(mut bench: Bench, spec: &WireSpec) {
    ended(&mut bench, spec);
    assert!(matches!(address_state(&bench, spec), AddressState::Cooling { .. }));
    bench.pass(Duration::from_secs(30));
    bench.send(Event::Add { op: OpId(9), ask: ask("next", 8) });
    bench.added(9);
}

/// Nobody was told of it: the address is free as soon as the link is gone.
fn undone(mut bench: Bench, spec: &WireSpec) {
    ended(&mut bench, spec);
    bench.send(Event::Add { op: OpId(9), ask: ask("next", 8) });
    assert_eq!(bench.added(9).ips[0].address, format!("{}/32", spec.address));
}

#[test]
fn adding_with_alias_and_route_is_live() {
    let (stored, spec) = one_attachment();
    let mut bench =
        Bench::start(1, with_state(stored, AttachmentState::Adding), wired(&spec, true, true), false);
    assert_eq!(state(&bench), Some(AttachmentState::Live));
    assert_eq!(reaped(&bench), [0u32; 0]);
    bench.pass(Duration::from_secs(1));
    assert_eq!(bench.stored.attachments[0].state, AttachmentState::Live);
}

#[test]
fn adding_otherwise_is_undone() {
    let (stored, spec) = one_attachment();
    let stored = with_state(stored, AttachmentState::Adding);
    undone(Bench::start(1, stored.clone(), wired(&spec, false, false), false), &spec);
    undone(Bench::start(1, stored, host(), false), &spec);
}

#[test]
fn adding_that_has_lost_its_route_or_its_alias_since_is_live() {
    let damages: [fn(&mut HostView); 3] = [
        |view| view.pods_routes.clear(),
        |view| (view.pods_routes, view.neighbours) = (Vec::new(), Vec::new()),
        |view| view.links[1].alias = "uplink".into(),
    ];
    for damage in damages {
        let (stored, spec) = one_attachment();
        let mut view = wired(&spec, true, true);
        damage(&mut view);
        let bench = Bench::start(1, with_state(stored, AttachmentState::Adding), view, false);
        assert_eq!((state(&bench), reaped(&bench)), (Some(AttachmentState::Live), vec![]));
        let laid = |step: &HostStep| matches!(step, HostStep::AddRoute(r) if r.metric == 0);
        let named = |step: &HostStep| matches!(step, HostStep::SetAlias { .. });
        assert!(bench.applied.iter().any(|step| laid(step) || named(step)), "it is mended");
    }
}

#[test]
fn live_with_its_link_stays_and_an_add_gets_the_recorded_result() {
    let (stored, spec) = one_attachment();
    let recorded = stored.attachments[0].result.clone();
    let stored = with_state(stored, AttachmentState::Live);
    let mut bench = Bench::start(1, stored, wired(&spec, true, true), false);
    bench.send(Event::Add { op: OpId(2), ask: ask("a", 7) });
    assert_eq!(*bench.added(2), recorded);
    assert_eq!((bench.wires.len(), reaped(&bench)), (0, vec![]));
}

#[test]
fn live_without_its_link_is_broken_and_keeps_its_address_until_del() {
    let (stored, spec) = one_attachment();
    let stored = with_state(stored, AttachmentState::Live);
    let mut bench = Bench::start(1, stored, host(), false);
    assert_eq!(state(&bench), Some(AttachmentState::Broken));
    assert!(matches!(address_state(&bench, &spec), AddressState::Allocated { .. }));
    bench.send(Event::Del { op: OpId(2), key: key("a") });
    assert_eq!(bench.reply(2), Some(&reply::Outcome::Done));
    finished(bench, &spec);
}

#[test]
fn another_link_with_the_number_is_not_its_link() {
    let (stored, spec) = one_attachment();
    let stored = with_state(stored, AttachmentState::Live);
    let mut view = wired(&spec, true, true);
    view.links[1].alias = "eni1 8 other eth0 9 vpc".into();
    view.links[1].kind = "dummy".into();
    let bench = Bench::start(1, stored, view, false);
    assert_eq!(state(&bench), Some(AttachmentState::Broken));
    assert_eq!(reaped(&bench), [0u32; 0], "and it is nobody's to delete");
}

#[test]
fn a_link_in_the_dying_group_has_its_del_finished_whatever_the_record_says() {
    for state in [AttachmentState::Live, AttachmentState::Adding, AttachmentState::Dying] {
        let (stored, spec) = one_attachment();
        let mut view = wired(&spec, true, false);
        view.links[1].group = DYING_GROUP;
        finished(Bench::start(1, with_state(stored, state), view, false), &spec);
    }
}

#[test]
fn dying_is_finished_with_and_without_its_link() {
    for view in [|spec: &WireSpec| wired(spec, true, true), |_: &WireSpec| host()] {
        let (stored, spec) = one_attachment();
        let stored = with_state(stored, AttachmentState::Dying);
        let mut bench = Bench::start(1, stored, view(&spec), false);
        bench.pass(Duration::from_millis(200));
        assert_eq!((state(&bench), reaped(&bench)), (None, vec![spec.ifindex]));
        assert_eq!(bench.stored.attachments, []);
    }
}

#[test]
fn a_link_without_a_record_is_deleted_before_adds_are_served() {
    let (mut stored, spec) = one_attachment();
    stored.attachments.clear();
    stored.addresses.clear();
    for alias in [true, false] {
        let bench = Bench::start(1, stored.clone(), wired(&spec, alias, alias), false);
        assert_eq!((state(&bench), reaped(&bench)), (None, vec![spec.ifindex]));
        assert!(bench.owner.health().ready);
    }
    let mut view = wired(&spec, false, false);
    view.links[1].alias = "uplink".into();
    let bench = Bench::start(1, stored.clone(), view, false);
    assert_eq!(reaped(&bench), [spec.ifindex], "whatever others have called it");
    assert_eq!(bench.reaped[0].alias, "uplink", "it goes by the alias that was seen");
    let mut view = wired(&spec, true, true);
    view.links[1].kind = "dummy".into();
    assert_eq!(reaped(&Bench::start(1, stored.clone(), view, false)), [0u32; 0], "not a pair of ours");
    let mut view = wired(&spec, false, false);
    view.links[1].name = "veth0".into();
    assert_eq!(reaped(&Bench::start(1, stored, view, false)), [0u32; 0], "not a name of ours");
}

#[test]
fn with_an_empty_store_a_whole_link_is_rebuilt_and_its_next_add_tells_the_sandbox() {
    let (_, spec) = one_attachment();
    let mut bench = Bench::start(1, Stored::default(), wired(&spec, true, true), false);
    assert_eq!(state(&bench), Some(AttachmentState::Live));
    assert_eq!(bench.owner.attachment(&key("a")).unwrap().netns, "", "the link does not tell it");
    bench.send(Event::Add { op: OpId(2), ask: ask("a", 7) });
    assert_eq!(bench.added(2).interfaces[1].sandbox, "/run/netns/a");
    assert_eq!((bench.wires.len(), reaped(&bench)), (0, vec![]));
    bench.pass(Duration::from_secs(1));
    assert_eq!(bench.stored.attachments[0].netns, "/run/netns/a");
    assert_eq!(bench.stored.attachments[0].result, *bench.added(2));
}

#[test]
fn with_an_empty_store_all_that_is_rebuilt_is_in_the_first_commit() {
    let (_, spec) = one_attachment();
    let mut view = host();
    for n in 0..100u8 {
        let told = Alias::parse(&spec.alias).unwrap();
        let told = Alias { container: format!("c{n}"), generation: told.generation + u64::from(n), ..told };
        let one = WireSpec {
            ifindex: spec.ifindex + u32::from(n),
            host_name: format!("eni{n:011x}").parse().unwrap(),
            address: Ipv4Addr::new(10, 0, 1, 20 + n),
            alias: told.render(),
            ..spec.clone()
        };
        let mut one = wired(&one, true, true);
        view.links.push(one.links.remove(1));
        view.neighbours.append(&mut one.neighbours);
        view.pods_routes.append(&mut one.pods_routes);
    }
    let (boot, now) = (BootId::new("boot-1"), Timestamp::from_millis(1000));
    let (owner, outcome) =
        Owner::restore(OwnerConfig::default(), Stored::default(), &view, &boot, now).unwrap();
    assert_eq!(owner.attachment_total(), 100);
    let batches = outcome.effects.iter().filter_map(|effect| match &effect.kind {
        EffectKind::Commit(batch) => Some(batch),
        _ => None,
    });
    let mut stored = Stored::default();
    for batch in batches {
        stored.apply(batch);
        // A crash after this commit: what has a node is no empty store any more, and what it lacks is nobody's.
        assert!(stored.node.is_some());
        assert_eq!(stored.attachments.len(), 100);
    }
}

#[test]
fn with_an_empty_store_a_link_that_has_lost_its_route_or_its_neighbour_is_rebuilt() {
    let damages: [fn(&mut HostView); 2] = [|view| view.pods_routes.clear(), |view| view.neighbours.clear()];
    for damage in damages {
        let (_, spec) = one_attachment();
        let mut view = wired(&spec, true, true);
        damage(&mut view);
        let bench = Bench::start(1, Stored::default(), view, false);
        assert_eq!((state(&bench), reaped(&bench)), (Some(AttachmentState::Live), vec![]));
        let record = bench.owner.attachment(&key("a")).unwrap();
        assert_eq!(record.addresses.iter().copied().collect::<Vec<_>>(), [spec.address]);
        assert_eq!(record.sandbox_mac, spec.sandbox_mac);
    }
}

#[test]
fn with_an_empty_store_base_routes_stay_until_the_cloud_has_answered() {
    let (_, spec) = one_attachment();
    let unneeded = base_route(Ipv4Addr::new(10, 0, 1, 99));
    let mut view = wired(&spec, true, true);
    view.pods_routes.push(unneeded);
    let mut bench = Bench::start(2, Stored::default(), view, true);
    let deleted = |bench: &Bench| -> Vec<HostStep> {
        let steps = bench.applied.iter().filter(|s| matches!(s, HostStep::DeleteRoute(_)));
        steps.cloned().collect()
    };
    assert_eq!(deleted(&bench), []);
    bench.no_cloud = false;
    for _ in 0..5 {
        bench.pass(Duration::from_secs(10));
    }
    let gone = deleted(&bench);
    assert!(gone.contains(&HostStep::DeleteRoute(unneeded)), "{gone:?}");
    assert!(!gone.contains(&HostStep::DeleteRoute(base_route(spec.address))), "{gone:?}");
}

#[test]
fn an_address_whose_holder_has_no_record_cools_and_is_cleaned_first() {
    let (mut stored, spec) = one_attachment();
    stored.attachments.clear();
    let mut bench = Bench::start(1, stored, host(), false);
    assert!(matches!(address_state(&bench, &spec), AddressState::Cooling { .. }));
    let cleaned = &bench.reaped[0];
    assert_eq!(cleaned.addresses, [spec.address], "its connections are forgotten");
    assert!(cleaned.ifindex > spec.ifindex && cleaned.alias.is_empty(), "by a number that no link has");
    bench.pass(Duration::from_secs(1));
    let stored = &bench.stored.addresses[0].state;
    assert!(matches!(stored, AddressState::Cooling { .. }), "{stored:?}");
    bench.pass(Duration::from_secs(30));
    bench.send(Event::Add { op: OpId(2), ask: ask("b", 8) });
    assert_eq!(bench.added(2).ips[0].address, format!("{}/32", spec.address));
}

#[test]
fn an_attachment_holds_its_address_whatever_the_addresss_record_says() {
    let (stored, spec) = one_attachment();
    let other = AttachmentId { key: key("gone"), generation: 3 };
    let until = Timestamp::from_millis(500);
    for wrong in [
        AddressState::Free { since: Timestamp::ZERO },
        AddressState::Cooling { attachment: other.clone(), until },
        AddressState::Allocated { attachment: other.clone() },
    ] {
        let mut stored = with_state(stored.clone(), AttachmentState::Live);
        stored.addresses[0].state = wrong.clone();
        let mut bench = Bench::start(1, stored, wired(&spec, true, true), false);
        let holder =
            bench.owner.attachment(&key("a")).map(|record: &Arc<AttachmentRecord>| record.id()).unwrap();
        assert_eq!(
            address_state(&bench, &spec),
            AddressState::Allocated { attachment: holder.clone() },
            "{wrong:?}"
        );
        bench.pass(Duration::from_secs(1));
        assert_eq!(bench.stored.addresses[0].state, AddressState::Allocated { attachment: holder });
        bench.send(Event::Add { op: OpId(2), ask: ask("b", 8) });
        assert!(bench.error(2).to_string().contains("1 addresses are allocated"), "nobody else gets it");
    }
}

#[test]
fn numbers_that_links_or_records_show_are_not_used_again() {
    let (mut stored, spec) = one_attachment();
    stored.node = stored.node.map(|node| crate::record::NodeRecord { next_ifindex: FIRST_IFINDEX, ..node });
    let stored = with_state(stored, AttachmentState::Live);
    let mut bench = Bench::start(2, stored, wired(&spec, true, true), false);
    bench.send(Event::Add { op: OpId(2), ask: ask("b", 8) });
    bench.added(2);
    assert!(bench.wires[0].ifindex > spec.ifindex && bench.wires[0].group >= POD_GROUP);
}

#[test]
fn while_draining_a_passs_deadline_wakes_nobody() {
    let mut bench = Bench::new(1);
    assert!(bench.owner.next_deadline().is_some(), "the next look at EC2");
    bench.send(Event::Drain);
    bench.pass(Duration::from_secs(3600));
    assert_eq!(bench.owner.next_deadline(), None);
}

#[test]
fn what_is_recorded_is_answered_first_and_never_refused_for_a_dry_pool() {
    let (stored, spec) = one_attachment();
    let unlaid = |step: &HostStep| matches!(step, HostStep::ReplaceNft { .. });
    let mut bench = Bench::start_refusing(1, stored, wired(&spec, true, true), false, unlaid);
    bench.send(Event::Add { op: OpId(1), ask: ask("b", 8) });
    bench.send(Event::Add { op: OpId(2), ask: ask("a", 7) });
    assert_eq!((bench.reply(1), bench.reply(2)), (None, None), "the node does not serve yet");
    bench.refuses = |_| false;
    while !bench.owner.health().ready {
        bench.pass(Duration::from_secs(1));
    }
    bench.added(2);
    assert!(bench.error(1).to_string().contains("1 addresses are allocated"));
}

#[test]
fn a_half_made_attachment_leaves_its_address_to_the_add_that_comes_again() {
    let (stored, spec) = one_attachment();
    let unlaid = |step: &HostStep| matches!(step, HostStep::ReplaceNft { .. });
    let stored = with_state(stored, AttachmentState::Adding);
    let mut bench = Bench::start_refusing(1, stored, host(), false, unlaid);
    bench.send(Event::Add { op: OpId(1), ask: ask("a", 7) });
    bench.refuses = |_| false;
    while !bench.owner.health().ready {
        bench.pass(Duration::from_secs(1));
    }
    assert_eq!(bench.added(1).ips[0].address, format!("{}/32", spec.address));
}
