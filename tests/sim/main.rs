//! The owner under a seeded scheduler and a virtual clock.
//!
//! Thousands of random histories: ADDs, DELs, plugins that die, sandboxes that die, effects that end in any order, fail
//! or are lost with the daemon, DELs that become tombstones because no daemon answers them, crashes at any point and restarts from what was committed. After every step the owner's
//! invariants hold, and the scheduler's own truth: no address on two links, no answer before its commit, nothing alive
//! forgotten. When faults stop, everything that was made goes away.
//!
//! A failing history prints its seed; `SIM_SEED=N` replays it alone, `SIM_HISTORIES=N` runs that many.

// All of this program is a test.
#![allow(clippy::unwrap_used)]

mod graves;
mod kernel;
mod others;
mod scheduler;
mod world;

use scheduler::History;
use world::Lie;

fn number(name: &str) -> Option<u64> {
    // The one place of this binary that reads the environment: which history to run.
    #[allow(clippy::disallowed_methods)]
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

#[test]
fn sim_random_histories_hold_the_invariants() {
    if let Some(seed) = number("SIM_SEED") {
        let steps = History::new(seed).run();
        println!("seed {seed}: {steps} steps");
        return;
    }
    let histories = number("SIM_HISTORIES").unwrap_or(4_000);
    let mut steps = 0;
    for seed in 0..histories {
        let run = std::panic::catch_unwind(|| History::new(seed).run());
        match run {
            Ok(count) => steps += count,
            Err(cause) => {
                println!("history {seed} failed: replay it with SIM_SEED={seed}");
                std::panic::resume_unwind(cause);
            }
        }
    }
    println!("{histories} histories, {steps} steps");
    assert!(steps > histories * 50, "the histories do something: {steps} steps");
}

#[test]
fn sim_a_history_is_replayed_exactly() {
    assert_eq!(History::new(7).trace(), History::new(7).trace());
    assert_ne!(History::new(7).trace(), History::new(8).trace());
}

#[test]
fn sim_the_checks_can_fail() {
    for (lie, seen) in [
        (Lie::Reaper, "is on links"), // the next holder's address is on two
        (Lie::Intents, "was called without its intent"),
        (Lie::Tokens, "one create has made two ENIs"),
        (Lie::Delete, "never at rest"), // the ENI stays at EC2
        (Lie::Spool, "is forgotten"),   // an ADD is given what a DEL that was written down takes away
        (Lie::Look, "is forgotten"),    // a GC frees what lives
        (Lie::Blind, "is blind"),
    ] {
        let caught = (0..400).any(|seed| {
            let end = std::panic::catch_unwind(|| History::new(seed).with(lie).run());
            end.is_err_and(|cause| cause.downcast_ref::<String>().is_some_and(|words| words.contains(seen)))
        });
        assert!(caught, "{lie:?} must be caught");
    }
}
