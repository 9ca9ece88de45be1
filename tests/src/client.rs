//! ADD and DEL by the protocol's own client, without a plugin: where many attachments are only the furniture.
//!
//! Owns the request. Does not judge the answer.

use crate::node::Node;
use eni_proto::client::{boottime, call};
use eni_proto::ids::AttachmentKey;
use eni_proto::reply::Outcome;
use eni_proto::request::{Add, Call, Del, Mode, Request};
use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Duration;

/// Far beyond what an answer takes: it only bounds a failure.
const DEADLINE_MS: u64 = 60_000;

fn key(container: &str, ifname: &str) -> AttachmentKey {
    AttachmentKey {
        network: "vpc".parse().expect("a name"),
        container: container.parse().expect("an id"),
        ifname: ifname.parse().expect("an ifname"),
    }
}

fn ask(node: &Node, what: Call, sandbox: Option<BorrowedFd<'_>>) -> Outcome {
    let deadline = boottime() + Duration::from_millis(DEADLINE_MS);
    call(Path::new(&node.socket()), &Request::new(what), sandbox, deadline).expect("ipamd answers").outcome
}

/// ADD of a container whose sandbox `socket` was opened in.
pub fn add(node: &Node, container: &str, ifname: &str, netns: &str, socket: BorrowedFd<'_>) -> Outcome {
    let add = Add {
        key: key(container, ifname),
        netns: netns.to_owned(),
        mode: Some(Mode::Shared),
        mtu: None,
        args: BTreeMap::new(),
        annotations: BTreeMap::new(),
        traceparent: None,
        time_left_ms: DEADLINE_MS,
    };
    ask(node, Call::Add(Box::new(add)), Some(socket))
}

/// DEL of a container.
pub fn del(node: &Node, container: &str, ifname: &str, netns: &str) -> Outcome {
    let del = Del {
        key: key(container, ifname),
        netns: netns.to_owned(),
        traceparent: None,
        time_left_ms: DEADLINE_MS,
    };
    ask(node, Call::Del(del), None)
}
