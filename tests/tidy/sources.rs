//! The repository's files and the tokens of its Rust code.
//!
//! Owns the walk and the parsing. Build folders and git's own are left out.

use proc_macro2::{TokenStream, TokenTree};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// A text file.
pub(crate) struct Source {
    /// Its path below the root.
    pub(crate) path: String,
    pub(crate) text: String,
}

impl Source {
    pub(crate) fn sample(path: &str, text: &str) -> Source {
        Source { path: path.to_owned(), text: text.to_owned() }
    }

    /// Its tokens: comments are not among them, strings are one token each. Several tests read them, and making them is
    /// most of their time: they are made once.
    pub(crate) fn tokens(&self) -> Arc<Vec<Token>> {
        static MADE: Mutex<BTreeMap<String, Arc<Vec<Token>>>> = Mutex::new(BTreeMap::new());
        let known = || MADE.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tokens) = known().get(&self.text) {
            return tokens.clone();
        }
        let stream: TokenStream = self.text.parse().unwrap_or_else(|e| panic!("{}: {e}", self.path));
        let mut tokens = Vec::new();
        flatten(stream, &mut tokens);
        known().entry(self.text.clone()).or_insert(Arc::new(tokens)).clone()
    }

    pub(crate) fn parsed(&self) -> syn::File {
        syn::parse_file(&self.text).unwrap_or_else(|e| panic!("{}: {e}", self.path))
    }
}

/// An identifier or a sign, with its line.
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) line: usize,
}

fn flatten(stream: TokenStream, tokens: &mut Vec<Token>) {
    for tree in stream {
        let line = tree.span().start().line;
        match tree {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    proc_macro2::Delimiter::Parenthesis => ("(", ")"),
                    proc_macro2::Delimiter::Brace => ("{", "}"),
                    proc_macro2::Delimiter::Bracket => ("[", "]"),
                    proc_macro2::Delimiter::None => ("", ""),
                };
                tokens.push(Token { text: open.to_owned(), line });
                flatten(group.stream(), tokens);
                tokens.push(Token { text: close.to_owned(), line: group.span_close().start().line });
            }
            other => tokens.push(Token { text: other.to_string(), line }),
        }
    }
}

/// Where a sequence of tokens begins, by line.
pub(crate) fn find(tokens: &[Token], sequence: &[&str]) -> Vec<usize> {
    let same = |window: &&[Token]| window.iter().zip(sequence).all(|(token, wanted)| token.text == *wanted);
    tokens.windows(sequence.len()).filter(same).map(|window| window[0].line).collect()
}

/// The repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every text file of the repository.
pub(crate) fn all() -> Vec<Source> {
    let mut found = Vec::new();
    walk(&root(), &root(), &mut found);
    assert!(found.len() > 100, "the walk finds the repository: {} files", found.len());
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// Every Rust file.
pub(crate) fn rust() -> Vec<Source> {
    all().into_iter().filter(|source| source.path.ends_with(".rs")).collect()
}

fn walk(root: &Path, folder: &Path, found: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            if name != ".git" && !name.starts_with("target") && name != "__pycache__" {
                walk(root, &path, found);
            }
        } else if kind.is_file() && name != ".git" {
            // What is not text has no words to judge.
            if let Ok(text) = fs::read_to_string(&path) {
                let path = path.strip_prefix(root).unwrap().display().to_string();
                found.push(Source { path, text });
            }
        }
    }
}

#[test]
fn tidy_tokens_are_found_in_groups_and_not_in_strings_and_comments() {
    let sample = Source::sample("x.rs", "fn f() {\n  // todo!()\n  g(\"todo!()\", {\n todo!() });\n}\n");
    assert_eq!(find(&sample.tokens(), &["todo", "!"]), [4]);
}
