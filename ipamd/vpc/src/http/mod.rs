//! The model over HTTP, so that a real AWS SDK can talk to it: EC2's Query API and the instance metadata service.
//!
//! Owns the connections, one thread each, bounded, and which of the two a request is for: what lies below `/latest/` is
//! the metadata's. Calls are the model's, as by the control socket: same faults, same journal.

mod ec2;
mod form;
mod message;
mod metadata;
mod xml;

use crate::served::Served;
use metadata::Sessions;
use std::io::{self, BufReader};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// The most connections at once.
const CONNECTIONS: usize = 128;
/// A connection that says nothing for so long is closed: longer than an SDK keeps one that is idle.
const SILENCE: Duration = Duration::from_secs(120);
/// The credentials of the role end after so long; EC2's do after six hours at most.
const CREDENTIAL_LIFETIME: Duration = Duration::from_secs(6 * 3_600);

/// What the connections share.
pub(crate) struct Http {
    served: Arc<Served>,
    sessions: Mutex<Sessions>,
    credential_lifetime_ms: AtomicU64,
    connections: AtomicUsize,
}

impl Http {
    pub(crate) fn new(served: Arc<Served>) -> Arc<Http> {
        let lifetime = u64::try_from(CREDENTIAL_LIFETIME.as_millis()).unwrap_or(u64::MAX);
        Arc::new(Http {
            served,
            sessions: Mutex::new(Sessions::default()),
            credential_lifetime_ms: AtomicU64::new(lifetime),
            connections: AtomicUsize::new(0),
        })
    }

    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long credentials that are asked for from now on last.
    pub(crate) fn set_credential_lifetime(&self, lifetime: Duration) {
        let ms = u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX);
        self.credential_lifetime_ms.store(ms, Ordering::Release);
    }

    fn credential_lifetime(&self) -> Duration {
        Duration::from_millis(self.credential_lifetime_ms.load(Ordering::Acquire))
    }
}

/// Serves until the end; whoever ends it makes one more connection. `hop_limit` is the TTL of the packets that carry a
/// token ("HttpPutResponseHopLimit"): where it is 1, no container behind a router of the instance gets one.
pub(crate) fn serve(http: &Arc<Http>, listener: &TcpListener, hop_limit: Option<u32>) {
    for stream in listener.incoming() {
        if http.served.has_ended() {
            return;
        }
        let Ok(stream) = stream else { continue };
        if http.connections.fetch_add(1, Ordering::AcqRel) >= CONNECTIONS {
            http.connections.fetch_sub(1, Ordering::AcqRel);
            continue;
        }
        let shared = http.clone();
        let spawned = thread::Builder::new().name("http".into()).spawn(move || {
            // A connection that breaks off concerns its caller alone.
            let _ = connection(&shared, &stream, hop_limit);
            shared.connections.fetch_sub(1, Ordering::AcqRel);
        });
        if spawned.is_err() {
            http.connections.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

fn connection(http: &Http, stream: &TcpStream, hop_limit: Option<u32>) -> io::Result<()> {
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))?;
    stream.set_nodelay(true)?;
    let usual_ttl = stream.ttl()?;
    let mut reader = BufReader::new(stream);
    while let Some(request) = message::read(&mut reader)? {
        let of_metadata = request.path.starts_with("/latest");
        let answer = if of_metadata { metadata::answer(http, &request) } else { ec2::answer(http, &request) };
        // A reply that is lost.
        let Some(answer) = answer else { return Ok(()) };
        if let Some(hops) = hop_limit {
            stream.set_ttl(if request.method == "PUT" { hops } else { usual_ttl })?;
        }
        answer.write(&mut &*stream)?;
        if request.is_last() {
            return Ok(());
        }
    }
    Ok(())
}
