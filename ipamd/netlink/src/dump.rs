//! Reading the host: dumps to views.
//!
//! Owns the parsing, by attribute, so that an attribute of a newer kernel never spoils a dump. A message that lacks
//! what every one of its kind has is an error: a part is never taken for the whole.

use crate::answer::attributes;
use eni_proto::ids::MacAddr;
use ipamd_core::kernel::{
    ENI_TABLE, EniRouteView, HostAddressView, InetSettings, LinkView, MARK_MASK, Mark, NeighbourView,
    PODS_TABLE, PROTOCOL, RouteAction, RouteView, RuleView, SandboxRouteView,
};
use ipnet::Ipv4Net;
use std::net::Ipv4Addr;

pub(crate) const RTM_NEWLINK: u16 = 16;
pub(crate) const RTM_NEWADDR: u16 = 20;
pub(crate) const RTM_NEWROUTE: u16 = 24;
pub(crate) const RTM_NEWNEIGH: u16 = 28;
pub(crate) const RTM_NEWRULE: u16 = 32;

pub(crate) fn u32_of(value: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(value.get(..4)?.try_into().ok()?))
}

fn address_of(value: &[u8]) -> Option<Ipv4Addr> {
    Some(Ipv4Addr::from(<[u8; 4]>::try_from(value.get(..4)?).ok()?))
}

fn mac_of(value: &[u8]) -> Option<MacAddr> {
    Some(MacAddr(<[u8; 6]>::try_from(value).ok()?))
}

fn text_of(value: &[u8]) -> String {
    String::from_utf8_lossy(value).trim_end_matches('\0').to_owned()
}

/// `struct ifinfomsg` and IFLA_*.
pub(crate) fn link(body: &[u8]) -> Option<LinkView> {
    const IFF_UP: u32 = 1;
    const ARPHRD_ETHER: u16 = 1;
    let ethernet = u16::from_ne_bytes(body.get(2..4)?.try_into().ok()?) == ARPHRD_ETHER;
    let mut view = LinkView {
        ifindex: u32_of(body.get(4..)?)?,
        name: String::new(),
        mac: None,
        group: 0,
        alias: String::new(),
        up: u32_of(body.get(8..)?)? & IFF_UP != 0,
        mtu: 0,
        kind: String::new(),
        inet: InetSettings::default(),
    };
    for (kind, value) in attributes(body.get(16..)?) {
        match kind {
            1 if ethernet => view.mac = mac_of(value),
            3 => view.name = text_of(value),
            4 => view.mtu = u32_of(value)?,
            18 => {
                let kind = attributes(value).find(|(kind, _)| *kind == 1);
                view.kind = kind.map(|(_, text)| text_of(text)).unwrap_or_default();
            }
            20 => view.alias = text_of(value),
            26 => view.inet = inet(value),
            27 => view.group = u32_of(value)?,
            _ => {}
        }
    }
    (!view.name.is_empty()).then_some(view)
}

/// Whether a link has IPv6 at all: a kernel that was booted without it refuses to be told of it.
pub(crate) fn has_inet6(body: &[u8]) -> bool {
    const AF_INET6: u16 = 10;
    let af_spec = attributes(body.get(16..).unwrap_or_default()).find(|(kind, _)| *kind == 26);
    af_spec.is_some_and(|(_, families)| attributes(families).any(|(family, _)| family == AF_INET6))
}

/// IFLA_AF_SPEC → AF_INET → IFLA_INET_CONF: an array of i32, the first being IPV4_DEVCONF_FORWARDING (1).
fn inet(af_spec: &[u8]) -> InetSettings {
    const AF_INET: u16 = 2;
    let conf = attributes(af_spec).find(|(family, _)| *family == AF_INET);
    let conf = conf.and_then(|(_, inet)| attributes(inet).find(|(kind, _)| *kind == 1).map(|(_, v)| v));
    let value = |number: usize| conf.and_then(|c| u32_of(c.get((number - 1) * 4..)?)).unwrap_or(0);
    InetSettings {
        forwarding: value(1) != 0,
        send_redirects: value(6) != 0,
        rp_filter: u8::try_from(value(8)).unwrap_or(u8::MAX),
    }
}

/// `struct ifaddrmsg` and IFA_*.
pub(crate) fn host_address(body: &[u8]) -> Option<HostAddressView> {
    let prefix = *body.get(1)?;
    let ifindex = u32_of(body.get(4..)?)?;
    let local = attributes(body.get(8..)?).find(|(kind, _)| *kind == 2).and_then(|(_, v)| address_of(v))?;
    Some(HostAddressView { ifindex, address: Ipv4Net::new(local, prefix).ok()? })
}

/// What both kinds of route are read from.
struct Route {
    table: u32,
    kind: u8,
    destination: Ipv4Net,
    oif: Option<u32>,
    gateway: Option<Ipv4Addr>,
    metric: u32,
    prefsrc: Option<Ipv4Addr>,
    protocol: u8,
}

const UNICAST: u8 = 1;
const UNREACHABLE: u8 = 7;

