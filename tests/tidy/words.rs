//! Words that have no place in the repository's text: paths of somebody's machine, marks of a text that is not finished.
//!
//! Owns the list.

use crate::assert_none;
use crate::sources::{self, Source};

/// In two halves, so that this file does not hold them.
const FOREIGN: &[(&str, &str)] = &[
    ("/wo", "rk/"),
    ("../sha", "red"),
    ("/ro", "ot/"),
    ("/ho", "me/"),
    ("LL", "M"),
    ("Chat", "GPT"),
    ("Clau", "de"),
    ("<<<<", "<<<"),
    (">>>>", ">>>"),
    ("@", "@"),
    ("FIX", "ME"),
    ("XX", "X"),
    ("TO", "DO"),
];
/// Files made by programs, or data from elsewhere.
const NOT_OURS: &[&str] = &["Cargo.lock", "LICENSE"];

fn foreign(sources: &[Source]) -> Vec<String> {
    let mut broken = Vec::new();
    for source in sources.iter().filter(|s| !NOT_OURS.contains(&s.path.as_str()) && !s.path.ends_with(".csv"))
    {
        for (number, line) in source.text.lines().enumerate() {
            let words = FOREIGN.iter().map(|(a, b)| format!("{a}{b}"));
            for word in words.filter(|word| line.contains(word.as_str())) {
                broken.push(format!("{}:{}: {word}", source.path, number + 1));
            }
        }
    }
    broken
}

fn untidy_lines(sources: &[Source]) -> Vec<String> {
    let mut broken = Vec::new();
    for source in sources.iter().filter(|s| !NOT_OURS.contains(&s.path.as_str())) {
        for (number, line) in source.text.lines().enumerate() {
            if line.ends_with([' ', '\t']) || line.contains('\r') {
                broken.push(format!("{}:{}: blank at the end of the line", source.path, number + 1));
            }
        }
        if !source.text.is_empty() && !source.text.ends_with('\n') {
            broken.push(format!("{}: its last line does not end", source.path));
        }
    }
    broken
}

#[test]
fn tidy_no_foreign_words() {
    assert_none(&foreign(&sources::all()));
}

#[test]
fn tidy_lines_end_where_they_end() {
    let ours: Vec<Source> = sources::all().into_iter().filter(|s| !s.path.contains("/fixtures/")).collect();
    assert_none(&untidy_lines(&ours));
}

#[test]
fn tidy_foreign_words_and_untidy_lines_are_found() {
    let path = ["see ", "/wo", "rk/", "x"].concat();
    let bad = [Source::sample("a.md", &format!("fine\n{path} \nend"))];
    assert_eq!(foreign(&bad), [format!("a.md:2: {}", ["/wo", "rk/"].concat())]);
    assert_eq!(untidy_lines(&bad).len(), 2);
}
