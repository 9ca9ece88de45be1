//! The figures as a table for a person, and as JSON for a program.
//!
//! Owns both forms. Judges nothing: the goals do.

use crate::bench::Measured;
use crate::bench::containers::{Containers, Single};
use crate::bench::contender::Kind;
use crate::bench::forward::{Case, Steering};
use crate::bench::goals;
use crate::bench::phases::Parts;
use crate::bench::rounds::{Series, Setting, Verb};
use crate::bench::stats::{Samples, ratio};
use serde_json::{Value, json};
use std::fmt::Write;
use std::fs;

/// The table.
pub(crate) fn text(measured: &Measured) -> String {
    let mut out = format!("{}\n", machine_line());
    if let Some(containers) = &measured.containers {
        containers.settings.iter().for_each(|setting| out.push_str(&setting_text(setting)));
        out.push_str(&singles_text(containers));
        out.push_str(&parts_text(containers));
    }
    if !measured.forwarding.is_empty() {
        out.push_str(&forwarding_text(&measured.forwarding));
    }
    out.push_str("\nGoals\n");
    for goal in goals::of(measured) {
        let verdict = goal.met().map_or("not measured", |met| if met { "met" } else { "MISSED" });
        let sign = if goal.at_least { "at least" } else { "at most" };
        let bound = format!("{sign} {:.3}", goal.bound);
        writeln!(out, "  {:<56} {} {bound:<18} {verdict}", goal.what, number(goal.value, 10, 3))
            .expect("a string");
    }
    out
}

