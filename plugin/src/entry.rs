//! One call of the plugin, from the process's start to its exit code.
//!
//! Owns the process: its environment, stdin, stdout, and what is printed when a call fails. Dispatches to `commands`.

use crate::environment::{VERBS, Verb};
use crate::error::Failure;
use crate::input;
use crate::netconf;
use crate::{commands, log, reply};
use eni_proto::client::boottime;
use eni_proto::cni::{CniVersion, error_object};
use serde_json::Value;
use std::process::ExitCode;
use std::time::Duration;

/// How long stdin may stay open: runtimes write the configuration and close it at once.
const INPUT: Duration = Duration::from_secs(30);

/// What a served call has for the runtime.
pub(crate) struct Served {
    /// What is printed, if anything.
    pub(crate) answer: Option<Value>,
    /// The attachment's key, for the log.
    pub(crate) key: Option<String>,
}

/// Serves one call.
pub fn run() -> ExitCode {
    let begun = boottime();
    let verb = match Verb::read(&variable) {
        Ok(Verb::About) => return about(),
        Ok(verb) => verb,
        Err(error) => return fail(&Failure::Environment(error), None, "environment", begun),
    };
    let name = verb.name();
    if matches!(verb, Verb::Version) {
        // stdin is not read: a caller that leaves it open must not hang.
        return finish(&Served { answer: Some(commands::version()), key: None }, name, begun);
    }
    let uid = nix::unistd::geteuid().as_raw();
    if uid != 0 {
        return fail(&Failure::NotRoot { uid }, None, name, begun);
    }
    let input = match input::read_all(std::io::stdin(), INPUT) {
        Ok(input) => input,
        Err(error) => return fail(&Failure::Input(error), None, name, begun),
    };
    let served = match &verb {
        Verb::Add(container) => commands::add(container, &input, begun),
        Verb::Del(container) => commands::del(container, &input, begun),
        Verb::Check(container) => commands::check(container, &input, begun),
        Verb::Gc { traceparent } => commands::gc(traceparent.as_deref(), &input, begun),
        _ => commands::status(&input, begun),
    };
    let code = match &served {
        Ok(served) => finish(served, name, begun),
        Err(failure) => fail(failure, netconf::version_text(&input), name, begun),
    };
    // The process ends here: freeing what it still has would cost a system call for each block.
    std::mem::forget((served, input, verb));
    code
}

#[allow(clippy::disallowed_methods)]
fn variable(name: &str) -> Option<std::ffi::OsString> {
    std::env::var_os(name)
}

/// A person ran the plugin by hand.
#[allow(clippy::print_stderr)]
fn about() -> ExitCode {
    let versions: Vec<&str> = CniVersion::ALL.iter().map(|v| v.as_str()).collect();
    eprintln!("eni-cni {}: a CNI plugin, run by a container runtime", env!("CARGO_PKG_VERSION"));
    eprintln!("CNI versions {}; verbs {VERBS}", versions.join(", "));
    ExitCode::SUCCESS
}

fn finish(served: &Served, verb: &str, begun: Duration) -> ExitCode {
    let printed = served.answer.as_ref().map_or(Ok(()), reply::print);
    if wants_log() {
        log::line(verb, served.key.as_deref(), None, boottime() - begun);
    }
    // A runtime that does not read its answer has given up on the call.
    if printed.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn fail(failure: &Failure, version: Option<String>, verb: &str, begun: Duration) -> ExitCode {
    let error = failure.to_error();
    let version = version.unwrap_or_else(|| CniVersion::V1_0_0.as_str().to_owned());
    // The exit code tells of the failure even when nobody reads why.
    let _ = reply::print(&error_object(&version, &error));
    if wants_log() {
        log::line(verb, None, Some(error.code.into()), boottime() - begun);
    }
    ExitCode::FAILURE
}

fn wants_log() -> bool {
    variable("ENI_CNI_LOG").is_some_and(|value| value == "json")
}