/// `struct rtmsg` and RTA_*.
fn route(body: &[u8]) -> Option<Route> {
    let (prefix, protocol, kind) = (*body.get(1)?, *body.get(5)?, *body.get(7)?);
    let mut table = u32::from(*body.get(4)?);
    let (mut destination, mut oif, mut gateway) = (Ipv4Addr::UNSPECIFIED, None, None);
    let (mut metric, mut prefsrc) = (0, None);
    for (attribute, value) in attributes(body.get(12..)?) {
        match attribute {
            1 => destination = address_of(value)?,
            4 => oif = u32_of(value),
            5 => gateway = address_of(value),
            6 => metric = u32_of(value)?,
            7 => prefsrc = address_of(value),
            15 => table = u32_of(value)?,
            _ => {}
        }
    }
    let destination = Ipv4Net::new(destination, prefix).ok()?;
    Some(Route { table, kind, destination, oif, gateway, metric, prefsrc, protocol })
}

/// A route of the pods table; `Some(None)` is of another table or of a kind that is not ours to read.
pub(crate) fn pods_route(body: &[u8]) -> Option<Option<RouteView>> {
    let Route { table, kind, destination, oif, metric, prefsrc, protocol, .. } = route(body)?;
    let action = match (kind, oif) {
        (UNREACHABLE, _) => RouteAction::Unreachable,
        (UNICAST, Some(ifindex)) => RouteAction::Device { ifindex },
        _ => return Some(None),
    };
    Some((table == PODS_TABLE).then_some(RouteView { destination, metric, action, prefsrc, protocol }))
}

/// A unicast route inside a sandbox; `Some(None)` is of another kind, or what the kernel has learnt of a path.
pub(crate) fn sandbox_route(body: &[u8]) -> Option<Option<SandboxRouteView>> {
    const RTM_F_CLONED: u32 = 0x200;
    let learnt = u32_of(body.get(8..)?)? & RTM_F_CLONED != 0;
    let Route { kind, destination, gateway, .. } = route(body)?;
    Some((kind == UNICAST && !learnt).then_some(SandboxRouteView { destination, gateway }))
}

/// Whether a table is an ENI's.
pub(crate) fn of_an_eni(table: u32) -> bool {
    (ENI_TABLE + 1..=ENI_TABLE + MARK_MASK).contains(&table)
}

/// A route of ours in an ENI's table; `Some(None)` is another one.
pub(crate) fn eni_route(body: &[u8]) -> Option<Option<EniRouteView>> {
    let Route { table, kind, destination, oif, gateway, metric, protocol, .. } = route(body)?;
    let ours = of_an_eni(table) && kind == UNICAST && protocol == PROTOCOL;
    let view = |ifindex| EniRouteView { table, destination, gateway, ifindex, metric, protocol };
    Some(oif.filter(|_| ours).map(view))
}

/// A route of the main table by a link; `Some(None)` is another one.
pub(crate) fn main_route(body: &[u8]) -> Option<Option<EniRouteView>> {
    const TABLE_MAIN: u32 = 254;
    let Route { table, kind, destination, oif, gateway, metric, protocol, .. } = route(body)?;
    let view = |ifindex| EniRouteView { table, destination, gateway, ifindex, metric, protocol };
    Some(oif.filter(|_| table == TABLE_MAIN && kind == UNICAST).map(view))
}

/// What of a route tells whose it is: its table, protocol and link.
pub(crate) fn route_place(body: &[u8]) -> Option<(u32, u8, Option<u32>)> {
    let Route { table, oif, protocol, .. } = route(body)?;
    Some((table, protocol, oif))
}

/// `struct fib_rule_hdr` and FRA_*.
pub(crate) fn rule(body: &[u8]) -> Option<RuleView> {
    const FIB_RULE_INVERT: u32 = 2;
    // Prefix lengths and TOS.
    let other_selector = body.get(1..4)? != [0; 3] || u32_of(body.get(8..)?)? & FIB_RULE_INVERT != 0;
    let table = u32::from(*body.get(4)?);
    let mut view = RuleView { priority: 0, table, protocol: 0, mark: None, other_selector };
    let (mut mark, mut mask) = (None, None);
    for (kind, value) in attributes(body.get(12..)?) {
        match kind {
            6 => view.priority = u32_of(value)?,
            10 => mark = u32_of(value),
            15 => view.table = u32_of(value)?,
            16 => mask = u32_of(value),
            21 => view.protocol = *value.first()?,
            // Addresses, links, tunnel, l3mdev, uids, protocol, ports, DSCP, flow label: a selector.
            1 | 2 | 3 | 12 | 17 | 19 | 20 | 22..=26 => view.other_selector = true,
            _ => {}
        }
    }
    if mark.is_some() || mask.is_some() {
        view.mark = Some(Mark { value: mark.unwrap_or(0), mask: mask.unwrap_or(u32::MAX) });
    }
    Some(view)
}

/// `struct ndmsg` and NDA_*; `Some(None)` has no MAC yet.
pub(crate) fn neighbour(body: &[u8]) -> Option<Option<NeighbourView>> {
    const NUD_PERMANENT: u16 = 0x80;
    let ifindex = u32_of(body.get(4..)?)?;
    let state = u16::from_ne_bytes(body.get(8..10)?.try_into().ok()?);
    let (mut address, mut mac) = (None, None);
    for (kind, value) in attributes(body.get(12..)?) {
        match kind {
            1 => address = address_of(value),
            2 => mac = mac_of(value),
            _ => {}
        }
    }
    let permanent = state & NUD_PERMANENT != 0;
    let view = address.zip(mac).map(|(address, mac)| NeighbourView { ifindex, address, mac, permanent });
    Some(view)
}
