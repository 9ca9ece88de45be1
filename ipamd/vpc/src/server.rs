//! The control socket's server.
//!
//! Owns the listener, its connections (one thread each, bounded) and the answers, from the model and the network.

use crate::control::{Answer, MAX_LINE, Request};
use crate::model::{Ec2, Effect, Fault};
use crate::network::{Links, Network, RunError};
use ipamd_core::cloud::Mutation;
use ipamd_core::time::Timestamp;
use nix::time::{ClockId, clock_gettime};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// The most connections at once.
const CONNECTIONS: usize = 64;
/// A connection that says nothing for so long is closed.
const SILENCE: Duration = Duration::from_secs(30);

/// Without a transition to wait for, the ticker looks so often.
const IDLE: Duration = Duration::from_secs(60);
/// A link that could not be laid or removed is tried again so much later.
const AGAIN: Duration = Duration::from_secs(1);

/// What the connections and the ticker share. Whoever takes both locks takes `links` first.
pub(crate) struct Server {
    ec2: Mutex<Ec2>,
    /// A transition was scheduled.
    scheduled: Condvar,
    /// Held while the network is changed; the model is free meanwhile, and so are calls that only look.
    links: Mutex<Links>,
    network: Network,
    connections: AtomicUsize,
}

impl Server {
    pub(crate) fn new(ec2: Ec2, network: Network, links: Links) -> Arc<Server> {
        Arc::new(Server {
            ec2: Mutex::new(ec2),
            scheduled: Condvar::new(),
            links: Mutex::new(links),
            network,
            connections: AtomicUsize::new(0),
        })
    }

    fn ec2(&self) -> MutexGuard<'_, Ec2> {
        self.ec2.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the network what the model says, and what is due with it: attached is told when the link is there,
    /// available when it is gone.
    fn follow(&self) -> Result<(), RunError> {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let (present, due) = {
            let (ec2, now) = (self.ec2(), now());
            (ec2.present(now), ec2.due(now))
        };
        self.network.show(&mut links, &present)?;
        let mut ec2 = self.ec2();
        for transition in &due {
            ec2.complete(transition);
        }
        Ok(())
    }
}

/// Lets attachments become what they are due to become, for ever.
#[allow(clippy::print_stderr)]
pub(crate) fn tick(server: &Server) {
    loop {
        let next = server.ec2().next_due();
        let mut least = Duration::ZERO;
        if next.is_some_and(|at| at <= now())
            && let Err(error) = server.follow()
        {
            eprintln!("embedded-vpc: an ENI could not be attached or detached: {error}");
            least = AGAIN;
        }
        let ec2 = server.ec2();
        let span = ec2.next_due().map_or(IDLE, |at| at.since(now())).max(least);
        if !span.is_zero() {
            drop(server.scheduled.wait_timeout(ec2, span).unwrap_or_else(PoisonError::into_inner));
        }
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

fn now() -> Timestamp {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default();
    Timestamp::from_nanos(u64::try_from(now.as_nanos()).unwrap_or(u64::MAX))
}

/// Makes a call with its fault, then what comes with it. A wait holds nobody else up: it is slept outside the locks.
fn with_fault<T>(
    server: &Server,
    call: &str,
    make: impl FnOnce(&mut Ec2, Option<&Fault>) -> T,
    then: impl FnOnce(),
) -> T {
    let fault = server.ec2().take_fault(call);
    let wait = |strikes: Effect| {
        if let Some(fault) = fault.as_ref().filter(|f| f.effect == strikes) {
            thread::sleep(Duration::from_millis(fault.delay_ms));
        }
    };
    wait(Effect::Before);
    let answer = make(&mut server.ec2(), fault.as_ref());
    then();
    wait(Effect::After);
    answer
}

/// A call that changes ENIs. The router knows the addresses of an attached one when the answer goes out; links come and
/// go by the ticker.
fn mutate(server: &Server, mutation: &Mutation) -> Answer {
    let mut followed = Ok(());
    let then = || match mutation {
        Mutation::Assign { .. } | Mutation::Unassign { .. } => followed = server.follow(),
        Mutation::Attach { .. } | Mutation::Detach { .. } => server.scheduled.notify_one(),
        Mutation::Create { .. }
        | Mutation::Delete { .. }
        | Mutation::SetSecurityGroups { .. }
        | Mutation::SetDeleteOnTermination { .. } => {}
    };
    let make = |ec2: &mut Ec2, fault: Option<&Fault>| ec2.mutate(mutation, fault, now());
    let answer = with_fault(server, mutation.call(), make, then);
    match followed {
        Err(error) => Answer::Failed(format!("the network does not follow: {error}")),
        Ok(()) => answer.map_or_else(Answer::Refused, Answer::Mutated),
    }
}

fn answer(server: &Server, request: Request) -> Answer {
    match request {
        Request::Identity => {
            with_fault(server, "InstanceIdentity", |ec2, fault| ec2.identity(fault, now()), || ())
                .map_or_else(Answer::Refused, Answer::Identity)
        }
        Request::Interfaces => {
            with_fault(server, "InstanceInterfaces", |ec2, fault| ec2.interfaces(fault, now()), || ())
                .map_or_else(Answer::Refused, Answer::Interfaces)
        }
        Request::DescribeEnis { scope } => {
            let describe = |ec2: &mut Ec2, fault: Option<&Fault>| ec2.describe_enis(&scope, fault, now());
            with_fault(server, "DescribeNetworkInterfaces", describe, || ())
                .map_or_else(Answer::Refused, Answer::Enis)
        }
        Request::DescribeLimits { instance_type } => {
            let describe =
                |ec2: &mut Ec2, fault: Option<&Fault>| ec2.describe_limits(&instance_type, fault, now());
            with_fault(server, "DescribeInstanceTypes", describe, || ())
                .map_or_else(Answer::Refused, Answer::Limits)
        }
        Request::Mutate(mutation) => mutate(server, &mutation),
        Request::Enis => Answer::Enis(server.ec2().enis().to_vec()),
        Request::Drops => {
            server.network.drops().map_or_else(|error| Answer::Failed(error.to_string()), Answer::Drops)
        }
        Request::Journal => Answer::Journal(server.ec2().journal().cloned().collect()),
        Request::Calls => Answer::Calls(server.ec2().calls().clone()),
        Request::Topology => Answer::Topology(Box::new(server.network.topology().clone())),
        Request::SetFault(fault) => {
            server.ec2().set_fault(fault);
            Answer::Done
        }
        Request::SetSubnetFree { addresses } => {
            server.ec2().set_subnet_free(addresses.map(|a| a as usize));
            Answer::Done
        }
        Request::Shutdown => Answer::Done,
    }
}
