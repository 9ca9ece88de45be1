//! The blocking client of `cni.sock`: one request, one reply, one deadline.
//!
//! Owns the connection, the deadline over all of its steps, the classes of failure and the retry rule that makes a
//! restart of ipamd invisible. Does not own what is asked, nor which CNI code a failure becomes. It never shuts its
//! half of the socket down: the daemon takes that end as "the plugin is gone" and undoes the call.

use crate::fdpass;
use crate::frame::{self, FrameError};
use crate::reply::Reply;
use crate::request::Request;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt};
use nix::sys::time::TimeVal;
use nix::time::{ClockId, clock_gettime};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// The pause before the second attempt; it doubles up to [`PAUSE_MAX`].
const PAUSE_FIRST: Duration = Duration::from_millis(20);
/// The longest pause between attempts.
const PAUSE_MAX: Duration = Duration::from_millis(200);
/// What is read at once: most replies fit.
const READ_SIZE: usize = 8 * 1024;

/// CLOCK_BOOTTIME now: the time since this boot.
pub fn boottime() -> Duration {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("CLOCK_BOOTTIME exists since Linux 2.6.39");
    Duration::from(now)
}

/// How long a caller waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// When the caller gives up, whatever goes on: an instant of CLOCK_BOOTTIME, as [`boottime`] tells it.
    pub deadline: Duration,
    /// For how long an absent daemon is tried again, from the moment that its absence is seen.
    pub retry: Duration,
}

impl Patience {
    /// Waits for `deadline`, counted from `start`; retries for `retry`, counted from each absence.
    pub fn since(start: Duration, deadline: Duration, retry: Duration) -> Self {
        Patience { deadline: start + deadline, retry }
    }
}

/// Why there is no reply. A variant names the step; `path` is the socket.
#[derive(Debug)]
pub enum CallError {
    /// Nobody listens: the socket is not there (ENOENT) or nobody accepts on it (ECONNREFUSED).
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
    /// The daemon closed before it had answered: EPIPE, ECONNRESET or the end of the stream.
    NoReply {
        /// The socket.
        path: PathBuf,
        /// The kernel's error; none for an end of the stream.
        source: Option<io::Error>,
    },
    /// The deadline passed.
    Deadline {
        /// The socket.
        path: PathBuf,
        /// The step that it passed in.
        step: Step,
    },
    /// The request does not fit a frame.
    Request(FrameError),
    /// What came back is no reply.
    Reply {
        /// The socket.
        path: PathBuf,
        /// What is wrong with it.
        source: FrameError,
    },
    /// Any other failure of a step.
    Io {
        /// The socket.
        path: PathBuf,
        /// The step.
        step: Step,
        /// The kernel's error.
        source: io::Error,
    },
}

/// The steps of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Making the socket and connecting it.
    Connect,
    /// Sending the request.
    Send,
    /// Waiting for the reply.
    Receive,
}

impl CallError {
    /// Whether a restart of the daemon explains it: then the same call may be made again.
    pub fn is_absence(&self) -> bool {
        matches!(self, CallError::Unreachable { .. } | CallError::NoReply { .. })
    }

    /// Whether no answer came, whatever the reason: the daemon is absent, or the deadline passed.
    pub fn is_silence(&self) -> bool {
        self.is_absence() || matches!(self, CallError::Deadline { .. })
    }

    fn of(path: &Path, step: Step, source: io::Error) -> Self {
        let path = path.to_owned();
        match (step, source.raw_os_error().map(Errno::from_raw)) {
            (Step::Connect, Some(Errno::ENOENT | Errno::ECONNREFUSED)) => {
                CallError::Unreachable { path, source }
            }
            // SO_SNDTIMEO and SO_RCVTIMEO say EAGAIN when they pass.
            (_, Some(Errno::EAGAIN)) => CallError::Deadline { path, step },
            (Step::Send | Step::Receive, Some(Errno::EPIPE | Errno::ECONNRESET)) => {
                CallError::NoReply { path, source: Some(source) }
            }
            _ => CallError::Io { path, step, source },
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Step::Connect => "connecting",
            Step::Send => "sending the request",
            Step::Receive => "waiting for the reply",
        })
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallError::Unreachable { path, .. } => write!(f, "nobody listens on {}", path.display()),
            CallError::NoReply { path, .. } => write!(f, "{} was closed without a reply", path.display()),
            CallError::Deadline { path, step } => {
                write!(f, "the deadline passed {step} on {}", path.display())
            }
            CallError::Request(_) => f.write_str("the request does not fit a frame"),
            CallError::Reply { path, .. } => write!(f, "the reply on {} is not valid", path.display()),
            CallError::Io { path, step, .. } => write!(f, "{step} on {} failed", path.display()),
        }
    }
}

impl std::error::Error for CallError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            CallError::Unreachable { source, .. } | CallError::Io { source, .. } => Some(source),
            CallError::NoReply { source, .. } => source.as_ref().map(|source| source as _),
            CallError::Deadline { .. } => None,
            CallError::Request(source) | CallError::Reply { source, .. } => Some(source),
        }
    }
}

