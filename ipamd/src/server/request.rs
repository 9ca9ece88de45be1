//! One request of `cni.sock`, checked.
//!
//! Owns the rules of which call may carry which descriptor, and the mapping of what breaks them to CNI errors. Pure
//! but for closing descriptors. Does not read a socket nor serve a call.

use eni_proto::error::{Code, WireError};
use eni_proto::frame;
use eni_proto::ids::NetnsCookie;
use eni_proto::request::{Add, Call, Check, Del, Gc, HandOver, Mode, Request, args};
use ipamd_core::owner::event::{AddAsk, CheckAsk, GcAsk};
use ipamd_core::time::Timestamp;
use ipamd_netlink::sandbox::SandboxSocket;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// ADD and CHECK are answered this long before its plugin gives up; of a short time left, a fifth.
const MARGIN: Duration = Duration::from_secs(2);
/// No deadline is believed that is further away than this.
const LONGEST: Duration = Duration::from_secs(600);

/// A request that may be served.
#[derive(Debug)]
pub enum Asked {
    /// CNI ADD.
    Add(Box<AddAsk>, SandboxSocket),
    /// CNI DEL.
    Del(Del),
    /// CNI CHECK.
    Check(CheckAsk, SandboxSocket),
    /// CNI GC.
    Gc(GcAsk),
    /// CNI STATUS.
    Status,
    /// Another ipamd wants this one's place.
    HandOver(HandOver),
}

/// Checks a request's body and its descriptors.
pub fn check(
    body: &[u8],
    mut descriptors: Vec<OwnedFd>,
    host: NetnsCookie,
    now: Timestamp,
) -> Result<Asked, Box<WireError>> {
    let request: Request = frame::decode(body).map_err(|error| {
        let error = WireError::new(Code::Decode, "the request is not understood").cause(error.to_string());
        Box::new(error.advice("plugin and daemon differ too much in version: install matching ones"))
    })?;
    if descriptors.len() > 1 {
        let text = format!("{} descriptors came with a request: one is the most", descriptors.len());
        return Err(Box::new(WireError::new(Code::InvalidNetns, text)));
    }
    let descriptor = descriptors.pop();
    match request.call {
        Call::Add(add) => {
            let sandbox = required("ADD", descriptor, host)?.named(&add.netns);
            let ask = ask(*add, sandbox.cookie(), now);
            Ok(Asked::Add(Box::new(ask), sandbox))
        }
        Call::Del(del) => {
            // Checked and closed: a DEL is authoritative whatever its sandbox is by now.
            descriptor.map(|d| sandbox(d, host)).transpose()?;
            Ok(Asked::Del(del))
        }
        Call::Check(check) => {
            let sandbox = required("CHECK", descriptor, host)?;
            let Check { key, addresses, time_left_ms, .. } = check;
            let deadline = deadline(time_left_ms, now);
            Ok(Asked::Check(CheckAsk { key, cookie: sandbox.cookie(), addresses, deadline }, sandbox))
        }
        Call::Gc(gc) => {
            without_descriptor("GC", descriptor.as_ref())?;
            let Gc { network, valid, .. } = gc;
            let valid = valid.ok_or_else(|| {
                let text =
                    "GC came without its list of valid attachments: an absent list is not an empty one";
                Box::new(WireError::new(Code::InvalidConfig, text))
            })?;
            Ok(Asked::Gc(GcAsk { network, valid }))
        }
        Call::Status(_) => without_descriptor("STATUS", descriptor.as_ref()).map(|()| Asked::Status),
        Call::HandOver(ask) => {
            without_descriptor("hand_over", descriptor.as_ref()).map(|()| Asked::HandOver(ask))
        }
        ref call @ Call::Other(ref value) => {
            if let Some(cause) = call.misread() {
                return Err(Box::new(
                    WireError::new(Code::Decode, "the request is not understood").cause(cause),
                ));
            }
            let name = value.as_object().and_then(|o| o.keys().next().cloned()).unwrap_or_default();
            let text = format!("the call {name:?} is not served");
            let error = WireError::new(Code::InvalidEnvironment, text);
            Err(Box::new(error.advice(
                "served are add, del, check, gc, status and hand_over; is the plugin newer than ipamd?",
            )))
        }
    }
}

