//! The client against sockets that misbehave in each way it tells apart.

// All of this program is a test.
#![allow(clippy::unwrap_used)]

use eni_proto::client::{CallError, Patience, Step, boottime, call, call_with_retry};
use eni_proto::fdpass;
use eni_proto::frame::{self, FrameError, MAX_FRAME};
use eni_proto::reply::{Outcome, Reply};
use eni_proto::request::{Call, Request, Status};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;
use tempfile::TempDir;

const SHORT: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_secs(20);

fn place() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cni.sock");
    (folder, path)
}

fn status() -> Request {
    Request::new(Call::Status(Status::default()))
}

fn read_request(stream: &mut UnixStream) -> (Request, usize) {
    let mut header = [0; frame::HEADER];
    let (length, fds) = fdpass::recv_with_fds(stream.as_fd(), &mut header).unwrap();
    assert_eq!(length, frame::HEADER);
    let mut body = vec![0; frame::body_length(header).unwrap()];
    stream.read_exact(&mut body).unwrap();
    (frame::decode(&body).unwrap(), fds.len())
}

/// Answers each connection in turn by one of `acts`.
fn serve(path: PathBuf, acts: Vec<Box<dyn FnOnce(UnixStream) + Send>>) -> thread::JoinHandle<()> {
    let listener = UnixListener::bind(path).unwrap();
    thread::spawn(move || {
        for act in acts {
            act(listener.accept().unwrap().0);
        }
    })
}

fn answer(mut stream: UnixStream) {
    let (request, fds) = read_request(&mut stream);
    assert!(matches!(request.call, Call::Status(_)));
    assert_eq!(fds, 1);
    let bytes = frame::encode(&Reply::new(Outcome::Done)).unwrap();
    // In pieces: a reply may arrive so.
    for piece in bytes.chunks(3) {
        stream.write_all(piece).unwrap();
        thread::sleep(Duration::from_millis(1));
    }
    // The client must not have shut its half down: there is nothing to read, but no end either.
    stream.set_nonblocking(true).unwrap();
    let after = stream.read(&mut [0; 1]);
    assert!(!matches!(after, Ok(n) if n > 0));
}

#[test]
fn a_call_carries_its_descriptor_and_gets_its_reply() {
    let (_folder, path) = place();
    let server = serve(path.clone(), vec![Box::new(answer)]);
    let null = std::fs::File::open("/dev/null").unwrap();
    let reply = call(&path, &status(), Some(null.as_fd()), boottime() + LONG).unwrap();
    assert_eq!(reply.outcome, Outcome::Done);
    server.join().unwrap();
}

#[test]
fn absence_is_told_apart_from_silence() {
    let (_folder, path) = place();
    let deadline = || boottime() + SHORT;
    let absent = call(&path, &status(), None, deadline()).unwrap_err();
    assert!(matches!(absent, CallError::Unreachable { .. }) && absent.is_absence(), "{absent:?}");

    drop(UnixListener::bind(&path).unwrap());
    let refused = call(&path, &status(), None, deadline()).unwrap_err();
    assert!(matches!(refused, CallError::Unreachable { .. }), "{refused:?}");
    std::fs::remove_file(&path).unwrap();

    let _silent = UnixListener::bind(&path).unwrap();
    let before = boottime();
    let late = call(&path, &status(), None, deadline()).unwrap_err();
    assert!(matches!(late, CallError::Deadline { step: Step::Receive, .. }), "{late:?}");
    assert!(!late.is_absence());
    let waited = boottime() - before;
    assert!(waited >= SHORT && waited < LONG, "{waited:?}");
}

#[test]
fn a_full_backlog_ends_at_the_deadline() {
    let (_folder, path) = place();
    let listener = UnixListener::bind(&path).unwrap();
    nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
    let _waiting = UnixStream::connect(&path).unwrap();
    let late = call(&path, &status(), None, boottime() + SHORT).unwrap_err();
    assert!(matches!(late, CallError::Deadline { step: Step::Connect, .. }), "{late:?}");
}

#[test]
fn an_end_before_the_reply_is_no_reply() {
    let (_folder, path) = place();
    let ends: Vec<Box<dyn FnOnce(UnixStream) + Send>> = vec![
        // Closed with the request unread: a reset.
        Box::new(drop),
        // Closed after it was read: an end of the stream.
        Box::new(|mut stream| drop(read_request(&mut stream))),
        // Closed in the middle of the reply.
        Box::new(|mut stream| {
            read_request(&mut stream);
            stream.write_all(&[0, 0, 0, 9, b'{']).unwrap();
        }),
    ];
    let count = ends.len();
    let server = serve(path.clone(), ends);
    for end in 0..count {
        let error = call(&path, &status(), None, boottime() + LONG).unwrap_err();
        assert!(matches!(error, CallError::NoReply { .. }) && error.is_absence(), "{end}: {error:?}");
    }
    server.join().unwrap();
}

