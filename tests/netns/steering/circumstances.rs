//! The same lists of paths under what happens to a node: restarts with connections open, ENIs that come and go under
//! traffic, a thousand pods' routes, a FORWARD chain that drops.
//!
//! Owns these circumstances and the connections that must live through them.

use super::probe::{self, Ask};
use super::site::{Site, options};
use super::stand_in::{self, Form};
use super::{all_paths, services};
use eni_tests::node::Node;
use eni_tests::traffic::{Connection, spawn};
use eni_tests::wait;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// What is sent at once and sent back: several segments.
const CHUNK: usize = 40_000;
/// Between two exchanges of a connection: without it they take the processors from what they are to live through.
const PACE: Duration = Duration::from_millis(5);

/// What long connections there are: each by another way through the rules.
fn asks(site: &Site) -> Vec<(&'static str, Ask)> {
    let [first, second, third] = site.clients();
    let [.., there] = site.servers();
    let by_service = services::sample(site);
    vec![
        ("pod(0) → internet", site.of_pod(first, site.internet(), site.at_internet.port)),
        ("pod(1) → internet", site.of_pod(second, site.internet(), site.at_internet.port)),
        ("pod(2) → VPC host", site.of_pod(third, site.peer(), site.at_peer.port)),
        ("pod(0) → pod(2)", site.of_pod(first, there.address, there.server.port)),
        ("client → pod(2)", site.from("client", there.address, there.server.port)),
        ("VPC host → NodePort by the third ENI → pod(2)", site.from("peer", by_service.own, by_service.port)),
        ("pod(2) → ClusterIP → VPC host", site.of_pod(third, by_service.remote, 80)),
    ]
}

/// Connections that are used without a pause until they are ended.
struct Traffic {
    end: Arc<AtomicBool>,
    lines: Vec<Line>,
}

