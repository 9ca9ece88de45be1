//! The command line of `ipamd`.
//!
//! Owns its options and its exit codes: 0 after an orderly end, 1 when it could not start or a part of it has ended by
//! itself, 2 on a wrong option or configuration. Does not run anything itself.

use crate::config::Config;
use crate::{memory, panics, run, telemetry};
use clap::Parser;
use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

/// The IPAM daemon of eni-cni: one per node.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Options {
    /// The configuration file; without it ENI_IPAMD_CONFIG, then /etc/eni-cni/ipamd.toml, then the defaults.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Print the configuration that is in force, as TOML, and end.
    #[arg(long)]
    print_config: bool,
    /// Ask a running ipamd to hand over its place.
    #[arg(long)]
    take_over: bool,
    /// VERB CONTAINER POINT N: be killed there.
    #[cfg(feature = "fail-points")]
    #[arg(long, hide = true)]
    fail_at: Option<String>,
}

/// The program.
#[allow(clippy::print_stdout, clippy::print_stderr)]
pub fn main() -> ExitCode {
    let options = Options::parse();
    let config = match Config::load(options.config.as_deref()) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("ipamd: {}", chain(&error));
            return ExitCode::from(2);
        }
    };
    if options.print_config {
        print!("{}", config.render());
        return ExitCode::SUCCESS;
    }
    memory::bound();
    if let Err(error) = telemetry::init(&config.log) {
        eprintln!("ipamd: the thread of the log could not be started: {error}");
        return ExitCode::from(1);
    }
    panics::install();
    #[cfg(feature = "fail-points")]
    if let Some(Err(error)) = options.fail_at.as_deref().map(ipamd_netlink::fail_point::plan) {
        eprintln!("ipamd: --fail-at: {error}");
        return ExitCode::from(2);
    }
    let ended = run::run(&config, options.take_over);
    if let Err(error) = &ended {
        tracing::error!("{}", chain(error));
    }
    telemetry::flush();
    ended.map_or(ExitCode::from(1), |()| ExitCode::SUCCESS)
}

/// An error with all its causes, in one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
