//! ipamd's own restarts under a runtime: killed, ended, handed over, without EC2.
//!
//! Owns the STATUS that is asked all the while, by exec of the plugin as newer runtimes do: containerd 1.6 asks none.

use crate::containerd::{Containerd, Pod};
use crate::node;
use crate::sandboxes::nothing_left;
use eni_tests::cni::Call;
use eni_tests::node::{Node, Options};
use eni_tests::traffic::{Connection, Echo, ping, spawn};
use eni_tests::wait;
use nix::sys::signal::Signal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

/// Something that is done again and again until it is ended.
struct Busy {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicUsize>,
    thread: JoinHandle<Result<(), String>>,
}

/// How an ipamd ends and the next one serves.
type End = fn(&mut Node);

/// All the rounds of it.
type Rounds = Box<dyn FnOnce() -> Result<(), String> + Send>;

impl Busy {
    /// Does `round` without a pause, on a thread that `start` makes, until it fails or is ended.
    fn start(
        start: impl FnOnce(Rounds) -> JoinHandle<Result<(), String>>,
        mut round: impl FnMut() -> Result<(), String> + Send + 'static,
    ) -> Busy {
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (ended, done) = (stop.clone(), rounds.clone());
        let all = move || {
            while !ended.load(Ordering::Relaxed) {
                round()?;
                done.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        };
        Busy { stop, rounds, thread: start(Box::new(all)) }
    }

    /// How often it was done; panics with what it failed with.
    fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        let (result, rounds) = (self.thread.join().unwrap(), self.rounds.load(Ordering::Relaxed));
        assert_eq!(result, Ok(()), "after {rounds} rounds");
        rounds
    }
}

/// STATUS, asked without a pause.
fn asking(node: &Node) -> Busy {
    let call = Call::new(node, "STATUS");
    let round = move || {
        let answer = call.run();
        if answer.code == Some(0) { Ok(()) } else { Err(format!("{answer:?}")) }
    };
    Busy::start(thread::spawn, round)
}

/// Bytes there and back between two pods, without a pause.
fn talking(from: &Pod, to: &Pod) -> Busy {
    let server = Echo::start(&to.netns);
    let (target, port, netns) = (to.address, server.port, from.netns.clone());
    let mut open = None;
    let round = move || {
        if open.is_none() {
            open = Some(Connection::open(target, port).ok_or("it does not connect")?);
        }
        let whole = open.as_mut().is_some_and(|open| open.exchange(10_000));
        if whole { Ok(()) } else { Err("the connection broke".to_owned()) }
    };
    Busy::start(|rounds| spawn(&netns, rounds), round)
}

#[test]
fn runtime_restarts_of_ipamd_fail_no_sandbox_and_no_status() {
    let mut node = node(9);
    let containerd = Containerd::start(&node);
    let pods = ["one", "two"].map(|name| containerd.run(name));
    let (status, traffic) = (asking(&node), talking(&pods[0], &pods[1]));
    let ends: [(&str, End); 3] = [
        ("killed", Node::restart_ipamd),
        ("ended", Node::renew_ipamd),
        ("handed over", |node| assert_eq!(node.take_over(), Some(0))),
    ];
    for (n, (how, end)) in ends.into_iter().enumerate() {
        // Sandboxes are asked for while it happens, and after it.
        let during = thread::scope(|scope| {
            let runs = [0, 1].map(|m| {
                let containerd = &containerd;
                scope.spawn(move || containerd.try_run(&format!("during{n}-{m}"), 0))
            });
            end(&mut node);
            runs.map(|run| run.join().unwrap().unwrap_or_else(|refused| panic!("{how}: {refused}")))
        });
        let after = containerd.run(&format!("after{n}"));
        for pod in during.iter().chain([&after]) {
            assert!(ping(&pod.netns, pods[0].address, None), "{how}: {pod:?}");
            containerd.remove(&pod.id);
        }
    }
    println!("STATUS passed {} times, {} exchanges", status.end(), traffic.end());
    containerd.remove_all();
    nothing_left(&node);
}

#[test]
fn runtime_a_restart_without_ec2_serves_what_is_there() {
    let mut node = node(4);
    let containerd = Containerd::start(&node);
    let first = containerd.run("first");
    node.hide_cloud(true);
    let status = asking(&node);
    node.kill_ipamd();
    node.start_ipamd();
    let more = ["second", "third", "fourth"].map(|name| containerd.run(name));
    for pod in &more {
        assert!(ping(&pod.netns, first.address, None), "{pod:?}");
        assert!(ping(&pod.netns, node.address("peer_address"), None), "{pod:?}");
    }
    containerd.remove(&first.id);
    assert!(status.end() > 0);
    node.hide_cloud(false);
    node.wait_ready();
    containerd.remove_all();
    nothing_left(&node);
}

#[test]
fn runtime_a_hung_ipamd_is_told_by_status_within_its_grace() {
    let node = Node::new(&Options { secondary: 2, status_grace_ms: 3_000, ..Options::default() });
    let containerd = Containerd::start(&node);
    let pod = containerd.run("one");
    let status = Call::new(&node, "STATUS");
    node.signal_ipamd(Signal::SIGSTOP);
    status.ok();
    let mut told = status.run();
    wait::until("STATUS tells", || {
        told = status.run();
        told.code != Some(0)
    });
    assert_eq!(told.error(), 50, "{}", told.stdout);
    assert!(ping(&pod.netns, node.address("peer_address"), None), "who is there goes on");
    node.signal_ipamd(Signal::SIGCONT);
    wait::until("STATUS passes", || status.run().code == Some(0));
    containerd.run("two");
    containerd.remove_all();
    nothing_left(&node);
}
