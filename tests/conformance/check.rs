//! CHECK: versions, good and bad input, each single thing that somebody takes away by hand, and no wrong failure.

use crate::bad_input::refused;
use crate::node;
use eni_proto::frame::{self, HEADER};
use eni_proto::reply::{Outcome, Reply};
use eni_proto::request::{Call as Asked, Request};
use eni_tests::cni::{Answer, Call, add, del};
use eni_tests::node::{Node, Options};
use eni_tests::sandbox::Sandbox;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;

/// CHECK of a container with what its ADD has answered.
fn check(node: &Node, container: &str, netns: &str, result: &Value) -> Call {
    let version = result["cniVersion"].clone();
    let call = Call::new(node, "CHECK").of(container, netns);
    call.conf("cniVersion", version).conf("prevResult", result.clone())
}

fn well(answer: &Answer) {
    assert_eq!(answer.code, Some(0), "{}{}", answer.stdout, answer.stderr);
    assert_eq!(answer.stdout, "", "CHECK prints nothing");
}

fn added(node: &Node, container: &str, sandbox: &Sandbox, version: &str) -> Value {
    let call = Call::new(node, "ADD").of(container, &sandbox.path()).pod(container);
    call.conf("cniVersion", json!(version)).ok().json()
}

#[test]
fn cni_check_in_every_version_right_after_add_and_what_is_refused() {
    let node = node(5);
    let sandbox = Sandbox::new();
    for version in ["0.4.0", "1.0.0", "1.1.0"] {
        let result = added(&node, "ABC-1", &sandbox, version);
        well(&check(&node, "ABC-1", &sandbox.path(), &result).run());
        del(&node, "ABC-1", &sandbox.path());
        let gone = check(&node, "ABC-1", &sandbox.path(), &result).run();
        refused(&gone, 100, &["the record: expected one that is live, found "]);
        assert_eq!(gone.json()["cniVersion"], version);
    }
    let result = added(&node, "ABC-1", &sandbox, "0.3.1");
    let path = sandbox.path();
    refused(&check(&node, "ABC-1", &path, &result).run(), 1, &["CHECK", "0.4.0", "0.3.1"]);
    let result = added(&node, "ABC-1", &sandbox, "1.1.0");
    let call = || check(&node, "ABC-1", &path, &result);
    refused(&call().conf("prevResult", Value::Null).run(), 7, &["prevResult is absent"]);
    for bad in [json!([]), json!("x")] {
        refused(&call().conf("prevResult", bad).run(), 7, &["prevResult"]);
    }
    let unset = call().env("CNI_CONTAINERID", "").env("CNI_IFNAME", "").env("CNI_PATH", "").run();
    refused(&unset, 4, &["CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"]);
    let none = Call::new(&node, "CHECK").env("CNI_PATH", "").run();
    refused(&none, 4, &["CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME, CNI_PATH"]);
    for (variable, bad) in [("CNI_CONTAINERID", "-a"), ("CNI_IFNAME", "a/b"), ("CNI_ARGS", "A")] {
        refused(&call().env(variable, bad).run(), 4, &[variable]);
    }
    let own = format!("/run/netns/{}", node.netns("node"));
    refused(&call().env("CNI_NETNS", &own).run(), 8, &["itself runs in"]);
    refused(&call().env("CNI_NETNS", "/run/netns/never-was").run(), 8, &["never-was"]);
    refused(&call().conf("name", json!("a b")).run(), 7, &["name"]);
    refused(&call().conf("name", json!("other")).run(), 100, &["other/ABC-1/eth0", "found none"]);
    refused(&call().env("CNI_CONTAINERID", "abc-1").run(), 100, &["vpc/abc-1/eth0", "found none"]);
    refused(&call().env("CNI_IFNAME", "net1").run(), 100, &["found none"]);
    let other = Sandbox::new();
    refused(
        &call().env("CNI_NETNS", &other.path()).run(),
        100,
        &["the sandbox: expected the network namespace"],
    );
    // What later plugins of the chain have added is theirs; another address instead of ours is none of it.
    let mut more = result.clone();
    more["ips"].as_array_mut().unwrap().push(json!({ "address": "192.168.7.7/24", "interface": 1 }));
    well(&check(&node, "ABC-1", &path, &more).run());
    let mut instead = result.clone();
    instead["ips"][0]["address"] = json!("10.99.9.9/32");
    let instead = check(&node, "ABC-1", &path, &instead).run();
    refused(&instead, 100, &["the address in prevResult: expected ", "found 10.99.9.9"]);
    well(&call().run());
}

/// A container on the second ENI, and what is known of it.
struct OnSecond {
    node: Node,
    sandbox: Sandbox,
    result: Value,
    link: String,
    ifindex: u64,
    address: String,
    sandbox_mac: String,
    host_mac: String,
}

