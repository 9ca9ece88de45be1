//! ADD and DEL of containers, in every version and in the orders that runtimes are seen to use.

use crate::node;
use eni_tests::cni::{Call, add, del};
use eni_tests::sandbox::Sandbox;
use eni_tests::wait;
use serde_json::json;
use std::collections::BTreeSet;

#[test]
fn cni_results_have_the_layout_of_their_version() {
    let node = node(9);
    for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let sandbox = Sandbox::new();
        let call = Call::new(&node, "ADD").of("c1", &sandbox.path()).conf("cniVersion", json!(version));
        let result = call.ok().json();
        assert_eq!(result["cniVersion"], version);
        assert_eq!(result["interfaces"][1]["name"], "eth0");
        assert_eq!(result["interfaces"][1]["sandbox"], sandbox.path());
        assert_eq!(result["ips"][0]["interface"], 1);
        assert_eq!(result["ips"][0].get("version").is_some(), version < "1.0.0", "{version}");
        assert_eq!(result["interfaces"][1].get("mtu").is_some(), version == "1.1.0", "{version}");
        let address = sandbox.address("eth0").expect("the sandbox has its address");
        assert_eq!(result["ips"][0]["address"], format!("{address}/32"));
        let mac = result["interfaces"][1]["mac"].as_str().expect("a MAC").to_owned();
        assert!(sandbox.sh("ip link show eth0").unwrap().contains(&mac));
        let del = Call::new(&node, "DEL").of("c1", &sandbox.path()).conf("cniVersion", json!(version)).ok();
        assert_eq!(del.stdout, "", "DEL prints nothing");
    }
}

#[test]
fn cni_add_twice_gives_the_recorded_result_and_another_sandbox_replaces_it() {
    let node = node(9);
    let (one, two) = (Sandbox::new(), Sandbox::new());
    let first = Call::new(&node, "ADD").of("c1", &one.path()).ok().json();
    assert_eq!(Call::new(&node, "ADD").of("c1", &one.path()).ok().json(), first);
    let second = Call::new(&node, "ADD").of("c1", &two.path()).ok();
    assert_ne!(second.json()["ips"], first["ips"], "the first address cools");
    assert_eq!(two.address("eth0"), Some(second.address()));
    wait::until("the first sandbox has lost its link", || one.address("eth0").is_none());
    wait::until("one attachment is left", || node.ask("attachments").as_array().map(Vec::len) == Some(1));
    let other_mtu = Call::new(&node, "ADD").of("c1", &two.path()).conf("mtu", json!(1400)).ok();
    assert_ne!(other_mtu.address(), second.address());
    assert!(two.sh("ip link show eth0").unwrap().contains("mtu 1400"));
}

#[test]
fn cni_add_del_add_in_one_sandbox_back_to_back() {
    let node = node(9);
    let sandbox = Sandbox::new();
    for round in 0..5 {
        let address = add(&node, "c1", &sandbox);
        assert_eq!(sandbox.address("eth0"), Some(address), "round {round}");
        del(&node, "c1", &sandbox.path());
    }
}

#[test]
fn cni_two_ifnames_of_one_pod_and_two_sandboxes_of_one_pod_name() {
    let node = node(9);
    let (one, two) = (Sandbox::new(), Sandbox::new());
    let first = add(&node, "web", &one);
    let net1 = Call::new(&node, "ADD").of("web", &one.path()).pod("web").env("CNI_IFNAME", "net1");
    let other = net1.ok().address();
    assert_eq!((one.address("eth0"), one.address("net1")), (Some(first), Some(other)));
    let second = Call::new(&node, "ADD").of("web-again", &two.path()).pod("web").ok().address();
    assert!(second != first && second != other);
    let links = node.ask("attachments");
    let names: BTreeSet<_> =
        links.as_array().expect("a list").iter().map(|a| a["host_link"].to_string()).collect();
    assert_eq!(names.len(), 3, "the pod's name is taken while its old sandbox lives: {names:?}");
}

#[test]
fn cni_del_succeeds_however_often_and_without_a_sandbox() {
    let node = node(2);
    let sandbox = Sandbox::new();
    add(&node, "c1", &sandbox);
    del(&node, "c1", &sandbox.path());
    del(&node, "c1", "");
    del(&node, "c1", "/run/netns/gone");
    del(&node, "never-added", "");
    let odd = Call::new(&node, "DEL").of("c1", "").conf("ipam", json!({})).conf("args", json!(null)).ok();
    assert_eq!(odd.stdout, "");
}

#[test]
fn cni_a_sandbox_that_died_is_deleted_without_it() {
    let node = node(1);
    let sandbox = Sandbox::new();
    let address = add(&node, "c1", &sandbox);
    let path = sandbox.path();
    sandbox.die();
    del(&node, "c1", &path);
    let next = Sandbox::new();
    wait::until("the address is free again", || {
        Call::new(&node, "ADD").of("c2", &next.path()).run().code == Some(0)
    });
    assert_eq!(next.address("eth0"), Some(address));
}

#[test]
fn cni_a_full_pool_says_why_at_once() {
    let node = node(2);
    let sandboxes: Vec<Sandbox> = (0..3).map(|_| Sandbox::new()).collect();
    add(&node, "c0", &sandboxes[0]);
    add(&node, "c1", &sandboxes[1]);
    // Its deadline is 90 s away: an ADD that waited for it would not have ended by then.
    let mut refused = Call::new(&node, "ADD").of("c2", &sandboxes[2].path()).start();
    wait::until("it is answered, long before its deadline", || refused.has_ended());
    let refused = refused.end();
    assert_eq!(refused.error(), 11);
    let text = refused.stdout;
    assert!(text.contains("2 addresses are allocated") && text.contains("carries 1 ENIs"), "{text}");
    Call::new(&node, "STATUS").ok();
    del(&node, "c0", &sandboxes[0].path());
    wait::until("the third is served", || {
        Call::new(&node, "ADD").of("c2", &sandboxes[2].path()).run().code == Some(0)
    });
}

#[test]
fn cni_32_at_once() {
    let node = eni_tests::node::Node::new(&eni_tests::node::Options {
        instance_type: "m5.24xlarge",
        secondary: 49,
        ..Default::default()
    });
    let sandboxes: Vec<Sandbox> = (0..32).map(|_| Sandbox::new()).collect();
    let name = |n: usize| format!("burst-{n}");
    let calls = sandboxes
        .iter()
        .enumerate()
        .map(|(n, s)| Call::new(&node, "ADD").of(&name(n), &s.path()).pod(&name(n)));
    let running: Vec<_> = calls.map(|call| call.start()).collect();
    let answers: Vec<_> = running.into_iter().map(eni_tests::cni::Running::end).collect();
    for answer in &answers {
        assert_eq!(answer.code, Some(0), "{}", answer.stdout);
    }
    let addresses: BTreeSet<_> = answers.iter().map(eni_tests::cni::Answer::address).collect();
    assert_eq!(addresses.len(), 32, "no address has two holders");
    for (sandbox, answer) in sandboxes.iter().zip(&answers) {
        assert_eq!(sandbox.address("eth0"), Some(answer.address()));
    }
}
