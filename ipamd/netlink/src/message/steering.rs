//! Messages for the ENIs' part of the host: rules, their tables' routes, their addresses and MTU.

use super::{NEW, PUT, TABLE_MAIN, bytes, route, set_attribute};
use ipamd_core::kernel::{EniRouteView, HostAddressView, Mark, PROTOCOL};
use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressProtocol, AddressScope,
};
use netlink_packet_route::link::LinkAttribute;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

fn rule(priority: u32, table: u32, mark: Option<Mark>) -> RuleMessage {
    let mut rule = RuleMessage::default();
    rule.header.family = AddressFamily::Inet;
    rule.header.action = RuleAction::ToTable;
    rule.attributes = vec![
        RuleAttribute::Priority(priority),
        RuleAttribute::Table(table),
        RuleAttribute::Protocol(RouteProtocol::from(PROTOCOL)),
    ];
    if let Some(mark) = mark {
        rule.attributes.extend([RuleAttribute::FwMark(mark.value), RuleAttribute::FwMask(mark.mask)]);
    }
    rule
}

/// Adds the rule `priority [fwmark mark] lookup table`.
pub(crate) fn new_rule(priority: u32, table: u32, mark: Option<Mark>) -> Vec<u8> {
    bytes(RouteNetlinkMessage::NewRule(rule(priority, table, mark)), NLM_F_ACK | NEW)
}

/// Deletes the first such rule of ours.
pub(crate) fn delete_rule(priority: u32, table: u32, mark: Option<Mark>) -> Vec<u8> {
    bytes(RouteNetlinkMessage::DelRule(rule(priority, table, mark)), NLM_F_ACK)
}

/// All IPv4 rules.
pub(crate) fn dump_rules() -> Vec<u8> {
    let mut rule = RuleMessage::default();
    rule.header.family = AddressFamily::Inet;
    bytes(RouteNetlinkMessage::GetRule(rule), NLM_F_DUMP)
}

fn eni_route(view: &EniRouteView) -> RouteMessage {
    let scope = if view.gateway.is_some() { RouteScope::Universe } else { RouteScope::Link };
    let mut route = route(view.destination, view.table, view.protocol, scope, RouteType::Unicast);
    route.attributes.push(RouteAttribute::Oif(view.ifindex));
    if let Some(gateway) = view.gateway {
        route.attributes.push(RouteAttribute::Gateway(RouteAddress::Inet(gateway)));
    }
    if view.metric > 0 {
        route.attributes.push(RouteAttribute::Priority(view.metric));
    }
    route
}

/// Lays a route of an ENI's table, over one of the same destination and metric.
pub(crate) fn put_eni_route(view: &EniRouteView) -> Vec<u8> {
    bytes(RouteNetlinkMessage::NewRoute(eni_route(view)), NLM_F_ACK | PUT)
}

/// Deletes a route of an ENI's table: this one, by its link, next hop and protocol.
pub(crate) fn delete_eni_route(view: &EniRouteView) -> Vec<u8> {
    bytes(RouteNetlinkMessage::DelRoute(eni_route(view)), NLM_F_ACK)
}

/// The unicast routes of our protocol in all tables: the kernel filters, so that one dump shows what any ENI has left.
pub(crate) fn dump_our_routes() -> Vec<u8> {
    let mut route = RouteMessage::default();
    route.header.address_family = AddressFamily::Inet;
    route.header.protocol = RouteProtocol::from(PROTOCOL);
    route.header.kind = RouteType::Unicast;
    bytes(RouteNetlinkMessage::GetRoute(route), NLM_F_DUMP)
}

/// The unicast routes of the main table by one link: the kernel filters, because that table may be large.
pub(crate) fn dump_main_routes(ifindex: u32) -> Vec<u8> {
    let mut route = RouteMessage::default();
    route.header.address_family = AddressFamily::Inet;
    route.header.kind = RouteType::Unicast;
    route.attributes = vec![RouteAttribute::Table(TABLE_MAIN), RouteAttribute::Oif(ifindex)];
    bytes(RouteNetlinkMessage::GetRoute(route), NLM_F_DUMP)
}

/// The routes of an ENI's table.
pub(crate) fn dump_eni_routes(table: u32) -> Vec<u8> {
    let mut route = RouteMessage::default();
    route.header.address_family = AddressFamily::Inet;
    route.attributes = vec![RouteAttribute::Table(table)];
    bytes(RouteNetlinkMessage::GetRoute(route), NLM_F_DUMP)
}

fn address(view: &HostAddressView) -> AddressMessage {
    let mut address = AddressMessage::default();
    address.header.family = AddressFamily::Inet;
    address.header.prefix_len = view.address.prefix_len();
    address.header.scope = AddressScope::Universe;
    address.header.index = view.ifindex;
    let own = view.address.addr().into();
    address.attributes = vec![AddressAttribute::Local(own), AddressAttribute::Address(own)];
    address
}

/// Puts an address on a link, marked with our protocol (a kernel before 5.18 leaves that out) and without a route to
/// its prefix.
pub(crate) fn new_address(view: &HostAddressView) -> Vec<u8> {
    let mut message = address(view);
    message.attributes.extend([
        AddressAttribute::Flags(AddressFlags::Noprefixroute),
        AddressAttribute::Protocol(AddressProtocol::from(PROTOCOL)),
    ]);
    bytes(RouteNetlinkMessage::NewAddress(message), NLM_F_ACK | NEW)
}

/// Takes an address off a link.
pub(crate) fn delete_address(view: &HostAddressView) -> Vec<u8> {
    bytes(RouteNetlinkMessage::DelAddress(address(view)), NLM_F_ACK)
}

/// A link's MTU. By itself: a driver that refuses it must not spoil group and settings.
pub(crate) fn set_mtu(ifindex: u32, mtu: u32) -> Vec<u8> {
    set_attribute(ifindex, LinkAttribute::Mtu(mtu))
}