impl OnSecond {
    fn new() -> OnSecond {
        let options = Options { instance_type: "test.2x3", secondary: 2, ..Options::default() };
        let node = Node::new(&options);
        let first: Vec<Sandbox> = (0..2).map(|_| Sandbox::new()).collect();
        for (n, sandbox) in first.iter().enumerate() {
            add(&node, &format!("c{n}"), sandbox);
        }
        let sandbox = Sandbox::new();
        let result = added(&node, "on-2", &sandbox, "1.1.0");
        let told = node.ask("attachments");
        let told = told.as_array().unwrap().iter().find(|a| a["container"] == "on-2").unwrap().clone();
        let link = told["host_link"].as_str().unwrap().to_owned();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        OnSecond {
            ifindex: told["host_ifindex"].as_u64().unwrap(),
            address: text(&told["addresses"][0]),
            sandbox_mac: text(&result["interfaces"][1]["mac"]),
            host_mac: text(&result["interfaces"][0]["mac"]),
            node,
            sandbox,
            result,
            link,
        }
    }

    fn check(&self) -> Answer {
        check(&self.node, "on-2", &self.sandbox.path(), &self.result).run()
    }

    /// Somebody does `damage`, which CHECK names, and undoes it.
    fn damaged(&self, damage: &str, words: &[&str], repair: &str) {
        let sh = |line: &str| drop(self.sandbox.sh(line).unwrap_or_else(|error| panic!("{line}: {error}")));
        sh(damage);
        let answer = self.check();
        refused(&answer, 100, &["vpc/on-2/eth0 is not as its ADD has made it"]);
        refused(&answer, 100, words);
        sh(repair);
        well(&self.check());
    }

    fn in_the_sandbox(&self) {
        let OnSecond { address, sandbox_mac, host_mac, .. } = self;
        let damaged = |damage: &str, words: &[&str], repair: &str| self.damaged(damage, words, repair);
        let default = "ip route add default via 169.254.1.1 dev eth0";
        let routes = format!("ip route add 169.254.1.1 dev eth0 scope link; {default}");
        let next_hop = format!("ip neigh replace 169.254.1.1 dev eth0 lladdr {host_mac} nud permanent");
        damaged(
            &format!("ip addr del {address}/32 dev eth0"),
            &[&format!("the sandbox's address: expected {address}/32, found none")],
            &format!("ip addr add {address}/32 dev eth0; {routes}; {next_hop}"),
        );
        damaged(
            "ip route del default",
            &["the sandbox's default route: expected 0.0.0.0/0 via 169.254.1.1, found none"],
            default,
        );
        damaged(
            "ip route del default; ip route del 169.254.1.1",
            &["the sandbox's route to its next hop: expected 169.254.1.1/32 on the link, found none"],
            &routes,
        );
        let neighbour = "the sandbox's neighbour 169.254.1.1: expected";
        damaged(
            "ip neigh del 169.254.1.1 dev eth0",
            &[&format!("{neighbour} {host_mac}, permanent, found none")],
            &next_hop,
        );
        damaged(
            "ip link set eth0 down",
            &["the sandbox's link: expected up, found down"],
            &format!("ip link set eth0 up; {routes}; {next_hop}"),
        );
        let with_mac = |mac: &str| {
            format!("ip link set eth0 down; ip link set eth0 address {mac} up; {routes}; {next_hop}")
        };
        damaged(
            &with_mac("02:00:00:00:00:99"),
            &[&format!("the sandbox's MAC: expected {sandbox_mac}, found 02:00:00:00:00:99")],
            &with_mac(sandbox_mac),
        );
    }
}

/// On the host ipamd mends what is taken away before it could be asked: what CHECK says of that is tried on its own, in
/// the core and against the kernel.
#[test]
fn cni_check_names_each_single_thing_that_is_taken_away_inside() {
    let pod = OnSecond::new();
    well(&pod.check());
    pod.in_the_sandbox();
    // What somebody adds is no difference; what is gone with the link is told of by it.
    pod.sandbox.sh("ip addr add 192.168.9.9/24 dev eth0; ip route add 192.168.10.0/24 dev eth0").unwrap();
    well(&pod.check());
    pod.sandbox.sh("ip link del eth0").unwrap();
    // Whether ipamd has seen it already: then its record says so.
    let words = format!("the host link: expected {} with index {}, found none", pod.link, pod.ifindex);
    let answer = pod.check();
    refused(&answer, 100, &[]);
    assert!([words.as_str(), "found broken"].iter().any(|w| answer.stdout.contains(w)), "{}", answer.stdout);
    del(&pod.node, "on-2", &pod.sandbox.path());
}