#[test]
fn a_bad_reply_is_refused_and_not_tried_again() {
    let (_folder, path) = place();
    let too_long = u32::try_from(MAX_FRAME + 1).unwrap().to_be_bytes();
    let server = serve(
        path.clone(),
        vec![
            Box::new(|mut stream| stream.write_all(&[0, 0, 0, 2, b'{', b'x']).unwrap()),
            Box::new(move |mut stream| stream.write_all(&too_long).unwrap()),
        ],
    );
    let patience = || Patience::since(boottime(), LONG, LONG);
    let error = call_with_retry(&path, &mut status(), None, patience()).unwrap_err();
    assert!(matches!(error, CallError::Reply { source: FrameError::Json { .. }, .. }), "{error:?}");
    let error = call_with_retry(&path, &mut status(), None, patience()).unwrap_err();
    assert!(matches!(error, CallError::Reply { source: FrameError::TooLong { .. }, .. }), "{error:?}");
    server.join().unwrap();
}

#[test]
fn a_request_over_the_limit_is_never_sent() {
    let (_folder, path) = place();
    let request = Request::new(Call::Other("x".repeat(MAX_FRAME).into()));
    let error = call(&path, &request, None, boottime() + SHORT).unwrap_err();
    assert!(matches!(error, CallError::Request(FrameError::TooLong { .. })), "{error:?}");
}

#[test]
fn a_restart_is_ridden_out_with_the_same_descriptor_and_less_time_left() {
    let (_folder, path) = place();
    let null = std::fs::File::open("/dev/null").unwrap();
    let socket = path.clone();
    let server = thread::spawn(move || {
        // First nobody, then a listener that closes with the request in its backlog, then a daemon.
        thread::sleep(Duration::from_millis(100));
        let first = UnixListener::bind(&socket).unwrap();
        thread::sleep(Duration::from_millis(300));
        drop(first);
        std::fs::remove_file(&socket).unwrap();
        thread::sleep(Duration::from_millis(100));
        let second = UnixListener::bind(&socket).unwrap();
        let (mut stream, _) = second.accept().unwrap();
        let (request, fds) = read_request(&mut stream);
        stream.write_all(&frame::encode(&Reply::new(Outcome::Done)).unwrap()).unwrap();
        (request, fds)
    });
    let mut request = status();
    let patience = Patience::since(boottime(), LONG, LONG);
    let reply = call_with_retry(&path, &mut request, Some(null.as_fd()), patience).unwrap();
    assert_eq!(reply.outcome, Outcome::Done);
    let (received, fds) = server.join().unwrap();
    assert_eq!(fds, 1);
    let Call::Status(status) = received.call else { panic!("{received:?}") };
    assert!((10_000..=19_600).contains(&status.time_left_ms), "{}", status.time_left_ms);
}

#[test]
fn retrying_ends_with_its_window() {
    let (_folder, path) = place();
    let start = boottime();
    let error = call_with_retry(&path, &mut status(), None, Patience::since(start, LONG, SHORT)).unwrap_err();
    assert!(error.is_absence());
    let took = boottime() - start;
    assert!(took >= SHORT / 3 && took < SHORT * 2, "{took:?}");
}

#[test]
fn each_absence_has_a_window_of_its_own_within_the_deadline() {
    let (_folder, path) = place();
    let socket = path.clone();
    let server = thread::spawn(move || {
        // Served for longer than the window, twice, and lost each time; then answered.
        for _ in 0..2 {
            let listener = UnixListener::bind(&socket).unwrap();
            let (mut stream, _) = listener.accept().unwrap();
            read_request(&mut stream);
            thread::sleep(SHORT * 2);
            std::fs::remove_file(&socket).unwrap();
            drop((listener, stream));
            thread::sleep(SHORT / 3);
        }
        let (mut stream, _) = UnixListener::bind(&socket).unwrap().accept().unwrap();
        read_request(&mut stream);
        stream.write_all(&frame::encode(&Reply::new(Outcome::Done)).unwrap()).unwrap();
    });
    while !path.exists() {
        thread::yield_now();
    }
    let patience = Patience::since(boottime(), LONG, SHORT);
    let reply = call_with_retry(&path, &mut status(), None, patience).unwrap();
    assert_eq!(reply.outcome, Outcome::Done);
    server.join().unwrap();

    let start = boottime();
    std::fs::remove_file(&path).unwrap();
    let error = call_with_retry(&path, &mut status(), None, Patience::since(start, SHORT, LONG)).unwrap_err();
    assert!(error.is_absence());
    assert!(boottime() - start < SHORT * 2, "the deadline bounds it");
}