/// One attempt: connects to `path`, sends the request (with the descriptor, if any, at its first byte) and waits for
/// the reply, all before `deadline` (CLOCK_BOOTTIME).
pub fn call(
    path: &Path,
    request: &Request,
    fd: Option<BorrowedFd<'_>>,
    deadline: Duration,
) -> Result<Reply, CallError> {
    let bytes = frame::encode(request).map_err(CallError::Request)?;
    let socket = open(path, deadline)?;
    send(&socket, path, &bytes, fd, deadline)?;
    receive(&socket, path, deadline)
}

/// Makes the call, and again while the daemon is absent (see [`CallError::is_absence`]), for `patience.retry` from the
/// first sign of it, 20 to 200 ms apart: the same request, only its time left is told anew, and the same descriptor.
/// ADD and DEL are idempotent, so a call that was served without its reply may be repeated. A call that was under way
/// for longer than the longest pause had a daemon: losing that one is an absence of its own.
pub fn call_with_retry(
    path: &Path,
    request: &mut Request,
    fd: Option<BorrowedFd<'_>>,
    patience: Patience,
) -> Result<Reply, CallError> {
    let mut pause = PAUSE_FIRST;
    let mut absent_since = None;
    loop {
        let begun = boottime();
        let left = patience.deadline.saturating_sub(begun);
        request.set_time_left_ms(u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
        let error = match call(path, request, fd, patience.deadline) {
            Err(error) if error.is_absence() => error,
            done => return done,
        };
        let now = boottime();
        if now - begun > PAUSE_MAX {
            (absent_since, pause) = (None, PAUSE_FIRST);
        }
        let until = *absent_since.get_or_insert(now) + patience.retry;
        if now + pause >= until.min(patience.deadline) {
            return Err(error);
        }
        thread::sleep(pause);
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// A connected socket. SO_SNDTIMEO bounds the connect too: a full backlog makes it wait.
fn open(path: &Path, deadline: Duration) -> Result<OwnedFd, CallError> {
    let fail = |errno: Errno| CallError::of(path, Step::Connect, errno.into());
    let address = UnixAddr::new(path).map_err(fail)?;
    let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).map_err(fail)?;
    loop {
        let left = time_left(path, Step::Connect, deadline)?;
        setsockopt(&socket, sockopt::SendTimeout, &left).map_err(fail)?;
        match connect(socket.as_raw_fd(), &address) {
            Err(Errno::EINTR) => {}
            done => return done.map(|()| socket).map_err(fail),
        }
    }
}

fn send(
    socket: &OwnedFd,
    path: &Path,
    bytes: &[u8],
    fd: Option<BorrowedFd<'_>>,
    deadline: Duration,
) -> Result<(), CallError> {
    let mut sent = 0;
    while sent < bytes.len() {
        if sent > 0 {
            let left = time_left(path, Step::Send, deadline)?;
            setsockopt(socket, sockopt::SendTimeout, &left)
                .map_err(|errno| CallError::of(path, Step::Send, errno.into()))?;
        }
        let with = if sent == 0 { fd } else { None };
        match fdpass::send_with_fd(socket.as_fd(), &bytes[sent..], with) {
            Ok(length) => sent += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // A daemon that closed at once may have said why before it did: that is in the receive queue.
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => return Ok(()),
            Err(error) => return Err(CallError::of(path, Step::Send, error)),
        }
    }
    Ok(())
}

fn receive(socket: &OwnedFd, path: &Path, deadline: Duration) -> Result<Reply, CallError> {
    let bad = |source| CallError::Reply { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let mut chunk = [0; READ_SIZE];
    loop {
        if let Some((header, body)) = bytes.split_first_chunk::<{ frame::HEADER }>() {
            let length = frame::body_length(*header).map_err(bad)?;
            if let Some(body) = body.get(..length) {
                return frame::decode(body).map_err(bad);
            }
        }
        let left = time_left(path, Step::Receive, deadline)?;
        setsockopt(socket, sockopt::ReceiveTimeout, &left)
            .map_err(|errno| CallError::of(path, Step::Receive, errno.into()))?;
        // Descriptors in a reply are of no use to a plugin and are closed.
        match fdpass::recv_with_fds(socket.as_fd(), &mut chunk) {
            Ok((0, _)) => return Err(CallError::NoReply { path: path.to_owned(), source: None }),
            Ok((length, _)) => bytes.extend_from_slice(&chunk[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(CallError::of(path, Step::Receive, error)),
        }
    }
}

/// What is left until the deadline, for a socket option (where zero means "for ever", so it is at least 1 ms).
fn time_left(path: &Path, step: Step, deadline: Duration) -> Result<TimeVal, CallError> {
    let left = deadline.saturating_sub(boottime());
    if left.is_zero() {
        return Err(CallError::Deadline { path: path.to_owned(), step });
    }
    let left = left.max(Duration::from_millis(1));
    Ok(TimeVal::new(left.as_secs() as _, left.subsec_micros().into()))
}
