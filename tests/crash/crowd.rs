//! Containers that live through everything, and what must hold after each crash.
//!
//! Owns their sandboxes, one open connection of each, and the checks: no address lost, none held twice, nothing of ours
//! without a record, everybody talks.

use eni_tests::cni::add;
use eni_tests::node::Node;
use eni_tests::sandbox::Sandbox;
use eni_tests::traffic::{Connection, Echo, inside};
use eni_tests::wait;
use serde_json::Value;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// The number of the pods table.
const PODS_TABLE: u32 = 247_529_472;

/// A container that lives, with a connection to a host elsewhere in the VPC.
pub(crate) struct Member {
    pub(crate) id: String,
    /// It lives as long as this.
    _sandbox: Sandbox,
    pub(crate) address: Ipv4Addr,
    /// The cookie of its sandbox, as it was recorded first.
    cookie: Value,
    connection: RefCell<Connection>,
}

pub(crate) struct Crowd {
    pub(crate) members: Vec<Member>,
    _echo: Echo,
}

impl Crowd {
    /// That many containers, by the plugin.
    pub(crate) fn new(node: &Node, count: usize) -> Crowd {
        let echo = Echo::start(&node.netns("peer"));
        let members = (0..count).map(|n| Member::new(node, &format!("live{n}"), echo.port)).collect();
        Crowd { members, _echo: echo }
    }

    /// All of them go on talking, by the connections that they opened first.
    pub(crate) fn talks(&self, when: &str) {
        for member in &self.members {
            assert!(member.connection.borrow_mut().exchange(64), "{when}: {} is cut off", member.id);
        }
    }

    /// All of them have their records: live, with their address and the cookie of their sandbox.
    pub(crate) fn recorded(&self, node: &Node, when: &str) {
        let records = records(node);
        for member in &self.members {
            let own: Vec<&Value> = records.iter().filter(|r| r["container"] == member.id.as_str()).collect();
            let [record] = own[..] else { panic!("{when}: {}: {own:?}", member.id) };
            assert_eq!(record["state"], "live", "{when}: {record}");
            assert_eq!(addresses(record), [member.address], "{when}: {record}");
            assert_eq!(record["netns_cookie"], member.cookie, "{when}: {record}");
        }
    }
}

impl Member {
    fn new(node: &Node, id: &str, port: u16) -> Member {
        let sandbox = Sandbox::new();
        let address = add(node, id, &sandbox);
        let peer = node.address("peer_address");
        // The host end's queue starts a moment after it is up: a first packet may be lost on a busy machine.
        let open = || inside(sandbox.name(), move || Connection::open(peer, port));
        let connection = open().or_else(open).expect("it reaches the VPC");
        let record = records(node).into_iter().find(|r| r["container"] == id).expect("its record");
        let cookie = record["netns_cookie"].clone();
        Member { id: id.to_owned(), _sandbox: sandbox, address, cookie, connection: RefCell::new(connection) }
    }
}

/// The records of attachments.
pub(crate) fn records(node: &Node) -> Vec<Value> {
    let (status, body) = node.http("GET", "/v1/attachments");
    assert_eq!(status, 200, "{body}");
    let answer: Value = serde_json::from_str(&body).unwrap();
    answer["data"].as_array().unwrap().clone()
}

pub(crate) fn addresses(record: &Value) -> Vec<Ipv4Addr> {
    let all = record["addresses"].as_array().unwrap();
    all.iter().map(|a| a.as_str().unwrap().parse().unwrap()).collect()
}

/// Whether this ipamd serves ADDs.
pub(crate) fn is_ready(node: &Node) -> bool {
    if std::os::unix::net::UnixStream::connect(node.run_dir().join("debug.sock")).is_err() {
        return false;
    }
    let answer =
        node.debug_bytes(b"GET /v1/status HTTP/1.1\r\nHost: ipamd\r\nConnection: close\r\n\r\n", false);
    let pid = format!("\"pid\":{}", node.ipamd_pid());
    let compact = answer.replace(": ", ":");
    compact.contains(&pid) && compact.contains("\"ready\":true")
}

/// What must hold when nothing is under way: an address has one holder, none is lost, and nothing of ours on the host is
/// without its record.
pub(crate) fn sound(node: &Node, total: usize, when: &str) {
    let mut why = String::new();
    let holds = wait::holds_within(wait::PATIENCE, || match unsound(node, total) {
        None => true,
        Some(what) => {
            why = what;
            false
        }
    });
    assert!(holds, "{when}: {why}\n{}", node.log());
}

fn unsound(node: &Node, total: usize) -> Option<String> {
    let records = records(node);
    let mut holders = BTreeMap::new();
    for record in &records {
        if record["state"] != "live" {
            return Some(format!("a record that is not live: {record}"));
        }
        for address in addresses(record) {
            if let Some(other) = holders.insert(address, record["container"].clone()) {
                return Some(format!("{address} is held by {other} and {}", record["container"]));
            }
        }
    }
    let (_, body) = node.http("GET", "/v1/pool");
    let pool: Value = serde_json::from_str(&body).unwrap();
    let counts = &pool["data"]["counts"];
    let count = |state: &str| usize::try_from(counts[state].as_u64().unwrap()).unwrap();
    if count("allocated") != holders.len() || count("free") + count("allocated") != total {
        return Some(format!("{} holders of {total} addresses, and the pool says {counts}", holders.len()));
    }
    let shown = node.sh("node", &format!("ip -br link; echo; ip route show table {PODS_TABLE}")).unwrap();
    let (links, routes) = shown.split_once("\n\n").unwrap();
    let links: BTreeSet<&str> =
        links.lines().filter_map(|l| l.split(['@', ' ']).next()).filter(|name| is_pods(name)).collect();
    let known: BTreeSet<&str> = records.iter().filter_map(|r| r["host_link"].as_str()).collect();
    if links != known {
        return Some(format!("links {links:?}, and in the records {known:?}"));
    }
    let routed: BTreeSet<Ipv4Addr> = routes
        .lines()
        .filter(|l| l.contains(" dev "))
        .filter_map(|l| l.split(' ').next()?.parse().ok())
        .collect();
    let held: BTreeSet<Ipv4Addr> = holders.keys().copied().collect();
    (routed != held).then(|| format!("routes to {routed:?}, and held are {held:?}"))
}

/// The names of pods' links: `eni` and eleven hexadecimal digits.
fn is_pods(name: &str) -> bool {
    name.len() == 14
        && name.strip_prefix("eni").is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_hexdigit()))
}
