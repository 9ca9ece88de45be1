//! The steps of the demo.
//!
//! Owns the story. A step that cannot go on panics, and what was made is taken away on the way out.

use super::screen::{Screen, milliseconds};
use super::traces;
use crate::cni::{Call, Running, del};
use crate::node::{Node, Options};
use crate::sandbox::Sandbox;
use crate::traffic::{Connection, Echo, inside, ping, tcp};
use crate::wait;
use eni_proto::client::boottime;
use serde_json::json;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

const ADDRESSES: u32 = 29;
/// Sent through the connection, and back.
const TRANSFER: usize = 8 * 1024 * 1024;
/// CAP_NET_ADMIN, as a set of capabilities.
const CAP_NET_ADMIN: u64 = 1 << 12;

/// A container of the demo.
struct Container {
    id: String,
    sandbox: Sandbox,
    address: Ipv4Addr,
}

impl Container {
    fn in_sandbox(&self) -> String {
        self.sandbox.name().to_owned()
    }
}

pub(super) fn run(screen: &mut Screen) {
    let mut node = start_vpc(screen);
    start_ipamd(screen, &mut node);
    let empty = traces::node(&node);
    let mut containers = add_dozen(screen, &node);
    let servers = Servers::start(&node, &containers);
    prove_paths(screen, &node, &containers, &servers);
    kill_among_adds(screen, &mut node, &mut containers, &servers);
    delete_all(screen, &node, &containers);
    nothing_left(screen, &node, &empty);
    node.stop_ipamd();
}

fn start_vpc(screen: &mut Screen) -> Node {
    screen.step("embedded-vpc starts: an EC2 and a VPC of network namespaces");
    let options =
        Options { instance_type: "m5.4xlarge", secondary: ADDRESSES, cooldown_ms: 500, ..Options::default() };
    let node = Node::without_ipamd(&options);
    let at = |which: &str| node.address(which);
    screen.say(&format!(
        "node      {:<14} {} with {ADDRESSES} secondary addresses",
        at("node_address"),
        options.instance_type
    ));
    screen.say(&format!(
        "gateway   {:<14} drops and counts what an ENI sends with a source that is not its own",
        at("gateway")
    ));
    screen.say(&format!("peer      {:<14} a host elsewhere in the VPC", at("peer_address")));
    screen.say(&format!("internet  {:<14} a host outside", at("internet_address")));
    node
}

fn start_ipamd(screen: &mut Screen, node: &mut Node) {
    screen.step("ipamd starts in the node's namespace");
    node.start_ipamd();
    node.wait_ready();
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.ipamd_pid())).expect("ipamd runs");
    let sets = ["CapEff", "CapPrm", "CapBnd"].map(|set| capabilities(&status, set));
    screen.check(sets == [Some(CAP_NET_ADMIN); 3], "CAP_NET_ADMIN is its only capability");
    let pool = &node.ask("status")["pool"];
    screen.check(pool["free"] == ADDRESSES, &format!("its pool has {} free addresses", pool["free"]));
}

fn capabilities(status: &str, set: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(set)?.strip_prefix(':'))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn add_dozen(screen: &mut Screen, node: &Node) -> Vec<Container> {
    screen.step("a runtime adds twelve containers: one run of the plugin each");
    let mut times = Vec::new();
    let containers: Vec<Container> = (1..=12)
        .map(|number| {
            let (id, sandbox) = (format!("web-{number}"), Sandbox::new());
            let call = Call::new(node, "ADD").of(&id, &sandbox.path()).pod(&id);
            let began = boottime();
            let answer = call.ok();
            times.push(boottime().saturating_sub(began));
            Container { address: answer.address(), id, sandbox }
        })
        .collect();
    for row in containers.chunks(4) {
        let shown: Vec<String> = row.iter().map(|c| format!("{:<7} {:<12}", c.id, c.address)).collect();
        screen.say(shown.join("  ").trim_end());
    }
    held_once(screen, &containers);
    screen.say(&format!(
        "one ADD took {} (the middle one, from exec to exit)",
        milliseconds(middle(&mut times))
    ));
    containers
}

/// What was answered is what the sandbox has, and nobody else.
fn held_once(screen: &mut Screen, containers: &[Container]) {
    let inside = containers.iter().all(|c| c.sandbox.address("eth0") == Some(c.address));
    screen.check(inside, "each sandbox has the address that its ADD answered");
    let distinct: BTreeSet<Ipv4Addr> = containers.iter().map(|c| c.address).collect();
    screen.check(
        distinct.len() == containers.len(),
        &format!("{} containers, {} addresses", containers.len(), distinct.len()),
    );
}

fn middle(times: &mut [Duration]) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// Servers that answer with the source that they see.
struct Servers {
    pod: Echo,
    peer: Echo,
    internet: Echo,
}

impl Servers {
    fn start(node: &Node, containers: &[Container]) -> Servers {
        Servers {
            pod: Echo::start(&containers[1].in_sandbox()),
            peer: Echo::start(&node.netns("peer")),
            internet: Echo::start(&node.netns("internet")),
        }
    }
}

struct Path<'a> {
    name: &'a str,
    from: String,
    to: Ipv4Addr,
    port: u16,
    source: Ipv4Addr,
}

