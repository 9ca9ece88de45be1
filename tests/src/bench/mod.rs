//! The bench: what a container costs, ours beside the floor pair and Debian's plugins, and what a packet costs.
//!
//! Owns the order of a run and its private world: a mount namespace, so that no mount of ours is seen outside, and a
//! tmpfs on which all state lies. Figures are ratios within one run, and `goals` says which are met; a missed one is no
//! failure of the run, because a busy machine makes wide quantiles.

mod bystander;
mod containers;
mod contender;
mod exec;
pub mod floor;
mod forward;
mod goals;
mod netlink;
mod options;
mod phases;
mod pods;
mod process;
mod report;
mod rounds;
mod stats;
mod svg;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use options::{Plan, USAGE};
use std::fs;
use std::path::Path;
use std::process::ExitCode;

/// Runs it.
#[allow(clippy::print_stderr)]
pub fn main() -> ExitCode {
    let plan = match Plan::read(std::env::args().skip(1)) {
        Ok(plan) => plan,
        Err(error) => {
            eprintln!("eni-bench: {error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    if !nix::unistd::geteuid().is_root() {
        eprintln!("eni-bench: network namespaces need root: run ./dev bench, which uses sudo");
        return ExitCode::FAILURE;
    }
    let missing = contender::missing();
    if !missing.is_empty() {
        eprintln!("eni-bench: not there: {}; run ./dev bench, which builds and installs", missing.join(", "));
        return ExitCode::FAILURE;
    }
    let root = private_world();
    let say = |what: &str| eprintln!("eni-bench: {what}");
    let mut measured = Measured::default();
    if plan.containers {
        measured.containers = Some(containers::measure(&plan, root.path(), &say));
    }
    if plan.forwarding {
        say("forwarding: worlds are made, then bursts are interleaved over them");
        measured.forwarding = forward::measure(root.path(), if plan.quick { 24 } else { 150 });
    }
    publish(&measured, &plan)
}

#[allow(clippy::print_stdout, clippy::print_stderr)]
fn publish(measured: &Measured, plan: &Plan) -> ExitCode {
    println!("{}", report::text(measured));
    let json = plan.json.as_ref().map_or(Ok(()), |path| {
        let text = serde_json::to_string_pretty(&report::document(measured)).expect("figures are JSON");
        fs::write(path, text + "\n")
    });
    let svg = plan.svg.as_ref().map_or(Ok(()), |folder| svg::write(measured, folder));
    match json.and(svg) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("eni-bench: the figures could not be written: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What a run has measured.
#[derive(Debug, Default)]
struct Measured {
    containers: Option<containers::Containers>,
    forwarding: Vec<forward::Case>,
}

/// From here on, mounts are this process's own.
fn private_world() -> PrivateWorld {
    unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("the mounts are made private");
    // Its name tells `./dev clean` whose it is.
    let prefix = format!("eni-bench-{}-", std::process::id());
    let root = tempfile::Builder::new().prefix(&prefix).tempdir().expect("a folder");
    fs::create_dir_all("/run/netns").expect("a folder");
    for target in [root.path(), Path::new("/run/netns")] {
        mount(Some("eni-bench"), target, Some("tmpfs"), MsFlags::empty(), none).expect("a tmpfs");
    }
    PrivateWorld { root }
}

/// The folder with the tmpfs; both go when it is dropped.
struct PrivateWorld {
    root: tempfile::TempDir,
}

impl PrivateWorld {
    fn path(&self) -> &Path {
        self.root.path()
    }
}

impl Drop for PrivateWorld {
    fn drop(&mut self) {
        let _ = umount2(self.root.path(), MntFlags::MNT_DETACH);
    }
}
