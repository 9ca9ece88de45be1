//! Which crate may use which: the arrows between ours, and who alone may use what of others'.
//!
//! Owns the table. Direct, normal dependencies are what counts; one version of each stands at the root.

use crate::assert_none;
use crate::metadata::{members, metadata, text};
use crate::sources::{self, Source, find};
use serde_json::{Value, json};

/// Ours: a crate and those of ours that it may use.
const ARROWS: &[(&str, &[&str])] = &[
    ("eni-proto", &[]),
    ("eni-cni", &["eni-proto"]),
    ("ipamd-core", &["eni-proto"]),
    ("ipamd-ec2", &["ipamd-core", "eni-proto"]),
    ("ipamd-netlink", &["ipamd-core", "eni-proto"]),
    ("embedded-vpc", &["ipamd-core", "eni-proto"]),
    ("ipamd", &["ipamd-core", "ipamd-ec2", "ipamd-netlink", "embedded-vpc", "eni-proto"]),
];

/// What may use all.
const TESTS: &[&str] = &["eni-tests", "eni-runtime-tests"];

/// The crates of others that the pure core and the small plugin may use. Whoever adds one has a reason.
const CLOSED: &[(&str, &[&str])] = &[
    ("ipamd-core", &["ipnet", "serde", "sha1", "thiserror"]),
    ("eni-cni", &["cni-plugin", "nix", "serde", "serde_json"]),
];

/// Crates of others that have one user. A `*` at the end stands for any rest.
const ONE_USER: &[(&str, &str)] = &[
    ("redb", "ipamd"),
    ("cni-plugin", "eni-cni"),
    ("rtnetlink", "ipamd-netlink"),
    ("netlink-*", "ipamd-netlink"),
    ("prometheus-client", "ipamd"),
    ("hyper*", "ipamd"),
    ("aws-*", "ipamd-ec2"),
    ("bollard*", "ipamd-witness"),
    ("tonic*", "ipamd-witness"),
    ("kube*", "ipamd-kube"),
    ("k8s-openapi", "ipamd-kube"),
];

/// Words of code that only files below a path may say.
const ONE_PLACE: &[(&[&str], &str)] = &[
    (&["cni_plugin"], "plugin/src/netconf.rs"),
    (&["redb"], "ipamd/src/store/"),
    (&["prometheus_client"], "ipamd/src/metrics/"),
    (&["netlink_packet_route"], "ipamd/netlink/"),
    (&["netlink_packet_core"], "ipamd/netlink/"),
];

/// The files that may say `unsafe`.
const UNSAFE: &[&str] = &["ipamd/netlink/src/sys.rs", "proto/src/fdpass.rs"];

fn matches(pattern: &str, name: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == name, |stem| name.starts_with(stem))
}

fn broken_arrows(metadata: &Value) -> Vec<String> {
    let members = members(metadata);
    let ours: Vec<&str> = members.iter().map(|member| text(member, "name")).collect();
    let mut broken = Vec::new();
    for member in &members {
        let name = text(member, "name");
        if TESTS.contains(&name) {
            continue;
        }
        let Some((_, may)) = ARROWS.iter().find(|(crate_name, _)| *crate_name == name) else {
            broken.push(format!("{name} is not in the table of arrows"));
            continue;
        };
        let closed = CLOSED.iter().find(|(crate_name, _)| *crate_name == name).map(|(_, others)| others);
        let dependencies = member["dependencies"].as_array().unwrap().iter();
        for dependency in dependencies.filter(|d| d["kind"].is_null()).map(|d| text(d, "name")) {
            let own = ours.contains(&dependency);
            if own && !may.contains(&dependency) {
                broken.push(format!("{name} → {dependency}"));
            }
            if !own && closed.is_some_and(|others| !others.contains(&dependency)) {
                broken.push(format!("{name} → {dependency}: this crate's list is closed"));
            }
            let user =
                ONE_USER.iter().find(|(pattern, _)| matches(pattern, dependency)).map(|(_, user)| *user);
            if user.is_some_and(|user| user != name) {
                broken.push(format!("{name} → {dependency}: only {} may", user.unwrap()));
            }
        }
    }
    broken
}

