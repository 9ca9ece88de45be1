//! Wiring a sandbox and taking it off.
//!
//! Owns the order of the messages and the reading of their failures. NEWLINK goes alone and its acknowledgement is
//! read before anything that names its ifindex goes out: a batch is no transaction, and after a taken ifindex the
//! rest of it would rewrite somebody else's link. Then one send in the sandbox, one on the host; alias and /32 come
//! last, and so prove a link whole. Undoes nothing: the owner decides that.

use crate::answer::{Refusal, errno_name};
use crate::dump;
use crate::host::Host;
use crate::message;
use crate::ours;
use crate::sandbox::SandboxSocket;
use crate::socket::{self, CallError};
use ipamd_core::kernel::{
    DYING_GROUP, HostStepError, LinkView, NeighbourView, POD_INET, RouteView, UnwireSpec, WireError,
    WireSpec, WireStep,
};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Makes a sandbox's pair whole: eleven messages in four sends, and one of each more when RTA_PREFSRC is refused.
pub(crate) fn wire(host: &mut Host, spec: &WireSpec, sandbox: &SandboxSocket) -> Result<(), WireError> {
    let netns = enter(sandbox)?;
    for ifindex in &spec.delete_first {
        delete_first(host, *ifindex)?;
    }
    create(host, spec, sandbox.as_fd(), netns.as_fd())?;
    raise_host_end(host, spec)?;
    wire_sandbox(host, spec, sandbox)?;
    wire_host(host, spec)
}

/// The sandbox's network namespace. The socket holds it, so it is there unless the kernel is taking it apart.
fn enter(sandbox: &SandboxSocket) -> Result<OwnedFd, WireError> {
    let netns = sandbox.netns().and_then(|netns| socket::adopt(sandbox.as_fd()).map(|()| netns));
    netns.map_err(|error| match error.raw_os_error() {
        Some(libc::EINVAL | libc::ENODEV) => WireError::SandboxGone,
        _ => failed(WireStep::Sandbox, "asking for the sandbox's network namespace", &error, false),
    })
}

fn delete_first(host: &mut Host, ifindex: u32) -> Result<(), WireError> {
    const STEP: WireStep = WireStep::DeleteFirst;
    let doing = format!("deleting link {ifindex}, which is in the way");
    let link = match link_by_index(host, ifindex) {
        Ok(Some(link)) => link,
        Ok(None) => return Ok(()),
        Err(error) => return Err(call_failed(STEP, &doing, &error, false)),
    };
    if !ours::may_make_way(&link) {
        // Ours is gone and its number somebody else's: nothing of ours is in the way. A name that is taken all the
        // same is told by the creating message.
        return Ok(());
    }
    match host.route.call(message::delete_link(ifindex)) {
        Err(error) if error.errno() != Some(libc::ENODEV) => Err(call_failed(STEP, &doing, &error, false)),
        _ => Ok(()),
    }
}

/// A link of the host; `None` when there is none of that index.
pub(crate) fn link_by_index(host: &mut Host, ifindex: u32) -> Result<Option<LinkView>, CallError> {
    link(host.route.get(message::get_link(ifindex), dump::RTM_NEWLINK))
}

