//! One look at an attachment: its part of the host, and the inside of its sandbox.
//!
//! Owns which messages ask for it: single links, and dumps that the kernel or the reader filters, so that a node full of
//! pods does not make it long. What is inside a sandbox is its inhabitants': a dump there is bounded. A look that fails
//! in one part fails whole. Does not judge what it sees.

use crate::dump;
use crate::host::Host;
use crate::message;
use crate::nft;
use crate::sandbox::SandboxSocket;
use crate::socket::{self, CallError};
use crate::wire::link;
use ipamd_core::kernel::{
    AttachmentView, HostStepError, LookSpec, PROTOCOL, RouteView, SANDBOX_GATEWAY, SandboxLinkView,
    SandboxView,
};
use ipnet::Ipv4Net;
use std::os::fd::AsFd;

type Failed = (&'static str, CallError);

/// Looks at an attachment.
pub(crate) fn look(
    host: &mut Host,
    spec: &LookSpec,
    sandbox: &SandboxSocket,
) -> Result<AttachmentView, HostStepError> {
    let seen = inside(host, spec, sandbox).and_then(|inside| outside(host, spec, inside));
    seen.map_err(|(what, error)| HostStepError {
        index: None,
        step: format!("look at {what}"),
        cause: error.to_string(),
        gone: false,
    })
}

fn outside(host: &mut Host, spec: &LookSpec, sandbox: SandboxView) -> Result<AttachmentView, Failed> {
    let route = &mut host.route;
    let mut by_index = |index: Option<u32>| match index {
        Some(index) => link(route.get(message::get_link(index), dump::RTM_NEWLINK)),
        None => Ok(None),
    };
    let own = by_index(Some(spec.ifindex)).map_err(|error| ("the host link", error))?;
    let eni_link = by_index(spec.eni_ifindex).map_err(|error| ("the ENI's link", error))?;
    let to_it = |view: &RouteView| spec.addresses.iter().any(|a| view.destination == Ipv4Net::from(*a));
    let routes = route.dump(&message::dump_pods_routes(), dump::RTM_NEWROUTE, |body| {
        dump::pods_route(body).map(|view| view.filter(to_it))
    });
    let routes = absent_is_empty(routes).map_err(|error| ("the routes of the pods table", error))?;
    let neighbours = match own {
        Some(_) => {
            let request = message::dump_neighbours_of(spec.ifindex);
            let neighbours = route.dump(&request, dump::RTM_NEWNEIGH, dump::neighbour);
            absent_is_empty(neighbours).map_err(|error| ("the host's neighbours", error))?
        }
        None => Vec::new(),
    };
    let rules = route.dump(&message::dump_rules(), dump::RTM_NEWRULE, |body| dump::rule(body).map(Some));
    let rules = rules.map_err(|error| ("the rules", error))?;
    let eni_routes = match spec.eni_table {
        Some(table) => {
            let request = message::dump_eni_routes(table);
            let routes = route.dump(&request, dump::RTM_NEWROUTE, |body| {
                dump::eni_route(body).map(|view| view.filter(|view| view.protocol == PROTOCOL))
            });
            absent_is_empty(routes).map_err(|error| ("the routes of the ENI's table", error))?
        }
        None => Vec::new(),
    };
    let nft = nft::look(&mut host.netfilter).map_err(|error| ("the nft table", error))?;
    Ok(AttachmentView { link: own, eni_link, routes, neighbours, rules, eni_routes, nft, sandbox })
}

fn inside(host: &mut Host, spec: &LookSpec, sandbox: &SandboxSocket) -> Result<SandboxView, Failed> {
    let fd = sandbox.as_fd();
    let adopted = socket::adopt(fd).and_then(|()| socket::check_strictly(fd));
    adopted.map_err(|error| ("the sandbox", error.into()))?;
    let route = &mut host.route;
    let failed = |error| ("the sandbox's link", error);
    let of_index =
        link(route.get_in(fd, message::get_link(spec.ifindex), dump::RTM_NEWLINK)).map_err(failed)?;
    let named = message::get_link_by_name(spec.sandbox_name.as_str());
    let found = match &of_index {
        Some(link) => Some(link.clone()),
        None => link(route.get_in(fd, named, dump::RTM_NEWLINK)).map_err(failed)?,
    };
    let found = found.map(|link| SandboxLinkView {
        ifindex: link.ifindex,
        name: link.name,
        mac: link.mac,
        up: link.up,
    });
    if of_index.is_none() {
        return Ok(SandboxView { link: found, ..SandboxView::default() });
    }
    let addresses = route.dump_in(fd, &message::dump_addresses_of(spec.ifindex), dump::RTM_NEWADDR, |body| {
        dump::host_address(body).map(|view| (view.ifindex == spec.ifindex).then_some(view.address))
    });
    let addresses = absent_is_empty(addresses).map_err(|error| ("the sandbox's addresses", error))?;
    // A sandbox's other routes are its own business, however many they are.
    let laid = [Ipv4Net::from(SANDBOX_GATEWAY), Ipv4Net::default()];
    let routes = route.dump_in(fd, &message::dump_routes_by(spec.ifindex), dump::RTM_NEWROUTE, |body| {
        dump::sandbox_route(body).map(|view| view.filter(|view| laid.contains(&view.destination)))
    });
    let routes = absent_is_empty(routes).map_err(|error| ("the sandbox's routes", error))?;
    let neighbours =
        route.dump_in(fd, &message::dump_neighbours_of(spec.ifindex), dump::RTM_NEWNEIGH, dump::neighbour);
    let neighbours = absent_is_empty(neighbours).map_err(|error| ("the sandbox's neighbours", error))?;
    Ok(SandboxView { link: found, addresses, routes, neighbours })
}

/// A table without a route, and a link that has gone since it was looked at, are refused: there is nothing in them.
fn absent_is_empty<T>(seen: Result<Vec<T>, CallError>) -> Result<Vec<T>, CallError> {
    match seen {
        Err(error) if matches!(error.errno(), Some(libc::ENOENT | libc::ENODEV)) => Ok(Vec::new()),
        seen => seen,
    }
}
