//! The daemon's system calls per ADD and per DEL, one at a time.
//!
//! Owns which threads' calls count: the main loop's, the store's and the netlink threads', which an operation waits for.
//! The reaper works afterwards, for many at once.

use crate::recording::{PODS, RECORDING, undisturbed};
use crate::strace::Call;
use std::ops::Range;

/// Per ADD. redb's commit is 13 of them (a page each of the two changed tables, their branches, the roots and the free
/// lists), the three netlink sends and their preparation 15, the connection 18.
pub(crate) const ADD_MOST: usize = 60;
/// Per DEL; one of them asks whether its plugin still waits.
pub(crate) const DEL_MOST: usize = 36;
/// No operation does with less: a connection, a request, a commit, a netlink send, an answer.
const LEAST: usize = 15;

/// A build with debug assertions asks before it closes a descriptor whether it is open; a release does not.
fn of_the_build(call: &Call) -> bool {
    call.name == "fcntl" && call.text.contains("F_GETFD")
}

/// What it costs when a request comes after its connection was accepted, because its caller lost the CPU in between: a
/// read in vain, the wake-up that sets a timer, and taking that.
const LATE: usize = 3;

fn is_late(call: &Call) -> bool {
    call.thread == "ipamd" && call.name == "recvmsg" && call.text.contains("EAGAIN")
}

/// The calls of an operation by the threads that it waits for.
pub(crate) fn count(calls: &[Call]) -> usize {
    let counted = |call: &&Call| {
        let thread = call.thread.as_str();
        (thread == "ipamd" || thread == "store" || thread.starts_with("netlink-")) && !of_the_build(call)
    };
    let late = calls.iter().filter(|call| is_late(call)).count();
    calls.iter().filter(counted).count() - late * LATE
}

fn per_operation(windows: &[Range<usize>]) -> usize {
    let counts: Vec<usize> = windows.iter().map(|window| count(RECORDING.of(window))).collect();
    println!("system calls, by operation: {counts:?}");
    undisturbed(counts)
}

#[test]
fn guard_the_daemons_system_calls_per_add() {
    let calls = per_operation(&RECORDING.adds);
    assert!((LEAST..=ADD_MOST).contains(&calls), "{calls} system calls per ADD");
}

#[test]
fn guard_the_daemons_system_calls_per_del() {
    let calls = per_operation(&RECORDING.dels);
    assert!((LEAST..=DEL_MOST).contains(&calls), "{calls} system calls per DEL");
}

#[test]
fn guard_no_thread_of_the_daemon_spins() {
    let yields = RECORDING.calls.iter().filter(|call| call.name == "sched_yield").count();
    assert_eq!(yields, 0, "a thread that has nothing to do sleeps");
}

/// Calls per ADD or DEL of the thread that watches the host: a wake-up (poll, sleep), a read per notification (the pair,
/// raised, its carrier, its alias), two that find nothing more.
const WATCH_MOST: usize = 16;

#[test]
fn guard_what_watching_the_host_costs() {
    for (what, phase) in ["ADD", "DEL"].iter().zip(RECORDING.phases()) {
        let calls: Vec<&Call> =
            phase.iter().filter(|call| call.thread == "watch" && !of_the_build(call)).collect();
        println!("watching: {} system calls for {PODS} {what}s", calls.len());
        assert!(calls.len() <= PODS * WATCH_MOST, "{what}: {calls:#?}");
        let looks = phase.iter().filter(|call| call.thread.starts_with("host-")).count();
        assert_eq!(looks, 0, "nothing of an {what} is taken for somebody else's change");
    }
    let all = RECORDING.calls.iter().filter(|call| call.thread == "watch").count();
    assert!(all > PODS, "it listens: {all} calls");
}
