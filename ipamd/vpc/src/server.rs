//! The control socket's server.
//!
//! Owns the listener, its connections (one thread each, bounded) and the answers, from the model and the network.

use crate::control::{Answer, MAX_LINE, Request};
use crate::http::Http;
use crate::model::{Ec2, Extra, Fault};
use crate::network::{Links, Network};
use crate::served::{Follow, NotDone, Served, now};
use ipamd_core::cloud::{CloudError, EniObservation, Mutation};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// The most connections at once.
const CONNECTIONS: usize = 64;
/// A connection that says nothing for so long is closed.
const SILENCE: Duration = Duration::from_secs(30);

/// The network, one change at a time: the model is free meanwhile, and so are calls that only look.
pub(crate) struct LaidNetwork {
    network: Network,
    links: Mutex<Links>,
}

impl LaidNetwork {
    pub(crate) fn new(network: Network, links: Links) -> LaidNetwork {
        LaidNetwork { network, links: Mutex::new(links) }
    }
}

impl Follow for LaidNetwork {
    fn follow(&self, look: &mut dyn FnMut() -> Vec<EniObservation>) -> Result<(), String> {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let present = look();
        self.network.show(&mut links, &present).map_err(|error| error.to_string())
    }
}

/// What the connections share.
pub(crate) struct Server {
    served: Arc<Served>,
    network: Network,
    http: Arc<Http>,
    connections: AtomicUsize,
}

impl Server {
    pub(crate) fn new(served: Arc<Served>, network: Network, http: Arc<Http>) -> Arc<Server> {
        Arc::new(Server { served, network, http, connections: AtomicUsize::new(0) })
    }
}

/// Makes the socket, root's alone.
pub(crate) fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves for ever; `shut_down` is called when somebody asks for the end.
pub(crate) fn serve(server: &Arc<Server>, listener: &UnixListener, shut_down: fn()) {
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        if server.connections.fetch_add(1, Ordering::AcqRel) >= CONNECTIONS {
            server.connections.fetch_sub(1, Ordering::AcqRel);
            continue;
        }
        let shared = server.clone();
        let spawned = thread::Builder::new().name("control".into()).spawn(move || {
            // A connection that breaks off concerns its caller alone.
            let _ = connection(&shared, stream, shut_down);
            shared.connections.fetch_sub(1, Ordering::AcqRel);
        });
        if spawned.is_err() {
            server.connections.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

fn connection(server: &Server, stream: UnixStream, shut_down: fn()) -> io::Result<()> {
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))?;
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = Vec::new();
        if reader.by_ref().take(MAX_LINE as u64).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let (answer, end) = match serde_json::from_slice(&line) {
            Ok(Request::Shutdown) => (Answer::Done, true),
            Ok(request) => (answer(server, request), false),
            Err(error) => (Answer::Failed(format!("the request is not understood: {error}")), false),
        };
        let mut text = serde_json::to_vec(&answer)?;
        text.push(b'\n');
        writer.write_all(&text)?;
        if end {
            shut_down();
        }
    }
}

/// A call that only looks.
fn look<T>(
    server: &Server,
    call: &str,
    make: impl FnOnce(&mut Ec2, Option<&Fault>) -> Result<T, CloudError>,
    tell: impl FnOnce(T) -> Answer,
) -> Answer {
    server.served.call(call, make).map_or_else(Answer::Refused, tell)
}

fn mutate(server: &Server, mutation: &Mutation, extra: &Extra) -> Answer {
    match server.served.mutate(mutation, extra, |_, mutated| mutated) {
        Ok(mutated) => Answer::Mutated(mutated),
        Err(NotDone::Refused(error)) => Answer::Refused(error),
        Err(NotDone::NotFollowed(error)) => Answer::Failed(format!("the network does not follow: {error}")),
    }
}

fn answer(server: &Server, request: Request) -> Answer {
    let ec2 = || server.served.ec2();
    match request {
        Request::Identity => {
            look(server, "InstanceIdentity", |ec2, fault| ec2.identity(fault, now()), Answer::Identity)
        }
        Request::Interfaces => {
            look(server, "InstanceInterfaces", |ec2, fault| ec2.interfaces(fault, now()), Answer::Interfaces)
        }
        Request::DescribeEnis { scope } => {
            let describe = |ec2: &mut Ec2, fault: Option<&Fault>| ec2.describe_enis(&scope, fault, now());
            look(server, "DescribeNetworkInterfaces", describe, Answer::Enis)
        }
        Request::DescribeLimits { instance_type } => {
            let describe =
                |ec2: &mut Ec2, fault: Option<&Fault>| ec2.describe_limits(&instance_type, fault, now());
            look(server, "DescribeInstanceTypes", describe, Answer::Limits)
        }
        Request::Mutate(mutation) => mutate(server, &mutation, &Extra::default()),
        Request::ForceDetach { eni } => {
            let detach = Mutation::Detach { eni, attachment: None };
            mutate(server, &detach, &Extra { force: true, ..Extra::default() })
        }
        Request::Enis => Answer::Enis(ec2().enis().to_vec()),
        Request::Drops => {
            server.network.drops().map_or_else(|error| Answer::Failed(error.to_string()), Answer::Drops)
        }
        Request::Journal => Answer::Journal(ec2().journal().cloned().collect()),
        Request::Calls => Answer::Calls(ec2().calls().clone()),
        Request::Topology => Answer::Topology(Box::new(server.network.topology().clone())),
        Request::AddOther(other) => {
            let added = ec2().add_other(&other, now());
            match added {
                Err(error) => Answer::Failed(error.to_string()),
                Ok(eni) => server.served.follow().map_or_else(Answer::Failed, |()| Answer::Added(eni)),
            }
        }
        Request::Shutdown => Answer::Done,
        setting => {
            set(server, setting);
            Answer::Done
        }
    }
}

/// What is set, and changes no call's meaning but its outcome.
fn set(server: &Server, setting: Request) {
    let mut ec2 = server.served.ec2();
    match setting {
        Request::SetFault(fault) => ec2.set_fault(fault),
        Request::SetSubnetFree { addresses } => ec2.set_subnet_free(addresses.map(|a| a as usize)),
        Request::SetFragmented { fragmented } => ec2.set_fragmented(fragmented),
        Request::SetLags(lags) => ec2.set_lags(lags),
        Request::SetGap(gap) => ec2.set_gap(gap, now()),
        Request::SetThrottling { throttling, retry_after_ms } => {
            ec2.set_throttling(throttling);
            ec2.set_retry_after(retry_after_ms);
        }
        Request::SetDenied { actions } => ec2.set_denied(actions),
        Request::SetQuota { enis } => ec2.set_quota(enis),
        Request::SetStuckDetach { stuck } => {
            ec2.set_stuck_detach(stuck, now());
            server.served.wake();
        }
        Request::SetMoreCidrs { cidrs } => ec2.set_more_cidrs(cidrs),
        Request::SetCredentialLifetime { lifetime_ms } => {
            server.http.set_credential_lifetime(Duration::from_millis(lifetime_ms));
        }
        // The others are calls and looks.
        _ => {}
    }
}
