//! What others break on the host is mended at once, by events alone: every period is an hour.
//!
//! Owns one node for all of it, what its host looks like when it is whole, the damage, and the wait for its repair with
//! the trigger that is counted. The measured times are printed.

mod damage;
mod dead;

use eni_tests::cni::add;
use eni_tests::node::{Node, Options};
use eni_tests::programs::run;
use eni_tests::sandbox::Sandbox;
use eni_tests::traffic::ping;
use eni_tests::wait;
use serde_json::Value;
use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const PODS_TABLE: u32 = 0x0ec1_0000;
const ENI_TABLE: u32 = 0x0ec1_0100;

/// One repair: what, and how long it took from the command's end.
struct Repair {
    what: String,
    took: Duration,
}

/// A pod.
struct Pod {
    name: String,
    sandbox: Sandbox,
    address: Ipv4Addr,
    link: String,
}

struct Site {
    node: Node,
    pods: Vec<Pod>,
    /// The link of a secondary ENI that has pods, and its number.
    eni: String,
    number: u32,
    whole: String,
    repairs: Vec<Repair>,
}

fn rows(node: &Node, what: &str) -> Vec<Value> {
    node.ask(what).as_array().cloned().unwrap_or_default()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

impl Site {
    fn new() -> Site {
        let hour = 3_600_000;
        let options = Options {
            instance_type: "test.3x4",
            secondary: 3,
            describe_ms: hour,
            host_ms: hour,
            log: "info",
            ..Options::default()
        };
        let node = Node::new(&options);
        let mut site = Site {
            node,
            pods: Vec::new(),
            eni: String::new(),
            number: 0,
            whole: String::new(),
            repairs: Vec::new(),
        };
        (0..5).for_each(|number| site.add(&format!("r{number}")));
        wait::until("the third ENI is in use", || {
            let enis = rows(&site.node, "enis");
            enis.len() == 3 && enis.iter().all(|e| e["state"] == "in_use" && e["link"].is_string())
        });
        let held = |e: &&Value| e["device_index"] != 0 && e["counts"]["allocated"] != 0;
        let enis = rows(&site.node, "enis");
        let eni = enis.iter().find(held).expect("a secondary ENI with pods");
        site.eni = text(&eni["link"]);
        site.number = u32::try_from(eni["device_index"].as_u64().unwrap()).unwrap() + 1;
        // The last steps of the last ENI may be on their way, and the links' queues.
        wait::until("nothing moves any more", || {
            let before = site.picture();
            std::mem::replace(&mut site.whole, before) == site.whole && site.all_ping()
        });
        site
    }

    fn add(&mut self, name: &str) {
        let sandbox = Sandbox::new();
        let address = add(&self.node, name, &sandbox);
        let row = self.attachment(name).expect("it has a record");
        self.pods.push(Pod { name: name.to_owned(), sandbox, address, link: text(&row["host_link"]) });
    }

    fn attachment(&self, name: &str) -> Option<Value> {
        rows(&self.node, "attachments").into_iter().find(|a| a["container"] == name)
    }

    /// The last pod: on a secondary ENI.
    fn pod(&self) -> &Pod {
        self.pods.last().expect("there are pods")
    }

    fn sh(&self, line: &str) -> String {
        self.node.sh("node", line).unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    /// All of ours on the host, in words: rules, routes, neighbours, the nft table, the links and their settings.
    fn picture(&self) -> String {
        let mut lines =
            self.sh("ip -4 rule; ip -4 route show table all | grep -v '^local\\|^broadcast' | sort; \
             ip -4 neigh show nud permanent | sort; nft list table ip eni-cni || true; ip -4 -o addr; \
             grep -H . /proc/sys/net/ipv4/conf/e*/forwarding /proc/sys/net/ipv4/conf/e*/rp_filter \
             /proc/sys/net/ipv4/conf/e*/send_redirects");
        let links: Vec<Value> = serde_json::from_str(&self.sh("ip -j -d link")).unwrap();
        for link in links.iter().filter(|link| link["ifname"] != "lo") {
            let up = link["flags"].as_array().is_some_and(|flags| flags.iter().any(|flag| flag == "UP"));
            let keys = ["ifindex", "ifname", "group", "ifalias", "address", "mtu"];
            let told: Vec<String> = keys.iter().map(|key| link[*key].to_string()).collect();
            lines.push_str(&format!("{} {up}\n", told.join(" ")));
        }
        lines
    }

    /// Every pod reaches the peer.
    fn all_ping(&self) -> bool {
        let peer = self.node.address("peer_address");
        self.pods.iter().all(|pod| ping(pod.sandbox.name(), peer, None))
    }

    fn repairs_of(&self, trigger: &str, thing: &str) -> f64 {
        let label = format!("trigger=\"{trigger}\",thing=\"{thing}\"");
        self.node.metric("eni_ipamd_host_repairs_total", &label)
    }

    /// Breaks something, and waits until it is counted as repaired for that trigger and the host is as it was.
    fn harm(&mut self, what: &str, line: &str, trigger: &str, thing: &str) {
        let before = self.repairs_of(trigger, thing);
        self.sh(line);
        let begun = wait::clock();
        let mut took = None;
        let counted = wait::holds_within(wait::PATIENCE, || {
            let counted = self.repairs_of(trigger, thing) > before;
            took = took.or_else(|| counted.then(|| wait::clock() - begun));
            counted
        });
        let repairs = self.node.http("GET", "/metrics").1;
        let repairs: Vec<&str> = repairs.lines().filter(|l| l.contains("host_repairs_total{")).collect();
        assert!(counted, "{what} was not repaired by {trigger}, {thing}: {repairs:#?}");
        self.wait_whole(what);
        self.repairs.push(Repair { what: what.to_owned(), took: took.unwrap_or_default() });
    }

    fn wait_whole(&self, after: &str) {
        let whole = wait::holds_within(wait::PATIENCE, || self.picture() == self.whole);
        let (now, before) = (self.picture(), &self.whole);
        let missing: Vec<&str> = before.lines().filter(|l| !now.lines().any(|n| n == *l)).collect();
        let new: Vec<&str> = now.lines().filter(|l| !before.lines().any(|n| n == *l)).collect();
        assert!(whole, "after {after} the host is not whole: missing {missing:#?}, new {new:#?}");
    }

    fn reports(&self, kind: &str) -> f64 {
        self.node.metric("eni_ipamd_host_reports", &format!("kind=\"{kind}\""))
    }

    fn reasons(&self) -> String {
        self.node.ask("status")["reasons"].to_string()
    }
}

/// Pings that run beside.
struct Pings(Vec<Child>);

impl Pings {
    fn start(site: &Site) -> Pings {
        let peer = site.node.address("peer_address").to_string();
        let start = |pod: &Pod| {
            let net = format!("--net=/run/netns/{}", pod.sandbox.name());
            let mut command = Command::new("nsenter");
            command.args([&net, "ping", "-n", "-q", "-i", "0.02", &peer]).stdout(Stdio::piped());
            command.spawn().expect("ping starts")
        };
        Pings(site.pods.iter().map(start).collect())
    }

    /// Of each: packets sent and received.
    fn end(self) -> Vec<(u64, u64)> {
        let counts = self.0.into_iter().map(|child| {
            let _ = run("kill", &["-INT", &child.id().to_string()]);
            let output = child.wait_with_output().expect("it was started");
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let line =
                text.lines().find(|l| l.contains("packets transmitted")).unwrap_or_default().to_owned();
            let numbers: Vec<u64> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
            (numbers[0], numbers[1])
        });
        counts.collect()
    }
}

#[test]
fn netns_what_others_break_is_repaired_by_events_alone() {
    let mut site = Site::new();
    let pings = Pings::start(&site);
    site.one_by_one();
    site.links_one_by_one();
    site.foreign_additions();
    site.many_at_once();
    site.only_reported();
    assert!(site.all_ping(), "every pod talks");
    let counts = pings.end();
    for (sent, received) in &counts {
        assert!(*received > 0 && sent >= received, "{counts:?}");
    }
    for repair in &site.repairs {
        println!("repaired in {:>4} ms: {}", repair.took.as_millis(), repair.what);
    }
    println!("pings sent and answered meanwhile, by pod: {counts:?}");
    site.deleted_links();
    site.dead_holders();
}