fn prove_paths(screen: &mut Screen, node: &Node, containers: &[Container], servers: &Servers) {
    screen.step("packets prove every path: a ping, and 8 MiB there and back by TCP");
    let (one, two) = (&containers[0], &containers[1]);
    let primary = node.address("node_address");
    let (peer, internet) = (node.address("peer_address"), node.address("internet_address"));
    let from = one.in_sandbox();
    for path in [
        Path {
            name: "sandbox → sandbox",
            from: from.clone(),
            to: two.address,
            port: servers.pod.port,
            source: one.address,
        },
        Path {
            name: "sandbox → VPC peer",
            from: from.clone(),
            to: peer,
            port: servers.peer.port,
            source: one.address,
        },
        Path {
            name: "sandbox → internet", from, to: internet, port: servers.internet.port, source: primary
        },
        Path {
            name: "node → sandbox",
            from: node.netns("node"),
            to: two.address,
            port: servers.pod.port,
            source: primary,
        },
        Path {
            name: "VPC peer → sandbox",
            from: node.netns("peer"),
            to: two.address,
            port: servers.pod.port,
            source: peer,
        },
    ] {
        let pinged = ping(&path.from, path.to, None);
        let began = boottime();
        let seen = tcp(&path.from, path.to, path.port, TRANSFER);
        let took = boottime().saturating_sub(began);
        let kept = if path.source == primary && path.name.starts_with("sandbox") {
            "the node's primary"
        } else {
            "kept"
        };
        let source = seen.map_or_else(|| "nothing".to_owned(), |source| source.to_string());
        let held = pinged && seen == Some(path.source);
        let text = format!(
            "{:<19} to {:<14} source seen {source} ({kept}), {}",
            path.name,
            path.to,
            milliseconds(took)
        );
        screen.check(held, &text);
    }
    let all = containers.iter().all(|c| [peer, internet].iter().all(|to| ping(c.sandbox.name(), *to, None)));
    screen.check(all, "each of the twelve reaches the peer and the internet");
    no_drops(screen, node);
}

fn no_drops(screen: &mut Screen, node: &Node) {
    let drops = (node.drops("v1"), node.drops("internet"));
    screen.check(drops == (0, 0), "the VPC's source checks have dropped nothing");
}

fn kill_among_adds(screen: &mut Screen, node: &mut Node, containers: &mut Vec<Container>, servers: &Servers) {
    screen.step("ipamd is killed with -9 among eight more ADDs");
    let (target, port) = (node.address("internet_address"), servers.internet.port);
    let mut open =
        inside(containers[0].sandbox.name(), move || Connection::open(target, port)).expect("it connects");
    let new: Vec<(String, Sandbox)> =
        (13..=20).map(|number| (format!("web-{number}"), Sandbox::new())).collect();
    let start =
        |(id, sandbox): &(String, Sandbox)| Call::new(node, "ADD").of(id, &sandbox.path()).pod(id).start();
    let mut running: Vec<_> = new[..4].iter().map(start).collect();
    node.kill_ipamd();
    let killed = boottime();
    let start =
        |(id, sandbox): &(String, Sandbox)| Call::new(node, "ADD").of(id, &sandbox.path()).pod(id).start();
    running.extend(new[4..].iter().map(start));
    screen.check(open.exchange(1024 * 1024), "with ipamd dead, a connection that was open before goes on");
    node.start_ipamd();
    let answers: Vec<_> = running.into_iter().map(Running::end).collect();
    let took = boottime().saturating_sub(killed);
    let failed: Vec<String> =
        answers.iter().filter(|a| a.code != Some(0)).map(|a| a.stdout.clone()).collect();
    screen.check_list(
        "none of the eight failed: four had begun before the kill, four came while nobody listened",
        &failed,
    );
    assert!(failed.is_empty(), "the demo needs them");
    screen.say(&format!("the last was answered {} after the kill", milliseconds(took)));
    let added = new.into_iter().zip(&answers);
    containers.extend(added.map(|((id, sandbox), answer)| Container {
        id,
        sandbox,
        address: answer.address(),
    }));
    held_once(screen, containers);
    let peer = node.address("peer_address");
    screen.check(containers.iter().all(|c| ping(c.sandbox.name(), peer, None)), "all twenty reach the peer");
    let states = node.ask("status")["attachments"].clone();
    screen.check(states["live"] == 20, &format!("ipamd's own count: {states}"));
    no_drops(screen, node);
}

fn delete_all(screen: &mut Screen, node: &Node, containers: &[Container]) {
    screen.step("the runtime deletes all twenty");
    let mut times = Vec::new();
    for container in containers {
        let began = boottime();
        del(node, &container.id, &container.sandbox.path());
        times.push(boottime().saturating_sub(began));
    }
    screen.say(&format!("one DEL took {}", milliseconds(middle(&mut times))));
    let gone =
        wait::holds_within(wait::PATIENCE, || containers.iter().all(|c| c.sandbox.address("eth0").is_none()));
    screen.check(gone, "no sandbox has an interface any more");
}

fn nothing_left(screen: &mut Screen, node: &Node, empty: &traces::Look) {
    screen.step("nothing is left");
    let free = || node.ask("status")["pool"]["free"] == ADDRESSES;
    screen.check(wait::holds_within(wait::PATIENCE, free), "after the cooldown every address is free");
    screen.check(node.ask("attachments") == json!([]), "ipamd has no record of a container");
    let now = traces::node(node);
    let counts = ["links", "routes", "rules", "neighbours", "lines of nft"]
        .map(|what| format!("{} {what}", now.count(what)));
    screen.check_list(&format!("as before the first ADD: {}", counts.join(", ")), &now.differences(empty));
}
