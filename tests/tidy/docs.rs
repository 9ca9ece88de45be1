//! That the documents point at what is there: links, paths in tables, commands of `./dev`.
//!
//! Owns how a pointer looks. Whether the sentence around it is true is not seen here.

use crate::assert_none;
use crate::sources::{self, Source};
use std::path::Path;

/// Targets of `[text](target)` that are files.
fn links(text: &str) -> Vec<&str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let files = targets.filter(|target| !target.contains("://") && !target.starts_with('#'));
    files.filter_map(|target| target.split('#').next()).collect()
}

/// Backticked paths in the rows of tables: they have a slash, and nothing that stands for something else.
fn paths_in_tables(text: &str) -> Vec<&str> {
    let rows = text.lines().filter(|line| line.starts_with('|'));
    let quoted = rows.flat_map(|row| row.split('`').skip(1).step_by(2));
    quoted.filter(|q| q.contains('/') && !q.starts_with('/') && !q.contains(['<', ' ', '{', '*'])).collect()
}

/// The words after `./dev`.
fn commands(text: &str) -> Vec<&str> {
    let after =
        text.split("./dev ").skip(1).filter_map(|rest| rest.split(|c: char| !c.is_ascii_lowercase()).next());
    after.filter(|word| !word.is_empty()).collect()
}

fn broken(source: &Source, exists: impl Fn(&Path) -> bool, verbs: &[&str]) -> Vec<String> {
    let folder = Path::new(&source.path).parent().unwrap_or(Path::new(""));
    let dead = links(&source.text).into_iter().filter(|target| !exists(&folder.join(target)));
    let mut found: Vec<String> = dead.map(|t| format!("{}: {t} is not there", source.path)).collect();
    let missing = paths_in_tables(&source.text).into_iter().filter(|path| !exists(Path::new(path)));
    found.extend(missing.map(|p| format!("{}: the table names {p}, which is not there", source.path)));
    let unknown = commands(&source.text).into_iter().filter(|word| !verbs.contains(word));
    found.extend(unknown.map(|w| format!("{}: there is no ./dev {w}", source.path)));
    found
}

/// What `./dev` can do: the arms of its last case.
fn verbs() -> Vec<String> {
    let dev = std::fs::read_to_string(sources::root().join("dev")).unwrap();
    let arms = dev.rsplit("case ").next().unwrap_or_default().lines();
    let first = arms.filter_map(|line| line.split_once(')')).map(|(names, _)| names);
    first.flat_map(|names| names.split('|')).map(|name| name.trim().to_owned()).collect()
}

#[test]
fn tidy_documents_point_at_what_is_there() {
    let verbs = verbs();
    let verbs: Vec<&str> = verbs.iter().map(String::as_str).collect();
    assert!(verbs.contains(&"demo") && verbs.contains(&"test"), "{verbs:?}");
    let exists = |path: &Path| sources::root().join(path).exists();
    let documents = sources::all().into_iter().filter(|s| s.path.ends_with(".md"));
    let found: Vec<String> = documents.flat_map(|d| broken(&d, exists, &verbs)).collect();
    assert_none(&found);
}

#[test]
fn tidy_a_dead_pointer_is_found() {
    let text = "[a](b.md) [c](https://x.example/y) [d](#e) [f](there.md#g)\n| `no/such.rs` | `conf/there` |\n`./dev fly`\n";
    let exists = |path: &Path| path.ends_with("there.md") || path.ends_with("there");
    let found = broken(&Source::sample("docs/x.md", text), exists, &["demo"]);
    assert_eq!(found.len(), 3, "{found:?}");
}
