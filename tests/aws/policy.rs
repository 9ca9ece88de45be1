//! The IAM policy beside the requests.
//!
//! Owns that it names exactly the actions that are made, and that what EC2 can bind to our tag is bound to it.

use crate::golden;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

/// Not a call: EC2 asks for it where a create carries tags.
const WITH_A_CREATE: &str = "ec2:CreateTags";
/// These may meet the primary ENI, which carries no tag of ours.
const OF_THE_PRIMARY: [&str; 2] = ["ec2:AssignPrivateIpAddresses", "ec2:UnassignPrivateIpAddresses"];

fn statements() -> Vec<Value> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../conf/iam-policy.json");
    let policy: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(policy["Version"], "2012-10-17");
    let statements = policy["Statement"].as_array().unwrap().clone();
    assert!(statements.iter().all(|statement| statement["Effect"] == "Allow"));
    statements
}

/// A text or a list of them.
fn texts(value: &Value) -> Vec<&str> {
    match value {
        Value::String(one) => vec![one],
        many => many.as_array().unwrap().iter().map(|one| one.as_str().unwrap()).collect(),
    }
}

fn allowed(statements: &[Value]) -> BTreeSet<&str> {
    statements.iter().flat_map(|statement| texts(&statement["Action"])).collect()
}

#[test]
fn it_names_exactly_the_calls_that_are_made() {
    let mut made = BTreeSet::from([WITH_A_CREATE.to_owned()]);
    for entry in fs::read_dir(golden::folder()).unwrap() {
        let request = fs::read_to_string(entry.unwrap().path()).unwrap();
        let action = request.lines().find_map(|line| line.strip_prefix("Action=")).unwrap();
        made.insert(format!("ec2:{action}"));
    }
    let statements = statements();
    let allowed: BTreeSet<String> = allowed(&statements).into_iter().map(str::to_owned).collect();
    assert_eq!(allowed, made);
}

#[test]
fn what_can_be_bound_to_our_tag_is() {
    for statement in statements() {
        let resources = texts(&statement["Resource"]);
        let condition = statement["Condition"].to_string();
        for action in texts(&statement["Action"]) {
            if action.starts_with("ec2:Describe") {
                // These take no resource.
                assert_eq!(resources, ["*"], "{action}");
                continue;
            }
            assert!(!resources.contains(&"*"), "{action}");
            if !resources.iter().any(|resource| resource.contains(":network-interface/")) {
                continue;
            }
            let bound = match action {
                "ec2:CreateNetworkInterface" => "aws:RequestTag/eni-cni/instance",
                WITH_A_CREATE => "ec2:CreateAction",
                action if OF_THE_PRIMARY.contains(&action) => continue,
                _ => "aws:ResourceTag/eni-cni/instance",
            };
            assert!(condition.contains(bound), "{action} is not bound to {bound}: {condition}");
        }
    }
}
