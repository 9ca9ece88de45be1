//! `ipamctl`.
//!
//! Owns the command line, the question over `debug.sock`, tables and exit codes: 0 answered; 1 `status` says not ready;
//! 2 a wrong option; 3 ipamd was not reached; 4 its answer is not understood. Errors go to stderr alone.

mod ask;
mod table;

use ask::{AskError, ask};
use clap::{Parser, Subcommand, ValueEnum};
use eni_proto::debug::{Answer, AttachmentView, EniView, LimitsView, PoolView, StatusView, SwitchView};
use hyper::Method;
use ipamd_core::limits;
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
    /// What this instance carries, what of it is others', and the --max-pods that follows.
    Limits {
        /// Of this type, by the built-in table: no ipamd is asked.
        #[arg(long)]
        instance_type: Option<String>,
    },
    /// Switches something on or off, until ipamd's next start.
    Switch {
        /// no-release: nothing is given back to EC2; no-cloud: EC2 is neither asked nor changed.
        name: String,
        /// How it is to stand.
        #[arg(value_enum)]
        wanted: OnOff,
        /// Say what would be, and change nothing.
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OnOff {
    /// On.
    On,
    /// Off.
    Off,
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
    if let Verb::Limits { instance_type: Some(named) } = &cli.verb {
        let found = limits::of(named).ok_or_else(|| AskError::UnknownType(named.clone()))?;
        let view = limits::view(named, &found, "the built-in table".to_owned(), &[]);
        return Ok((if cli.output == Output::Json { show(&view)? } else { limits_table(&view) }, 0));
    }
    let (method, path) = match &cli.verb {
        Verb::Status => (Method::GET, "/v1/status".to_owned()),
        Verb::Pool { .. } => (Method::GET, "/v1/pool".to_owned()),
        Verb::Attachments { .. } => (Method::GET, "/v1/attachments".to_owned()),
        Verb::Enis => (Method::GET, "/v1/enis".to_owned()),
        Verb::Limits { .. } => (Method::GET, "/v1/limits".to_owned()),
        Verb::Switch { name, wanted, dry_run } => {
            let wanted = if *wanted == OnOff::On { "on" } else { "off" };
            (Method::POST, format!("/v1/switches/{name}/{wanted}?dry_run={dry_run}"))
        }
    };
    let body = ask(&cli.socket, method, &path)?;
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
        Verb::Limits { .. } => {
            let answer: Answer<LimitsView> = read(&body)?;
            Ok((if json { pretty(&body)? } else { limits_table(&answer.data) }, 0))
        }
        Verb::Switch { dry_run, .. } => {
            let answer: Answer<Vec<SwitchView>> = read(&body)?;
            Ok((if json { pretty(&body)? } else { switches(&answer.data, *dry_run) }, 0))
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
    let looked = view.cloud_age_ms.map_or_else(|| "not yet".to_owned(), |ms| format!("{} s ago", ms / 1000));
    rows.push(("EC2 seen", looked));
    rows.extend(view.switches.iter().filter(|s| s.on || s.configured).map(|s| ("switch", switch(s))));
    rows.extend(view.reasons.iter().map(|reason| ("reason", reason.clone())));
    for reconciler in &view.reconcilers {
        let text =
            format!("{}, {} passes, {} failed", reconciler.state, reconciler.passes, reconciler.failures);
        rows.push(("reconciler", format!("{}: {text}", reconciler.name)));
    }
    rows.extend(view.start.iter().map(|step| ("start", format!("{} ms: {}", step.at_ms, step.step))));
    key_values(&rows)
}

fn switch(view: &SwitchView) -> String {
    let state = if view.on { "on" } else { "off" };
    match (view.on, view.configured) {
        (true, false) => format!("{}: {state}, by debug.sock and until the next start", view.name),
        (false, true) => format!("{}: {state}, by debug.sock; on again after the next start", view.name),
        _ => format!("{}: {state}, by the configuration", view.name),
    }
}

fn switches(views: &[SwitchView], dry_run: bool) -> String {
    let head = if dry_run { "would be" } else { "switch" };
    key_values(&views.iter().map(|view| (head, switch(view))).collect::<Vec<_>>())
}

fn limits_table(view: &LimitsView) -> String {
    let vcpus = view.vcpus.map_or_else(|| "not known".to_owned(), |vcpus| vcpus.to_string());
    let prefixes = match view.max_pods_prefixes {
        Some(pods) => format!("{pods} with prefixes (at most {} at its vCPUs)", view.max_pods_cap),
        None => "none with prefixes: its ENIs take none".to_owned(),
    };
    let mut rows = vec![
        ("instance type", view.instance_type.clone()),
        ("told by", view.source.clone()),
        ("ENIs", format!("{} of {} addresses each, its own included", view.enis, view.addresses_per_eni)),
        ("vCPUs", vcpus),
        ("--max-pods", format!("{} with single addresses", view.max_pods_addresses)),
        ("--max-pods", prefixes),
    ];
    rows.extend(view.others.iter().map(|eni| {
        let card =
            if eni.network_card == 0 { String::new() } else { format!(" of card {}", eni.network_card) };
        ("left alone", format!("{} at device index {}{card}: {}", eni.id, eni.device_index, eni.reason))
    }));
    key_values(&rows)
}

fn pool(view: &PoolView) -> String {
    let rows = view.addresses.iter().map(|a| {
        let held = match (&a.attachment, a.cooling_ms, &a.reason) {
            (Some(key), _, Some(reason)) => format!("{key}, {reason}"),
            (None, _, Some(reason)) => reason.clone(),
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