fn broken_places(sources: &[Source]) -> Vec<String> {
    let mut broken = Vec::new();
    for source in sources.iter().filter(|source| source.path.contains("/src/")) {
        let tokens = source.tokens();
        for (words, place) in ONE_PLACE.iter().filter(|(_, place)| !source.path.starts_with(place)) {
            let lines = find(&tokens, words).into_iter();
            broken.extend(
                lines.map(|line| format!("{}:{line}: {} belongs in {place}", source.path, words.join(""))),
            );
        }
        if !UNSAFE.contains(&source.path.as_str()) {
            let lines = find(&tokens, &["unsafe"]).into_iter();
            broken.extend(lines.map(|line| format!("{}:{line}: unsafe belongs in {UNSAFE:?}", source.path)));
        }
    }
    broken
}

fn broken_manifest(path: &str, text: &str) -> Vec<String> {
    let manifest: toml::Table = text.parse().unwrap_or_else(|e| panic!("{path}: {e}"));
    let mut broken = Vec::new();
    for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
        let Some(table) = manifest.get(kind).and_then(toml::Value::as_table) else { continue };
        for (name, value) in table {
            let inherited = value.get("workspace").and_then(toml::Value::as_bool) == Some(true);
            if !inherited {
                broken.push(format!("{path}: {name}: its version belongs in the root's Cargo.toml"));
            }
        }
    }
    let lints = manifest.get("lints");
    let inherited = lints.and_then(|l| l.get("workspace")).and_then(toml::Value::as_bool) == Some(true);
    let level =
        lints.and_then(|l| l.get("rust")).and_then(|r| r.get("unsafe_code")).and_then(toml::Value::as_str);
    let may_deny = UNSAFE
        .iter()
        .filter_map(|file| file.split_once("/src/"))
        .any(|(own, _)| path == format!("{own}/Cargo.toml"));
    let denied = may_deny && level == Some("deny");
    if !inherited && !denied {
        broken.push(format!("{path}: lints.workspace = true is missing"));
    }
    broken
}

#[test]
fn tidy_arrows_hold() {
    assert_none(&broken_arrows(&metadata()));
}

#[test]
fn tidy_words_of_one_place_hold() {
    assert_none(&broken_places(&sources::rust()));
}

#[test]
fn tidy_manifests_inherit_versions_and_lints() {
    let manifests = sources::all().into_iter().filter(|s| s.path.ends_with("/Cargo.toml"));
    let broken: Vec<String> = manifests.flat_map(|m| broken_manifest(&m.path, &m.text)).collect();
    assert_none(&broken);
}

#[test]
fn tidy_a_root_dependency_has_a_user() {
    let root: toml::Table =
        std::fs::read_to_string(sources::root().join("Cargo.toml")).unwrap().parse().unwrap();
    let metadata = metadata();
    let members = members(&metadata);
    let used = |name: &str| {
        let mut all = members.iter().flat_map(|m| m["dependencies"].as_array().unwrap());
        name == "ipamd" || name == "eni-cni" || all.any(|d| text(d, "name") == name)
    };
    let table = root["workspace"]["dependencies"].as_table().unwrap();
    let broken: Vec<String> =
        table.keys().filter(|n| !used(n)).map(|n| format!("Cargo.toml: nobody uses {n}")).collect();
    assert_none(&broken);
}

#[test]
fn tidy_a_wrong_arrow_place_or_manifest_is_found() {
    let dependency = |name: &str, kind: Value| json!({ "name": name, "kind": kind });
    let sample = json!({
        "workspace_members": ["1", "2", "3"],
        "packages": [
            { "id": "1", "name": "ipamd-core", "dependencies": [
                dependency("tokio", Value::Null), dependency("eni-proto", Value::Null), dependency("proptest", json!("dev")) ] },
            { "id": "2", "name": "eni-proto", "dependencies": [dependency("ipamd-core", Value::Null)] },
            { "id": "3", "name": "new-crate", "dependencies": [] },
        ],
    });
    assert_eq!(broken_arrows(&sample).len(), 3, "{:?}", broken_arrows(&sample));
    let sample = [Source::sample("ipamd/src/run.rs", "use redb::Database;\nfn f() { unsafe { g() } }\n")];
    assert_eq!(broken_places(&sample).len(), 2, "{:?}", broken_places(&sample));
    let manifest =
        "[dependencies]\nserde = \"1\"\nnix.workspace = true\n[lints.rust]\nunsafe_code = \"deny\"\n";
    assert_eq!(broken_manifest("ipamd/Cargo.toml", manifest).len(), 2);
    assert_eq!(broken_manifest("proto/Cargo.toml", manifest).len(), 1);
}
