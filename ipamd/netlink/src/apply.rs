//! Steps on the host's own network.
//!
//! Owns one message per step, in sends of many, and the answers that are fine: what is there already when it is
//! added, what is gone already when it is deleted. Does not decide which steps.

use crate::answer::Refusal;
use crate::forward;
use crate::host::Host;
use crate::message;
use crate::nft;
use crate::ours;
use ipamd_core::kernel::{HostStep, HostStepError, RouteView};

/// Takes the steps in order and goes on after a failure; all failures.
pub(crate) fn apply(host: &mut Host, steps: &[HostStep]) -> Vec<HostStepError> {
    let mut errors = Vec::new();
    let mut first = 0;
    for run in steps.chunk_by(|a, b| !by_program(a) && !by_program(b)) {
        let mut failed = |index: usize, cause: String, gone: bool| {
            errors.push(HostStepError {
                index: Some(first + index),
                step: ours::describe(&run[index]),
                cause,
                gone,
            });
        };
        match &run[0] {
            HostStep::ReplaceNft { text } => {
                nft::replace(host, text).unwrap_or_else(|error| failed(0, error.to_string(), false));
            }
            HostStep::AcceptForward(chain) => {
                forward::accept(host, *chain).unwrap_or_else(|error| failed(0, error.to_string(), false));
            }
            _ => by_netlink(host, run, failed),
        }
        first += run.len();
    }
    errors
}

/// Whether another program takes the step.
fn by_program(step: &HostStep) -> bool {
    matches!(step, HostStep::ReplaceNft { .. } | HostStep::AcceptForward(_))
}

/// `failed` takes each failed step's place in `steps`, why it failed, and whether its link is gone.
fn by_netlink(host: &mut Host, steps: &[HostStep], mut failed: impl FnMut(usize, String, bool)) {
    let refusals = match host.route.batch(steps.iter().filter_map(message_of).collect()) {
        Ok(refusals) => refusals,
        // What was carried out is not known: the next look tells.
        Err(io) => return (0..steps.len()).for_each(|index| failed(index, io.to_string(), false)),
    };
    for refusal in refusals {
        let step = &steps[refusal.index];
        if is_fine(step, &refusal) {
            continue;
        }
        let cause = match step {
            HostStep::AddRoute(route) if refusal.errno == libc::EINVAL && route.prefsrc.is_some() => {
                let plain = RouteView { prefsrc: None, ..*route };
                let again = host.route.call(message::put_route(&plain)).err();
                again.map(|error| (error.to_string(), error.errno()))
            }
            _ => Some((refusal.to_string(), Some(refusal.errno))),
        };
        if let Some((cause, errno)) = cause {
            failed(refusal.index, cause, errno == Some(libc::ENODEV));
        }
    }
}

/// A step's message; none for another program's.
fn message_of(step: &HostStep) -> Option<Vec<u8>> {
    Some(match step {
        HostStep::AddRule { priority, table, mark } => message::new_rule(*priority, *table, *mark),
        HostStep::DeleteRule { priority, table, mark } => message::delete_rule(*priority, *table, *mark),
        HostStep::AddRoute(route) => message::put_route(route),
        HostStep::DeleteRoute(route) => message::delete_route(route),
        HostStep::SetLink { ifindex, group, inet, up } => message::set_link(*ifindex, *group, *inet, *up),
        HostStep::SetNeighbour(neighbour) => message::neighbour(neighbour),
        HostStep::SetAlias { ifindex, alias } => message::set_alias(*ifindex, alias),
        HostStep::SetMac { ifindex, mac } => message::set_mac(*ifindex, *mac),
        HostStep::SetName { ifindex, name } => message::set_name(*ifindex, name),
        HostStep::SetMtu { ifindex, mtu } => message::set_mtu(*ifindex, *mtu),
        HostStep::AddAddress(address) => message::new_address(address),
        HostStep::DeleteAddress(address) => message::delete_address(address),
        HostStep::AddEniRoute(route) => message::put_eni_route(route),
        HostStep::DeleteEniRoute(route) | HostStep::DeleteMainRoute(route) => {
            message::delete_eni_route(route)
        }
        HostStep::ReplaceNft { .. } | HostStep::AcceptForward(_) => return None,
    })
}

fn is_fine(step: &HostStep, refusal: &Refusal) -> bool {
    match step {
        HostStep::AddRule { .. } | HostStep::AddAddress(_) => refusal.errno == libc::EEXIST,
        HostStep::DeleteRule { .. }
        | HostStep::DeleteRoute(_)
        | HostStep::DeleteEniRoute(_)
        | HostStep::DeleteMainRoute(_) => matches!(refusal.errno, libc::ENOENT | libc::ESRCH),
        // It is being deleted, and has gone.
        HostStep::SetAlias { .. } => refusal.errno == libc::ENODEV,
        HostStep::DeleteAddress(_) => matches!(refusal.errno, libc::EADDRNOTAVAIL | libc::ENODEV),
        _ => false,
    }
}