fn required(
    call: &str,
    descriptor: Option<OwnedFd>,
    host: NetnsCookie,
) -> Result<SandboxSocket, Box<WireError>> {
    let Some(descriptor) = descriptor else {
        let text =
            format!("{call} came without its descriptor, a NETLINK_ROUTE socket opened in the sandbox");
        return Err(Box::new(WireError::new(Code::InvalidNetns, text)));
    };
    sandbox(descriptor, host)
}

fn without_descriptor(call: &str, descriptor: Option<&OwnedFd>) -> Result<(), Box<WireError>> {
    match descriptor {
        None => Ok(()),
        Some(_) => Err(Box::new(WireError::new(Code::InvalidNetns, format!("{call} takes no descriptor")))),
    }
}

fn sandbox(descriptor: OwnedFd, host: NetnsCookie) -> Result<SandboxSocket, Box<WireError>> {
    SandboxSocket::check(descriptor, host).map_err(|error| {
        let text = "the request's descriptor is no NETLINK_ROUTE socket of a sandbox";
        Box::new(WireError::new(Code::InvalidNetns, text).cause(error.to_string()))
    })
}

/// By when a call is answered whose plugin gives up after this many milliseconds.
fn deadline(time_left_ms: u64, now: Timestamp) -> Timestamp {
    let left = Duration::from_millis(time_left_ms).min(LONGEST);
    now + (left - MARGIN.min(left / 5))
}

