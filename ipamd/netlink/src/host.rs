//! The host's network, for real: `HostKernel` over netlink sockets that stay open.
//!
//! Owns the sockets, the counters and what is known of the nft table. How each call is made lies in `wire`, `reap`
//! `apply` and `look`; looking at the host is here. Needs CAP_NET_ADMIN in the host's network namespace, nothing else. A handle is used
//! by one thread; each thread has its own.

use crate::nft::{self, Memory};
use crate::sandbox::{self, SandboxSocket, SandboxSocketError};
use crate::socket::{CallError, Socket};
use crate::stats::{Counters, Family};
use crate::{apply, dump, forward, look, message, others, reap, wire};
use eni_proto::ids::NetnsCookie;
use ipamd_core::kernel::{
    Alias, AttachmentView, ENI_GROUP, Forward, HostKernel, HostStep, HostStepError, HostView, LinkView,
    LookSpec, MARK_MASK, ReapLink, Reaped, UnwireSpec, WireError, WireSpec,
};
use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex};

/// Why the host's network cannot be talked to.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A netlink socket could not be opened.
    #[error("the netlink socket of {family} could not be opened")]
    Open {
        /// Which.
        family: &'static str,
        /// The kernel's error.
        source: io::Error,
    },
    /// The network namespace's cookie is not told.
    #[error("the host's own network namespace could not be told from others")]
    Cookie(#[source] SandboxSocketError),
    /// The loopback link, asked for what this kernel has, was not shown.
    #[error("the kernel does not show the loopback link: {0}")]
    Look(String),
}

/// A handle on the host's network, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Host {
    pub(crate) route: Socket,
    pub(crate) netfilter: Socket,
    pub(crate) nft: Arc<Mutex<Memory>>,
    pub(crate) inet6: bool,
    pub(crate) counters: Arc<Counters>,
    /// Group deletes that are still made before the dying group is listed whole again.
    pub(crate) group_trusted: u32,
    cookie: NetnsCookie,
}

impl Host {
    /// Opens the sockets in the calling thread's network namespace; what they send is counted in `counters`.
    pub fn open(counters: Arc<Counters>) -> Result<Host, HostError> {
        Host::open_with(counters, Arc::default())
    }

    /// Another handle for another thread. It shares the counters and what is known of the nft table, so that what one
    /// lays another does not lay again. To be called in the same network namespace.
    pub fn sibling(&self) -> Result<Host, HostError> {
        Host::open_with(self.counters.clone(), self.nft.clone())
    }

    fn open_with(counters: Arc<Counters>, nft: Arc<Mutex<Memory>>) -> Result<Host, HostError> {
        const LOOPBACK: u32 = 1;
        let open = |family, name| {
            let made = Socket::open(family, counters.clone());
            made.map_err(|source| HostError::Open { family: name, source })
        };
        let mut route = open(Family::Route, "NETLINK_ROUTE")?;
        let netfilter = open(Family::Netfilter, "NETLINK_NETFILTER")?;
        let cookie = sandbox::own_cookie().map_err(HostError::Cookie)?;
        let loopback = route.get(message::get_link(LOOPBACK), dump::RTM_NEWLINK);
        let loopback = loopback.map_err(|error| HostError::Look(error.to_string()))?;
        let inet6 = dump::has_inet6(&loopback);
        Ok(Host { route, netfilter, nft, inet6, counters, group_trusted: 0, cookie })
    }

    /// The cookie of the host's network namespace.
    pub fn cookie(&self) -> NetnsCookie {
        self.cookie
    }

    fn look(&mut self) -> Result<HostView, (&'static str, CallError)> {
        let route = &mut self.route;
        let links = route.dump(&message::dump_links(), dump::RTM_NEWLINK, |body| dump::link(body).map(Some));
        let links = links.map_err(|error| ("links", error))?;
        let addresses = route
            .dump(&message::dump_addresses(), dump::RTM_NEWADDR, |body| dump::host_address(body).map(Some));
        let addresses = addresses.map_err(|error| ("addresses", error))?;
        // A table that never had a route is not there: strict checking says so.
        let pods_routes = match route.dump(&message::dump_pods_routes(), dump::RTM_NEWROUTE, dump::pods_route)
        {
            Err(error) if error.errno() == Some(libc::ENOENT) => Vec::new(),
            routes => routes.map_err(|error| ("routes of the pods table", error))?,
        };
        let eni_routes = route.dump(&message::dump_our_routes(), dump::RTM_NEWROUTE, dump::eni_route);
        let eni_routes = eni_routes.map_err(|error| ("routes of the ENIs' tables", error))?;
        let mut main_routes = Vec::new();
        for eni in links.iter().filter(|link| is_secondary(link)) {
            let by_it =
                route.dump(&message::dump_main_routes(eni.ifindex), dump::RTM_NEWROUTE, dump::main_route);
            main_routes.extend(by_it.map_err(|error| ("routes of the main table by an ENI", error))?);
        }
        let rules = route.dump(&message::dump_rules(), dump::RTM_NEWRULE, |body| dump::rule(body).map(Some));
        let rules = rules.map_err(|error| ("rules", error))?;
        let neighbours = route.dump(&message::dump_neighbours(), dump::RTM_NEWNEIGH, dump::neighbour);
        let mut neighbours = neighbours.map_err(|error| ("neighbours", error))?;
        let ours = links.iter().filter(|link| Alias::parse(&link.alias).is_some());
        let ours: BTreeSet<u32> = ours.map(|link| link.ifindex).collect();
        neighbours.retain(|neighbour| ours.contains(&neighbour.ifindex));
        let handle = nft::table_handle(&mut self.netfilter).map_err(|error| ("nft table", error))?;
        let nft = nft::locked(&self.nft).known(handle);
        let others = others::look(&mut self.netfilter).map_err(|error| ("others' chains", error))?;
        Ok(HostView {
            links,
            addresses,
            pods_routes,
            eni_routes,
            main_routes,
            rules,
            neighbours,
            nft,
            forward: Forward::Unknown,
            globals: others::globals(),
            others,
            peer_list: others::peer_list(),
        })
    }
}

/// Whether a link is in a secondary ENI's group.
fn is_secondary(link: &LinkView) -> bool {
    (ENI_GROUP + 2..=ENI_GROUP + MARK_MASK).contains(&link.group)
}

impl HostKernel for Host {
    type Sandbox = SandboxSocket;

    fn wire(&mut self, spec: &WireSpec, sandbox: &SandboxSocket) -> Result<(), WireError> {
        wire::wire(self, spec, sandbox)
    }

    fn unwire(&mut self, spec: &UnwireSpec) -> Result<(), HostStepError> {
        wire::unwire(self, spec)
    }

    fn reap(&mut self, links: &[ReapLink]) -> Reaped {
        reap::reap(self, links)
    }

    fn apply(&mut self, steps: &[HostStep]) -> Vec<HostStepError> {
        apply::apply(self, steps)
    }

    fn look_at(&mut self, spec: &LookSpec, sandbox: &SandboxSocket) -> Result<AttachmentView, HostStepError> {
        look::look(self, spec, sandbox)
    }

    fn observe(&mut self) -> Result<HostView, HostStepError> {
        let failed = |what: &str, cause: String| HostStepError {
            index: None,
            step: format!("look at the host's {what}"),
            cause,
            gone: false,
        };
        let view = self.look().map_err(|(what, error)| failed(what, error.to_string()))?;
        let forward = forward::look(self).map_err(|error| failed("filter table", error.to_string()))?;
        Ok(HostView { forward, ..view })
    }
}
