//! ipamd's descriptors: none is left behind by a thousand ADDs and DELs.
//!
//! Owns the traffic: most of it by the protocol's client, which a plugin is around, some by the plugin itself.

use eni_proto::client::{boottime, call};
use eni_proto::error::Code;
use eni_proto::ids::AttachmentKey;
use eni_proto::reply::Outcome;
use eni_proto::request::{Add, Call, Del, Mode, Request};
use eni_tests::cni::{self, Call as Cni};
use eni_tests::node::{Node, Options};
use eni_tests::sandbox::Sandbox;
use eni_tests::traffic::inside;
use eni_tests::wait;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

/// ADDs, and as many DELs.
const ROUNDS: usize = 1000;
/// They are reused: that is where a descriptor that keeps a namespace alive would be seen.
const SANDBOXES: usize = 20;
/// At a time.
const CALLERS: usize = 4;
/// One round in so many is by the plugin.
const BY_PLUGIN: usize = 20;
/// Interfaces that a sandbox has in turn: mostly the last one of the name is gone by then, and need not be waited for.
const NAMES: usize = 10;
/// An idle ipamd has its standard streams, a store, two sockets to listen on, two runtimes and its netlink sockets.
const LEAST: usize = 15;
/// Far beyond what an answer takes: it only bounds a failure.
const DEADLINE: Duration = Duration::from_secs(60);

/// ipamd's descriptors by what they are open on.
fn descriptors(node: &Node) -> BTreeMap<String, usize> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{}/fd", node.ipamd_pid())).unwrap() {
        // Closed meanwhile is gone.
        let Ok(to) = fs::read_link(entry.unwrap().path()) else { continue };
        let kind = to.display().to_string().split(":[").next().unwrap_or_default().to_owned();
        *all.entry(kind).or_default() += 1;
    }
    all
}

fn socket_inside(sandbox: &Sandbox) -> OwnedFd {
    inside(sandbox.name(), || {
        let kind = (AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC);
        socket(kind.0, kind.1, kind.2, SockProtocol::NetlinkRoute).expect("a netlink socket")
    })
}

fn ask(node: &Node, what: Call, sandbox: &OwnedFd) -> Outcome {
    let reply =
        call(Path::new(&node.socket()), &Request::new(what), Some(sandbox.as_fd()), boottime() + DEADLINE);
    reply.expect("ipamd answers").outcome
}

/// One ADD and its DEL by the client.
fn round(node: &Node, sandbox: &Sandbox, id: &str, ifname: &str) {
    let key = AttachmentKey {
        network: "vpc".parse().unwrap(),
        container: id.parse().unwrap(),
        ifname: ifname.parse().unwrap(),
    };
    let inside = socket_inside(sandbox);
    let (netns, time_left_ms) = (sandbox.path(), 60_000);
    let add = Add {
        key: key.clone(),
        netns: netns.clone(),
        mode: Some(Mode::Shared),
        mtu: None,
        args: BTreeMap::new(),
        annotations: BTreeMap::new(),
        traceparent: None,
        time_left_ms,
    };
    // The pool is empty for moments: the reaper is behind.
    wait::until("an address is free", || match ask(node, Call::Add(Box::new(add.clone())), &inside) {
        Outcome::Added(_) => true,
        Outcome::Failed(error) if error.code == Code::TryAgainLater => false,
        other => panic!("{other:?}"),
    });
    let done = ask(node, Call::Del(Del { key, netns, traceparent: None, time_left_ms }), &inside);
    assert!(matches!(done, Outcome::Done), "{done:?}");
}

/// A caller's part: each has sandboxes of its own.
fn rounds(node: &Node, caller: usize, sandboxes: &[Sandbox]) {
    for n in 0..ROUNDS / CALLERS {
        let sandbox = &sandboxes[n % sandboxes.len()];
        let (id, ifname) = (format!("c{caller}-{n}"), format!("net{}", n / sandboxes.len() % NAMES));
        if n % BY_PLUGIN == 0 {
            let call = |verb| Cni::new(node, verb).of(&id, &sandbox.path()).env("CNI_IFNAME", &ifname);
            wait::until("an address is free", || call("ADD").run().code == Some(0));
            call("DEL").ok();
        } else {
            round(node, sandbox, &id, &ifname);
        }
    }
}

#[test]
fn guard_a_thousand_adds_and_dels_leave_no_descriptor() {
    let node = Node::new(&Options {
        instance_type: "m5.24xlarge",
        secondary: 49,
        log: "info",
        ..Options::default()
    });
    let sandboxes: Vec<Sandbox> = (0..SANDBOXES).map(|_| Sandbox::new()).collect();
    let idle = || node.ask("attachments") == serde_json::json!([]);
    // What is opened once, at the first use, is open.
    cni::add(&node, "first", &sandboxes[0]);
    let held = descriptors(&node);
    cni::del(&node, "first", &sandboxes[0].path());
    wait::until("nothing is under way", idle);
    let base = descriptors(&node);
    let number = |all: &BTreeMap<String, usize>| all.values().sum::<usize>();
    assert!(number(&base) >= LEAST && number(&held) >= LEAST, "they are counted: {base:?}");
    let served = || node.metric("eni_ipamd_operations_total", "outcome=\"ok\"") as usize;
    let before = served();
    std::thread::scope(|scope| {
        for (caller, own) in sandboxes.chunks(SANDBOXES / CALLERS).enumerate() {
            let node = &node;
            scope.spawn(move || rounds(node, caller, own));
        }
    });
    assert_eq!(served() - before, 2 * ROUNDS);
    wait::until("every record is gone", idle);
    println!("descriptors: {base:?} before, {:?} after", descriptors(&node));
    wait::until(&format!("the descriptors are back at {base:?}"), || {
        number(&descriptors(&node)) <= number(&base)
    });
}
