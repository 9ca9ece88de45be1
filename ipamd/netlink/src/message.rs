//! The messages, built with netlink-packet-route.
//!
//! Owns their shapes: a sandbox's and the pods table's here, the ENIs' in `steering`. Does not send them. Values of our own (groups, tables, protocol) come in as arguments or from
//! `ipamd_core::kernel`.

mod steering;

pub(crate) use steering::*;

use eni_proto::ids::MacAddr;
use ipamd_core::kernel::{
    InetSettings, NeighbourView, PODS_TABLE, PROTOCOL, RouteAction, RouteView, SANDBOX_GATEWAY, WireSpec,
};
use ipnet::Ipv4Net;
use netlink_packet_core::{
    DefaultNla, NLA_F_NESTED, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE,
    NLM_F_REQUEST, NetlinkMessage,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    AfSpecInet, AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth, LinkAttribute,
    LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

const NEW: u16 = NLM_F_CREATE | NLM_F_EXCL;
const PUT: u16 = NLM_F_CREATE | NLM_F_REPLACE;
const IFLA_INET_CONF: u16 = 1;
const IPV4_DEVCONF_FORWARDING: u16 = 1;
const IPV4_DEVCONF_SEND_REDIRECTS: u16 = 6;
const IPV4_DEVCONF_RP_FILTER: u16 = 8;

fn bytes(message: RouteNetlinkMessage, flags: u16) -> Vec<u8> {
    let mut message = NetlinkMessage::from(message);
    message.header.flags = NLM_F_REQUEST | flags;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// A veth pair, the peer born in the sandbox. One queue each way: left alone, veth makes one per possible CPU and
/// pays for it under RTNL. The group at creation is the host end's alone. Neither end is raised: see [`raise`].
pub(crate) fn new_pair(spec: &WireSpec, netns: BorrowedFd<'_>) -> Vec<u8> {
    let end = |name: &str, mac: MacAddr| {
        let mut link = LinkMessage::default();
        link.header.index = spec.ifindex;
        link.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Address(mac.0.to_vec()),
            LinkAttribute::Mtu(spec.mtu),
            LinkAttribute::TxQueueLen(spec.txqueuelen),
            LinkAttribute::NumTxQueues(1),
            LinkAttribute::NumRxQueues(1),
        ];
        link
    };
    let mut peer = end(spec.sandbox_name.as_str(), spec.sandbox_mac);
    peer.attributes.push(LinkAttribute::NetNsFd(netns.as_raw_fd()));
    let mut host = end(spec.host_name.as_str(), spec.host_mac);
    host.attributes.push(LinkAttribute::Group(spec.group));
    host.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
    ]));
    bytes(RouteNetlinkMessage::NewLink(host), NLM_F_ACK | NEW)
}

/// No IPv6 link-local addresses: each would cost every later delete a walk over all IPv6 routes of the node.
fn no_link_local() -> AfSpecUnspec {
    AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)])
}

/// The sandbox's end before it is raised: no link-local address. The host end is up, so raising it brings the carrier, and
/// one message cannot do both: the kernel raises first and reads the address generation mode after.
pub(crate) fn set_sandbox_end(spec: &WireSpec) -> Vec<u8> {
    let mut link = LinkMessage::default();
    link.header.index = spec.ifindex;
    link.attributes = vec![LinkAttribute::AfSpecUnspec(vec![no_link_local()])];
    bytes(RouteNetlinkMessage::SetLink(link), NLM_F_ACK)
}

/// Raises the sandbox's end.
pub(crate) fn raise_sandbox_end(spec: &WireSpec) -> Vec<u8> {
    bytes(RouteNetlinkMessage::SetLink(raised(spec.ifindex)), NLM_F_ACK)
}

fn raised(ifindex: u32) -> LinkMessage {
    let mut link = LinkMessage::default();
    link.header.index = ifindex;
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    link
}

/// The sandbox's address, a /32.
pub(crate) fn sandbox_address(spec: &WireSpec) -> Vec<u8> {
    let mut address = AddressMessage::default();
    address.header.family = AddressFamily::Inet;
    address.header.prefix_len = 32;
    address.header.scope = AddressScope::Universe;
    address.header.index = spec.ifindex;
    address.attributes =
        vec![AddressAttribute::Local(spec.address.into()), AddressAttribute::Address(spec.address.into())];
    bytes(RouteNetlinkMessage::NewAddress(address), NLM_F_ACK | NEW)
}

