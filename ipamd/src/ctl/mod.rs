//! `ipamctl`.
//!
//! Owns the command line, the question over `debug.sock`, tables and exit codes: 0 answered; 1 `status` says not ready;
//! 2 a wrong option; 3 ipamd was not reached; 4 its answer is not understood. Errors go to stderr alone.

mod ask;
mod table;

use ask::{AskError, ask};
use clap::{Parser, Subcommand, ValueEnum};
use eni_proto::debug::{Answer, AttachmentView, EniView, PoolView, StatusView};
use serde::de::DeserializeOwned;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use table::{key_values, table};

/// Asks a running ipamd.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Cli {
    /// ipamd's debug socket.
    #[arg(long, global = true, default_value = "/run/eni-cni/debug.sock")]
    socket: PathBuf,
    /// How the answer is printed.
    #[arg(long, global = true, value_enum, default_value = "table")]
    output: Output,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Table,
    /// The answer as it is.
    Json,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Whether ADD is served, why not, and the pool in numbers. Exit code 1 when it is not served.
    Status,
    /// The addresses.
    Pool {
        /// Only those in this state: free, allocated, cooling, quarantined.
        #[arg(long)]
        state: Option<String>,
    },
    /// The attachments.
    Attachments {
        /// Only those whose pod (namespace/name) contains this.
        #[arg(long)]
        pod: Option<String>,
        /// Only those whose container id begins with this.
        #[arg(long)]
        container: Option<String>,
    },
    /// The ENIs.
    Enis,
}

/// The program.
#[allow(clippy::print_stderr)]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok((text, code)) => {
            // A reader that has gone (`| head`) wants no more.
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::from(code)
        }
        Err(error) => {
            eprintln!("ipamctl: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(cli: &Cli) -> Result<(String, u8), AskError> {
    let path = match cli.verb {
        Verb::Status => "/v1/status",
        Verb::Pool { .. } => "/v1/pool",
        Verb::Attachments { .. } => "/v1/attachments",
        Verb::Enis => "/v1/enis",
    };
    let body = ask(&cli.socket, path)?;
    let json = cli.output == Output::Json;
    match &cli.verb {
        Verb::Status => {
            let answer: Answer<StatusView> = read(&body)?;
            let code = u8::from(!answer.data.ready);
            Ok((if json { pretty(&body)? } else { status(&answer.data) }, code))
        }
        Verb::Pool { state } => {
            let mut answer: Answer<PoolView> = read(&body)?;
            answer.data.addresses.retain(|a| state.as_ref().is_none_or(|s| a.state == *s));
            Ok((if json { show(&answer)? } else { pool(&answer.data) }, 0))
        }
        Verb::Attachments { pod, container } => {
            let mut answer: Answer<Vec<AttachmentView>> = read(&body)?;
            answer.data.retain(|a| {
                let of_pod = pod.as_ref().is_none_or(|p| a.pod.as_ref().is_some_and(|name| name.contains(p)));
                of_pod && container.as_ref().is_none_or(|c| a.key.container.as_str().starts_with(c))
            });
            Ok((if json { show(&answer)? } else { attachments(&answer.data) }, 0))
        }
        Verb::Enis => {
            let answer: Answer<Vec<EniView>> = read(&body)?;
            Ok((if json { pretty(&body)? } else { enis(&answer.data) }, 0))
        }
    }
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, AskError> {
    serde_json::from_slice(body).map_err(|error| AskError::Answer(error.to_string()))
}

fn pretty(body: &[u8]) -> Result<String, AskError> {
    show(&read::<serde_json::Value>(body)?)
}

fn show<T: serde::Serialize>(value: &T) -> Result<String, AskError> {
    let text = serde_json::to_string_pretty(value).map_err(|error| AskError::Answer(error.to_string()))?;
    Ok(text + "\n")
}

fn status(view: &StatusView) -> String {
    let instance = match (&view.instance, &view.instance_type) {
        (Some(id), Some(kind)) => format!("{id} ({kind})"),
        _ => "not known yet".to_owned(),
    };
    let pool = view.pool;
    let attachments: Vec<String> = view.attachments.iter().map(|(state, n)| format!("{n} {state}")).collect();
    let mut rows = vec![
        ("ready", if view.ready { "yes" } else { "no" }.to_owned()),
        ("CNI STATUS", view.cni_status.to_string()),
        ("ipamd", format!("{} with process id {}, up {} s", view.version, view.pid, view.uptime_ms / 1000)),
        ("instance", instance),
        (
            "pool",
            format!(
                "{} free, {} allocated, {} cooling, {} quarantined",
                pool.free, pool.allocated, pool.cooling, pool.quarantined
            ),
        ),
        ("attachments", if attachments.is_empty() { "none".to_owned() } else { attachments.join(", ") }),
    ];
    rows.extend(view.reasons.iter().map(|reason| ("reason", reason.clone())));
    for reconciler in &view.reconcilers {
        let text =
            format!("{}, {} passes, {} failed", reconciler.state, reconciler.passes, reconciler.failures);
        rows.push(("reconciler", format!("{}: {text}", reconciler.name)));
    }
    rows.extend(view.start.iter().map(|step| ("start", format!("{} ms: {}", step.at_ms, step.step))));
    key_values(&rows)
}

fn pool(view: &PoolView) -> String {
    let rows = view.addresses.iter().map(|a| {
        let held = match (&a.attachment, a.cooling_ms, &a.reason) {
            (_, _, Some(reason)) => reason.clone(),
            (Some(key), Some(ms), _) => format!("{key}, {ms} ms to go"),
            (Some(key), None, _) => key.to_string(),
            (None, _, _) => String::new(),
        };
        vec![a.address.to_string(), a.state.clone(), a.eni.to_string(), a.generation.to_string(), held]
    });
    table(&["ADDRESS", "STATE", "ENI", "USED", "ATTACHMENT"], rows.collect(), "no addresses")
}

fn attachments(views: &[AttachmentView]) -> String {
    let rows = views.iter().map(|a| {
        let addresses: Vec<String> = a.addresses.iter().map(ToString::to_string).collect();
        vec![
            a.key.container.as_str().chars().take(13).collect(),
            a.key.ifname.to_string(),
            a.key.network.to_string(),
            a.state.clone(),
            addresses.join(","),
            a.pod.clone().unwrap_or_default(),
            a.host_link.clone(),
            format!("{}s", a.age_ms / 1000),
        ]
    });
    let head = ["CONTAINER", "IFNAME", "NETWORK", "STATE", "ADDRESS", "POD", "LINK", "AGE"];
    table(&head, rows.collect(), "no attachments")
}

fn enis(views: &[EniView]) -> String {
    let rows = views.iter().map(|e| {
        let counts = [e.counts.free, e.counts.allocated, e.counts.cooling, e.counts.quarantined];
        let mut row = vec![
            e.id.to_string(),
            e.device_index.to_string(),
            e.state.clone(),
            e.link.clone().unwrap_or_else(|| "missing".to_owned()),
            e.primary.to_string(),
            e.mac.to_string(),
        ];
        row.extend(counts.map(|n| n.to_string()));
        row
    });
    let head =
        ["ENI", "INDEX", "STATE", "LINK", "PRIMARY", "MAC", "FREE", "ALLOCATED", "COOLING", "QUARANTINED"];
    table(&head, rows.collect(), "no ENIs")
}
