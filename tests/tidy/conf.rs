//! That every file in `conf/` parses, by what it is.
//!
//! Owns the forms. What ipamd accepts of its configuration is ipamd's own test.

use crate::assert_none;
use crate::sources::{self, Source};
use serde_json::Value;
use std::path::Path;

fn broken(source: &Source) -> Vec<String> {
    let path = Path::new(&source.path);
    let parent = path.parent().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    let extension = path.extension().map(|e| e.to_string_lossy().into_owned()).unwrap_or_default();
    let found = match (parent.as_deref(), extension.as_str()) {
        (_, "conflist") => conflist(source),
        (_, "toml") => source.text.parse::<toml::Table>().err().map(|e| e.to_string()).into_iter().collect(),
        (_, "json") if path.ends_with("iam-policy.json") => policy(source),
        (Some("sysctl.d"), "conf") => sysctl(source),
        (Some("systemd"), "service") => unit(source),
        (Some("network"), "network") => sections(source, &[("Match", None), ("Link", Some("Unmanaged=yes"))]),
        (Some("conf.d"), "conf") => sections(source, &[("device-eni-cni-pods", Some("managed=0"))]),
        (Some("rules.d"), "rules") => udev(source),
        _ => vec!["no form is known for it".to_owned()],
    };
    found.into_iter().map(|what| format!("{}: {what}", source.path)).collect()
}

fn conflist(source: &Source) -> Vec<String> {
    let value: Value = match serde_json::from_str(&source.text) {
        Ok(value) => value,
        Err(error) => return vec![error.to_string()],
    };
    let mut broken = Vec::new();
    for key in ["cniVersion", "name"] {
        if !value[key].is_string() {
            broken.push(format!("{key} must be a string"));
        }
    }
    let plugins = value["plugins"].as_array().cloned().unwrap_or_default();
    if plugins.first().map(|p| &p["type"]) != Some(&Value::from("eni-cni")) {
        broken.push("its first plugin must be eni-cni".to_owned());
    }
    // Runtimes take the first file by name: before the peer's 10-aws.conflist.
    let name = source.path.rsplit('/').next().unwrap_or_default();
    if name >= "10-aws.conflist" {
        broken.push("must sort before 10-aws.conflist".to_owned());
    }
    let offered = value["cniVersions"].as_array().cloned().unwrap_or_default();
    if !offered.contains(&value["cniVersion"]) {
        broken.push("cniVersions must hold cniVersion".to_owned());
    }
    // Old runtimes take cniVersion alone and refuse a result of 1.1.0; new ones take the highest that is offered.
    if value["cniVersion"] != "1.0.0" || !offered.contains(&Value::from("1.1.0")) {
        broken
            .push("cniVersion must be 1.0.0, and 1.1.0 offered: CHECK, GC and STATUS are served".to_owned());
    }
    for key in ["disableCheck", "disableGC"] {
        if !value[key].is_null() {
            broken.push(format!("{key} must not be set: CHECK and GC are served"));
        }
    }
    broken
}

/// An IAM policy's form; what it allows is judged by the tier `aws`.
fn policy(source: &Source) -> Vec<String> {
    let value: Value = match serde_json::from_str(&source.text) {
        Ok(value) => value,
        Err(error) => return vec![error.to_string()],
    };
    let whole = |statement: &Value| {
        ["Sid", "Effect", "Action", "Resource"].iter().all(|key| !statement[*key].is_null())
    };
    let statements = value["Statement"].as_array().cloned().unwrap_or_default();
    if statements.is_empty() || !statements.iter().all(whole) || value["Version"] != "2012-10-17" {
        return vec![
            "must have its Version, and Sid, Effect, Action and Resource in each Statement".to_owned(),
        ];
    }
    Vec::new()
}

fn lines(source: &Source) -> impl Iterator<Item = (usize, &str)> {
    let numbered = source.text.lines().enumerate().map(|(n, line)| (n + 1, line.trim()));
    numbered.filter(|(_, line)| !line.is_empty() && !line.starts_with(['#', ';']))
}

fn sysctl(source: &Source) -> Vec<String> {
    let mut broken = Vec::new();
    for (number, line) in lines(source) {
        let Some((key, value)) = line.split_once('=') else {
            broken.push(format!("line {number} is not key = value"));
            continue;
        };
        let file = Path::new("/proc/sys").join(key.trim().replace('.', "/"));
        if !file.exists() {
            broken.push(format!("line {number}: this kernel has no {}", key.trim()));
        }
        if value.trim().parse::<i64>().is_err() {
            broken.push(format!("line {number}: {} is not a number", value.trim()));
        }
    }
    broken
}

