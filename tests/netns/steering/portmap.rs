//! Debian's portmap after eni-cni in a configuration list, as libcni runs one: hostPorts.
//!
//! Owns the list's run: each plugin in turn with the list's name and version, the result so far, and the capability's
//! arguments; the same backwards for DEL.

use super::probe::{PORT, Path, Server, check};
use super::site::{Site, options};
use eni_tests::cni::Call;
use eni_tests::node::Node;
use eni_tests::sandbox::Sandbox;
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use std::path::Path as FilePath;

const PORTMAP: &str = "/usr/lib/cni/portmap";
const HOST_PORT: u16 = 8080;

/// One plugin of the list, `verb` on a container.
fn call(node: &Node, verb: &str, container: &str, sandbox: &Sandbox, result: &Value) -> [Call; 2] {
    let ours = Call::new(node, verb).of(container, &sandbox.path()).pod(container);
    let theirs = ours.clone().program(FilePath::new(PORTMAP));
    let theirs = theirs.conf("type", json!("portmap")).conf("socket", Value::Null).conf("snat", json!(true));
    [ours.conf("prevResult", Value::Null), theirs.conf("prevResult", result.clone())]
}

fn mapped(call: &Call, port: u16) -> Call {
    let mappings =
        ["tcp", "udp"].map(|p| json!({ "hostPort": HOST_PORT, "containerPort": port, "protocol": p }));
    call.clone().conf("runtimeConfig", json!({ "portMappings": mappings }))
}

#[test]
fn netns_host_ports_by_the_real_portmap_where_forward_drops() {
    assert!(FilePath::new(PORTMAP).exists(), "{PORTMAP} is needed: Debian's containernetworking-plugins");
    let node = Node::without_ipamd(&options("test.3x4", ""));
    node.sh("node", "iptables -P FORWARD DROP").unwrap();
    let mut site = Site::on(node);
    // One that is on the third ENI, where the last free address is.
    let sandbox = Sandbox::new();
    let server = Server::start(sandbox.name());
    let [ours, theirs] = call(&site.node, "ADD", "mapped", &sandbox, &Value::Null);
    let result = ours.ok().json();
    let theirs = mapped(&theirs.conf("prevResult", result.clone()), server.port);
    assert_eq!(theirs.ok().json()["ips"], result["ips"], "it hands our result on");
    site.wait_up("mapped", &sandbox);
    let address: Ipv4Addr = sandbox.address("eth0").expect("an address");
    check("through hostPorts", &paths(&site, &sandbox, &server));
    site.assert_no_drops("through hostPorts");
    site.node.restart_ipamd();
    check("through hostPorts after a restart", &paths(&site, &sandbox, &server));
    site.assert_no_drops("through hostPorts after a restart");
    let [ours, theirs] = call(&site.node, "DEL", "mapped", &sandbox, &result);
    mapped(&theirs, server.port).ok();
    ours.ok();
    let rules = site.node.sh("node", "iptables -t nat -S").unwrap();
    assert!(!rules.contains(&address.to_string()), "portmap leaves nothing: {rules}");
}

fn paths<'a>(site: &'a Site, sandbox: &Sandbox, server: &'a Server) -> Vec<Path<'a>> {
    let mut paths = Vec::new();
    let mut push = |name: String, ask, source| {
        paths.push(Path { name, protocols: PORT, ask, server, source });
    };
    let own = site.own.iter().map(|(eni, (address, _))| (*eni, *address));
    for (eni, via) in std::iter::once((1, site.primary)).chain(own) {
        let askers = [("peer", site.peer()), ("client", site.client()), ("internet", site.internet())];
        for (role, source) in askers.into_iter().filter(|(role, _)| eni == 1 || *role != "internet") {
            push(format!("{role} → hostPort by ENI {eni}"), site.from(role, via, HOST_PORT), source);
        }
        for pod in site.clients() {
            let ask = site.of_pod(pod, via, HOST_PORT);
            push(format!("pod on ENI {} → hostPort by ENI {eni}", pod.eni), ask, pod.address);
        }
        let mut itself = site.from("node", via, HOST_PORT);
        push(format!("node → hostPort by ENI {eni}"), itself.clone(), via);
        itself.netns = sandbox.name().to_owned();
        push(format!("itself → hostPort by ENI {eni}"), itself, site.primary);
    }
    paths
}
