//! What is compiled in for tests only is in no build that anybody runs.
//!
//! Owns the name of that feature and where it may be turned on: by `./dev`'s build of the tests and its lint.

use crate::assert_none;
use crate::metadata::{members, metadata, text};
use crate::sources;
use serde_json::{Value, json};
use std::fs;

const FOR_TESTS: &str = "fail-points";

fn mentions(value: &Value) -> bool {
    value.as_array().is_some_and(|all| all.iter().filter_map(Value::as_str).any(|f| f.contains(FOR_TESTS)))
}

/// Features other than that one that turn it on, and dependencies that do.
fn turned_on(metadata: &Value) -> Vec<String> {
    let mut broken = Vec::new();
    for member in members(metadata) {
        let name = text(member, "name");
        for (feature, enables) in member["features"].as_object().into_iter().flatten() {
            if feature != FOR_TESTS && mentions(enables) {
                broken.push(format!("{name}: its feature {feature} turns {FOR_TESTS} on"));
            }
        }
        for dependency in member["dependencies"].as_array().into_iter().flatten() {
            if mentions(&dependency["features"]) {
                broken.push(format!(
                    "{name}: its dependency {} turns {FOR_TESTS} on",
                    text(dependency, "name")
                ));
            }
        }
    }
    broken
}

/// Lines of `./dev` that build with it and are not the tests' build or the lint.
fn built_with(dev: &str) -> Vec<String> {
    let uses = dev.lines().filter(|line| line.contains(FOR_TESTS) || line.contains("test_features["));
    let may = |line: &&str| {
        let line = line.trim_start();
        line.starts_with("test_features=")
            || line.starts_with("cargo build --quiet --workspace --all-targets ")
            || line.starts_with("cargo clippy ")
    };
    uses.filter(|line| !may(line)).map(str::to_owned).collect()
}

#[test]
fn tidy_fail_points_are_for_tests_only() {
    let metadata = metadata();
    assert_none(&turned_on(&metadata));
    let has = |name: &str| {
        members(&metadata).iter().any(|m| text(m, "name") == name && m["features"].get(FOR_TESTS).is_some())
    };
    assert!(has("ipamd") && has("ipamd-netlink"), "{FOR_TESTS} is what the feature is called");
    let dev = fs::read_to_string(sources::root().join("dev")).unwrap();
    assert!(dev.contains(&format!("ipamd/{FOR_TESTS}")), "the tests are built with it");
    assert_none(&built_with(&dev));
}

#[test]
fn tidy_bad_features_are_found() {
    let member = |features: Value, of_dependency: Value| {
        json!({
            "workspace_members": ["a"],
            "packages": [{
                "id": "a", "name": "a", "features": features,
                "dependencies": [{ "name": "ipamd", "features": of_dependency }],
            }],
        })
    };
    assert_eq!(turned_on(&member(json!({ "default": ["ipamd/fail-points"] }), json!([]))).len(), 1);
    assert_eq!(turned_on(&member(json!({}), json!(["fail-points"]))).len(), 1);
    assert_eq!(turned_on(&member(json!({ "fail-points": ["b/fail-points"] }), json!([]))).len(), 0);
    assert_eq!(built_with("cargo build --release \"${test_features[@]}\"").len(), 1);
}
