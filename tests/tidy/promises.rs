//! That each promise of `docs/semantics.md` names tests that are there.
//!
//! Owns how a row names them: in backticks, in the last column of its tables. Whether a test holds the promise is not seen
//! here.

use crate::assert_none;
use crate::sources::{self, Source};
use std::collections::BTreeSet;

const DOCUMENT: &str = "docs/semantics.md";

/// The last columns of all rows but the tables' heads and rules.
fn holders(text: &str) -> Vec<&str> {
    let rows = text.lines().filter(|line| line.starts_with('|') && !line.starts_with("| ---"));
    let last = rows.filter_map(|row| row.trim().trim_end_matches('|').rsplit('|').next()).map(str::trim);
    last.filter(|column| *column != "Held by").collect()
}

/// The functions that have an attribute which makes them a test.
fn tests(source: &Source) -> BTreeSet<String> {
    let lines: Vec<&str> = source.text.lines().map(str::trim).collect();
    let is_test = |line: &str| line.starts_with("#[test]") || line.starts_with("#[tokio::test");
    let marked = lines.iter().enumerate().filter(|(_, line)| is_test(line));
    let name = |at: usize| {
        let line = lines[at..].iter().find(|line| line.contains("fn "))?;
        line.split("fn ").nth(1)?.split('(').next().map(str::to_owned)
    };
    marked.filter_map(|(at, _)| name(at)).collect()
}

fn broken(document: &str, tests: &BTreeSet<String>) -> Vec<String> {
    let mut found = Vec::new();
    for column in holders(document) {
        let named: Vec<&str> = column.split('`').skip(1).step_by(2).collect();
        if named.is_empty() {
            found.push(format!("{DOCUMENT}: a row names no test: {column}"));
        }
        let missing = named.into_iter().filter(|name| !tests.contains(*name));
        found.extend(missing.map(|name| format!("{DOCUMENT}: there is no test {name}")));
    }
    found
}

#[test]
fn tidy_each_promise_names_tests_that_are_there() {
    let all = sources::all();
    let document = all.iter().find(|s| s.path == DOCUMENT).expect("the promises are written down");
    let tests: BTreeSet<String> = all.iter().filter(|s| s.path.ends_with(".rs")).flat_map(tests).collect();
    assert!(holders(&document.text).len() > 20, "the tables are read");
    assert_none(&broken(&document.text, &tests));
}

#[test]
fn tidy_a_promise_without_a_test_is_found() {
    let source = Source::sample(
        "a.rs",
        "#[test]\nfn holds() {}\n#[tokio::test]\nasync fn waits() {}\nfn helps() {}\n",
    );
    let known = tests(&source);
    assert_eq!(known, BTreeSet::from(["holds".to_owned(), "waits".to_owned()]));
    let head = "| Promise | Held by |\n| --- | --- |\n";
    let rows = "| a | `holds`, `waits` |\n| b | 50 | `helps` |\n| c | the same |\n| d | `gone` |\n";
    let found = broken(&format!("{head}{rows}"), &known);
    assert_eq!(found.len(), 3, "{found:?}");
}
