//! What comes over `cni.sock` and `debug.sock` by hand: bad frames, descriptors that are no sandbox, callers that may
//! not ask. Each gets a clear error or none, and changes nothing.

use crate::bad_input::unchanged;
use crate::node;
use eni_proto::fdpass;
use eni_tests::cni::Call;
use eni_tests::node::{Node, Options};
use eni_tests::programs::{program, run, sh};
use eni_tests::sandbox::Sandbox;
use eni_tests::traffic::inside;
use eni_tests::wait;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockProtocol, SockType, sendmsg, socket,
};
use std::fs::File;
use std::io::{IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

fn frame(body: &str) -> Vec<u8> {
    [&(body.len() as u32).to_be_bytes()[..], body.as_bytes()].concat()
}

fn request(call: &str) -> Vec<u8> {
    frame(&format!(r#"{{"proto_version":1,"call":{call}}}"#))
}

fn add() -> Vec<u8> {
    request(r#"{"add":{"key":{"network":"vpc","container":"c","ifname":"eth0"},"netns":"/x"}}"#)
}

/// Sends bytes, one of `descriptors` with each of the first of them; what comes back.
fn send(node: &Node, bytes: &[u8], descriptors: &[OwnedFd]) -> String {
    let mut stream = UnixStream::connect(node.socket()).expect("ipamd listens");
    let mut sent = 0;
    for descriptor in descriptors {
        let part = &bytes[sent..=sent];
        sent += fdpass::send_with_fd(stream.as_fd(), part, Some(descriptor.as_fd())).expect("it is sent");
    }
    // It may have been refused already.
    let _ = stream.write_all(&bytes[sent..]);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// So many connections at once, of which none asks anything.
const MANY: usize = 1000;

/// This process may open so many files.
fn raise_descriptors(wanted: usize) {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let wanted = wanted as u64;
    assert!(hard >= wanted, "the hard limit of open files is {hard}: {wanted} are needed");
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(wanted), hard).unwrap();
}

fn route_socket(netns: &str) -> OwnedFd {
    inside(netns, || {
        let protocol = SockProtocol::NetlinkRoute;
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol).expect("a socket")
    })
}

#[test]
fn cni_bad_frames_are_refused_and_others_are_served() {
    let node = node(2);
    let send = |bytes: &[u8]| send(&node, bytes, &[]);
    assert!(send(&[0, 0, 0, 0]).contains("\"code\":6"));
    assert!(send(&[0xff; 8]).contains("limit"));
    assert!(send(&frame("{")).contains("\"code\":6"));
    assert!(send(&request(r#"{"fly":{}}"#)).contains("fly"));
    assert!(send(&request(r#"{"add":{"netns":"/x"}}"#)).contains("key"), "what an ADD lacks is named");
    assert!(send(&frame(r#"{"proto_version":99,"call":{"status":{"newer":1}}}"#)).contains("done"));
    let two = [request(r#"{"status":{}}"#), request(r#"{"status":{}}"#)].concat();
    assert!(send(&two).contains("more bytes"), "one request per connection");
    let silent: Vec<UnixStream> = (0..50).map(|_| UnixStream::connect(node.socket()).unwrap()).collect();
    Call::new(&node, "STATUS").ok();
    drop(silent);
    unchanged(&node);
}

#[test]
fn cni_half_a_frame_is_refused_at_its_end_and_given_up_on_without_one() {
    let node = node(2);
    let whole = add();
    for length in [1, 3, 4, 10, whole.len() - 1] {
        let answer = send(&node, &whole[..length], &[]);
        assert!(answer.contains("in the middle"), "{length} bytes: {answer}");
    }
    // Without an end it is given up on, also when a byte comes now and then; others are served meanwhile.
    raise_descriptors(MANY + 200);
    let connect = || UnixStream::connect(node.socket()).unwrap();
    let mut open: Vec<UnixStream> = (0..MANY).map(|_| connect()).collect();
    for stream in &mut open {
        stream.write_all(&whole[..10]).unwrap();
    }
    let mut slow = connect();
    let bytes = whole.clone();
    let writing = std::thread::spawn(move || {
        let mut sent = 0;
        while sent < bytes.len() && slow.write_all(&bytes[sent..=sent]).is_ok() {
            std::thread::sleep(std::time::Duration::from_millis(100));
            sent += 1;
        }
        sent
    });
    let sandbox = Sandbox::new();
    eni_tests::cni::add(&node, "meanwhile", &sandbox);
    Call::new(&node, "STATUS").ok();
    eni_tests::cni::del(&node, "meanwhile", &sandbox.path());
    for stream in &mut open {
        let mut answer = Vec::new();
        // Reset, where bytes were left unread.
        let _ = stream.read_to_end(&mut answer);
        assert_eq!(answer, b"", "closed without a word: its plugin is not there to read one");
    }
    assert!(writing.join().unwrap() < whole.len(), "the slow writer is cut off");
    wait::until("all are counted", || {
        node.metric("eni_ipamd_refused_requests_total", "slow") >= (MANY + 1) as f64
    });
    assert!(node.log().contains("did not arrive whole in time"));
    unchanged(&node);
}

#[test]
fn cni_more_connections_than_there_are_seats_are_closed_and_those_served_are_not_disturbed() {
    let config = "[sockets]\nmax_connections = 8\n".to_owned();
    let node = Node::new(&Options { secondary: 2, config, ..Options::default() });
    // Each asks and never reads its answer, nor closes: it has its seat back at once.
    let mut unread: Vec<UnixStream> = (0..50).map(|_| UnixStream::connect(node.socket()).unwrap()).collect();
    for stream in &mut unread {
        // It may have been closed already.
        let _ = stream.write_all(&request(r#"{"status":{}}"#));
    }
    wait::until("STATUS is answered", || Call::new(&node, "STATUS").run().code == Some(0));
    // Each keeps its seat until its time is over; who comes then tries again until there is one.
    let silent: Vec<UnixStream> = (0..50).map(|_| UnixStream::connect(node.socket()).unwrap()).collect();
    wait::until("they are counted", || node.metric("eni_ipamd_refused_requests_total", "too_many") >= 42.0);
    drop(silent);
    let sandbox = Sandbox::new();
    eni_tests::cni::add(&node, "c1", &sandbox);
    eni_tests::cni::del(&node, "c1", &sandbox.path());
    unchanged(&node);
}

#[test]
fn cni_descriptors_that_are_no_sandbox_are_refused_and_closed() {
    let node = node(2);
    let (one, two) = (Sandbox::new(), Sandbox::new());
    let open = || std::fs::read_dir(format!("/proc/{}/fd", node.ipamd_pid())).unwrap().count();
    let before = open();
    let file = || OwnedFd::from(File::open("/dev/null").unwrap());
    let own = route_socket(&node.netns("node"));
    let stream = OwnedFd::from(UnixStream::pair().unwrap().0);
    let other = inside(one.name(), || {
        let protocol = SockProtocol::NetlinkNetFilter;
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol).expect("a socket")
    });
    for (descriptors, words) in [
        (vec![], "without its descriptor"),
        (vec![route_socket(one.name()), route_socket(two.name())], "2 descriptors"),
        (vec![file()], "no NETLINK_ROUTE socket"),
        (vec![stream], "no NETLINK_ROUTE socket"),
        (vec![other], "no NETLINK_ROUTE socket"),
        (vec![own], "host's own network namespace"),
    ] {
        let answer = send(&node, &add(), &descriptors);
        assert!(answer.contains("\"code\":8") && answer.contains(words), "{words}: {answer}");
    }
    // As many as one message can carry, with the first byte.
    let mut stream = UnixStream::connect(node.socket()).unwrap();
    let null = file();
    let rights = [null.as_raw_fd(); fdpass::MAX_FDS];
    let bytes = add();
    let (parts, rights) = ([IoSlice::new(&bytes)], [ControlMessage::ScmRights(&rights)]);
    let sent = sendmsg::<()>(stream.as_raw_fd(), &parts, &rights, MsgFlags::empty(), None);
    assert_eq!(sent, Ok(bytes.len()));
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.contains("253 descriptors"), "{answer}");
    let check = request(r#"{"check":{"key":{"network":"vpc","container":"c","ifname":"eth0"}}}"#);
    assert!(send(&node, &check, &[]).contains("CHECK came without its descriptor"));
    assert!(send(&node, &check, &[file()]).contains("no NETLINK_ROUTE socket"));
    assert!(send(&node, &check, &[route_socket(one.name())]).contains("\"code\":100"), "nobody knows it");
    let absent = send(&node, &request(r#"{"gc":{"network":"vpc"}}"#), &[]);
    assert!(absent.contains("\"code\":7") && absent.contains("absent list"), "{absent}");
    let gc = r#"{"gc":{"network":"vpc","valid":null}}"#;
    assert!(send(&node, &request(gc), &[]).contains("collected"));
    for call in [r#"{"status":{}}"#, r#"{"hand_over":{"pid":1}}"#, gc] {
        let answer = send(&node, &request(call), &[file()]);
        assert!(answer.contains("takes no descriptor"), "{call}: {answer}");
    }
    let del = request(r#"{"del":{"key":{"network":"vpc","container":"c","ifname":"eth0"}}}"#);
    assert!(send(&node, &del, &[file()]).contains("no NETLINK_ROUTE socket"));
    // Without an end of its sending, which would be its plugin's.
    let mut stream = UnixStream::connect(node.socket()).unwrap();
    let sandbox = route_socket(one.name());
    let sent = fdpass::send_with_fd(stream.as_fd(), &del, Some(sandbox.as_fd())).unwrap();
    assert_eq!(sent, del.len());
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert!(String::from_utf8_lossy(&answer).contains("done"));
    drop(sandbox);
    wait::until("every descriptor is closed", || open() <= before);
    unchanged(&node);
}

#[test]
fn cni_a_peer_that_is_not_root_is_refused_whatever_the_sockets_mode_is() {
    let node = node(2);
    // The folders and the socket are opened to everybody: the caller's credentials count.
    let folder = node.run_dir();
    let outer = folder.parent().unwrap().display().to_string();
    let copy = format!("{outer}/ipamctl");
    std::fs::copy(program("ipamctl"), &copy).unwrap();
    sh(&format!("chmod 755 {outer} {} {copy} && chmod 666 {}", folder.display(), node.socket()));
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let socket = node.socket();
    let said = run("setpriv", &[&nobody[..], &[&copy, "--socket", &socket, "status"]].concat());
    assert!(said.is_err(), "{said:?}");
    wait::until("it is counted", || node.metric("eni_ipamd_refused_requests_total", "not_root") >= 1.0);
    wait::until("the log tells of it", || node.log().contains("not root"));
    sh(&format!("chmod 700 {} && chmod 600 {}", folder.display(), node.socket()));
    unchanged(&node);
}

#[test]
fn ctl_bad_requests_of_debug_sock_are_refused_and_others_are_served() {
    let node = node(2);
    for method in ["POST", "PUT", "DELETE", "HEAD", "PATCH"] {
        assert_eq!(node.http(method, "/v1/pool").0, 405, "{method}");
    }
    for path in ["/", "/v1", "/v1/pool/", "/v1/../v1/pool", "/metrics/x", "/v2/status"] {
        let (status, body) = node.http("GET", path);
        assert_eq!(status, 404, "{path}");
        assert!(method_free(path, &body), "{path}: {body}");
    }
    assert!(node.debug_bytes(b"\xff\xfe\x00nonsense\r\n\r\n", false).contains("400 Bad Request"));
    assert!(node.debug_bytes(b"GET /v1/pool HTTP/9.9\r\n\r\n", false).contains("400 Bad Request"));
    let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(1 << 20));
    let answer = node.debug_bytes(long.as_bytes(), false);
    assert!(answer.is_empty() || answer.contains(" 4"), "{answer}");
    assert_eq!(node.debug_bytes(b"GET /v1/po", true), "", "half a request");
    assert_eq!(node.http("GET", "/v1/pool").0, 200);
    unchanged(&node);
}

/// Whether a refusal names what was asked and what there is.
fn method_free(path: &str, body: &str) -> bool {
    body.contains(path) && body.contains("/v1/attachments")
}
