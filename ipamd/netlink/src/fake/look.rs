//! What the fake shows of one attachment, and what somebody may do by hand to the inside of a sandbox.

use super::{FakeKernel, SandboxLink};
use eni_proto::ids::NetnsCookie;
use ipamd_core::host_net::nft;
use ipamd_core::kernel::{
    AttachmentView, LookSpec, NeighbourView, SANDBOX_GATEWAY, SandboxLinkView, SandboxRouteView, SandboxView,
};
use ipnet::Ipv4Net;

/// What is taken away inside a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// The address: the last one of a link takes the link's routes and neighbours along.
    Address,
    /// A route, by its destination.
    Route(Ipv4Net),
    /// The neighbour.
    Neighbour,
    /// The link is set down: its routes and neighbours go.
    Up,
}

impl FakeKernel {
    /// Somebody inside a sandbox takes something away from the link `ifindex`.
    pub fn lose(&mut self, cookie: NetnsCookie, ifindex: u32, lost: Lost) {
        let inside = self.sandboxes.get_mut(&cookie).and_then(|sandbox| sandbox.links.get_mut(&ifindex));
        let Some(link) = inside else { return };
        match lost {
            Lost::Address => {
                link.address = None;
                link.routes.clear();
                link.neighbour = None;
            }
            Lost::Route(destination) => link.routes.retain(|route| route.destination != destination),
            Lost::Neighbour => link.neighbour = None,
            Lost::Up => {
                link.up = false;
                link.routes.clear();
                link.neighbour = None;
            }
        }
    }

    /// Somebody deletes the neighbours of a host link.
    pub fn lose_neighbours(&mut self, ifindex: u32) {
        self.neighbours.retain(|neighbour| neighbour.ifindex != ifindex);
    }

    /// Somebody removes our nft table.
    pub fn lose_nft(&mut self) {
        self.nft = None;
    }

    pub(super) fn view_of(&self, spec: &LookSpec, sandbox: NetnsCookie) -> AttachmentView {
        let link = |ifindex: u32| self.links.get(&ifindex).map(|link| link.view.clone());
        let to_it = |destination: Ipv4Net| spec.addresses.iter().any(|a| destination == Ipv4Net::from(*a));
        AttachmentView {
            link: link(spec.ifindex),
            eni_link: spec.eni_ifindex.and_then(link),
            routes: self.routes.iter().filter(|route| to_it(route.destination)).copied().collect(),
            neighbours: self.neighbours.iter().filter(|n| n.ifindex == spec.ifindex).copied().collect(),
            rules: self.rules.clone(),
            eni_routes: self.eni_routes.iter().filter(|r| Some(r.table) == spec.eni_table).copied().collect(),
            nft: self.nft.as_deref().map(nft::contents),
            sandbox: self.inside(spec, sandbox),
        }
    }

    fn inside(&self, spec: &LookSpec, sandbox: NetnsCookie) -> SandboxView {
        let Some(inside) = self.sandboxes.get(&sandbox) else { return SandboxView::default() };
        let shown = |ifindex: u32, link: &SandboxLink| SandboxLinkView {
            ifindex,
            name: link.name.clone(),
            mac: link.mac,
            up: link.up,
        };
        let Some(link) = inside.links.get(&spec.ifindex) else {
            let named = inside.links.iter().find(|(_, link)| link.name == spec.sandbox_name.as_str());
            let link = named.map(|(ifindex, link)| shown(*ifindex, link));
            return SandboxView { link, ..SandboxView::default() };
        };
        let neighbour = link.neighbour.map(|mac| NeighbourView {
            ifindex: spec.ifindex,
            address: SANDBOX_GATEWAY,
            mac,
            permanent: true,
        });
        SandboxView {
            link: Some(shown(spec.ifindex, link)),
            addresses: link.address.map(Ipv4Net::from).into_iter().collect(),
            routes: link.routes.clone(),
            neighbours: neighbour.into_iter().collect(),
        }
    }
}

/// A sandbox's route to its next hop.
pub(super) fn gateway_route() -> SandboxRouteView {
    SandboxRouteView { destination: Ipv4Net::from(SANDBOX_GATEWAY), gateway: None }
}

/// A sandbox's default route.
pub(super) fn default_route() -> SandboxRouteView {
    SandboxRouteView { destination: Ipv4Net::default(), gateway: Some(SANDBOX_GATEWAY) }
}
