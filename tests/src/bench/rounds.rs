//! Rounds: each contender adds pods and deletes them again, in the order A B B A, so that drift of the machine hits all.
//!
//! Owns the samples of one setting (pods present, how many at a time) and what lies between two rounds, untimed: sandboxes
//! are made, links reaped, addresses free again.

use crate::bench::contender::Contender;
use crate::bench::exec::{Cost, cpu_of_children};
use crate::bench::pods::{Pod, enter, is_wired, remove_netns};
use crate::bench::stats::Samples;
use eni_proto::client::boottime;
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::Duration;

/// What the kernel may still be doing for the last round: namespaces and links are taken apart behind its back.
pub(crate) const SETTLE: Duration = Duration::from_millis(200);

/// Samples of one verb, in milliseconds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Verb {
    /// From spawn to wait.
    pub(crate) wall: Samples,
    /// CPU of the plugin and its children: of each run when one runs at a time, else a round's mean.
    pub(crate) cpu: Samples,
    /// The daemon's CPU per operation: a round's mean, with what it does afterwards.
    pub(crate) daemon: Samples,
    /// Operations per second, of each round.
    pub(crate) rate: Samples,
}

/// One contender's samples in one setting.
#[derive(Debug, Clone, Default)]
pub(crate) struct Series {
    /// ADD.
    pub(crate) add: Verb,
    /// DEL.
    pub(crate) del: Verb,
}

impl Series {
    /// CPU of an ADD and a DEL, of plugin and daemon, in milliseconds.
    pub(crate) fn cpu(&self) -> Option<f64> {
        let verb = |verb: &Verb| Some(verb.cpu.median()? + verb.daemon.median()?);
        Some(verb(&self.add)? + verb(&self.del)?)
    }
}

/// One setting and what came of it; the series are in the order of the contenders.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    /// Pods that were there before.
    pub(crate) present: usize,
    /// How many calls ran at once.
    pub(crate) parallel: usize,
    /// One series for each contender.
    pub(crate) series: Vec<Series>,
}

/// Runs the rounds of one setting.
pub(crate) fn run(contenders: &mut [Contender], rounds: usize, pods: usize, parallel: usize) -> Setting {
    let mut series = vec![Series::default(); contenders.len()];
    let present = contenders.first_mut().map_or(0, |first| first.kept().len());
    for contender in contenders.iter() {
        // Caches, page tables and the daemon's buffers are warm after it.
        round(contender, parallel.max(2), parallel, &mut Series::default());
    }
    for number in 0..rounds {
        let mut order: Vec<usize> = (0..contenders.len()).collect();
        if number % 2 == 1 {
            order.reverse();
        }
        for at in order {
            round(&contenders[at], pods, parallel, &mut series[at]);
        }
    }
    Setting { present, parallel, series }
}

fn round(contender: &Contender, count: usize, parallel: usize, series: &mut Series) {
    let pods = contender.pods(count);
    contender.wait_free(count);
    thread::sleep(SETTLE);
    let pods = phase(contender, "ADD", pods, parallel, &mut series.add);
    let unwired = pods.iter().filter(|pod| !is_wired(&pod.netns)).count();
    assert_eq!(unwired, 0, "{}: sandboxes without an interface or a route", contender.kind.name());
    let pods = phase(contender, "DEL", pods, parallel, &mut series.del);
    pods.iter().for_each(|pod| remove_netns(&pod.netns));
}

/// One verb on all pods; the pods come back.
fn phase(
    contender: &Contender,
    verb: &'static str,
    pods: Vec<Pod>,
    parallel: usize,
    samples: &mut Verb,
) -> Vec<Pod> {
    let count = pods.len() as f64;
    let (daemon, cpu) = (contender.daemon_cpu(), cpu_of_children());
    let (pods, costs, wall) = workers(contender, verb, pods, parallel);
    let cpu = cpu_of_children() - cpu;
    if verb == "DEL" {
        // The reaper's work belongs to the DEL.
        thread::sleep(SETTLE);
    }
    samples.daemon.push(milliseconds(contender.daemon_cpu() - daemon) / count);
    samples.rate.push(count / wall.as_secs_f64());
    costs.iter().for_each(|cost| samples.wall.push(milliseconds(cost.wall)));
    if parallel == 1 {
        costs.iter().for_each(|cost| samples.cpu.push(milliseconds(cost.cpu)));
    } else {
        samples.cpu.push(milliseconds(cpu) / count);
    }
    pods
}

/// Runs a verb on pods from threads in the host's namespace: the pods, each call's cost, the wall time of all. A failed
/// call ends the bench: what fails fast must not look fast.
pub(crate) fn workers(
    contender: &Contender,
    verb: &'static str,
    pods: Vec<Pod>,
    parallel: usize,
) -> (Vec<Pod>, Vec<Cost>, Duration) {
    let queue = Mutex::new(pods.into_iter().rev().collect::<Vec<_>>());
    let done = Mutex::new((Vec::new(), Vec::new()));
    let failed = Mutex::new(None);
    let start = Barrier::new(parallel + 1);
    let wall = thread::scope(|scope| {
        for _ in 0..parallel {
            scope.spawn(|| {
                enter(contender.host());
                start.wait();
                loop {
                    let Some(mut pod) = queue.lock().expect("no worker panics").pop() else { break };
                    let cost = match contender.call(verb, &mut pod) {
                        Ok(cost) => cost,
                        Err(error) => {
                            *failed.lock().expect("no worker panics") = Some(error);
                            break;
                        }
                    };
                    let mut done = done.lock().expect("no worker panics");
                    done.0.push(pod);
                    done.1.push(cost);
                }
                start.wait();
            });
        }
        start.wait();
        let began = boottime();
        start.wait();
        boottime() - began
    });
    if let Some(error) = failed.into_inner().expect("no worker panics") {
        panic!("{error}");
    }
    let (pods, costs) = done.into_inner().expect("no worker panics");
    (pods, costs, wall)
}

/// Keeps exactly `target` pods on a contender; how long the ADDs or DELs took, eight at a time.
pub(crate) fn keep(contender: &mut Contender, target: usize) -> Duration {
    const AT_ONCE: usize = 8;
    let kept = std::mem::take(contender.kept());
    let (pods, took) = if target >= kept.len() {
        let new = contender.pods(target - kept.len());
        contender.wait_free(new.len());
        let (new, _, took) = workers(contender, "ADD", new, AT_ONCE);
        (kept.into_iter().chain(new).collect(), took)
    } else {
        let mut stay = kept;
        let go = stay.split_off(target);
        let (gone, _, took) = workers(contender, "DEL", go, AT_ONCE);
        gone.iter().for_each(|pod| remove_netns(&pod.netns));
        (stay, took)
    };
    *contender.kept() = pods;
    took
}

/// In milliseconds.
pub(crate) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
