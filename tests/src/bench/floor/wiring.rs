//! The floor's data plane: one pod's pair, address and routes in two sends.
//!
//! Owns how a pod's number becomes its address, MACs, index and name.

use crate::bench::netlink::{Batch, CallError, End, MAIN, Route, Socket};
use std::net::Ipv4Addr;
use std::os::fd::BorrowedFd;

const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The index of the sandbox's end, in its own namespace.
const INSIDE: u32 = 3;
/// The group of links that wait for the reaper.
pub(super) const DYING: u32 = 0x7fff_0001;

pub(super) fn index(pod: u32) -> u32 {
    1_000_000 + pod
}

fn address(pod: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 20, 0, 0).to_bits() + pod)
}

fn mac(side: u8, pod: u32) -> [u8; 6] {
    let [a, b, c, d] = pod.to_be_bytes();
    [2, side, a, b, c, d]
}

fn name(pod: u32) -> String {
    format!("flr{pod:08x}")
}

fn host_route(pod: u32) -> Route {
    Route { to: (address(pod), 32), via: None, index: Some(index(pod)), table: MAIN, metric: 0 }
}

/// The CNI result.
pub(super) fn result(pod: u32, ifname: &str) -> String {
    format!(
        r#"{{"cniVersion":"1.0.0","interfaces":[{{"name":"{}"}},{{"name":"{ifname}","sandbox":"netns"}}],"ips":[{{"interface":1,"address":"{}/32"}}]}}"#,
        name(pod),
        address(pod)
    )
}

/// Wires a sandbox: the pair and the host's side in one send, the sandbox's in another.
pub(super) fn add(
    host: &Socket,
    netns: BorrowedFd<'_>,
    sandbox: &Socket,
    ifname: &str,
    pod: u32,
) -> Result<(), CallError> {
    let mut batch = Batch::default();
    let outer = End { name: &name(pod), index: index(pod), mac: mac(1, pod), group: 0 };
    let inner = End { name: ifname, index: INSIDE, mac: mac(2, pod), group: 0 };
    batch.pair(&outer, &inner, netns).no_link_local(index(pod)).up(index(pod)).route(&host_route(pod));
    host.call(&mut batch)?;
    let plain = Route { to: (GATEWAY, 32), via: None, index: Some(INSIDE), table: MAIN, metric: 0 };
    let default = Route { to: (Ipv4Addr::UNSPECIFIED, 0), via: Some(GATEWAY), ..plain };
    batch.address(INSIDE, address(pod), 32).no_link_local(INSIDE).up(INSIDE).route(&plain).route(&default);
    batch.neighbour(INSIDE, GATEWAY, mac(1, pod));
    sandbox.call(&mut batch)
}

/// DEL's part.
pub(super) fn remove_route(host: &Socket, pod: u32) -> Result<(), CallError> {
    host.call(Batch::default().delete_route(&host_route(pod)))
}