fn route(destination: Ipv4Net, table: u32, protocol: u8, scope: RouteScope, kind: RouteType) -> RouteMessage {
    let mut route = RouteMessage::default();
    route.header.address_family = AddressFamily::Inet;
    route.header.destination_prefix_length = destination.prefix_len();
    route.header.protocol = RouteProtocol::from(protocol);
    route.header.scope = scope;
    route.header.kind = kind;
    if destination.prefix_len() > 0 {
        route.attributes.push(RouteAttribute::Destination(RouteAddress::Inet(destination.addr())));
    }
    route.attributes.push(RouteAttribute::Table(table));
    route
}

const TABLE_MAIN: u32 = 254;
const PROTOCOL_BOOT: u8 = 3;

/// The sandbox's on-link route to its next hop. Appended: another interface of ours in the same sandbox has the same.
pub(crate) fn sandbox_gateway_route(spec: &WireSpec) -> Vec<u8> {
    let destination = Ipv4Net::from(SANDBOX_GATEWAY);
    let mut route = route(destination, TABLE_MAIN, PROTOCOL_BOOT, RouteScope::Link, RouteType::Unicast);
    route.attributes.push(RouteAttribute::Oif(spec.ifindex));
    bytes(RouteNetlinkMessage::NewRoute(route), NLM_F_ACK | NLM_F_CREATE | NLM_F_APPEND)
}

/// The sandbox's default route. Appended: where there is one already, that one stays the first.
pub(crate) fn sandbox_default_route(spec: &WireSpec) -> Vec<u8> {
    let mut route =
        route(Ipv4Net::default(), TABLE_MAIN, PROTOCOL_BOOT, RouteScope::Universe, RouteType::Unicast);
    route.attributes.push(RouteAttribute::Gateway(RouteAddress::Inet(SANDBOX_GATEWAY)));
    route.attributes.push(RouteAttribute::Oif(spec.ifindex));
    bytes(RouteNetlinkMessage::NewRoute(route), NLM_F_ACK | NLM_F_CREATE | NLM_F_APPEND)
}

/// A permanent neighbour.
pub(crate) fn neighbour(view: &NeighbourView) -> Vec<u8> {
    let mut neighbour = NeighbourMessage::default();
    neighbour.header.family = AddressFamily::Inet;
    neighbour.header.ifindex = view.ifindex;
    neighbour.header.state = NeighbourState::Permanent;
    neighbour.attributes = vec![
        NeighbourAttribute::Destination(NeighbourAddress::Inet(view.address)),
        NeighbourAttribute::LinkLayerAddress(view.mac.0.to_vec()),
    ];
    bytes(RouteNetlinkMessage::NewNeighbour(neighbour), NLM_F_ACK | PUT)
}

/// The sandbox's neighbour: its next hop is the host end.
pub(crate) fn sandbox_neighbour(spec: &WireSpec) -> Vec<u8> {
    neighbour(&NeighbourView {
        ifindex: spec.ifindex,
        address: SANDBOX_GATEWAY,
        mac: spec.host_mac,
        permanent: true,
    })
}

/// Per-link IPv4 settings. Written by hand: the crate's own form leaves zeroes out, and zero is a setting here.
fn inet(settings: InetSettings) -> AfSpecUnspec {
    let values = [
        (IPV4_DEVCONF_FORWARDING, u32::from(settings.forwarding)),
        (IPV4_DEVCONF_SEND_REDIRECTS, u32::from(settings.send_redirects)),
        (IPV4_DEVCONF_RP_FILTER, u32::from(settings.rp_filter)),
    ];
    let mut nested = Vec::new();
    for (kind, value) in values {
        nested.extend_from_slice(&8u16.to_ne_bytes());
        nested.extend_from_slice(&kind.to_ne_bytes());
        nested.extend_from_slice(&value.to_ne_bytes());
    }
    AfSpecUnspec::Inet(vec![AfSpecInet::Other(DefaultNla::new(IFLA_INET_CONF | NLA_F_NESTED, nested))])
}

