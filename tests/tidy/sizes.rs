//! How long files and functions may be.
//!
//! Owns the numbers. A long one is printed as a warning, a very long one fails. Functions are measured from `fn` to their
//! closing brace, as the parser sees them; test functions too.

use crate::assert_none;
use crate::sources::{self, Source};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

const FILE: Limit = Limit { long: 400, too_long: 700 };
const FUNCTION: Limit = Limit { long: 70, too_long: 100 };

/// Written by a program, from data.
const GENERATED: &[&str] = &["ipamd/core/src/limits/table.rs"];

struct Limit {
    long: usize,
    too_long: usize,
}

/// What is long and what is too long.
#[derive(Default)]
struct Found {
    long: Vec<String>,
    too_long: Vec<String>,
}

impl Found {
    fn judge(&mut self, what: &str, lines: usize, limit: &Limit) {
        if lines > limit.too_long {
            self.too_long.push(format!("{what}: {lines} lines, more than {}", limit.too_long));
        } else if lines > limit.long {
            self.long.push(format!("{what}: {lines} lines, more than {}", limit.long));
        }
    }
}

struct Functions<'a> {
    path: &'a str,
    found: &'a mut Found,
}

impl Functions<'_> {
    fn measure(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let first = signature.span().start().line;
        let lines = block.span().end().line - first + 1;
        self.found.judge(&format!("{}:{first}: fn {}", self.path, signature.ident), lines, &FUNCTION);
    }
}

impl<'ast> Visit<'ast> for Functions<'_> {
    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.measure(&function.sig, &function.block);
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.measure(&function.sig, &function.block);
        visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &'ast syn::TraitItemFn) {
        if let Some(block) = &function.default {
            self.measure(&function.sig, block);
        }
        visit::visit_trait_item_fn(self, function);
    }
}

fn judge(sources: &[Source]) -> Found {
    let mut found = Found::default();
    for source in sources.iter().filter(|source| !GENERATED.contains(&source.path.as_str())) {
        found.judge(&source.path, source.text.lines().count(), &FILE);
        let parsed = source.parsed();
        Functions { path: &source.path, found: &mut found }.visit_file(&parsed);
    }
    found
}

#[test]
fn tidy_files_and_functions_are_short() {
    let found = judge(&sources::rust());
    for long in &found.long {
        eprintln!("warning: {long}");
    }
    assert_none(&found.too_long);
    let dev = std::fs::read_to_string(sources::root().join("dev")).unwrap();
    assert!(dev.lines().count() <= FILE.too_long);
}

#[test]
fn tidy_a_long_file_and_a_long_function_are_found() {
    let body = "    f();\n".repeat(100);
    let function = format!("impl X {{\n fn long() {{\n{body} }}\n}}\n");
    let found = judge(&[Source::sample("a.rs", &function), Source::sample("b.rs", &"// x\n".repeat(701))]);
    assert_eq!(found.too_long.len(), 2, "{:?}", found.too_long);
    assert!(found.too_long[0].contains("a.rs:2: fn long: 102 lines"), "{:?}", found.too_long);
    let found = judge(&[Source::sample("a.rs", &function.replacen("    f();\n", "", 10))]);
    assert_eq!((found.long.len(), found.too_long.len()), (1, 0));
}
