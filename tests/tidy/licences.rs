//! Under which licences what we link may come.
//!
//! Owns the list. An expression with OR needs one allowed side, one with AND needs both.

use crate::assert_none;
use crate::metadata::{metadata, text};
use serde_json::{Value, json};

const ALLOWED: &[&str] = &[
    "MIT",
    "MIT-0",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "ISC",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "Zlib",
    "Unicode-3.0",
    "Unlicense",
    "CC0-1.0",
    "0BSD",
];

fn allowed(expression: &str) -> bool {
    // The old way to write OR.
    let expression = expression.replace('/', " OR ");
    let side = |side: &str| {
        let side = side.trim().trim_start_matches('(').trim_end_matches(')');
        side.split(" AND ").all(|part| ALLOWED.contains(&part.trim().trim_matches(['(', ')'])))
    };
    // `(A OR B) AND C` is split at the brackets' AND first.
    if let Some((left, right)) = expression.split_once(") AND ") {
        return allowed(left.trim_start_matches('(')) && allowed(right.trim_matches(['(', ')']));
    }
    expression.split(" OR ").any(side)
}

fn refused(metadata: &Value) -> Vec<String> {
    let packages = metadata["packages"].as_array().unwrap().iter();
    let bad = packages.filter(|package| !allowed(text(package, "license")));
    bad.map(|p| format!("{} {}: licence {:?}", text(p, "name"), text(p, "version"), text(p, "license")))
        .collect()
}

#[test]
fn tidy_licences_are_allowed() {
    assert_none(&refused(&metadata()));
}

#[test]
fn tidy_a_licence_that_is_not_allowed_is_found() {
    for good in ["MIT", "MIT OR GPL-3.0", "MIT/Apache-2.0", "(MIT OR Apache-2.0) AND Unicode-3.0"] {
        assert!(allowed(good), "{good}");
    }
    for bad in ["GPL-3.0", "", "MIT AND GPL-3.0", "(MIT OR Apache-2.0) AND GPL-3.0"] {
        assert!(!allowed(bad), "{bad}");
    }
    let sample = json!({ "packages": [{ "name": "x", "version": "1.0.0", "license": "AGPL-3.0" }, { "license": null }] });
    assert_eq!(refused(&sample).len(), 2);
}
