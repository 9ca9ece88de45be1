//! What the fake does for a wire, message by message, so that it can end half-made.

use super::look::{default_route, gateway_route};
use super::{FakeKernel, HostLink, SandboxLink, plain};
use crate::answer::errno_name;
use crate::ours;
use eni_proto::ids::NetnsCookie;
use ipamd_core::kernel::{
    LinkView, NeighbourView, POD_INET, PROTOCOL, RouteAction, RouteView, WireError, WireSpec, WireStep,
};
use ipnet::Ipv4Net;

/// The messages of a wire, in their order. Those of a batch are carried out even when an earlier one of it fails; the
/// next batch is not sent then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum WireMessage {
    /// NEWLINK: alone.
    Create,
    /// The host end is raised, with its settings.
    HostUp,
    /// The sandbox's batch: its end's settings.
    SandboxSettings,
    /// It is raised.
    SandboxUp,
    /// Its address.
    SandboxAddress,
    /// Its route to the next hop.
    SandboxGatewayRoute,
    /// Its default route.
    SandboxDefaultRoute,
    /// Its neighbour.
    SandboxNeighbour,
    /// The host's batch: its end's alias.
    HostAlias,
    /// Its neighbour.
    HostNeighbour,
    /// The pod's route.
    HostRoute,
}

impl WireMessage {
    /// All of them, in their order.
    pub const ALL: [WireMessage; 11] = [
        WireMessage::Create,
        WireMessage::HostUp,
        WireMessage::SandboxSettings,
        WireMessage::SandboxUp,
        WireMessage::SandboxAddress,
        WireMessage::SandboxGatewayRoute,
        WireMessage::SandboxDefaultRoute,
        WireMessage::SandboxNeighbour,
        WireMessage::HostAlias,
        WireMessage::HostNeighbour,
        WireMessage::HostRoute,
    ];

    /// The step that it belongs to.
    pub fn step(self) -> WireStep {
        match self {
            WireMessage::Create => WireStep::Create,
            WireMessage::HostUp => WireStep::HostEnd,
            message if message < WireMessage::HostAlias => WireStep::SandboxBatch,
            _ => WireStep::HostBatch,
        }
    }
}

impl FakeKernel {
    /// A wire during which the kernel refuses one message with ENOBUFS; whole when `None` is failing.
    pub(super) fn wire_failing(
        &mut self,
        spec: &WireSpec,
        sandbox: NetnsCookie,
        failing: Option<WireMessage>,
    ) -> Result<(), WireError> {
        if !self.sandboxes.contains_key(&sandbox) {
            return Err(WireError::SandboxGone);
        }
        for ifindex in &spec.delete_first {
            self.make_way(*ifindex);
        }
        if failing == Some(WireMessage::Create) {
            return Err(refused(WireMessage::Create, libc::ENOBUFS));
        }
        if let Some(error) = self.in_the_way(spec, sandbox) {
            return Err(error);
        }
        self.create(spec, sandbox);
        for batch in [WireStep::HostEnd, WireStep::SandboxBatch, WireStep::HostBatch] {
            let mut first = None;
            for message in WireMessage::ALL.into_iter().filter(|message| message.step() == batch) {
                let done = if failing == Some(message) {
                    Err(libc::ENOBUFS)
                } else {
                    self.carry_out(message, spec, sandbox)
                };
                first = first.or(done.err().map(|errno| refused(message, errno)));
            }
            if let Some(error) = first {
                return Err(error);
            }
        }
        Ok(())
    }

    fn make_way(&mut self, ifindex: u32) {
        if self.links.get(&ifindex).is_some_and(|link| ours::may_make_way(&link.view)) {
            self.delete_link(ifindex);
        }
    }

    fn in_the_way(&self, spec: &WireSpec, sandbox: NetnsCookie) -> Option<WireError> {
        let inside = &self.sandboxes[&sandbox];
        let (host_name, sandbox_name) = (spec.host_name.as_str(), spec.sandbox_name.as_str());
        if inside.links.values().any(|link| link.name == sandbox_name) {
            return Some(WireError::IfnameTaken { name: sandbox_name.to_owned() });
        }
        if let Some(link) = self.links.values().map(|link| &link.view).find(|view| view.name == host_name) {
            let (ifindex, group) = (link.ifindex, link.group);
            return Some(WireError::HostNameTaken { name: host_name.to_owned(), ifindex, group });
        }
        let taken = self.links.contains_key(&spec.ifindex) || inside.links.contains_key(&spec.ifindex);
        taken.then_some(WireError::IfindexTaken { ifindex: spec.ifindex })
    }

    fn create(&mut self, spec: &WireSpec, sandbox: NetnsCookie) {
        let view = LinkView {
            ifindex: spec.ifindex,
            group: spec.group,
            up: false,
            mtu: spec.mtu,
            kind: "veth".to_owned(),
            ..plain(spec.host_name.as_str(), Some(spec.host_mac))
        };
        self.links.insert(spec.ifindex, HostLink { view, peer: Some(sandbox) });
        let name = spec.sandbox_name.to_string();
        let mac = Some(spec.sandbox_mac);
        let end = SandboxLink { name, mac, pair: true, ..SandboxLink::default() };
        let inside = self.sandboxes.get_mut(&sandbox).expect("looked up before");
        inside.links.insert(spec.ifindex, end);
    }

    fn carry_out(&mut self, message: WireMessage, spec: &WireSpec, sandbox: NetnsCookie) -> Result<(), i32> {
        let inside = self.sandboxes.get_mut(&sandbox).expect("looked up before");
        let end = inside.links.get_mut(&spec.ifindex).expect("made before");
        let host = self.links.get_mut(&spec.ifindex).expect("made before");
        match message {
            WireMessage::SandboxGatewayRoute if !end.up => return Err(libc::ENETDOWN),
            WireMessage::SandboxDefaultRoute if !end.up => return Err(libc::ENETUNREACH),
            WireMessage::Create | WireMessage::SandboxSettings => {}
            WireMessage::SandboxGatewayRoute => end.routes.push(gateway_route()),
            WireMessage::SandboxDefaultRoute => end.routes.push(default_route()),
            WireMessage::SandboxNeighbour => end.neighbour = Some(spec.host_mac),
            WireMessage::SandboxUp => end.up = true,
            WireMessage::SandboxAddress => end.address = Some(spec.address),
            WireMessage::HostUp => {
                host.view.up = true;
                host.view.inet = POD_INET;
            }
            WireMessage::HostAlias => host.view.alias.clone_from(&spec.alias),
            WireMessage::HostNeighbour => self.put_neighbour(NeighbourView {
                ifindex: spec.ifindex,
                address: spec.address,
                mac: spec.sandbox_mac,
                permanent: true,
            })?,
            WireMessage::HostRoute => self.put_route(RouteView {
                destination: Ipv4Net::from(spec.address),
                metric: 0,
                action: RouteAction::Device { ifindex: spec.ifindex },
                prefsrc: spec.prefsrc,
                protocol: PROTOCOL,
            })?,
        }
        Ok(())
    }
}

fn refused(message: WireMessage, errno: i32) -> WireError {
    let step = message.step();
    let text = format!("{message:?}: {}", errno_name(errno));
    WireError::Refused { step, errno, text, made: step != WireStep::Create }
}