/// What the answer to a request for one link says.
pub(crate) fn link(answer: Result<Vec<u8>, CallError>) -> Result<Option<LinkView>, CallError> {
    match answer {
        Ok(body) => dump::link(&body).map(Some).ok_or(CallError::Malformed("a link without a name")),
        Err(error) if error.errno() == Some(libc::ENODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

fn create(
    host: &mut Host,
    spec: &WireSpec,
    sandbox: BorrowedFd<'_>,
    netns: BorrowedFd<'_>,
) -> Result<(), WireError> {
    const DOING: &str = "creating the pair";
    let refusal = match host.route.call(message::new_pair(spec, netns)) {
        Ok(()) => return Ok(()),
        Err(CallError::Refused(refusal)) => refusal,
        // The answer is lost: it may be there.
        Err(error) => return Err(call_failed(WireStep::Create, DOING, &error, true)),
    };
    if !matches!(refusal.errno, libc::EEXIST | libc::EBUSY) {
        return Err(refused(WireStep::Create, DOING, &refusal, false));
    }
    match who_is_in_the_way(host, spec, sandbox) {
        Ok(error) => Err(error),
        Err(error) => {
            Err(call_failed(WireStep::Create, "asking which name or index is taken", &error, false))
        }
    }
}

/// EEXIST and EBUSY are said for names and indexes on either side alike. Nothing was made.
fn who_is_in_the_way(
    host: &mut Host,
    spec: &WireSpec,
    sandbox: BorrowedFd<'_>,
) -> Result<WireError, CallError> {
    let name = spec.sandbox_name.as_str();
    let inside = host.route.get_in(sandbox, message::get_link_by_name(name), dump::RTM_NEWLINK);
    if link(inside)?.is_some() {
        return Ok(WireError::IfnameTaken { name: name.to_owned() });
    }
    let name = spec.host_name.as_str();
    let outside = host.route.get(message::get_link_by_name(name), dump::RTM_NEWLINK);
    if let Some(link) = link(outside)? {
        return Ok(WireError::HostNameTaken {
            name: name.to_owned(),
            ifindex: link.ifindex,
            group: link.group,
        });
    }
    Ok(WireError::IfindexTaken { ifindex: spec.ifindex })
}

/// Whether the pair has IPv6, to be told to make no link-local address: not below its least MTU.
fn inet6(host: &Host, spec: &WireSpec) -> bool {
    const IPV6_MIN_MTU: u32 = 1280;
    host.inet6 && spec.mtu >= IPV6_MIN_MTU
}

/// The host end is up before the sandbox's: the end that is raised second has its carrier at once, and its queue with it,
/// the first gets its queue by the kernel's link-watch work a moment later. So it is the sandbox that can send at once:
/// a connection's first packet would be lost otherwise, and its second comes after a second.
fn raise_host_end(host: &mut Host, spec: &WireSpec) -> Result<(), WireError> {
    const STEP: WireStep = WireStep::HostEnd;
    const DOING: &str = "raising the host end";
    let raised = host.route.call(message::raise_host_end(spec, POD_INET, inet6(host, spec)));
    raised.map_err(|error| call_failed(STEP, DOING, &error, true))
}

fn wire_sandbox(host: &mut Host, spec: &WireSpec, sandbox: &SandboxSocket) -> Result<(), WireError> {
    const STEP: WireStep = WireStep::SandboxBatch;
    let mut steps = Vec::new();
    if inet6(host, spec) {
        steps.push(("setting the sandbox's end", message::set_sandbox_end(spec)));
    }
    steps.extend([
        ("raising the sandbox's end", message::raise_sandbox_end(spec)),
        ("setting the sandbox's address", message::sandbox_address(spec)),
        ("laying the sandbox's route to its next hop", message::sandbox_gateway_route(spec)),
        ("laying the sandbox's default route", message::sandbox_default_route(spec)),
        ("laying the sandbox's neighbour", message::sandbox_neighbour(spec)),
    ]);
    let (doing, batch): (Vec<&str>, Vec<Vec<u8>>) = steps.into_iter().unzip();
    let refusals = host.route.batch_in(sandbox.as_fd(), batch);
    let refusals = refusals.map_err(|error| failed(STEP, "wiring the sandbox's side", &error, true))?;
    match refusals.first() {
        None => Ok(()),
        Some(refusal) => Err(refused(STEP, doing[refusal.index], refusal, true)),
    }
}

fn wire_host(host: &mut Host, spec: &WireSpec) -> Result<(), WireError> {
    const STEP: WireStep = WireStep::HostBatch;
    const ROUTE: usize = 2;
    const DOING: [&str; ROUTE + 1] =
        ["giving the host end its alias", "laying the host's neighbour", "laying the pod's route"];
    let neighbour = NeighbourView {
        ifindex: spec.ifindex,
        address: spec.address,
        mac: spec.sandbox_mac,
        permanent: true,
    };
    let route = message::pod_route(spec.address, spec.ifindex, spec.prefsrc);
    let batch =
        vec![message::name_host_end(spec), message::neighbour(&neighbour), message::put_route(&route)];
    let refusals = host.route.batch(batch);
    let refusals = refusals.map_err(|error| failed(STEP, "wiring the host's side", &error, true))?;
    let Some(refusal) = refusals.first() else { return Ok(()) };
    if refusal.index != ROUTE || refusal.errno != libc::EINVAL || spec.prefsrc.is_none() {
        return Err(refused(STEP, DOING[refusal.index], refusal, true));
    }
    let plain = RouteView { prefsrc: None, ..route };
    host.route.call(message::put_route(&plain)).map_err(|error| call_failed(STEP, DOING[ROUTE], &error, true))
}

/// DEL's part: the /32 goes, the link joins the dying group, in one send. No link is deleted here. The route names device
/// and protocol, and so can only be ours. The link goes by its name, because its number may be somebody else's after a
/// sandbox that died by itself; so may its name (amazon-vpc-cni makes the same of the same pod): when there was no route,
/// whose link it was is looked at, and one that is not ours is given back. One that was renamed is left to the reaper.
pub(crate) fn unwire(host: &mut Host, spec: &UnwireSpec) -> Result<(), HostStepError> {
    let route = |address| message::delete_route(&message::pod_route(address, spec.ifindex, None));
    let mut batch: Vec<Vec<u8>> = spec.addresses.iter().copied().map(route).collect();
    batch.push(message::set_group_of(spec.host_name.as_str(), DYING_GROUP));
    let step = || format!("take link {} off", spec.ifindex);
    let failed = |step, cause| HostStepError { index: None, step, cause, gone: false };
    let refusals = host.route.batch(batch);
    let refusals = refusals.map_err(|error| failed(step(), error.to_string()))?;
    let unrouted = refusals.iter().any(|r| r.index < spec.addresses.len() && r.errno == libc::ESRCH);
    if unrouted && !refusals.iter().any(|refusal| refusal.index == spec.addresses.len()) {
        give_back(host, spec).map_err(|error| failed(step(), error.to_string()))?;
    }
    let gone = |refusal: &&Refusal| !matches!(refusal.errno, libc::ESRCH | libc::ENODEV);
    let causes = refusals.iter().filter(gone).map(|refusal| match spec.addresses.get(refusal.index) {
        Some(address) => format!("deleting the route {address}: {refusal}"),
        None => format!("moving it into the dying group: {refusal}"),
    });
    let causes: Vec<String> = causes.collect();
    if causes.is_empty() { Ok(()) } else { Err(failed(step(), causes.join("; "))) }
}

/// Takes a link that has the name of ours and is another out of the dying group again, before anything deletes it. It had
/// no group of ours, or its number would be ours.
fn give_back(host: &mut Host, spec: &UnwireSpec) -> Result<(), CallError> {
    const NO_GROUP: u32 = 0;
    let name = spec.host_name.as_str();
    match link(host.route.get(message::get_link_by_name(name), dump::RTM_NEWLINK))? {
        Some(found)
            if found.ifindex != spec.ifindex && found.group == DYING_GROUP && !ours::is_dying(&found) =>
        {
            host.group_trusted = 0;
            host.route.call(message::set_group_of(name, NO_GROUP))
        }
        _ => Ok(()),
    }
}

fn refused(step: WireStep, doing: &str, refusal: &Refusal, made: bool) -> WireError {
    WireError::Refused { step, errno: refusal.errno, text: format!("{doing}: {refusal}"), made }
}

fn failed(step: WireStep, doing: &str, error: &io::Error, made: bool) -> WireError {
    let errno = error.raw_os_error().unwrap_or(libc::EIO);
    WireError::Refused { step, errno, text: format!("{doing}: {} ({error})", errno_name(errno)), made }
}

fn call_failed(step: WireStep, doing: &str, error: &CallError, made: bool) -> WireError {
    let errno = match error {
        CallError::Refused(refusal) => refusal.errno,
        CallError::Io(error) => error.raw_os_error().unwrap_or(libc::EIO),
        CallError::Interrupted | CallError::Malformed(_) => libc::EIO,
    };
    WireError::Refused { step, errno, text: format!("{doing}: {error}"), made }
}
