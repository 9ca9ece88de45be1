//! The control socket's server.
//!
//! Owns the listener, its connections (one thread each, bounded) and the answers, from the model and the network.

use crate::control::{Answer, MAX_LINE, Request};
use crate::model::Ec2;
use crate::network::Network;
use ipamd_core::time::Timestamp;
use nix::time::{ClockId, clock_gettime};
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

/// What the connections share.
pub(crate) struct Server {
    pub(crate) ec2: Mutex<Ec2>,
    pub(crate) network: Network,
    connections: AtomicUsize,
}

impl Server {
    pub(crate) fn new(ec2: Ec2, network: Network) -> Arc<Server> {
        Arc::new(Server { ec2: Mutex::new(ec2), network, connections: AtomicUsize::new(0) })
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

fn answer(server: &Server, request: Request) -> Answer {
    let ec2 = || server.ec2.lock().unwrap_or_else(PoisonError::into_inner);
    // A late answer must not hold the model: the delay is slept outside the lock.
    let fault = |call: &str| {
        let (delay_ms, code) = ec2().take_fault(call);
        thread::sleep(Duration::from_millis(delay_ms));
        code
    };
    match request {
        Request::Identity => {
            let code = fault("InstanceIdentity");
            ec2().identity(code, now()).map_or_else(Answer::Refused, Answer::Identity)
        }
        Request::DescribeEnis { instance } => {
            let code = fault("DescribeNetworkInterfaces");
            ec2().describe_enis(&instance, code, now()).map_or_else(Answer::Refused, Answer::Enis)
        }
        Request::DescribeLimits { instance_type } => {
            let code = fault("DescribeInstanceTypes");
            ec2().describe_limits(&instance_type, code, now()).map_or_else(Answer::Refused, Answer::Limits)
        }
        Request::Drops => {
            server.network.drops().map_or_else(|error| Answer::Failed(error.to_string()), Answer::Drops)
        }
        Request::Journal => Answer::Journal(ec2().journal().cloned().collect()),
        Request::Topology => Answer::Topology(Box::new(server.network.topology().clone())),
        Request::SetFault(fault) => {
            ec2().set_fault(fault);
            Answer::Done
        }
        Request::Shutdown => Answer::Done,
    }
}
