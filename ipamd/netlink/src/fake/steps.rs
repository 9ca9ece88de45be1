//! What the fake does for one step on the host's own network.

use super::FakeKernel;
use crate::answer::errno_name;
use crate::ours;
use ipamd_core::kernel::{
    HostStep, HostStepError, NeighbourView, PROTOCOL, RouteAction, RouteView, RuleView,
};

impl FakeKernel {
    pub(super) fn step(&mut self, step: &HostStep) -> Result<(), HostStepError> {
        let done = match step {
            HostStep::AddRule { priority, table } => {
                let rule =
                    RuleView { priority: *priority, table: *table, protocol: PROTOCOL, catch_all: true };
                if !self.rules.contains(&rule) {
                    self.rules.push(rule);
                }
                Ok(())
            }
            HostStep::DeleteRule { priority, table } => {
                let is_it =
                    |r: &RuleView| r.priority == *priority && r.table == *table && r.protocol == PROTOCOL;
                if let Some(at) = self.rules.iter().position(is_it) {
                    self.rules.remove(at);
                }
                Ok(())
            }
            HostStep::AddRoute(route) => self.put_route(*route),
            HostStep::DeleteRoute(route) => {
                let prefsrc_aside = |r: &RouteView| RouteView { prefsrc: route.prefsrc, ..*r } == *route;
                self.routes.retain(|r| !prefsrc_aside(r));
                Ok(())
            }
            HostStep::SetLink { ifindex, group, inet, up } => match self.links.get_mut(ifindex) {
                Some(link) => {
                    (link.view.group, link.view.inet, link.view.up) = (*group, *inet, link.view.up || *up);
                    Ok(())
                }
                None => Err(libc::ENODEV),
            },
            HostStep::SetNeighbour(neighbour) => self.put_neighbour(*neighbour),
            HostStep::ReplaceNft { text } => {
                self.nft = Some(text.clone());
                Ok(())
            }
        };
        done.map_err(|errno| HostStepError { step: ours::describe(step), cause: errno_name(errno) })
    }

    /// Lays a route over one of the same destination and metric; without a preferred source that the host lacks.
    pub(super) fn put_route(&mut self, mut route: RouteView) -> Result<(), i32> {
        if let RouteAction::Device { ifindex } = route.action {
            match self.links.get(&ifindex) {
                None => return Err(libc::ENODEV),
                Some(link) if !link.view.up => return Err(libc::ENETDOWN),
                Some(_) => {}
            }
        }
        route.prefsrc =
            route.prefsrc.filter(|source| self.addresses.iter().any(|a| a.address.addr() == *source));
        self.routes.retain(|r| r.destination != route.destination || r.metric != route.metric);
        self.routes.push(route);
        Ok(())
    }

    pub(super) fn put_neighbour(&mut self, neighbour: NeighbourView) -> Result<(), i32> {
        if !self.links.contains_key(&neighbour.ifindex) {
            return Err(libc::ENODEV);
        }
        self.neighbours.retain(|n| n.ifindex != neighbour.ifindex || n.address != neighbour.address);
        self.neighbours.push(NeighbourView { permanent: true, ..neighbour });
        Ok(())
    }
}