#[test]
fn cni_check_waits_for_a_daemon_that_is_restarting_and_for_what_it_lays() {
    let mut node = node(5);
    let sandbox = Sandbox::new();
    let result = added(&node, "c1", &sandbox, "1.1.0");
    node.stop_ipamd();
    let waiting = check(&node, "c1", &sandbox.path(), &result).start();
    node.start_ipamd();
    well(&waiting.end());
    for _ in 0..3 {
        node.kill_ipamd();
        node.start_ipamd();
        // Its nft table and rules are laid anew while these are answered; EC2 has not been asked.
        let calls: Vec<_> = (0..3).map(|_| check(&node, "c1", &sandbox.path(), &result).start()).collect();
        calls.into_iter().for_each(|call| well(&call.end()));
    }
    node.stop_ipamd();
    node.cloud_fault("InstanceIdentity", "InternalError", 1_000_000);
    node.start_ipamd();
    well(&check(&node, "c1", &sandbox.path(), &result).run());
}

#[test]
fn cni_check_right_after_each_add_of_a_node_that_grows_finds_nothing() {
    let node =
        Node::new(&Options { instance_type: "test.4x4", secondary: 3, poll_ms: 10, ..Options::default() });
    let sandboxes: Vec<Sandbox> = (0..10).map(|_| Sandbox::new()).collect();
    let name = |n: usize| format!("c{n}");
    let adds = sandboxes.iter().enumerate().map(|(n, s)| {
        Call::new(&node, "ADD")
            .of(&name(n), &s.path())
            .pod(&name(n))
            .conf("cniVersion", json!("1.1.0"))
            .start()
    });
    let adds: Vec<_> = adds.collect();
    for (n, (running, sandbox)) in adds.into_iter().zip(&sandboxes).enumerate() {
        let answer = running.end();
        assert_eq!(answer.code, Some(0), "{}", answer.stdout);
        well(&check(&node, &name(n), &sandbox.path(), &answer.json()).run());
    }
    let enis = node.ask("enis").as_array().map(Vec::len);
    assert!(enis >= Some(3), "it has grown meanwhile: {enis:?}");
}

#[test]
fn cni_what_check_and_gc_ask_is_what_the_runtime_has_said() {
    let node = Node::without_ipamd(&Options::default());
    let sandbox = Sandbox::new();
    let listener = UnixListener::bind(node.socket()).unwrap();
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let asked = |call: &Call, answer: Outcome| {
        let running = call.start();
        let (mut stream, _) = listener.accept().unwrap();
        let mut header = [0; HEADER];
        stream.read_exact(&mut header).unwrap();
        let mut body = vec![0; frame::body_length(header).unwrap()];
        stream.read_exact(&mut body).unwrap();
        stream.write_all(&frame::encode(&Reply::new(answer)).unwrap()).unwrap();
        drop(stream);
        (frame::decode::<Request>(&body).unwrap().call, running.end())
    };
    let result = json!({
        "cniVersion": "1.1.0",
        "interfaces": [{ "name": "eni0" }, { "name": "eth0", "sandbox": "/x" }],
        "ips": [{ "address": "10.0.0.5/32", "interface": 1 }],
    });
    let call = check(&node, "ABC-1", &sandbox.path(), &result).env("TRACEPARENT", trace);
    let (check, answer) = asked(&call, Outcome::Done);
    well(&answer);
    let Asked::Check(check) = check else { panic!("{check:?}") };
    assert_eq!((check.key.container.as_str(), check.netns), ("ABC-1", sandbox.path()));
    assert_eq!(
        (check.addresses, check.traceparent.as_deref()),
        (vec!["10.0.0.5".parse().unwrap()], Some(trace))
    );
    let list = json!([{ "containerID": "ABC-1", "ifname": "eth0" }]);
    let call = Call::new(&node, "GC").conf("cniVersion", json!("1.1.0")).env("TRACEPARENT", trace);
    let call = call.conf("cni.dev/valid-attachments", list.clone()).conf("cni.dev/attachments", list);
    let (gc, answer) = asked(&call, Outcome::Collected(eni_proto::reply::Collected { freed: 1, kept: 2 }));
    well(&answer);
    let Asked::Gc(gc) = gc else { panic!("{gc:?}") };
    assert_eq!((gc.network.as_str(), gc.traceparent.as_deref()), ("vpc", Some(trace)));
    let valid = gc.valid.unwrap();
    assert_eq!(valid.len(), 1, "{valid:?}");
    let (_, answer) = asked(&call, Outcome::Other(json!({ "later": {} })));
    refused(&answer, 6, &["not understood"]);
}
