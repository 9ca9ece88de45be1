//! What the fake does for one step on the host's own network.

use super::FakeKernel;
use crate::answer::errno_name;
use crate::ours;
use ipamd_core::kernel::{
    EniRouteView, FilterChain, Forward, HostAddressView, HostStep, HostStepError, LinkView, NeighbourView,
    PROTOCOL, RouteAction, RouteView, RuleView,
};

impl FakeKernel {
    pub(super) fn step(&mut self, step: &HostStep) -> Result<(), HostStepError> {
        let done = match step {
            HostStep::AddRule { priority, table, mark } => {
                let rule = RuleView {
                    priority: *priority,
                    table: *table,
                    protocol: PROTOCOL,
                    mark: *mark,
                    other_selector: false,
                };
                if !self.rules.contains(&rule) {
                    self.rules.push(rule);
                }
                Ok(())
            }
            HostStep::DeleteRule { priority, table, mark } => {
                let is_it = |r: &RuleView| {
                    let marked = mark.is_none() || r.mark == *mark;
                    r.priority == *priority && r.table == *table && r.protocol == PROTOCOL && marked
                };
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
            HostStep::SetAlias { ifindex, alias } => {
                // One that has gone is fine.
                let _ = self.change(*ifindex, |link| link.alias.clone_from(alias));
                Ok(())
            }
            HostStep::SetMac { ifindex, mac } => self.change(*ifindex, |link| link.mac = Some(*mac)),
            HostStep::SetName { ifindex, name } => {
                if self.links.values().any(|link| link.view.name == *name) {
                    Err(libc::EEXIST)
                } else {
                    self.change(*ifindex, |link| link.name.clone_from(name))
                }
            }
            HostStep::SetMtu { ifindex, mtu } => self.change(*ifindex, |link| link.mtu = *mtu),
            HostStep::AddAddress(address) if !self.links.contains_key(&address.ifindex) => Err(libc::ENODEV),
            HostStep::AddAddress(address) => {
                if !self.addresses.contains(address) {
                    self.addresses.push(*address);
                }
                Ok(())
            }
            HostStep::DeleteAddress(address) => {
                self.delete_address(*address);
                Ok(())
            }
            HostStep::AddEniRoute(route) => self.put_eni_route(*route),
            HostStep::DeleteEniRoute(route) => {
                self.eni_routes.retain(|r| r != route);
                Ok(())
            }
            HostStep::DeleteMainRoute(route) => {
                self.main_routes.retain(|r| r != route);
                Ok(())
            }
            HostStep::AcceptForward(wanted) => return self.accept_forward(*wanted, step),
            HostStep::SetNeighbour(neighbour) => self.put_neighbour(*neighbour),
            HostStep::ReplaceNft { text } => {
                self.nft = Some(text.clone());
                Ok(())
            }
        };
        done.map_err(|errno| HostStepError {
            index: None,
            step: ours::describe(step),
            cause: errno_name(errno),
            gone: errno == libc::ENODEV,
        })
    }

    /// Changes a link that is there.
    pub(super) fn change(&mut self, ifindex: u32, change: impl FnOnce(&mut LinkView)) -> Result<(), i32> {
        let link = self.links.get_mut(&ifindex).ok_or(libc::ENODEV)?;
        change(&mut link.view);
        Ok(())
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

    /// With a link's last address go all its routes, in whatever table, and its neighbours.
    fn delete_address(&mut self, address: HostAddressView) {
        let Some(at) = self.addresses.iter().position(|a| *a == address) else { return };
        self.addresses.remove(at);
        let ifindex = address.ifindex;
        if self.addresses.iter().all(|a| a.ifindex != ifindex) {
            self.routes.retain(|route| route.action != RouteAction::Device { ifindex });
            self.eni_routes.retain(|route| route.ifindex != ifindex);
            self.neighbours.retain(|neighbour| neighbour.ifindex != ifindex);
        }
    }

    /// Lays a route of an ENI's table. Its next hop must be on the link: by that table, or by an address of the link.
    fn put_eni_route(&mut self, route: EniRouteView) -> Result<(), i32> {
        match self.links.get(&route.ifindex) {
            None => return Err(libc::ENODEV),
            Some(link) if !link.view.up => return Err(libc::ENETDOWN),
            Some(_) => {}
        }
        if let Some(gateway) = route.gateway {
            let by_table = self.eni_routes.iter().any(|r| {
                let on_link = r.gateway.is_none() && r.ifindex == route.ifindex;
                r.table == route.table && on_link && r.destination.contains(&gateway)
            });
            let by_address =
                self.addresses.iter().any(|a| a.ifindex == route.ifindex && a.address.contains(&gateway));
            if !by_table && !by_address {
                return Err(libc::ENETUNREACH);
            }
        }
        let place = |r: &EniRouteView| (r.table, r.destination, r.metric);
        self.eni_routes.retain(|r| place(r) != place(&route));
        self.eni_routes.push(route);
        Ok(())
    }

    /// Rules in a chain that is there; iptables makes FORWARD when it is missing, and no other.
    fn accept_forward(&mut self, wanted: FilterChain, step: &HostStep) -> Result<(), HostStepError> {
        match &mut self.forward {
            Forward::Drops { chain, accepted } if *chain == wanted => *accepted = true,
            _ if wanted == FilterChain::Forward => {}
            _ => {
                let cause = format!("iptables-nft ended with exit status: 1: no chain {}", wanted.name());
                return Err(HostStepError { index: None, step: ours::describe(step), cause, gone: false });
            }
        }
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