fn unit(source: &Source) -> Vec<String> {
    let (mut broken, mut section, mut sections) = (Vec::new(), None, Vec::new());
    for (number, line) in lines(source) {
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            section = Some(name);
            sections.push(name);
            continue;
        }
        let Some((key, value)) = line.split_once('=') else {
            broken.push(format!("line {number} is not Key=value"));
            continue;
        };
        if section.is_none() || key.is_empty() || !key.chars().all(|c| c.is_ascii_alphanumeric()) {
            broken.push(format!("line {number}: {key:?} is no key of a section"));
        }
        if key.starts_with("Exec") && !value.starts_with('/') {
            broken.push(format!("line {number}: {key} needs an absolute path"));
        }
        // ipamd is never given up on; systemd reads the key in [Unit] alone.
        if key == "StartLimitIntervalSec" && (section, value) != (Some("Unit"), "0") {
            broken.push(format!("line {number}: StartLimitIntervalSec=0 belongs into [Unit]"));
        }
        // What the daemon is tested with: nothing more may slip in.
        if key == "CapabilityBoundingSet" && value != "CAP_NET_ADMIN" {
            broken.push(format!("line {number}: the daemon has CAP_NET_ADMIN alone"));
        }
    }
    for wanted in ["Unit", "Service", "Install"] {
        if !sections.contains(&wanted) {
            broken.push(format!("[{wanted}] is missing"));
        }
    }
    for wanted in ["CapabilityBoundingSet", "StartLimitIntervalSec"] {
        if !source.text.contains(&format!("\n{wanted}=")) {
            broken.push(format!("{wanted} is missing"));
        }
    }
    broken
}

/// Sections of Key=value lines: these, each with its line.
fn sections(source: &Source, wanted: &[(&str, Option<&str>)]) -> Vec<String> {
    let (mut broken, mut found) = (Vec::new(), Vec::<(&str, Vec<&str>)>::new());
    for (number, line) in lines(source) {
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            found.push((name, Vec::new()));
        } else if line.split_once('=').is_none_or(|(key, value)| key.is_empty() || value.is_empty()) {
            broken.push(format!("line {number} is not Key=value"));
        } else if let Some((_, lines)) = found.last_mut() {
            lines.push(line);
        } else {
            broken.push(format!("line {number} is in no section"));
        }
    }
    for (name, line) in wanted {
        match found.iter().find(|(section, _)| section == name) {
            None => broken.push(format!("[{name}] is missing")),
            Some((_, lines)) if lines.is_empty() => broken.push(format!("[{name}] is empty")),
            Some((_, lines)) if line.is_some_and(|line| !lines.contains(&line)) => {
                broken.push(format!("[{name}] lacks {}", line.unwrap_or_default()));
            }
            Some(_) => {}
        }
    }
    broken
}

/// Rules: matches and assignments, separated by commas; every GOTO has its LABEL.
fn udev(source: &Source) -> Vec<String> {
    let (mut broken, mut jumps, mut labels) = (Vec::new(), Vec::new(), Vec::new());
    for (number, line) in lines(source) {
        for part in line.split(", ") {
            let operator = ["==", "!=", "="].into_iter().find_map(|o| part.split_once(o));
            let quoted =
                operator.and_then(|(key, value)| Some((key, value.strip_prefix('"')?.strip_suffix('"')?)));
            match quoted {
                Some(("GOTO", label)) => jumps.push(label),
                Some(("LABEL", label)) => labels.push(label),
                Some((key, _)) if key.starts_with(|c: char| c.is_ascii_uppercase()) => {}
                _ => broken.push(format!("line {number}: {part:?} is no match and no assignment")),
            }
        }
    }
    let missing = jumps.iter().filter(|label| !labels.contains(label));
    broken.extend(missing.map(|label| format!("there is no LABEL {label:?}")));
    broken
}

#[test]
fn tidy_conf_parses() {
    let files: Vec<Source> = sources::all().into_iter().filter(|s| s.path.starts_with("conf/")).collect();
    assert!(files.len() >= 4, "conf/ is found");
    let found: Vec<String> = files.iter().flat_map(broken).collect();
    assert_none(&found);
}

#[test]
fn tidy_bad_conf_is_found() {
    for (path, text, count) in [
        ("conf/x.toml", "a = ", 1),
        ("conf/systemd/network/x.network", "a=b\n[Match]\nName=x\n[Link]\nUnmanaged\n", 3),
        ("conf/x/conf.d/x.conf", "[main]\nplugins=keyfile\n", 1),
        ("conf/udev/rules.d/x.rules", "KERNEL==eni*, GOTO=\"end\"\n", 2),
        ("conf/x.yaml", "a: 1\n", 1),
        ("conf/iam-policy.json", r#"{"Version": "2012-10-17", "Statement": [{"Effect": "Allow"}]}"#, 1),
        ("conf/20-x.conflist", r#"{"cniVersion": "1.0.0", "plugins": [], "disableGC": true}"#, 6),
        ("conf/05-x.conflist", "{", 1),
        ("conf/sysctl.d/x.conf", "net.ipv4.no_such = 1\nhello\nnet.ipv4.ip_forward = yes\n", 3),
        (
            "conf/systemd/x.service",
            "A=b\n[Service]\nExecStart=ipamd\nnonsense\nCapabilityBoundingSet=~\nStartLimitIntervalSec=0\n",
            7,
        ),
    ] {
        let found = broken(&Source::sample(path, text));
        assert_eq!(found.len(), count, "{path}: {found:?}");
    }
}
