//! The golden fixtures of the protocol: what a released version wrote must be read for ever, and what this version
//! writes must be what the fixtures of its own version say.
//!
//! A fixture of a released version is never edited; a change of the protocol adds files, or a folder for a new
//! version.

// All of this program is a test.
#![allow(clippy::unwrap_used)]

use eni_proto::cni::{AddResult, Dns, Interface, IpConfig, Route};
use eni_proto::error::{Code, WireError};
use eni_proto::ids::{AttachmentKey, BootId, MacAddr, NetnsCookie};
use eni_proto::reply::{Collected, Outcome, Reply};
use eni_proto::request::{Add, Call, Check, Del, Gc, HandOver, Mode, Request, Status, ValidAttachment};
use eni_proto::spool::{self, Tombstone};
use eni_proto::stamp::{self, Stamp};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::net::Ipv4Addr;
use std::path::PathBuf;

const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/proto/v1")
}

fn fixture(name: &str) -> Value {
    let path = folder().join(format!("{name}.json"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Reading gives `value`, and writing `value` gives the fixture.
fn both_ways<T: Serialize + DeserializeOwned + PartialEq + Debug>(name: &str, value: T) {
    let file = fixture(name);
    assert_eq!(serde_json::from_value::<T>(file.clone()).unwrap(), value, "{name}: read");
    assert_eq!(serde_json::to_value(&value).unwrap(), file, "{name}: written");
}

/// Reading gives `value`; the fixture says more, or less, than this version writes.
fn read_only<T: Serialize + DeserializeOwned + PartialEq + Debug>(name: &str, value: T) {
    let file = fixture(name);
    assert_eq!(serde_json::from_value::<T>(file.clone()).unwrap(), value, "{name}: read");
    assert_ne!(serde_json::to_value(&value).unwrap(), file, "{name}: belongs to the cases of both ways");
}

fn key(container: &str) -> AttachmentKey {
    AttachmentKey {
        network: "vpc".parse().unwrap(),
        container: container.parse().unwrap(),
        ifname: "eth0".parse().unwrap(),
    }
}

fn minimal_add() -> Add {
    Add {
        key: key("c1"),
        netns: "/run/netns/a".into(),
        mode: None,
        mtu: None,
        args: BTreeMap::new(),
        annotations: BTreeMap::new(),
        traceparent: None,
        time_left_ms: 90_000,
    }
}

fn text_map<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn add(add: Add) -> Request {
    Request::new(Call::Add(Box::new(add)))
}

#[test]
fn requests_of_version_1() {
    both_ways(
        "request_add_full",
        add(Add {
            key: key("ABCdef0123"),
            netns: "/var/run/netns/cni-5f8d".into(),
            mode: Some(Mode::Shared),
            mtu: Some(1500),
            args: text_map([
                ("IgnoreUnknown", "1"),
                ("K8S_POD_NAMESPACE", "shop"),
                ("K8S_POD_NAME", "web-0"),
                ("K8S_POD_UID", "7b0c"),
            ]),
            annotations: text_map([("eni-cni.io/mode", "shared")]),
            traceparent: Some(TRACE.into()),
            time_left_ms: 89_998,
        }),
    );
    both_ways("request_add_minimal", add(minimal_add()));
    let netns = "/run/netns/a".to_owned();
    let del = Del { key: key("c1"), netns, traceparent: Some(TRACE.into()), time_left_ms: 90_000 };
    both_ways("request_del_with_netns", Request::new(Call::Del(del)));
    let del = Del { key: key("c1"), netns: String::new(), traceparent: None, time_left_ms: 90_000 };
    both_ways("request_del_without_netns", Request::new(Call::Del(del)));
    both_ways("request_status", Request::new(Call::Status(Status { time_left_ms: 2000 })));
    let hand_over = HandOver { pid: 4711, version: "0.1.0".into() };
    both_ways("request_hand_over", Request::new(Call::HandOver(hand_over)));
}

#[test]
fn the_requests_check_and_gc_of_version_1() {
    let netns = "/run/netns/a".to_owned();
    let addresses = vec![Ipv4Addr::new(10, 0, 1, 5)];
    let traceparent = Some(TRACE.to_owned());
    let check = Check { key: key("ABC-1"), netns, addresses, traceparent, time_left_ms: 89_998 };
    both_ways("request_check_full", Request::new(Call::Check(check)));
    let check = Check {
        key: key("c1"),
        netns: String::new(),
        addresses: vec![],
        traceparent: None,
        time_left_ms: 90_000,
    };
    read_only("request_check_defaulted", Request::new(Call::Check(check)));
    let gc = |valid| {
        let network = "vpc".parse().unwrap();
        Request::new(Call::Gc(Gc { network, valid, traceparent: None, time_left_ms: 90_000 }))
    };
    let valid = |container: &str, ifname: &str| ValidAttachment {
        container: container.parse().unwrap(),
        ifname: ifname.parse().unwrap(),
    };
    let full = gc(Some(vec![valid("ABC-1", "eth0"), valid("c2", "net1")]));
    both_ways("request_gc_list", full);
    both_ways("request_gc_empty", gc(Some(vec![])));
    both_ways("request_gc_absent", gc(None));
    read_only("request_gc_null", gc(Some(vec![])));
    both_ways("reply_collected", Reply::new(Outcome::Collected(Collected { freed: 2, kept: 1 })));
    let differs = WireError::new(Code::Differs, "attachment vpc/c1/eth0 is not as it was made");
    let differs = differs.cause("the host link: expected index 268435457, found none");
    both_ways("reply_failed_differs", Reply::failed(differs));
}

#[test]
fn requests_of_another_version() {
    read_only("request_add_defaulted", add(minimal_add()));
    let newer = Add { mode: Some(Mode::Other), ..minimal_add() };
    read_only("request_add_unknown_fields", Request { proto_version: 7, call: Call::Add(Box::new(newer)) });
    let call = Call::Other(json!({ "rewind": { "to": "yesterday" } }));
    both_ways("request_unknown_call", Request { proto_version: 9, call });
}

#[test]
fn replies_of_version_1() {
    let interface = |name: &str, last, sandbox: &str| Interface {
        name: name.into(),
        mac: MacAddr([2, 0, 0, 0, 0, last]),
        mtu: Some(9001),
        sandbox: sandbox.into(),
    };
    let result = AddResult {
        interfaces: vec![interface("eni0123456789a", 1, ""), interface("eth0", 2, "/run/netns/a")],
        ips: vec![IpConfig { address: "10.0.1.5/32".into(), gateway: None, interface: Some(1) }],
        routes: vec![
            Route { dst: "169.254.1.1/32".into(), gw: None, scope: Some(253) },
            Route { dst: "0.0.0.0/0".into(), gw: Some(Ipv4Addr::new(169, 254, 1, 1)), scope: None },
        ],
        dns: Dns::default(),
    };
    both_ways("reply_added", Reply::new(Outcome::Added(Box::new(result))));
    both_ways("reply_done", Reply::new(Outcome::Done));
    let mut error = WireError::new(Code::TryAgainLater, "no address is free");
    error = error.cause("subnet-0a is full").advice("add a subnet");
    error.retry_after_ms = Some(5000);
    error.ec2_code = Some("InsufficientFreeAddressesInSubnet".into());
    error.ec2_request_id = Some("8f1c-77".into());
    both_ways("reply_failed_full", Reply::failed(error));
    both_ways("reply_failed_minimal", Reply::failed(WireError::new(Code::Unavailable, "not ready")));
}

#[test]
fn replies_of_another_version() {
    let error = WireError::new(Code::Other(123), "a failure of tomorrow");
    read_only(
        "reply_failed_unknown_code",
        Reply { proto_version: 2, outcome: Outcome::Failed(Box::new(error)) },
    );
    let outcome = Outcome::Other(json!({ "postponed": { "until": 12 } }));
    both_ways("reply_unknown_outcome", Reply { proto_version: 9, outcome });
}

#[test]
fn files_of_version_1() {
    let boot = BootId::new("5f6a1c1e-0d52-4f0e-9e0c-5d4c7f3f7a10");
    let tombstone = Tombstone {
        version: spool::VERSION,
        key: key("c1"),
        netns_cookie: Some(NetnsCookie(4098)),
        asked_ns: 1_234_567_890_123,
        boot: boot.clone(),
    };
    both_ways("tombstone_full", tombstone.clone());
    let blind = Tombstone { netns_cookie: None, ..tombstone.clone() };
    both_ways("tombstone_without_cookie", blind.clone());
    read_only("tombstone_unknown_fields", Tombstone { version: 7, ..blind });
    let stamp = Stamp { version: stamp::VERSION, renewed_ns: 1_234_567_890_123, boot, grace_ms: 60_000 };
    both_ways("stamp", stamp.clone());
    read_only("stamp_unknown_fields", Stamp { version: 7, ..stamp });
}

#[test]
fn a_broken_call_says_what_is_wrong_with_it() {
    let bad_name = json!({ "network": "a b", "container": "c", "ifname": "eth0" });
    for (call, cause) in [
        (json!({ "add": { "key": bad_name, "netns": "" } }), "add: network name \"a b\" is not valid"),
        (json!({ "del": { "key": { "network": "vpc" } } }), "del: missing field `container`"),
        (json!({ "status": 3 }), "status: invalid type"),
        (json!({ "check": {} }), "check: missing field `key`"),
        (json!({ "gc": { "network": "vpc", "valid": 3 } }), "gc: invalid type"),
        (
            json!({ "gc": { "network": "vpc", "valid": [{ "container": "-", "ifname": "eth0" }] } }),
            "gc: container id \"-\" is not valid",
        ),
    ] {
        let request: Request = serde_json::from_value(json!({ "proto_version": 1, "call": call })).unwrap();
        let misread = request.call.misread().unwrap();
        assert!(misread.starts_with(cause), "{misread}");
    }
    for name in ["request_unknown_call", "request_status", "request_add_unknown_fields"] {
        let request: Request = serde_json::from_value(fixture(name)).unwrap();
        assert_eq!(request.call.misread(), None, "{name}");
    }
}

#[test]
fn every_fixture_has_its_case() {
    let source = include_str!("golden.rs");
    let names: BTreeSet<String> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    assert!(names.len() >= 15, "{names:?}");
    for name in names {
        assert!(source.contains(&format!("\"{name}\"")), "{name} is not tested");
    }
}
