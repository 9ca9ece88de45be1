//! `cni.sock`: one connection, one request, one reply.
//!
//! Owns the socket's life (made under another name, put in place by rename, 0600), the connections and their bounds:
//! how many, how long a request may take to arrive, how long a reply may take to leave. A plugin that goes away is
//! told to the owner. Does not check or decide a request: `request` and the owner do. Runs on the main loop.

use super::request::{self, Asked};
use crate::clock;
use crate::main_loop::Loop;
use crate::metrics::Refused;
use eni_proto::error::{Code, WireError};
use eni_proto::fdpass;
use eni_proto::frame::{self, HEADER};
use eni_proto::ids::AttachmentKey;
use eni_proto::reply::{self, Reply};
use ipamd_core::owner::event::{Event, OpId};
use ipamd_netlink::fail_point;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;
use tokio::time::timeout;

/// A request must have arrived whole by then.
const ARRIVE: Duration = Duration::from_secs(5);
/// A reply must have left by then, and its reader closed.
const LEAVE: Duration = Duration::from_secs(5);
/// What one read takes: a request is a few hundred bytes.
const READ: usize = 16 * 1024;

/// Makes the socket under a name of its own and puts it in place.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    use std::os::unix::fs::PermissionsExt;
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = Path::new(&name);
    match std::fs::remove_file(new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(new)?;
    std::fs::set_permissions(new, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(new, path)?;
    Ok(listener)
}

/// Accepts until the loop is told to stop, then closes what is in the backlog: those plugins ask the next ipamd.
pub async fn accept(this: Rc<Loop>, listener: UnixListener) {
    loop {
        let stream = tokio::select! {
            // Cancel safe: a connection that is not taken stays in the backlog.
            accepted = listener.accept() => accepted,
            () = this.stopping() => break,
        };
        match stream {
            Ok((stream, _)) => {
                let Some(seat) = this.take_seat() else {
                    this.metrics.refused(Refused::TooMany);
                    continue;
                };
                let this = this.clone();
                tokio::task::spawn_local(async move {
                    connection(&this, &stream).await;
                    drop(seat);
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: the backlog keeps the rest for a moment.
                tracing::warn!(%error, "accepting on cni.sock failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    while let Ok(Ok(_)) = timeout(Duration::ZERO, listener.accept()).await {}
}

async fn connection(this: &Rc<Loop>, stream: &UnixStream) {
    match fdpass::peer_uid_pid(stream.as_fd()) {
        Ok((0, _)) => {}
        Ok((uid, pid)) => {
            this.metrics.refused(Refused::NotRoot);
            tracing::warn!(uid, pid, "a caller that is not root was refused");
            let error = WireError::new(Code::InvalidEnvironment, "only root may ask ipamd");
            return answer(stream, reply::Outcome::Failed(Box::new(error))).await;
        }
        Err(error) => {
            tracing::warn!(%error, "a caller's credentials could not be read");
            return;
        }
    }
    let (body, descriptors) = match timeout(ARRIVE, receive(stream)).await {
        Ok(Ok(received)) => received,
        Ok(Err(error)) => {
            this.metrics.refused(Refused::BadFrame);
            tracing::warn!(%error, "a request could not be read");
            let error =
                WireError::new(Code::Decode, "the request could not be read").cause(error.to_string());
            return answer(stream, reply::Outcome::Failed(Box::new(error))).await;
        }
        Err(_) => {
            this.metrics.refused(Refused::Slow);
            tracing::warn!(seconds = ARRIVE.as_secs(), "a request did not arrive whole in time");
            return;
        }
    };
    match request::check(&body, descriptors, this.host_cookie, clock::now()) {
        Ok(asked) => serve(this, stream, asked).await,
        Err(error) => {
            this.metrics.refused(Refused::BadRequest);
            tracing::warn!(%error, "a request was refused");
            answer(stream, reply::Outcome::Failed(error)).await;
        }
    }
}

async fn serve(this: &Rc<Loop>, stream: &UnixStream, asked: Asked) {
    match asked {
        Asked::Add(ask, sandbox) => {
            let key = ask.key.clone();
            came("add", &key);
            // Begun now it would take an address, only to be undone: after an ipamd that hung there may be hundreds.
            if is_gone(stream) {
                tracing::info!(attachment = %key, "an ADD whose plugin is gone already is not begun");
                return;
            }
            let (op, waiting) = this.begin(Some(sandbox), |op| Event::Add { op, ask: *ask });
            if let Some(outcome) = wait(this, stream, op, waiting).await {
                let added = matches!(outcome, reply::Outcome::Added(_));
                let read = deliver(stream, outcome).await;
                if added && !read {
                    this.handle(Event::Unread { op, key });
                }
            }
        }
        Asked::Del(del) => {
            came("del", &del.key);
            // It has been written down, or its runtime knows that it was not done. Begun now it could take what came
            // after it: after an ipamd that hung, a DEL may be read long after its time.
            if is_gone(stream) {
                tracing::info!(attachment = %del.key, "a DEL whose plugin is gone already is not begun");
                return;
            }
            let (op, waiting) = this.begin(None, |op| Event::Del { op, key: del.key });
            if let Some(outcome) = wait(this, stream, op, waiting).await {
                answer(stream, outcome).await;
            }
        }
        Asked::Check(ask, sandbox) => {
            let (op, waiting) = this.begin(Some(sandbox), |op| Event::Check { op, ask });
            if let Some(outcome) = wait(this, stream, op, waiting).await {
                answer(stream, outcome).await;
            }
        }
        Asked::Gc(ask) => {
            let (op, waiting) = this.begin(None, |op| Event::Gc { op, ask });
            if let Some(outcome) = wait(this, stream, op, waiting).await {
                answer(stream, outcome).await;
            }
        }
        Asked::Status => answer(stream, this.status()).await,
        Asked::HandOver(asker) => {
            tracing::info!(pid = asker.pid, version = asker.version, "another ipamd takes over");
            answer(stream, reply::Outcome::Done).await;
            this.stop();
        }
    }
}

/// An operation's request has come.
fn came(verb: &str, key: &AttachmentKey) {
    fail_point::arm(verb, key.container.as_str());
    fail_point::pass("request");
}

/// Waits for an operation's outcome, or for its plugin to go away: that EOF is the undo. `None` closes the connection
/// without a reply.
async fn wait(
    this: &Rc<Loop>,
    stream: &UnixStream,
    op: OpId,
    mut waiting: oneshot::Receiver<Option<reply::Outcome>>,
) -> Option<reply::Outcome> {
    tokio::select! {
        biased;
        // Cancel safe: the sender keeps the outcome until it is taken.
        outcome = &mut waiting => outcome.ok().flatten(),
        // Cancel safe: it only looks.
        () = closed(stream) => {
            this.handle(Event::Hangup { op });
            // A DEL and a GC go on, an ADD is undone: nobody reads how it ends.
            None
        }
    }
}

/// Whether the peer has closed by now. The kernel is asked, and does not wait: the runtime may not have heard of it yet.
fn is_gone(stream: &UnixStream) -> bool {
    let mut asked = [PollFd::new(stream.as_fd(), PollFlags::empty())];
    poll(&mut asked, PollTimeout::ZERO).is_ok_and(|told| told > 0)
}

/// Ready when the peer has closed, or sends more than its one request.
async fn closed(stream: &UnixStream) {
    let mut byte = [0u8; 1];
    loop {
        if stream.readable().await.is_err() {
            return;
        }
        match stream.try_read(&mut byte) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(1) => tracing::debug!("a plugin sent more than one request"),
            _ => return,
        }
    }
}

async fn receive(stream: &UnixStream) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut bytes = Vec::with_capacity(READ);
    let mut descriptors = Vec::new();
    let mut buffer = vec![0u8; READ];
    let mut wanted = None;
    while wanted.is_none_or(|wanted| bytes.len() < wanted) {
        let (count, mut received) = stream
            .async_io(Interest::READABLE, || fdpass::recv_with_fds(stream.as_fd(), &mut buffer))
            .await?;
        descriptors.append(&mut received);
        if count == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the connection was closed in the middle of it",
            ));
        }
        bytes.extend_from_slice(&buffer[..count]);
        if wanted.is_none()
            && let Some(header) = bytes.first_chunk::<HEADER>()
        {
            wanted = Some(HEADER + frame::body_length(*header).map_err(io::Error::other)?);
        }
        if wanted.is_some_and(|wanted| bytes.len() > wanted) {
            return Err(io::Error::other("more bytes came than the frame announced"));
        }
    }
    // All of it was read: who waits for the connection's end now is woken by that end, and need not try a read first.
    let _ = stream.try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
    bytes.drain(..HEADER);
    Ok((bytes, descriptors))
}

/// Sends a reply; that is all.
async fn answer(stream: &UnixStream, outcome: reply::Outcome) {
    if let Err(error) = send(stream, outcome).await {
        tracing::debug!(%error, "a reply could not be sent");
    }
}

/// Sends a reply and waits until its reader has closed: false when it died with the reply unread (the kernel says so
/// by ECONNRESET), or before.
async fn deliver(stream: &UnixStream, outcome: reply::Outcome) -> bool {
    if let Err(error) = send(stream, outcome).await {
        tracing::debug!(%error, "a reply could not be sent");
        return false;
    }
    let mut byte = [0u8; 1];
    let end = timeout(LEAVE, async {
        loop {
            stream.readable().await?;
            match stream.try_read(&mut byte) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
        }
    });
    match end.await {
        Ok(Err(error)) => error.kind() != io::ErrorKind::ConnectionReset,
        // A reader that keeps its connection has read its reply, as far as anybody can tell.
        Ok(Ok(_)) | Err(_) => true,
    }
}

async fn send(stream: &UnixStream, outcome: reply::Outcome) -> io::Result<()> {
    let bytes = frame::encode(&Reply::new(outcome)).map_err(io::Error::other)?;
    fail_point::pass("reply.before");
    let sent = timeout(LEAVE, async {
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            match stream.try_write(rest) {
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => stream.writable().await?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    });
    let sent = sent.await.unwrap_or_else(|_| {
        Err(io::Error::new(io::ErrorKind::TimedOut, "the reader did not take it in time"))
    });
    fail_point::pass("reply.after");
    sent
}
