//! What a packet costs on its way through the node, by how pods are steered and how many there are.
//!
//! Owns the cases and their order: bursts are interleaved over all worlds, and the tenth percentile is taken, which
//! neighbours on the machine disturb least.

mod burst;
mod tables;
mod world;

use crate::bench::stats::Samples;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::path::Path;
use std::thread;
use world::World;

/// Packets before a timed burst, which warm the caches.
const WARM: usize = 128;
/// Packets of a burst: about the length of a scheduler tick, so that many bursts are disturbed by nobody.
const BURST: usize = 512;
/// How many pods are there.
pub(crate) const SIZES: [usize; 3] = [10, 100, 1000];

/// How pods are steered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Steering {
    /// Not, and no conntrack.
    Off,
    /// Not, with conntrack on, as every node has it that masquerades.
    Conntrack,
    /// Our ip rules, conntrack on, without our table.
    Rules,
    /// Our ip rules and our table.
    Ours,
    /// As ours, with no reverse path filter on ENIs (and so `accept_local`).
    Unfiltered,
    /// As ours, with the pods' routes in table `local` and so without the rule that looks them up.
    InLocal,
    /// Both.
    UnfilteredInLocal,
    /// Two rules per pod, as amazon-vpc-cni lays them.
    PerPod,
}

impl Steering {
    /// As the report names it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Steering::Off => "no steering, conntrack off",
            Steering::Conntrack => "no steering, conntrack on",
            Steering::Rules => "our ip rules, no table",
            Steering::Ours => "our rules and table",
            Steering::Unfiltered => "ours, rp_filter 0 on ENIs",
            Steering::InLocal => "ours, routes in local",
            Steering::UnfilteredInLocal => "ours, with both",
            Steering::PerPod => "two rules per pod",
        }
    }

    /// Whether packets are steered by mark.
    fn by_mark(self) -> bool {
        !matches!(self, Steering::Off | Steering::Conntrack | Steering::PerPod)
    }

    fn in_local(self) -> bool {
        matches!(self, Steering::InLocal | Steering::UnfilteredInLocal)
    }

    fn unfiltered(self) -> bool {
        matches!(self, Steering::Unfiltered | Steering::UnfilteredInLocal)
    }
}

/// A case and its figures.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    /// How pods are steered.
    pub(crate) steering: Steering,
    /// How many there are.
    pub(crate) pods: usize,
    /// Whether kube-proxy's stand-in is there.
    pub(crate) services: bool,
    /// A second world of the same kind: the spread of two equal ones.
    pub(crate) again: bool,
    /// Nanoseconds per packet: pod to pod, pod to ENI, ENI to pod.
    pub(crate) ns: [Samples; 3],
}

impl Case {
    /// The tenth percentile on a path.
    pub(crate) fn p10(&self, path: usize) -> Option<f64> {
        self.ns[path].quantile(0.1)
    }

    /// As JSON.
    pub(crate) fn json(&self) -> Value {
        let path = |at: usize| json!({ "p10": self.ns[at].quantile(0.1), "p50": self.ns[at].median() });
        json!({
            "steering": self.steering.name(), "pods": self.pods, "services": self.services, "again": self.again,
            "pod_to_pod_ns": path(0), "pod_to_eni_ns": path(1), "eni_to_pod_ns": path(2),
        })
    }
}

fn cases() -> Vec<Case> {
    use Steering::{Conntrack, InLocal, Off, Ours, PerPod, Rules, Unfiltered, UnfilteredInLocal};
    let mut cases = Vec::new();
    let mut case = |steering, pods, services, again| {
        cases.push(Case { steering, pods, services, again, ns: Default::default() });
    };
    for pods in SIZES {
        // The stand-in switches conntrack on by itself.
        case(Off, pods, false, false);
        for steering in [Conntrack, Rules, Ours, PerPod] {
            case(steering, pods, false, false);
            case(steering, pods, true, false);
        }
    }
    for option in [Unfiltered, InLocal, UnfilteredInLocal] {
        case(option, SIZES[2], false, false);
        case(option, SIZES[2], true, false);
    }
    case(Ours, SIZES[0], false, true);
    case(Ours, SIZES[0], true, true);
    cases
}

/// Measures all cases.
pub(crate) fn measure(root: &Path, rounds: usize) -> Vec<Case> {
    let mut cases = cases();
    let world = |(number, case): (usize, &Case)| {
        World::new(root.join(format!("forward{number}")), case.steering, case.pods, case.services)
    };
    let worlds: Vec<World> = cases.iter().enumerate().map(world).collect();
    thread::scope(|scope| {
        let run = || {
            on_one_cpu();
            for round in 0..rounds {
                let mut order: Vec<usize> = (0..worlds.len()).collect();
                if round % 2 == 1 {
                    order.reverse();
                }
                for at in order {
                    for (path, samples) in worlds[at].paths.iter().zip(&mut cases[at].ns) {
                        burst::send(path, WARM);
                        samples.push(burst::send(path, BURST));
                    }
                }
            }
        };
        scope.spawn(run).join().expect("the sender lives");
    });
    cases
}

/// Both ends and what lies between run on one CPU, the last this process may use.
fn on_one_cpu() {
    let here = Pid::from_raw(0);
    let may = sched_getaffinity(here).expect("a thread may ask");
    let last = (0..CpuSet::count()).rev().find(|cpu| may.is_set(*cpu).unwrap_or(false));
    let mut one = CpuSet::new();
    one.set(last.expect("a thread has a CPU")).expect("the CPU is in range");
    sched_setaffinity(here, &one).expect("a thread may choose among its CPUs");
}

#[cfg(test)]
mod tests {
    use super::tables::{Node, services, steering};
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn every_steering_is_measured_at_every_size() {
        let cases = cases();
        assert_eq!(cases.len(), SIZES.len() * 9 + 3 * 2 + 2);
        assert_eq!(cases.iter().filter(|case| case.steering == Steering::Ours && !case.services).count(), 4);
    }

    #[test]
    fn the_texts_have_what_they_are_about() {
        let enis = [10, 20, 30].map(|last| Ipv4Addr::new(10, 0, 1, last)).to_vec();
        let text = steering(&Node { enis, vpc: "10.0.0.0/16" });
        for chain in
            ["chain eni3 {", "chain pod1 {", "chain answer2 {", "0x43 : goto to3", "chain masq_out {"]
        {
            assert!(text.contains(chain), "{chain} is missing in\n{text}");
        }
        assert_eq!(services(7).matches(" chain service-").count(), 7);
    }
}
