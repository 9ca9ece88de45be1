//! What somebody else on the node waits for the kernel's routing lock while pods are added.
//!
//! Owns the bystander: a thread that raises loopback, which is up, every 200 µs, and times each call.

use crate::bench::contender::Contender;
use crate::bench::netlink::{Batch, Socket};
use crate::bench::pods::{enter, remove_netns};
use crate::bench::rounds::{milliseconds, workers};
use crate::bench::stats::Samples;
use eni_proto::client::boottime;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

const PAUSE: Duration = Duration::from_micros(200);
const AT_ONCE: usize = 8;

/// The bystander's waits in milliseconds while `pods` are added eight at a time, `storms` times.
pub(crate) fn measure(contender: &Contender, storms: usize, pods: usize) -> Samples {
    let mut waits = Samples::default();
    for _ in 0..storms {
        let made = contender.pods(pods);
        contender.wait_free(pods);
        let (storm, over) = (AtomicBool::new(false), AtomicBool::new(false));
        let made = thread::scope(|scope| {
            let bystander = scope.spawn(|| stand_by(contender, &storm, &over));
            storm.store(true, Ordering::Relaxed);
            let (made, _, _) = workers(contender, "ADD", made, AT_ONCE);
            over.store(true, Ordering::Relaxed);
            bystander.join().expect("the bystander lives").into_iter().for_each(|wait| waits.push(wait));
            made
        });
        let (gone, _, _) = workers(contender, "DEL", made, AT_ONCE);
        gone.iter().for_each(|pod| remove_netns(&pod.netns));
    }
    waits
}

fn stand_by(contender: &Contender, storm: &AtomicBool, over: &AtomicBool) -> Vec<f64> {
    enter(contender.host());
    let socket = Socket::open().expect("a netlink socket");
    let mut waits = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let during = storm.load(Ordering::Relaxed);
        let began = boottime();
        socket.call(Batch::default().up(1)).expect("loopback is there");
        if during {
            waits.push(milliseconds(boottime() - began));
        }
        thread::sleep(PAUSE);
    }
    waits
}
