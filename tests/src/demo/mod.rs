//! The demo: a dozen containers get addresses of an embedded VPC, packets prove every path, ipamd is killed among ADDs,
//! everything is deleted, nothing is left.
//!
//! Owns the order of the steps and the end: whatever fails, the namespaces, processes and mounts go. What an interrupted
//! one leaves, `./dev` takes away. The steps are in `steps`, what they print in `screen`, the comparison before and after
//! in `traces`.

mod screen;
mod steps;
mod traces;

use screen::Screen;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use traces::Machine;

/// Runs it; the exit code is 0 when everything held.
pub fn main() -> ExitCode {
    let mut screen = Screen::new();
    screen.title("eni-cni: a dozen containers on an embedded VPC");
    if !nix::unistd::geteuid().is_root() {
        screen.check(false, "network namespaces need root: run ./dev demo, which uses sudo");
        return ExitCode::FAILURE;
    }
    let before = Machine::look();
    let ran = catch_unwind(AssertUnwindSafe(|| steps::run(&mut screen)));
    if ran.is_err() {
        screen.check(false, "a step could not go on: the cause is above");
    }
    screen.step("the machine is as it was");
    screen.check_list(
        "namespaces, mounts, links and rules of this machine",
        &Machine::look().differences(&before),
    );
    screen.end()
}
