//! Running iproute2, sysctl and nft.
//!
//! Owns the processes and their errors. Every argument comes from our own formats, never from outside.

use std::io::{self, Write};
use std::process::{Command, Output, Stdio};

/// Why a program failed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It could not be started.
    #[error("{program} could not be started: {source}; install iproute2, nftables, procps and util-linux")]
    Start {
        /// The program.
        program: &'static str,
        /// Why.
        source: io::Error,
    },
    /// It ended with an error.
    #[error("{what}: {stderr}")]
    Failed {
        /// What was run.
        what: String,
        /// Its own words.
        stderr: String,
    },
    /// It answered something that is not understood.
    #[error("nft's answer is not understood: {0}")]
    Answer(#[from] serde_json::Error),
}

fn run(program: &'static str, args: &[&str], input: &str) -> Result<Output, RunError> {
    let start = |source| RunError::Start { program, source };
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(start)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends early has said why on stderr.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(start)?;
    if output.status.success() {
        return Ok(output);
    }
    let stderr = String::from_utf8_lossy(&output.stderr).trim().replace('\n', " ");
    Err(RunError::Failed { what: format!("{program} {}", args.join(" ")), stderr })
}

/// Runs lines of shell, stopping at the first that fails.
pub(super) fn script(lines: &str) -> Result<(), RunError> {
    run("sh", &["-e"], lines).map(|_| ())
}

/// Runs lines of `ip` in a namespace, in one process.
pub(super) fn ip_batch(netns: &str, lines: &str) -> Result<(), RunError> {
    run("ip", &["-n", netns, "-batch", "-"], lines).map(|_| ())
}

/// Loads an nft text in a namespace.
pub(super) fn nft(netns: &str, text: &str) -> Result<(), RunError> {
    let net = format!("--net=/run/netns/{netns}");
    run("nsenter", &[&net, "nft", "-f", "-"], text).map(|_| ())
}

/// What nft lists in a namespace, as JSON.
pub(super) fn read_nft(netns: &str, what: &[&str]) -> Result<serde_json::Value, RunError> {
    let net = format!("--net=/run/netns/{netns}");
    let output = run("nsenter", &[&[&net, "nft", "-j"], what].concat(), "")?;
    Ok(serde_json::from_slice(&output.stdout)?)
}