fn ask(add: Add, cookie: NetnsCookie, now: Timestamp) -> AddAsk {
    let pod = match (add.args.get(args::POD_NAMESPACE), add.args.get(args::POD_NAME)) {
        (Some(namespace), Some(name)) if !namespace.is_empty() && !name.is_empty() => {
            Some((namespace.clone(), name.clone()))
        }
        _ => None,
    };
    AddAsk {
        key: add.key,
        cookie,
        netns: add.netns,
        mode: add.mode.unwrap_or(Mode::Shared),
        mtu: add.mtu,
        pod,
        deadline: deadline(add.time_left_ms, now),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use eni_proto::ids::AttachmentKey;
    use ipamd_netlink::sandbox::own_cookie;
    use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
    use serde_json::{Value, json};
    use std::fs::File;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    fn route_socket() -> OwnedFd {
        let protocol = SockProtocol::NetlinkRoute;
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol).unwrap()
    }

    fn file() -> OwnedFd {
        File::open("/dev/null").unwrap().into()
    }

    /// A host that is not where this test runs: a socket made here is a sandbox's.
    fn elsewhere() -> NetnsCookie {
        NetnsCookie(own_cookie().unwrap().0 + 1)
    }

    fn key() -> Value {
        json!({ "network": "vpc", "container": "c1", "ifname": "eth0" })
    }

    fn add() -> Value {
        json!({ "add": { "key": key(), "netns": "/x", "time_left_ms": 90_000 } })
    }

    fn asked(call: &Value, descriptors: Vec<OwnedFd>, host: NetnsCookie) -> Result<Asked, Box<WireError>> {
        let body = json!({ "proto_version": 1, "call": call }).to_string();
        check(body.as_bytes(), descriptors, host, NOW)
    }

    fn refused(call: &Value, descriptors: Vec<OwnedFd>, code: Code, words: &str) {
        let error = asked(call, descriptors, elsewhere()).unwrap_err();
        assert_eq!(error.code, code, "{call}: {error}");
        assert!(error.to_string().contains(words), "{words:?} is not in {error}");
    }

    #[test]
    fn an_add_needs_one_socket_of_a_sandbox() {
        assert!(matches!(asked(&add(), vec![route_socket()], elsewhere()), Ok(Asked::Add(..))));
        refused(&add(), vec![], Code::InvalidNetns, "without its descriptor");
        refused(&add(), vec![route_socket(), route_socket()], Code::InvalidNetns, "2 descriptors");
        refused(&add(), vec![file()], Code::InvalidNetns, "no NETLINK_ROUTE socket");
        let stream = std::os::unix::net::UnixStream::pair().unwrap().0;
        refused(&add(), vec![stream.into()], Code::InvalidNetns, "no NETLINK_ROUTE socket");
        let own = asked(&add(), vec![route_socket()], own_cookie().unwrap()).unwrap_err();
        assert!(own.to_string().contains("host's own"), "{own}");
    }

    #[test]
    fn a_del_may_bring_one_and_the_others_must_not() {
        let del = json!({ "del": { "key": key() } });
        assert!(matches!(asked(&del, vec![], elsewhere()), Ok(Asked::Del(_))));
        assert!(matches!(asked(&del, vec![route_socket()], elsewhere()), Ok(Asked::Del(_))));
        refused(&del, vec![file()], Code::InvalidNetns, "no NETLINK_ROUTE socket");
        refused(&del, vec![route_socket(), file()], Code::InvalidNetns, "2 descriptors");
        let check = json!({ "check": { "key": key(), "addresses": ["10.0.0.1"], "time_left_ms": 10_000 } });
        let Ok(Asked::Check(ask, _)) = asked(&check, vec![route_socket()], elsewhere()) else { panic!() };
        assert_eq!((ask.addresses.len(), ask.deadline), (1, NOW + Duration::from_secs(8)));
        refused(&check, vec![], Code::InvalidNetns, "CHECK came without its descriptor");
        refused(&check, vec![file()], Code::InvalidNetns, "no NETLINK_ROUTE socket");
        for (valid, count) in [(json!(null), 0), (json!([]), 0)] {
            let gc = json!({ "gc": { "network": "vpc", "valid": valid } });
            assert!(
                matches!(asked(&gc, vec![], elsewhere()), Ok(Asked::Gc(ask)) if ask.valid.len() == count)
            );
            refused(&gc, vec![route_socket()], Code::InvalidNetns, "GC takes no descriptor");
        }
        refused(&json!({ "gc": { "network": "vpc" } }), vec![], Code::InvalidConfig, "absent list");
        let status = json!({ "status": {} });
        assert!(matches!(asked(&status, vec![], elsewhere()), Ok(Asked::Status)));
        refused(&status, vec![route_socket()], Code::InvalidNetns, "STATUS takes no descriptor");
        let hand_over = json!({ "hand_over": { "pid": 7 } });
        assert!(matches!(asked(&hand_over, vec![], elsewhere()), Ok(Asked::HandOver(_))));
        refused(&hand_over, vec![file()], Code::InvalidNetns, "hand_over takes no descriptor");
    }

    #[test]
    fn what_is_no_request_says_why() {
        let error = check(b"{", vec![], elsewhere(), NOW).unwrap_err();
        assert_eq!(error.code, Code::Decode);
        refused(&json!({ "fly": {} }), vec![], Code::InvalidEnvironment, "\"fly\" is not served");
        refused(&json!({ "add": { "netns": "/x" } }), vec![], Code::Decode, "key");
        let bad = json!({ "del": { "key": { "network": "vpc", "container": "-", "ifname": "eth0" } } });
        refused(&bad, vec![], Code::Decode, "container id");
    }

    #[test]
    fn an_add_is_answered_before_its_plugin_gives_up() {
        for (left, wait) in [(90_000, 88_000), (10_000, 8_000), (1_000, 800), (100, 80), (0, 0)] {
            let call = json!({ "add": { "key": key(), "netns": "/x", "time_left_ms": left } });
            let Ok(Asked::Add(ask, _)) = asked(&call, vec![route_socket()], elsewhere()) else {
                panic!("{left}")
            };
            assert_eq!(ask.deadline, NOW + Duration::from_millis(wait), "{left} ms left");
        }
        let call = json!({ "add": { "key": key(), "netns": "/x", "time_left_ms": u64::MAX } });
        let Ok(Asked::Add(ask, _)) = asked(&call, vec![route_socket()], elsewhere()) else {
            panic!("for ever")
        };
        assert_eq!(ask.deadline, NOW + (LONGEST - MARGIN), "no deadline is believed that is further away");
        let wanted: AttachmentKey = serde_json::from_value(key()).unwrap();
        assert_eq!((ask.key, ask.netns.as_str(), ask.mode, ask.pod), (wanted, "/x", Mode::Shared, None));
    }
}