/// One of them: its name, how many exchanges it has had, and its thread, which ends with why it broke.
type Line = (&'static str, Arc<AtomicUsize>, JoinHandle<Result<(), String>>);

impl Traffic {
    fn start(site: &Site) -> Traffic {
        let end = Arc::new(AtomicBool::new(false));
        let line = |(name, ask): (&'static str, Ask)| {
            let (end, count) = (end.clone(), Arc::new(AtomicUsize::new(0)));
            let counted = count.clone();
            let netns = ask.netns.clone();
            let thread = spawn(&netns, move || {
                let mut connection =
                    probe::open(&ask).map_err(|e| format!("{name} does not connect: {e}"))?;
                while !end.load(Ordering::Relaxed) {
                    if !connection.exchange(CHUNK) {
                        return Err(format!(
                            "{name} broke after {} exchanges",
                            counted.load(Ordering::Relaxed)
                        ));
                    }
                    counted.fetch_add(1, Ordering::Relaxed);
                    thread::sleep(PACE);
                }
                Ok(())
            });
            (name, count, thread)
        };
        let traffic = Traffic { lines: asks(site).into_iter().map(line).collect(), end };
        traffic.flows("at first");
        traffic
    }

    /// Every connection gets on, or has ended with why.
    fn flows(&self, when: &str) {
        for (name, count, thread) in &self.lines {
            let before = count.load(Ordering::Relaxed);
            wait::until(&format!("{name} gets on {when}"), || {
                count.load(Ordering::Relaxed) > before || thread.is_finished()
            });
        }
    }

    /// Ends them; none may have broken.
    fn end(self) {
        self.end.store(true, Ordering::Relaxed);
        let ended = self.lines.into_iter().map(|(.., thread)| thread.join().expect("a connection's thread"));
        let broken: Vec<String> = ended.filter_map(Result::err).collect();
        assert!(broken.is_empty(), "{broken:#?}");
    }
}

fn open_connections(site: &Site) -> Vec<(&'static str, Connection)> {
    let open = |(name, ask): (&'static str, Ask)| {
        let netns = ask.netns.clone();
        let connection = spawn(&netns, move || probe::open(&ask)).join().expect("a client");
        (name, connection.unwrap_or_else(|e| panic!("{name} does not connect: {e}")))
    };
    asks(site).into_iter().map(open).collect()
}

/// kill -9, a new ipamd, and what was open before goes on.
fn restart_with_connections_open(site: &mut Site, connections: &mut [(&'static str, Connection)]) {
    site.node.restart_ipamd();
    for (name, connection) in connections {
        assert!(connection.exchange(CHUNK), "{name} goes on after a restart");
    }
}

/// A thousand addresses more in the pods' table, by the link of a live pod; as another program's, so that they stay.
fn a_thousand_routes(site: &Site) {
    let [pod, ..] = site.clients();
    let link = site.host_link(pod);
    let line = format!(
        "for n in $(seq 0 999); do echo route add 10.0.$((200 + n / 250)).$((n % 250))/32 dev {link} table 247529472; \
         done | ip -batch -"
    );
    site.node.sh("node", &line).unwrap();
    let routes = site.node.sh("node", "ip route show table 247529472").unwrap();
    assert!(routes.lines().count() >= 1000 + 9, "{routes}");
}

#[test]
fn netns_every_path_after_restarts_with_connections_open_with_a_thousand_routes_and_with_forward_drop() {
    let mut site = Site::new("test.3x4", "");
    stand_in::lay(&site.node, Form::Iptables, &services::services(&site));
    let mut connections = open_connections(&site);
    restart_with_connections_open(&mut site, &mut connections);
    all_paths("after a restart", &site);
    a_thousand_routes(&site);
    all_paths("with a thousand routes", &site);
    // dockerd starts on a node that serves.
    site.node.sh("node", "iptables -P FORWARD DROP").unwrap();
    restart_with_connections_open(&mut site, &mut connections);
    all_paths("where FORWARD drops from then on", &site);
    for (name, connection) in &mut connections {
        assert!(connection.exchange(CHUNK), "{name} goes on to the end");
    }
}

#[test]
fn netns_every_path_where_forward_drops_from_before() {
    let node = Node::without_ipamd(&options("test.3x4", ""));
    node.sh("node", "iptables -P FORWARD DROP").unwrap();
    let site = Site::on(node);
    let accepted = site.node.sh("node", "iptables -S FORWARD").unwrap();
    assert!(accepted.contains("-i eni+") && accepted.contains("-o eni+"), "{accepted}");
    stand_in::lay(&site.node, Form::Iptables, &services::services(&site));
    all_paths("where FORWARD drops from before", &site);
}

#[test]
fn netns_every_path_after_an_eni_came_and_another_went_under_traffic() {
    let config = "[capacity]\nwarm_enis = 0\nrelease_after_ms = 0\n";
    let mut site = Site::new("test.4x4", config);
    // The second ENI is the one to go: what lives on goes over the others.
    let enis = |site: &Site| {
        let enis = site.node.ask("enis").as_array().cloned().unwrap_or_default();
        enis.iter().map(|e| e["device_index"].as_u64().expect("an index") + 1).collect::<Vec<_>>()
    };
    for _ in 0..3 {
        site.add();
    }
    assert_eq!(enis(&site), [1, 2, 3, 4], "the fourth came with the tenth pod");
    site.go_over([1, 4, 3]);
    stand_in::lay(&site.node, Form::Nft, &services::services(&site));
    let traffic = Traffic::start(&site);
    site.clear(2);
    wait::until("the second ENI is given back", || enis(&site) == [1, 3, 4]);
    wait::until("its link is gone", || !site.node.sh("node", "ip -br link").unwrap().contains("ens6"));
    traffic.flows("after the second ENI went");
    all_paths("after an ENI went", &site);
    // Another comes in its place.
    while site.on_eni(2).count() < 2 {
        site.add();
    }
    traffic.flows("after an ENI came");
    traffic.end();
    site.go_over([1, 2, 4]);
    stand_in::lay(&site.node, Form::Nft, &services::services(&site));
    all_paths("after another ENI came in its place", &site);
    assert_eq!(site.node.ask("status")["ready"], json!(true));
}
