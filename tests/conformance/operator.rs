//! What an operator asks and switches: the steps of the start, limits, switches, another CNI.

use crate::node;
use eni_tests::cni::Call;
use eni_tests::node::{Node, Options};
use eni_tests::sandbox::Sandbox;
use eni_tests::wait;

/// The names of the start's steps, in the order of their times.
fn steps(node: &Node) -> Vec<String> {
    let status = node.ask("status");
    let steps = status["start"].as_array().expect("steps");
    let times: Vec<u64> = steps.iter().map(|step| step["at_ms"].as_u64().expect("a time")).collect();
    assert!(times.is_sorted(), "{steps:?}");
    let name = |step: &serde_json::Value| {
        step["step"].as_str().expect("a name").split(':').next().map(str::to_owned)
    };
    steps.iter().filter_map(name).collect()
}

#[test]
fn ctl_the_start_is_told_step_by_step() {
    let node = node(3);
    wait::until("the node is provisioned", || steps(&node).iter().any(|step| step == "provisioned"));
    let told = steps(&node);
    let wanted =
        ["lock", "store", "spool read", "serving", "identified", "limits", "metadata repaired", "adopted"];
    let places: Vec<usize> =
        wanted.iter().map(|step| told.iter().position(|t| t == step).expect(step)).collect();
    assert!(places.is_sorted(), "{told:?}");
    assert!(told.contains(&"ready".to_owned()), "{told:?}");
}

#[test]
fn ctl_limits_are_ec2s_or_the_tables_and_say_which() {
    let mut node = node(3);
    let limits = node.ask("limits");
    assert_eq!((&limits["source"], &limits["enis"]), (&"DescribeInstanceTypes".into(), &1.into()));
    assert_eq!(limits["max_pods_addresses"], 3 + 2);
    let table = node.ipamctl(&["limits"]).unwrap();
    assert!(table.contains("--max-pods") && table.contains("5 with single addresses"), "{table}");
    let by_table = node.ipamctl(&["limits", "--instance-type", "m5.4xlarge"]).unwrap();
    assert!(
        by_table.contains("234 with single addresses") && by_table.contains("built-in table"),
        "{by_table}"
    );
    let (code, text) = node.ipamctl(&["limits", "--instance-type", "m5.huge"]).unwrap_err();
    assert!(code == Some(4) && text.contains("m5.huge"), "{text}");
    node.stop_ipamd();
    node.cloud_fault("DescribeInstanceTypes", "UnauthorizedOperation", 1_000_000);
    node.start_ipamd();
    wait::until("the limits are told", || node.ipamctl(&["limits"]).is_ok());
    let source = node.ask("limits")["source"].to_string();
    assert!(source.contains("built-in table") && source.contains("DescribeInstanceTypes"), "{source}");
}

#[test]
fn ctl_switches_are_set_shown_and_gone_after_a_restart() {
    let mut node = node(2);
    let dry = node.ipamctl(&["switch", "no-cloud", "on", "--dry-run"]).unwrap();
    assert!(dry.contains("would be") && dry.contains("no-cloud: on"), "{dry}");
    assert_eq!(node.metric("eni_ipamd_switches", "no-cloud"), 0.0);
    let set = node.ipamctl(&["switch", "no-cloud", "on"]).unwrap();
    assert!(set.contains("no-cloud: on, by debug.sock and until the next start"), "{set}");
    assert_eq!(node.metric("eni_ipamd_switches", "no-cloud"), 1.0);
    let status = node.ipamctl(&["status"]).unwrap();
    assert!(status.contains("no-cloud is on"), "{status}");
    assert!(node.log().contains("switched by debug.sock"));
    let (one, two, three) = (Sandbox::new(), Sandbox::new(), Sandbox::new());
    for (container, sandbox) in [("one", &one), ("two", &two)] {
        Call::new(&node, "ADD").of(container, &sandbox.path()).ok();
    }
    let answer = Call::new(&node, "ADD").of("three", &three.path()).run();
    assert_eq!(answer.error(), 11);
    assert!(answer.stdout.contains("no-cloud is on"), "{}", answer.stdout);
    let (code, text) = node.ipamctl(&["switch", "no-gravity", "on"]).unwrap_err();
    assert!(code == Some(4) && text.contains("no-release, no-cloud"), "{text}");
    assert_eq!(node.http("POST", "/v1/switches/no-cloud/perhaps").0, 400);
    assert_eq!(node.http("GET", "/v1/switches").0, 200);
    node.restart_ipamd();
    assert_eq!(node.metric("eni_ipamd_switches", "no-cloud"), 0.0);
}

#[test]
fn cni_an_active_amazon_vpc_cni_keeps_ipamd_from_wiring() {
    let mut node = Node::without_ipamd(&Options { secondary: 2, ..Options::default() });
    // What it lays for a pod of its own.
    node.sh("node", "ip rule add to 10.0.1.99/32 lookup main priority 512").unwrap();
    node.start_ipamd();
    wait::until("ipamd answers", || node.ipamctl(&["status"]).is_err_and(|(code, _)| code == Some(1)));
    let sandbox = Sandbox::new();
    let add = Call::new(&node, "ADD").of("c1", &sandbox.path()).run();
    assert_eq!(add.error(), 50);
    assert!(
        add.stdout.contains("amazon-vpc-cni is active") && add.stdout.contains("drain"),
        "{}",
        add.stdout
    );
    let status = Call::new(&node, "STATUS").run();
    assert_eq!(status.error(), 50);
    assert!(status.stdout.contains("rule 512"), "{}", status.stdout);
    Call::new(&node, "DEL").of("c1", &sandbox.path()).ok();
    assert!(node.sh("node", "nft list table ip eni-cni").is_err(), "nothing is laid");
    node.sh("node", "ip rule del to 10.0.1.99/32 lookup main priority 512").unwrap();
    node.wait_ready();
    Call::new(&node, "ADD").of("c1", &sandbox.path()).ok();
}
