//! A panic on any thread ends the process; one in a trial does not. Each case is this program again, as a process of
//! its own, told by a word among its arguments.

// All of this program is a test.
#![allow(clippy::unwrap_used)]

use ipamd::config::{Log, LogFormat};
use ipamd::{panics, telemetry};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};

/// Runs a test of this program with a case's word.
fn again(test: &str, case: &str) -> Output {
    let program = std::env::current_exe().unwrap();
    Command::new(program).args(["--exact", "--nocapture", test, case]).output().unwrap()
}

fn is_case(case: &str) -> bool {
    let told = std::env::args().any(|word| word == case);
    if told {
        telemetry::init(&Log { level: "info".into(), format: LogFormat::Text }).unwrap();
        panics::install();
    }
    told
}

fn ended_loudly(output: &Output, words: [&str; 2]) {
    const SIGABRT: i32 = 6;
    assert_eq!(output.status.signal(), Some(SIGABRT), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(words.iter().all(|word| said.contains(word)), "{words:?} are not in {said}");
}

#[test]
fn a_worker_that_panics_ends_the_process() {
    if is_case("case=worker") {
        let worker = std::thread::Builder::new().name("netlink-0".into());
        let _ = worker.spawn(|| panic!("a broken {}", "worker")).unwrap().join();
        std::thread::park();
    }
    let output = again("a_worker_that_panics_ends_the_process", "case=worker");
    ended_loudly(&output, ["netlink-0", "a broken worker"]);
}

#[test]
fn a_task_that_panics_ends_the_process() {
    if is_case("case=task") {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            tokio::task::spawn_local(async { panic!("a broken task") });
            std::future::pending::<()>().await;
        });
    }
    let output = again("a_task_that_panics_ends_the_process", "case=task");
    ended_loudly(&output, ["tests/panics.rs", "a broken task"]);
}

#[test]
fn a_panic_in_a_trial_ends_nothing() {
    if is_case("case=trial") {
        assert!(panics::contained(|| panic!("bad bytes")).is_err());
        assert_eq!(panics::contained(|| 7).unwrap(), 7);
        return;
    }
    let output = again("a_panic_in_a_trial_ends_nothing", "case=trial");
    assert!(output.status.success(), "{output:?}");
    assert!(!String::from_utf8_lossy(&output.stderr).contains("bad bytes"), "it is an error, not a crash");
}
