//! ipamd as a process: its end, its stderr, its limits, its metrics' port.

use crate::node;
use eni_tests::cni::{Call, add, del};
use eni_tests::node::{Node, Options};
use eni_tests::sandbox::Sandbox;
use eni_tests::traffic::inside;
use eni_tests::wait;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

#[test]
fn netns_sigterm_finishes_what_is_under_way_and_ends_with_zero() {
    let mut node = node(29);
    let sandboxes: Vec<Sandbox> = (0..8).map(|_| Sandbox::new()).collect();
    let running: Vec<_> = sandboxes
        .iter()
        .enumerate()
        .map(|(n, s)| Call::new(&node, "ADD").of(&format!("c{n}"), &s.path()).start())
        .collect();
    wait::until("the first is served", || node.ask("attachments").as_array().is_some_and(|a| !a.is_empty()));
    assert_eq!(node.terminate_ipamd(), Some(0), "{}", node.log());
    assert!(node.log().contains("whole=true"), "it was drained: {}", node.log());
    assert!(!node.run_dir().join("cni.sock").exists(), "plugins see that nobody is there");
    node.start_ipamd();
    for (sandbox, answer) in sandboxes.iter().zip(running.into_iter().map(eni_tests::cni::Running::end)) {
        assert_eq!(answer.code, Some(0), "{}", answer.stdout);
        assert_eq!(sandbox.address("eth0"), Some(answer.address()));
    }
    node.wait_ready();
    assert_eq!(node.terminate_ipamd(), Some(0), "at rest, too");
}

/// ADD, DEL, STATUS and an orderly end.
fn serves_and_ends(node: &mut Node, what: &str) {
    node.wait_ready();
    let sandbox = Sandbox::new();
    for round in 0..3 {
        add(node, &format!("c{round}"), &sandbox);
        del(node, &format!("c{round}"), &sandbox.path());
    }
    Call::new(node, "STATUS").ok();
    wait::until("all is reaped", || node.ask("attachments") == serde_json::json!([]));
    assert_eq!(node.terminate_ipamd(), Some(0), "{what}");
}

#[test]
fn netns_a_stderr_that_is_closed_or_read_by_nobody_changes_nothing() {
    let mut node = Node::without_ipamd(&Options { secondary: 5, ..Options::default() });
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    node.start_ipamd_saying(writer);
    serves_and_ends(&mut node, "closed");

    let (_reader, mut writer) = std::io::pipe().unwrap();
    let flags = |flags| fcntl(&writer, FcntlArg::F_SETFL(flags)).unwrap();
    flags(OFlag::O_NONBLOCK);
    while (&writer).write(&[b'x'; 4096]).is_ok() {}
    while (&writer).write(b"x").is_ok() {}
    flags(OFlag::empty());
    writer.flush().unwrap();
    node.start_ipamd_saying(writer);
    serves_and_ends(&mut node, "full");
}

#[test]
fn netns_too_few_descriptors_are_told_and_a_soft_limit_is_raised() {
    let mut node = Node::without_ipamd(&Options { secondary: 5, ..Options::default() });
    node.start_ipamd_by(&["prlimit", "--nofile=200:200"]);
    node.wait_ready();
    let reasons = node.ask("status")["reasons"].to_string();
    assert!(reasons.contains("200 descriptors") && reasons.contains("LimitNOFILE"), "{reasons}");
    assert!(node.log().contains("LimitNOFILE"));
    let sandbox = Sandbox::new();
    add(&node, "c1", &sandbox);
    node.stop_ipamd();
    node.start_ipamd_by(&["prlimit", "--nofile=200:8192"]);
    node.wait_ready();
    assert!(!node.ask("status")["reasons"].to_string().contains("LimitNOFILE"));
    let limits = fs::read_to_string(format!("/proc/{}/limits", node.ipamd_pid())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let soft: u64 = line.split_whitespace().nth(3).unwrap().parse().unwrap();
    assert!((1024 + 2 * 512..=8192).contains(&soft), "{line}");
}

fn scrape(stream: &mut TcpStream) -> String {
    let mut answer = String::new();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn netns_a_taken_metrics_port_is_told_and_tried_again() {
    const LISTEN: &str = "127.0.0.1:61678";
    let mut node =
        Node::without_ipamd(&Options { secondary: 5, metrics_listen: LISTEN, ..Options::default() });
    let netns = node.netns("node");
    let taken = inside(&netns, || TcpListener::bind(LISTEN).unwrap());
    node.start_ipamd();
    node.wait_ready();
    wait::until("it is told", || node.log().contains("/metrics cannot be served"));
    let sandbox = Sandbox::new();
    add(&node, "c1", &sandbox);
    drop(taken);
    wait::until("it is served", || node.log().contains("serving /metrics"));
    let target: SocketAddr = LISTEN.parse().unwrap();
    let connect = move || TcpStream::connect(target).unwrap();
    let answer = inside(&netns, move || scrape(&mut connect()));
    assert!(answer.contains("eni_ipamd_ready 1"), "{answer}");

    // Connections that ask nothing hold a bounded number of descriptors, and debug.sock and ADDs go on.
    let descriptors = || fs::read_dir(format!("/proc/{}/fd", node.ipamd_pid())).unwrap().count();
    let before = descriptors();
    let silent: Vec<TcpStream> = inside(&netns, move || (0..100).map(|_| connect()).collect());
    wait::until("they are accepted", || descriptors() >= before + 30);
    assert!(descriptors() <= before + 40, "{before} before, {} with 100 connections", descriptors());
    del(&node, "c1", &sandbox.path());
    assert!(node.metric("eni_ipamd_operations_total", "del") >= 1.0);
    drop(silent);
    let answer = inside(&netns, move || scrape(&mut connect()));
    assert!(answer.contains("eni_ipamd_netfilter_errors_total"), "{answer}");
}
