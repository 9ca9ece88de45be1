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

/// Three ENIs of nine addresses: a dozen containers need two of them, twenty all three.
const INSTANCE_TYPE: &str = "m5.large";
const ADDRESSES: u32 = 9;
/// How long EC2 takes to attach an ENI here, in milliseconds: long enough to be killed in.
const ATTACH: &[&str] = &["--attach-ms", "700"];
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
    let mut containers = add_first(screen, &mut node);
    add_dozen(screen, &node, &mut containers);
    let servers = Servers::start(&node, &containers);
    prove_paths(screen, &node, &containers, &servers);
    kill_among_adds(screen, &mut node, &mut containers, &servers);
    delete_all(screen, &node, &containers);
    nothing_left(screen, &node, &empty);
    node.stop_ipamd();
}

fn start_vpc(screen: &mut Screen) -> Node {
    screen.step("embedded-vpc starts: an EC2 and a VPC of network namespaces");
    let options = Options {
        instance_type: INSTANCE_TYPE,
        secondary: ADDRESSES,
        cooldown_ms: 500,
        vpc_args: ATTACH,
        config: "[capacity]\nrelease_after_ms = 500\n".to_owned(),
        ..Options::default()
    };
    let node = Node::without_ipamd(&options);
    let at = |which: &str| node.address(which);
    screen.say(&format!(
        "node      {:<14} {}: 3 ENIs of {ADDRESSES} addresses each; it boots with one",
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
    let text = format!("its pool has {} free addresses: one ENI's worth is the warm target", pool["free"]);
    screen.check(pool["free"] == ADDRESSES, &text);
}

fn capabilities(status: &str, set: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(set)?.strip_prefix(':'))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// The first container takes one of the warm addresses: an ENI is asked for, and ipamd dies while it is attaching.
fn add_first(screen: &mut Screen, node: &mut Node) -> Vec<Container> {
    screen.step("the first container; kill -9 while the next ENI is attaching");
    let first = add(node, 1, &mut Vec::new());
    let states = |node: &Node| -> Vec<String> {
        let enis = node.ask("enis");
        enis.as_array().into_iter().flatten().map(|e| e["state"].to_string()).collect()
    };
    let attaching =
        wait::holds_within(wait::PATIENCE, || states(node).iter().any(|s| s.contains("attaching")));
    screen.check(attaching, "one ENI is no longer free as a whole: another is created and attaching");
    node.kill_ipamd();
    node.start_ipamd();
    node.wait_ready();
    let ready = || states(node) == ["\"in_use\"", "\"in_use\""];
    screen.check(
        wait::holds_within(wait::PATIENCE, ready),
        "the next ipamd takes it over: its addresses are free",
    );
    screen.check(node.ec2_enis().len() == 2, "EC2 has no ENI that ipamd does not know");
    screen.check(ping(first.sandbox.name(), node.address("peer_address"), None), "the container talks");
    vec![first]
}

fn add(node: &Node, number: usize, times: &mut Vec<Duration>) -> Container {
    let (id, sandbox) = (format!("web-{number}"), Sandbox::new());
    let call = Call::new(node, "ADD").of(&id, &sandbox.path()).pod(&id);
    let began = boottime();
    let answer = call.ok();
    times.push(boottime().saturating_sub(began));
    Container { address: answer.address(), id, sandbox }
}

fn add_dozen(screen: &mut Screen, node: &Node, containers: &mut Vec<Container>) {
    screen.step("a runtime adds eleven more: one run of the plugin each");
    let mut times = Vec::new();
    containers.extend((2..=12).map(|number| add(node, number, &mut times)));
    show(screen, node, containers);
    held_once(screen, containers);
    let one = milliseconds(middle(&mut times));
    screen.say(&format!("one ADD took {one} (the middle one, from exec to exit)"));
}

/// Each container with its address and the link of the ENI that has it.
fn show(screen: &mut Screen, node: &Node, containers: &[Container]) -> Vec<String> {
    let enis = node.ask("enis");
    let attachments = node.ask("attachments");
    let link = |container: &Container| {
        let mine = attachments.as_array()?.iter().find(|a| a["container"] == container.id.as_str())?;
        let eni = enis.as_array()?.iter().find(|e| e["id"] == mine["eni"])?;
        eni["link"].as_str().map(str::to_owned)
    };
    let links: Vec<String> = containers.iter().map(|c| link(c).unwrap_or_default()).collect();
    let row = |(c, link): (&Container, &String)| format!("{:<7} {:<11} {link}", c.id, c.address);
    let rows: Vec<String> = containers.iter().zip(&links).map(row).collect();
    for row in rows.chunks(4) {
        screen.say(row.join("   ").trim_end());
    }
    let used: BTreeSet<&String> = links.iter().collect();
    let names: Vec<&str> = used.iter().map(|l| l.as_str()).collect();
    screen.say(&format!("{} ENIs are used: {}", used.len(), names.join(", ")));
    links
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
    let (one, two, far) = (&containers[0], &containers[1], &containers[11]);
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
            name: "across ENIs",
            from: far.in_sandbox(),
            to: two.address,
            port: servers.pod.port,
            source: far.address,
        },
        Path {
            name: "2nd ENI → VPC peer",
            from: far.in_sandbox(),
            to: peer,
            port: servers.peer.port,
            source: far.address,
        },
        Path {
            name: "2nd ENI → internet",
            from: far.in_sandbox(),
            to: internet,
            port: servers.internet.port,
            source: primary,
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
        let kept = if path.source == primary && path.name.ends_with("internet") {
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
    let dropped: u64 = node.all_drops().values().sum();
    screen.check(dropped == 0, "the VPC's source checks have dropped nothing");
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
    let links = show(screen, node, containers);
    held_once(screen, containers);
    let peer = node.address("peer_address");
    screen.check(containers.iter().all(|c| ping(c.sandbox.name(), peer, None)), "all twenty reach the peer");
    let far = containers.iter().zip(links).filter(|(_, link)| link == "ens7").map(|(c, _)| c);
    let reached: Vec<bool> = far.map(|c| ping(c.sandbox.name(), containers[0].address, None)).collect();
    screen.check(!reached.is_empty() && reached.iter().all(|r| *r), "those on the third ENI reach the first");
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
    let free = || node.ask("status")["pool"]["free"] == ADDRESSES && node.ec2_enis().len() == 1;
    screen.check(
        wait::holds_within(wait::PATIENCE, free),
        "after the cooldown every address is free, and the ENIs beyond the warm target are given back to EC2",
    );
    screen.check(node.ask("attachments") == json!([]), "ipamd has no record of a container");
    let now = traces::node(node);
    let counts = ["links", "routes", "rules", "neighbours", "lines of nft"]
        .map(|what| format!("{} {what}", now.count(what)));
    screen.check_list(&format!("as before the first ADD: {}", counts.join(", ")), &now.differences(empty));
}