/// Raises the host end, with its settings. The sandbox's is still down, so there is no carrier, and the kernel, which
/// raises first and reads the address generation mode after, makes no link-local address in between.
pub(crate) fn raise_host_end(spec: &WireSpec, settings: InetSettings, inet6: bool) -> Vec<u8> {
    let mut link = raised(spec.ifindex);
    let mut families = vec![inet(settings)];
    families.extend(inet6.then(no_link_local));
    link.attributes = vec![LinkAttribute::AfSpecUnspec(families)];
    bytes(RouteNetlinkMessage::SetLink(link), NLM_F_ACK)
}

/// The host end's alias, which the creating message would ignore.
pub(crate) fn name_host_end(spec: &WireSpec) -> Vec<u8> {
    set_alias(spec.ifindex, &spec.alias)
}

fn set_attribute(ifindex: u32, attribute: LinkAttribute) -> Vec<u8> {
    let mut link = LinkMessage::default();
    link.header.index = ifindex;
    link.attributes = vec![attribute];
    bytes(RouteNetlinkMessage::SetLink(link), NLM_F_ACK)
}

/// A link's alias.
pub(crate) fn set_alias(ifindex: u32, alias: &str) -> Vec<u8> {
    set_attribute(ifindex, LinkAttribute::IfAlias(alias.to_owned()))
}

/// A link's MAC.
pub(crate) fn set_mac(ifindex: u32, mac: MacAddr) -> Vec<u8> {
    set_attribute(ifindex, LinkAttribute::Address(mac.0.to_vec()))
}

/// A link's name. Kernels before 6.2 refuse it of a link that is up.
pub(crate) fn set_name(ifindex: u32, name: &str) -> Vec<u8> {
    set_attribute(ifindex, LinkAttribute::IfName(name.to_owned()))
}

/// A link's group, settings and, when asked, up.
pub(crate) fn set_link(ifindex: u32, group: u32, settings: InetSettings, up: bool) -> Vec<u8> {
    let mut link = if up { raised(ifindex) } else { LinkMessage::default() };
    link.header.index = ifindex;
    link.attributes = vec![LinkAttribute::Group(group), LinkAttribute::AfSpecUnspec(vec![inet(settings)])];
    bytes(RouteNetlinkMessage::SetLink(link), NLM_F_ACK)
}

/// A link's group alone.
pub(crate) fn set_group(ifindex: u32, group: u32) -> Vec<u8> {
    set_attribute(ifindex, LinkAttribute::Group(group))
}

/// The group of the link that has this name: with a number beside it, the kernel would rename instead of look up.
pub(crate) fn set_group_of(name: &str, group: u32) -> Vec<u8> {
    let mut link = LinkMessage::default();
    link.attributes = vec![LinkAttribute::IfName(name.to_owned()), LinkAttribute::Group(group)];
    bytes(RouteNetlinkMessage::SetLink(link), NLM_F_ACK)
}

/// Deletes one link.
pub(crate) fn delete_link(ifindex: u32) -> Vec<u8> {
    let mut link = LinkMessage::default();
    link.header.index = ifindex;
    bytes(RouteNetlinkMessage::DelLink(link), NLM_F_ACK)
}

/// Deletes all links of a group.
pub(crate) fn delete_group(group: u32) -> Vec<u8> {
    let mut link = LinkMessage::default();
    link.attributes = vec![LinkAttribute::Group(group)];
    bytes(RouteNetlinkMessage::DelLink(link), NLM_F_ACK)
}

/// Asks for one link.
pub(crate) fn get_link(ifindex: u32) -> Vec<u8> {
    let mut link = LinkMessage::default();
    link.header.index = ifindex;
    bytes(RouteNetlinkMessage::GetLink(link), NLM_F_ACK)
}

/// Asks for one link by its name.
pub(crate) fn get_link_by_name(name: &str) -> Vec<u8> {
    let mut link = LinkMessage::default();
    link.attributes.push(LinkAttribute::IfName(name.to_owned()));
    bytes(RouteNetlinkMessage::GetLink(link), NLM_F_ACK)
}

