//! What a failed step on the host's network is about, and so what is not to be given out until it is taken.
//!
//! Owns that reading, and the other one: whether pods that run lack something by it. One step that keeps failing must not
//! take the whole node out of service; what every pod's packets need does. Does not plan and does not retry: the pass has
//! failed, and the next one plans it again.

use super::host::Applying;
use crate::host_net::WantedPod;
use crate::kernel::{ENI_TABLE, HostStep, HostStepError, MARK_MASK, RouteAction};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;

/// What a failed step is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Concern {
    /// Every pod, or nobody knows what.
    All,
    /// The pods on the secondary ENI of this number.
    Eni(u32),
    /// Who has this address.
    Address(Ipv4Addr),
    /// Nobody's next address: a live pod's link, what an ENI that is gone has left, the filter table of somebody else.
    Nobody,
}

/// What failed steps leave unlaid.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Unlaid {
    /// The numbers of secondary ENIs.
    pub(super) enis: BTreeSet<u32>,
    /// Addresses.
    pub(super) addresses: BTreeSet<Ipv4Addr>,
}

/// What failed steps leave unlaid; none when it is what everything needs.
pub(super) fn unlaid(applying: &Applying, failed: &[HostStepError]) -> Option<Unlaid> {
    let mut unlaid = Unlaid::default();
    for error in failed {
        let step = error.index.and_then(|index| applying.steps.get(index));
        match step.map_or(Concern::All, |step| concern(step, |ifindex| applying.number(ifindex))) {
            Concern::All => return None,
            Concern::Eni(number) => drop(unlaid.enis.insert(number)),
            Concern::Address(address) => drop(unlaid.addresses.insert(address)),
            Concern::Nobody => {}
        }
    }
    Some(unlaid)
}

/// The first failed step that pods which run need, in words; none when all of them have what they need, as far as is
/// known. What could not be taken *away* is no such step, nor is one of which nobody knows which it was: STATUS tells of
/// what is known to be broken.
pub(super) fn harm(applying: &Applying, failed: &[HostStepError], pods: &[WantedPod]) -> Option<String> {
    let known = failed.iter().filter_map(|error| Some((error, applying.steps.get(error.index?)?)));
    let mut harmful = known.filter(|(_, step)| harms(step, |ifindex| applying.number(ifindex), pods));
    harmful.next().map(|(error, _)| error.to_string())
}

fn harms(step: &HostStep, number: impl Fn(u32) -> Option<u32>, pods: &[WantedPod]) -> bool {
    let links = |ifindex: u32| pods.iter().any(|pod| pod.ifindex == ifindex);
    match step {
        HostStep::AddRoute(route) => {
            let to_pod = matches!(route.action, RouteAction::Device { .. });
            to_pod && pods.iter().any(|pod| pod.addresses.contains(&route.destination.addr()))
        }
        HostStep::SetNeighbour(neighbour) => links(neighbour.ifindex),
        HostStep::SetLink { ifindex, .. } | HostStep::SetMac { ifindex, .. }
            if number(*ifindex).is_none() =>
        {
            links(*ifindex)
        }
        HostStep::AddRule { .. }
        | HostStep::AddEniRoute(_)
        | HostStep::AddAddress(_)
        | HostStep::SetLink { .. }
        | HostStep::SetMac { .. }
        | HostStep::ReplaceNft { .. } => match concern(step, number) {
            Concern::All => !pods.is_empty(),
            Concern::Eni(number) => pods.iter().any(|pod| pod.eni_number == Some(number)),
            Concern::Address(_) | Concern::Nobody => false,
        },
        HostStep::DeleteRule { .. }
        | HostStep::DeleteRoute(_)
        | HostStep::DeleteEniRoute(_)
        | HostStep::DeleteMainRoute(_)
        | HostStep::DeleteAddress(_)
        | HostStep::SetAlias { .. }
        | HostStep::SetName { .. }
        | HostStep::SetMtu { .. }
        | HostStep::AcceptForward(_) => false,
    }
}

/// `number` is that of the ENI whose link has an index.
fn concern(step: &HostStep, number: impl Fn(u32) -> Option<u32>) -> Concern {
    let by_number = |number| if number == 1 { Concern::All } else { Concern::Eni(number) };
    let by_link = |ifindex| number(ifindex).map_or(Concern::Nobody, by_number);
    let by_table = |table: u32| match table.checked_sub(ENI_TABLE) {
        Some(number @ 2..=MARK_MASK) => Concern::Eni(number),
        _ => Concern::All,
    };
    match step {
        HostStep::AddRule { table, .. } | HostStep::DeleteRule { table, .. } => by_table(*table),
        HostStep::AddEniRoute(route) | HostStep::DeleteEniRoute(route) => by_table(route.table),
        HostStep::AddRoute(route) | HostStep::DeleteRoute(route) => {
            Concern::Address(route.destination.addr())
        }
        HostStep::SetLink { ifindex, .. }
        | HostStep::SetMtu { ifindex, .. }
        | HostStep::SetAlias { ifindex, .. }
        | HostStep::SetMac { ifindex, .. }
        | HostStep::SetName { ifindex, .. } => by_link(*ifindex),
        HostStep::AddAddress(own) | HostStep::DeleteAddress(own) => by_link(own.ifindex),
        HostStep::ReplaceNft { .. } => Concern::All,
        HostStep::SetNeighbour(_) | HostStep::AcceptForward(_) | HostStep::DeleteMainRoute(_) => {
            Concern::Nobody
        }
    }
}
