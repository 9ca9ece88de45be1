//! What every Rust file owes: first words that say what it owns, a name that says something, nothing left undone.
//!
//! Owns the lists of names and of marks.

use crate::assert_none;
use crate::sources::{self, Source, find};

/// Names that say nothing about what is in there.
const EMPTY_NAMES: &[&str] = &["manager", "utils", "util", "helpers", "helper", "common", "misc", "stuff"];
/// What is left undone, or looks as if it were tested.
const MARKS: &[&[&str]] = &[
    &["todo", "!"],
    &["unimplemented", "!"],
    &["dbg", "!"],
    &["#", "[", "ignore"],
    &["#", "[", "should_panic", "]"],
];
/// A test that another test runs in a process of its own, and the number of such marks there.
const RUN_BY_ANOTHER: &[(&str, usize)] = &[("ipamd/netlink/tests/kernel/netns_confined.rs", 1)];

fn without_first_words(sources: &[Source]) -> Vec<String> {
    let bare = sources.iter().filter(|source| !source.text.starts_with("//! "));
    bare.map(|source| format!("{}: must begin with //! and what it owns", source.path)).collect()
}

fn empty_names(sources: &[Source]) -> Vec<String> {
    let mut broken = Vec::new();
    for source in sources {
        let parts = source.path.trim_end_matches(".rs").split('/').flat_map(|part| part.split(['_', '-']));
        for part in parts.filter(|part| EMPTY_NAMES.contains(part)) {
            broken.push(format!("{}: {part} says nothing", source.path));
        }
        let tokens = source.tokens();
        for pair in tokens.windows(2) {
            let (keyword, name) = (pair[0].text.as_str(), pair[1].text.as_str());
            let a_type = matches!(keyword, "struct" | "enum" | "trait" | "type" | "union");
            if a_type && (name.ends_with("Impl") || name.ends_with("Manager") || name.ends_with("Helper")) {
                broken.push(format!("{}:{}: {name} says nothing", source.path, pair[1].line));
            }
            if keyword == "mod" && EMPTY_NAMES.contains(&name) {
                broken.push(format!("{}:{}: mod {name} says nothing", source.path, pair[1].line));
            }
        }
    }
    broken
}

fn undone(sources: &[Source]) -> Vec<String> {
    let mut broken = Vec::new();
    for source in sources {
        let tokens = source.tokens();
        let lines: Vec<(usize, String)> =
            MARKS.iter().flat_map(|m| find(&tokens, m).into_iter().map(|line| (line, m.join("")))).collect();
        let may = RUN_BY_ANOTHER.iter().find(|(path, _)| *path == source.path).map_or(0, |(_, count)| *count);
        if lines.len() > may {
            broken.extend(lines.into_iter().map(|(line, mark)| format!("{}:{line}: {mark}", source.path)));
        }
    }
    broken
}

#[test]
fn tidy_modules_say_what_they_own() {
    assert_none(&without_first_words(&sources::rust()));
}

#[test]
fn tidy_names_say_something() {
    assert_none(&empty_names(&sources::rust()));
}

#[test]
fn tidy_nothing_is_left_undone() {
    assert_none(&undone(&sources::rust()));
}

#[test]
fn tidy_bad_modules_are_found() {
    let bad = [
        Source::sample("ipamd/src/net_utils.rs", "use std::fs;\nstruct PoolImpl;\nmod common {}\n"),
        Source::sample("a/b.rs", "//! Owns.\nfn f() { g(todo!()) }\n#[test]\n#[ignore]\nfn t() {}\n"),
    ];
    assert_eq!(without_first_words(&bad).len(), 1);
    assert_eq!(empty_names(&bad).len(), 3, "{:?}", empty_names(&bad));
    assert_eq!(undone(&bad).len(), 2, "{:?}", undone(&bad));
}
