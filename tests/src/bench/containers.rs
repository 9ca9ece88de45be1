//! The containers' side of a run: rounds at each number of pods present, and what is measured once.
//!
//! Owns the order, so that nothing that is timed runs beside something else of ours.

use crate::bench::bystander;
use crate::bench::contender::{Contender, Kind};
use crate::bench::options::Plan;
use crate::bench::phases::{self, Parts};
use crate::bench::pods::remove_netns;
use crate::bench::process::{self, Calls};
use crate::bench::rounds::{self, Setting, milliseconds, workers};
use crate::bench::stats::Samples;
use eni_proto::client::boottime;
use nix::unistd::Pid;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::Duration;

/// A daemon's memory is read when it has been left alone for so long: what a burst has freed goes back a moment later.
const QUIET: Duration = Duration::from_secs(4);

/// What is measured once for each contender.
#[derive(Debug, Clone)]
pub(crate) struct Single {
    /// Which.
    pub(crate) kind: Kind,
    /// Peak RSS of the plugin, in KiB.
    pub(crate) peak_rss: u64,
    /// System calls of an ADD and of a DEL.
    pub(crate) calls: (Calls, Calls),
    /// Pods present, and the daemon's RSS in KiB.
    pub(crate) rss: Vec<(usize, u64)>,
    /// Seconds from nothing to the most pods, eight at a time.
    pub(crate) fill: f64,
    /// A bystander's waits for the routing lock during ADDs, in milliseconds.
    pub(crate) bystander: Samples,
}

/// What is measured of ours alone.
#[derive(Debug, Clone)]
pub(crate) struct Ours {
    /// STATUS, in milliseconds.
    pub(crate) status: Samples,
    /// The parts of an ADD and of a DEL.
    pub(crate) parts: (Parts, Parts),
    /// From the start after a kill -9, with the most pods, to the first ADD answered, in milliseconds.
    pub(crate) restart: Samples,
    /// RSS after the last of these restarts, in KiB: what the records themselves take.
    pub(crate) restarted_rss: u64,
    /// Wake-ups per second when idle.
    pub(crate) wake_ups: f64,
}

/// All of it.
#[derive(Debug, Clone)]
pub(crate) struct Containers {
    /// The rounds.
    pub(crate) settings: Vec<Setting>,
    /// Once for each contender, in their order.
    pub(crate) singles: Vec<Single>,
    /// Of ours.
    pub(crate) ours: Ours,
    /// The most pods present.
    pub(crate) most: usize,
}

/// Measures.
pub(crate) fn measure(plan: &Plan, root: &Path, say: &dyn Fn(&str)) -> Containers {
    let mut contenders = Kind::ALL.map(|kind| Contender::start(kind, root, plan));
    let (ours, _) = contenders.split_first().expect("ours is the first");
    say("ipamd idle");
    let wake_ups = idle(ours.daemon().expect("ipamd runs"));
    let once = |contender| once(contender, plan, root, say);
    let mut singles: Vec<Single> = contenders.iter().map(once).collect();
    let status = phases::status(&contenders[0], if plan.quick { 30 } else { 100 });
    let parts = phases::measure(&contenders[0], plan.rounds, plan.pods).expect("ours has metrics");
    let mut settings = Vec::new();
    for present in &plan.present {
        for (contender, single) in contenders.iter_mut().zip(&mut singles) {
            say(&format!("{present} pods are kept on {}", contender.kind.name()));
            single.fill += rounds::keep(contender, *present).as_secs_f64();
            if let Some(pid) = contender.daemon().filter(|_| *present > 0) {
                thread::sleep(QUIET);
                single.rss.push((*present, process::status(pid, "VmRSS")));
            }
        }
        for parallel in [1, 8] {
            say(&format!("rounds with {present} pods present, {parallel} at a time"));
            settings.push(rounds::run(&mut contenders, plan.rounds, plan.pods, parallel));
        }
    }
    let restart = restarts(&mut contenders[0], if plan.quick { 3 } else { 7 });
    thread::sleep(QUIET);
    let restarted_rss = contenders[0].daemon().map_or(0, |pid| process::status(pid, "VmRSS"));
    let most = plan.present.last().copied().unwrap_or(0);
    Containers { settings, singles, ours: Ours { status, parts, restart, restarted_rss, wake_ups }, most }
}

/// Wake-ups per second in the quietest of a few spans: the pool may still be growing in the first.
fn idle(pid: Pid) -> f64 {
    const SPANS: usize = 4;
    let mut least = f64::INFINITY;
    for _ in 0..SPANS {
        least = least.min(process::wake_ups(pid));
        if least < 1.0 {
            break;
        }
    }
    least
}

fn once(contender: &Contender, plan: &Plan, root: &Path, say: &dyn Fn(&str)) -> Single {
    let step = |what: &str| say(&format!("{}: {what}", contender.kind.name()));
    // Before anything else: idle, with nothing there.
    let rss = contender.daemon().map(|pid| (0, process::status(pid, "VmRSS")));
    step("peak RSS");
    let peak_rss = process::peak_rss(contender);
    step("system calls");
    let calls = process::calls(contender, root);
    step("a bystander");
    let bystander = bystander::measure(contender, plan.rounds.div_ceil(2), plan.pods.max(16));
    Single { kind: contender.kind, peak_rss, calls, rss: rss.into_iter().collect(), fill: 0.0, bystander }
}

/// Kills ipamd and starts it again, as often as said.
fn restarts(contender: &mut Contender, times: usize) -> Samples {
    let mut took = Samples::default();
    for _ in 0..times {
        contender.wait_free(1);
        let pods = contender.pods(1);
        let node = contender.node_mut().expect("ours has a node");
        let socket = node.socket();
        node.kill_ipamd();
        let began = boottime();
        node.start_ipamd();
        while UnixStream::connect(&socket).is_err() {
            thread::sleep(Duration::from_micros(500));
        }
        let (pods, _, _) = workers(contender, "ADD", pods, 1);
        took.push(milliseconds(boottime() - began));
        let (pods, _, _) = workers(contender, "DEL", pods, 1);
        pods.iter().for_each(|pod| remove_netns(&pod.netns));
    }
    took
}