fn pods_route(view: &RouteView) -> RouteMessage {
    let (scope, kind) = match view.action {
        RouteAction::Device { .. } => (RouteScope::Link, RouteType::Unicast),
        RouteAction::Unreachable => (RouteScope::Universe, RouteType::Unreachable),
    };
    let mut route = route(view.destination, PODS_TABLE, view.protocol, scope, kind);
    if let RouteAction::Device { ifindex } = view.action {
        route.attributes.push(RouteAttribute::Oif(ifindex));
    }
    if view.metric > 0 {
        route.attributes.push(RouteAttribute::Priority(view.metric));
    }
    if let Some(source) = view.prefsrc {
        route.attributes.push(RouteAttribute::PrefSource(RouteAddress::Inet(source)));
    }
    route
}

/// Lays a route of the pods table, over one of the same destination and metric.
pub(crate) fn put_route(view: &RouteView) -> Vec<u8> {
    bytes(RouteNetlinkMessage::NewRoute(pods_route(view)), NLM_F_ACK | PUT)
}

/// Deletes a route of the pods table: this one, by its device and protocol.
pub(crate) fn delete_route(view: &RouteView) -> Vec<u8> {
    let view = RouteView { prefsrc: None, ..*view };
    bytes(RouteNetlinkMessage::DelRoute(pods_route(&view)), NLM_F_ACK)
}

/// The /32 of a sandbox.
pub(crate) fn pod_route(address: Ipv4Addr, ifindex: u32, prefsrc: Option<Ipv4Addr>) -> RouteView {
    RouteView {
        destination: Ipv4Net::from(address),
        metric: 0,
        action: RouteAction::Device { ifindex },
        prefsrc,
        protocol: PROTOCOL,
    }
}

/// Dumps, each of one family and table as strict checking wants it.
pub(crate) fn dump_links() -> Vec<u8> {
    bytes(RouteNetlinkMessage::GetLink(LinkMessage::default()), NLM_F_DUMP)
}

/// All IPv4 addresses.
pub(crate) fn dump_addresses() -> Vec<u8> {
    let mut address = AddressMessage::default();
    address.header.family = AddressFamily::Inet;
    bytes(RouteNetlinkMessage::GetAddress(address), NLM_F_DUMP)
}

/// The routes of the pods table.
pub(crate) fn dump_pods_routes() -> Vec<u8> {
    let mut route = RouteMessage::default();
    route.header.address_family = AddressFamily::Inet;
    route.attributes = vec![RouteAttribute::Table(PODS_TABLE)];
    bytes(RouteNetlinkMessage::GetRoute(route), NLM_F_DUMP)
}

/// The IPv4 addresses of one link.
pub(crate) fn dump_addresses_of(ifindex: u32) -> Vec<u8> {
    let mut address = AddressMessage::default();
    address.header.family = AddressFamily::Inet;
    address.header.index = ifindex;
    bytes(RouteNetlinkMessage::GetAddress(address), NLM_F_DUMP)
}

/// The IPv4 unicast routes by one link, in all tables.
pub(crate) fn dump_routes_by(ifindex: u32) -> Vec<u8> {
    let mut route = RouteMessage::default();
    route.header.address_family = AddressFamily::Inet;
    route.header.kind = RouteType::Unicast;
    route.attributes = vec![RouteAttribute::Oif(ifindex)];
    bytes(RouteNetlinkMessage::GetRoute(route), NLM_F_DUMP)
}

/// The IPv4 neighbours of one link.
pub(crate) fn dump_neighbours_of(ifindex: u32) -> Vec<u8> {
    let mut neighbour = NeighbourMessage::default();
    neighbour.header.family = AddressFamily::Inet;
    neighbour.attributes = vec![NeighbourAttribute::IfIndex(ifindex)];
    bytes(RouteNetlinkMessage::GetNeighbour(neighbour), NLM_F_DUMP)
}

/// All IPv4 neighbours.
pub(crate) fn dump_neighbours() -> Vec<u8> {
    let mut neighbour = NeighbourMessage::default();
    neighbour.header.family = AddressFamily::Inet;
    bytes(RouteNetlinkMessage::GetNeighbour(neighbour), NLM_F_DUMP)
}
