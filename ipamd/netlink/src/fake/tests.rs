//! The fake by itself: faults, deaths and snapshots. That it behaves as the kernel is shown by the tests in `tests/`.

use super::faulty::{Call, Fault, Faulty, nth};
use super::*;
use ipamd_core::kernel::{FIRST_IFINDEX, POD_GROUP};

const SANDBOX: NetnsCookie = NetnsCookie(7);

fn spec(n: u8) -> WireSpec {
    WireSpec {
        host_name: format!("eni{n:011x}").parse().unwrap(),
        ifindex: FIRST_IFINDEX + u32::from(n),
        host_mac: MacAddr([2, 1, 0, 0, 0, n]),
        sandbox_name: "eth0".parse().unwrap(),
        sandbox_mac: MacAddr([2, 2, 0, 0, 0, n]),
        mtu: 1500,
        txqueuelen: 1000,
        group: POD_GROUP + 1,
        address: Ipv4Addr::new(10, 0, 1, n),
        prefsrc: None,
        alias: format!("eni1 7 c{n} eth0 1 net"),
        delete_first: Vec::new(),
    }
}

fn kernel() -> FakeKernel {
    let mut kernel = FakeKernel::new();
    kernel.add_sandbox(SANDBOX);
    kernel
}

fn reap_link(spec: &WireSpec) -> ReapLink {
    ReapLink { ifindex: spec.ifindex, alias: spec.alias.clone(), addresses: vec![spec.address] }
}

#[test]
fn a_wire_that_fails_at_any_message_can_be_undone() {
    for message in WireMessage::ALL {
        let empty = kernel();
        let mut faulty = Faulty::new(empty.clone(), nth(0, Fault::At(message)));
        let error = faulty.wire(&spec(1), &SANDBOX).unwrap_err();
        let WireError::Refused { step, made, .. } = error else { panic!("{error:?}") };
        assert_eq!((step, made), (message.step(), message != WireMessage::Create));
        let view = faulty.observe().unwrap();
        let link = view.links.iter().find(|l| l.ifindex == spec(1).ifindex);
        assert_eq!(link.is_some(), made, "{message:?}");
        let whole = link.is_some_and(|l| !l.alias.is_empty() && l.up) && !view.pods_routes.is_empty();
        let harmless = message == WireMessage::HostNeighbour;
        assert_eq!(whole, harmless, "{message:?}: alias and route prove it whole");
        faulty
            .unwire(&UnwireSpec {
                host_name: spec(1).host_name.clone(),
                ifindex: spec(1).ifindex,
                addresses: vec![spec(1).address],
            })
            .unwrap();
        assert_eq!(faulty.reap(&[reap_link(&spec(1))]).gone, [spec(1).ifindex]);
        assert_eq!(faulty.kernel, empty, "{message:?}");
    }
}

#[test]
fn a_lost_answer_is_carried_out_and_a_refused_call_is_not() {
    for (fault, there) in [(Fault::Lost, true), (Fault::Refused, false)] {
        let mut faulty = Faulty::new(kernel(), |call: Call<'_>| match call {
            Call::Wire(_) => fault,
            _ => Fault::None,
        });
        assert!(faulty.wire(&spec(1), &SANDBOX).is_err());
        assert_eq!(faulty.kernel.sandbox_addresses().len(), usize::from(there));
    }
}

#[test]
fn a_sandboxs_death_uncovers_the_base_route() {
    let mut kernel = kernel();
    let base = RouteView {
        destination: Ipv4Net::from(spec(1).address),
        metric: 4096,
        action: RouteAction::Unreachable,
        prefsrc: None,
        protocol: PROTOCOL,
    };
    assert_eq!(kernel.apply(&[HostStep::AddRoute(base)]), []);
    kernel.wire(&spec(1), &SANDBOX).unwrap();
    let snapshot = kernel.clone();
    assert_eq!(kernel.observe().unwrap().pods_routes.len(), 2);
    kernel.kill_sandbox(SANDBOX);
    let view = kernel.observe().unwrap();
    assert_eq!((view.pods_routes, view.neighbours, view.links.len()), (vec![base], Vec::new(), 1));
    assert_eq!(kernel.wire(&spec(2), &SANDBOX), Err(WireError::SandboxGone));
    assert_ne!(kernel, snapshot);
    assert_eq!(snapshot.sandbox_addresses(), [(spec(1).ifindex, spec(1).address)]);
}

#[test]
fn one_sandbox_takes_two_interfaces_of_different_names() {
    let mut kernel = kernel();
    kernel.wire(&spec(1), &SANDBOX).unwrap();
    assert_eq!(kernel.wire(&spec(2), &SANDBOX), Err(WireError::IfnameTaken { name: "eth0".into() }));
    kernel.wire(&WireSpec { sandbox_name: "eth1".parse().unwrap(), ..spec(2) }, &SANDBOX).unwrap();
    assert_eq!(kernel.sandbox_addresses().len(), 2);
}

#[test]
fn connections_of_a_reaped_address_are_forgotten() {
    let mut kernel = kernel();
    kernel.wire(&spec(1), &SANDBOX).unwrap();
    let (mine, other) = (spec(1).address, Ipv4Addr::new(10, 0, 2, 2));
    kernel.add_connection(Connection { source: mine, reply_source: other });
    kernel.add_connection(Connection { source: other, reply_source: mine });
    let foreign = Connection { source: other, reply_source: other };
    kernel.add_connection(foreign);
    let kept = ReapLink { alias: "another".into(), ..reap_link(&spec(1)) };
    let mut renamed = kernel.clone();
    assert_eq!(renamed.reap(&[kept]).gone, [spec(1).ifindex], "the number is another attachment's");
    assert_eq!(renamed.sandbox_addresses().len(), 1, "whose link stays");
    assert_eq!(kernel.connections().count(), 3);
    assert_eq!(kernel.reap(&[reap_link(&spec(1))]).gone, [spec(1).ifindex]);
    assert_eq!(kernel.connections().collect::<Vec<_>>(), [foreign]);
}