fn number(value: Option<f64>, width: usize, digits: usize) -> String {
    value
        .filter(|v| v.is_finite())
        .map_or_else(|| format!("{:>width$}", "–"), |v| format!("{v:width$.digits$}"))
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn machine() -> Value {
    let cpus = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    json!({ "kernel": read("/proc/sys/kernel/osrelease"), "cpus": cpus, "load": read("/proc/loadavg") })
}

fn machine_line() -> String {
    let machine = machine();
    let text = |key: &str| machine[key].as_str().unwrap_or_default().to_owned();
    format!("kernel {}, {} CPUs, load at the end {}", text("kernel"), machine["cpus"], text("load"))
}

fn setting_text(setting: &Setting) -> String {
    let mut out = format!(
        "\n{} pods present, {} at a time (ms; CPU of the plugin + the daemon; x floor, x ptp)\n\
         {:<20}{:>8}{:>8}{:>8}{:>7}{:>7}{:>15}{:>9}{:>8}{:>8}{:>7}{:>7}{:>15}{:>8}\n",
        setting.present,
        setting.parallel,
        "",
        "ADD p50",
        "p90",
        "p99",
        "floor",
        "ptp",
        "CPU",
        "DEL p50",
        "p90",
        "p99",
        "floor",
        "ptp",
        "CPU",
        "ADD/s"
    );
    let of = |kind: Kind| Kind::ALL.iter().position(|k| *k == kind).map(|at| &setting.series[at]);
    for (kind, series) in Kind::ALL.iter().zip(&setting.series) {
        let verb = |verb: fn(&Series) -> &Verb| {
            let beside =
                |kind| of(kind).and_then(|s| ratio(verb(series).wall.median(), verb(s).wall.median()));
            let wall = |q| number(verb(series).wall.quantile(q), 8, 2);
            format!(
                "{}{}{}{}{}{} +{}",
                wall(0.5),
                wall(0.9),
                wall(0.99),
                number(beside(Kind::Floor), 7, 2),
                number(beside(Kind::Ptp), 7, 3),
                number(verb(series).cpu.median(), 7, 2),
                number(verb(series).daemon.median(), 6, 2),
            )
        };
        let (add, del) = (verb(|s| &s.add), verb(|s| &s.del));
        writeln!(out, "{:<20}{add} {del}{}", kind.name(), number(series.add.rate.median(), 8, 0))
            .expect("a string");
    }
    out
}

fn singles_text(containers: &Containers) -> String {
    let (singles, most) = (&containers.singles, containers.most);
    let mut out = format!(
        "\nOnce (system calls of ADD and DEL with all children; a bystander's wait for RTNL in ms)\n{:<20}{:>12}{:>14}{:>14}\
         {:>18}{:>10}  {}\n",
        "",
        "peak KiB",
        "plugin calls",
        "daemon calls",
        "bystander p50/p90",
        "fill s",
        "daemon's RSS, pods:KiB"
    );
    for single in singles {
        let (add, del) = single.calls;
        let pair = |a, b| format!("{}/{}", number(a, 0, 0), number(b, 0, 0));
        let waits = [0.5, 0.9].map(|q| number(single.bystander.quantile(q), 0, 3)).join("/");
        let rss: Vec<String> = single.rss.iter().map(|(pods, kib)| format!("{pods}:{kib}")).collect();
        writeln!(
            out,
            "{:<20}{:>12}{:>14}{:>14}{waits:>18}{:>10.2}  {}",
            single.kind.name(),
            single.peak_rss,
            pair(Some(add.plugin), Some(del.plugin)),
            pair(add.daemon, del.daemon),
            single.fill,
            rss.join(" ")
        )
        .expect("a string");
    }
    let rss = containers.ours.restarted_rss;
    writeln!(out, "fill: 0 to {most} pods, 8 at a time; ipamd's RSS when started again with them: {rss} KiB")
        .expect("a string");
    out
}

fn parts_text(containers: &Containers) -> String {
    let mut out = format!(
        "\nWhere the time goes (eni-cni, means in ms, one at a time): outside = start + ipamd's total + rest\n\
         {:<6}{:>9}{:>9}{:>9}{:>9}   of ipamd's total: {:>7}{:>9}{:>9}\n",
        "", "outside", "start", "total", "rest", "queue", "commit", "wire"
    );
    let (add, del) = &containers.ours.parts;
    for (verb, parts) in [("ADD", add), ("DEL", del)] {
        let n = |value| number(Some(value), 9, 3);
        writeln!(
            out,
            "{verb:<6}{}{}{}{}                    {}{}{}",
            n(parts.outside),
            n(parts.start),
            n(parts.total),
            n(parts.rest()),
            number(Some(parts.queue), 6, 3),
            n(parts.commit),
            n(parts.wire)
        )
        .expect("a string");
    }
    out
}

fn forwarding_text(cases: &[Case]) -> String {
    let mut out = format!(
        "\nForwarding, ns per packet (p10), both ends included; x no steering with conntrack on, of the same size\n\
         {:<30}{:>6}{:>10}{:>18}{:>18}{:>18}\n",
        "", "pods", "services", "pod to pod", "pod to ENI", "ENI to pod"
    );
    for case in cases {
        let base = cases
            .iter()
            .find(|c| (c.steering, c.pods, c.services) == (Steering::Conntrack, case.pods, case.services));
        let path = |at: usize| {
            let times = ratio(case.p10(at), base.and_then(|base| base.p10(at)));
            format!("{} x{}", number(case.p10(at), 10, 0), number(times, 6, 3))
        };
        let services = if case.services { "1000" } else { "–" };
        let name = format!("{}{}", case.steering.name(), if case.again { ", again" } else { "" });
        writeln!(out, "{name:<30}{:>6}{services:>10}{}{}{}", case.pods, path(0), path(1), path(2))
            .expect("a string");
    }
    out
}

/// The same as JSON.
pub(crate) fn document(measured: &Measured) -> Value {
    let goals: Vec<Value> = goals::of(measured)
        .iter()
        .map(|g| json!({ "what": g.what, "value": g.value, "bound": g.bound, "at_least": g.at_least, "met": g.met() }))
        .collect();
    let containers = measured.containers.as_ref().map(containers_json);
    let forwarding: Vec<Value> = measured.forwarding.iter().map(Case::json).collect();
    json!({ "machine": machine(), "containers": containers, "forwarding": forwarding, "goals": goals })
}

fn samples_json(samples: &Samples) -> Value {
    let q = |q| samples.quantile(q);
    json!({ "n": samples.len(), "p50": q(0.5), "p90": q(0.9), "p99": q(0.99), "min": q(0.0), "mean": samples.mean() })
}

fn containers_json(containers: &Containers) -> Value {
    let verb = |verb: &Verb| {
        json!({
            "wall_ms": samples_json(&verb.wall), "plugin_cpu_ms": samples_json(&verb.cpu),
            "daemon_cpu_ms": samples_json(&verb.daemon), "per_second": samples_json(&verb.rate),
        })
    };
    let setting = |setting: &Setting| {
        let series = Kind::ALL.iter().zip(&setting.series);
        let series = series
            .map(|(kind, s)| (kind.name().to_owned(), json!({ "add": verb(&s.add), "del": verb(&s.del) })));
        let series: serde_json::Map<String, Value> = series.collect();
        json!({ "present": setting.present, "parallel": setting.parallel, "contenders": series })
    };
    let single = |single: &Single| {
        let (add, del) = single.calls;
        let value = json!({
            "plugin_peak_rss_kib": single.peak_rss, "daemon_rss_kib": single.rss, "fill_s": single.fill,
            "system_calls": { "add": [add.plugin, add.daemon], "del": [del.plugin, del.daemon] },
            "bystander_ms": samples_json(&single.bystander),
        });
        (single.kind.name().to_owned(), value)
    };
    let parts = |p: &Parts| {
        json!({ "outside": p.outside, "start": p.start, "rest": p.rest(), "total": p.total, "queue": p.queue,
                "commit": p.commit, "wire": p.wire })
    };
    let ours = &containers.ours;
    json!({
        "settings": containers.settings.iter().map(setting).collect::<Vec<_>>(),
        "once": containers.singles.iter().map(single).collect::<serde_json::Map<_, _>>(),
        "parts_ms": { "add": parts(&ours.parts.0), "del": parts(&ours.parts.1) },
        "status_ms": samples_json(&ours.status), "restart_ms": samples_json(&ours.restart),
        "restarted_rss_kib": ours.restarted_rss,
        "idle_wake_ups_per_second": ours.wake_ups, "most_present": containers.most,
    })
}
