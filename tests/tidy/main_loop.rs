//! What runs on ipamd's main loop and what the pure core may say: nothing there blocks, nothing here reads the world.
//!
//! Owns the list of modules. They may name each other and the handles that lead to other threads; a call that blocks is
//! found by its name, and allowed in the functions that run before the loop.

use crate::assert_none;
use crate::sources::{self, Source};
use syn::visit::{self, Visit};

/// The modules whose code runs on the loop, as files below `ipamd/src`.
const ON_THE_LOOP: &[&str] = &[
    "main_loop.rs",
    "shell.rs",
    "queries.rs",
    "completions.rs",
    "notes.rs",
    "clock.rs",
    "server/mod.rs",
    "server/cni.rs",
    "server/request.rs",
];

/// What those modules may name of their own crate: each other, and the ends of queues to other threads.
const MAY_NAME: &[&str] = &[
    "main_loop",
    "shell",
    "queries",
    "completions",
    "notes",
    "clock",
    "server",
    "metrics",
    "debug::query",
    "executors::cloud::CloudSender",
    "executors::netlink::Job",
    "executors::netlink::JobSender",
    // Only the other threads wait in it: the loop's end takes what is there.
    "queue::Receiver",
    "queue::Sender",
    "queue::bounded",
    "spool::Job",
    "spool::SpoolSender",
    "store::StoreHandle",
];

/// Names of calls and types that block.
const BLOCKING: &[&str] = &[
    "fs",
    "sleep_ms",
    "Mutex",
    "RwLock",
    "Condvar",
    "block_on",
    "blocking_recv",
    "blocking_send",
    "Command",
    "stdin",
    "File",
    "TcpStream",
];
/// The same as methods.
const BLOCKING_METHODS: &[&str] =
    &["lock", "join", "recv_timeout", "recv_deadline", "wait_timeout", "block_on"];

/// Functions of those modules that run before the loop does.
const BEFORE_THE_LOOP: &[(&str, &str)] = &[("server/cni.rs", "bind"), ("clock.rs", "boot_id")];

/// What the core must not say: it reads no clock, touches no file, starts nothing, rolls no dice.
const IMPURE: &[&str] =
    &["fs", "thread", "env", "process", "Instant", "SystemTime", "Mutex", "RwLock", "OnceLock", "rand"];

/// `a::b::c`
fn path_text(path: &syn::Path) -> String {
    let parts: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
    parts.join("::")
}

/// Every path that a file names, with the function around it and its line.
#[derive(Default)]
struct Names {
    paths: Vec<Named>,
    function: String,
    in_test: bool,
}

struct Named {
    path: String,
    method: bool,
    function: String,
    line: usize,
}

impl Names {
    fn of(source: &Source) -> Vec<Named> {
        let mut names = Names::default();
        names.visit_file(&source.parsed());
        names.paths
    }

    fn push(&mut self, path: String, method: bool, line: usize) {
        if !self.in_test {
            self.paths.push(Named { path, method, function: self.function.clone(), line });
        }
    }

    fn tree(&mut self, before: &str, tree: &syn::UseTree) {
        let joined = |name: &syn::Ident| {
            if before.is_empty() { name.to_string() } else { format!("{before}::{name}") }
        };
        match tree {
            syn::UseTree::Path(path) => self.tree(&joined(&path.ident), &path.tree),
            syn::UseTree::Name(name) if name.ident == "self" => {
                self.push(before.to_owned(), false, name.ident.span().start().line);
            }
            syn::UseTree::Name(name) => self.push(joined(&name.ident), false, name.ident.span().start().line),
            syn::UseTree::Rename(name) => {
                self.push(joined(&name.ident), false, name.ident.span().start().line);
            }
            syn::UseTree::Glob(glob) => {
                self.push(before.to_owned(), false, glob.star_token.spans[0].start().line);
            }
            syn::UseTree::Group(group) => group.items.iter().for_each(|item| self.tree(before, item)),
        }
    }

    fn within(&mut self, name: &syn::Ident, run: impl FnOnce(&mut Self)) {
        let outer = std::mem::replace(&mut self.function, name.to_string());
        run(self);
        self.function = outer;
    }
}

fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let list = attribute.meta.require_list();
        attribute.path().is_ident("cfg") && list.is_ok_and(|list| list.tokens.to_string() == "test")
    })
}

impl<'ast> Visit<'ast> for Names {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        let outer = self.in_test;
        self.in_test |= is_test(&module.attrs);
        visit::visit_item_mod(self, module);
        self.in_test = outer;
    }

    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.within(&function.sig.ident, |this| visit::visit_item_fn(this, function));
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.within(&function.sig.ident, |this| visit::visit_impl_item_fn(this, function));
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.tree("", &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let line = path.segments.first().map_or(0, |segment| segment.ident.span().start().line);
        self.push(path_text(path), false, line);
        visit::visit_path(self, path);
    }

    fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
        // A thread is joined without arguments, words are joined with one.
        if call.method != "join" || call.args.is_empty() {
            self.push(call.method.to_string(), true, call.method.span().start().line);
        }
        visit::visit_expr_method_call(self, call);
    }
}

/// Whether a path ends within, or goes through, an allowed one.
fn may_name(path: &str) -> bool {
    MAY_NAME.iter().any(|allowed| {
        path == *allowed || path.strip_prefix(allowed).is_some_and(|rest| rest.starts_with("::"))
    })
}

fn broken_loop(source: &Source) -> Vec<String> {
    let file = source.path.trim_start_matches("ipamd/src/");
    let mut broken = Vec::new();
    for named in Names::of(source) {
        if BEFORE_THE_LOOP.contains(&(file, named.function.as_str())) {
            continue;
        }
        let at = format!("{}:{}", source.path, named.line);
        let blocks = if named.method {
            BLOCKING_METHODS.contains(&named.path.as_str())
        } else {
            named.path.split("::").any(|part| BLOCKING.contains(&part))
                || named.path.ends_with("thread::sleep")
        };
        if blocks {
            broken.push(format!("{at}: {} blocks the main loop", named.path));
        }
        if let Some(inside) = named.path.strip_prefix("crate::").filter(|inside| !may_name(inside)) {
            broken.push(format!("{at}: crate::{inside} does not run on the main loop"));
        }
    }
    broken
}

fn broken_core(source: &Source) -> Vec<String> {
    let named = Names::of(source).into_iter().filter(|named| !named.method);
    let impure = named.filter(|named| named.path.split("::").any(|part| IMPURE.contains(&part)));
    impure.map(|n| format!("{}:{}: the core must not name {}", source.path, n.line, n.path)).collect()
}

#[test]
fn tidy_the_main_loop_does_not_block() {
    let sources: Vec<Source> = sources::rust();
    let mut broken = Vec::new();
    for file in ON_THE_LOOP {
        let path = format!("ipamd/src/{file}");
        match sources.iter().find(|source| source.path == path) {
            Some(source) => broken.extend(broken_loop(source)),
            None => broken.push(format!("{path} is listed and not there")),
        }
    }
    assert_none(&broken);
}

#[test]
fn tidy_the_core_reads_no_world() {
    let core = sources::rust().into_iter().filter(|s| s.path.starts_with("ipamd/core/src/"));
    let broken: Vec<String> =
        core.filter(|s| !s.path.ends_with("/tests.rs")).flat_map(|source| broken_core(&source)).collect();
    assert_none(&broken);
}

#[test]
fn tidy_what_blocks_is_found() {
    let text = "//! x\nuse crate::store::Store;\nuse crate::{clock, executors::netlink::{self, Job}};\n\
                fn f(m: &M) {\n m.lock();\n std::fs::read(\"x\");\n std::thread::sleep(d);\n crate::run::run();\n}\n\
                fn bind() { std::fs::remove_file(\"x\"); }\n\
                #[cfg(test)]\nmod tests { fn t() { std::fs::read(\"x\"); } }\n";
    let found = broken_loop(&Source::sample("ipamd/src/server/cni.rs", text));
    assert_eq!(found.len(), 6, "{found:#?}");
    let found = broken_core(&Source::sample("ipamd/core/src/x.rs", "use std::time::{Duration, Instant};\n"));
    assert_eq!(found.len(), 1, "{found:?}");
}
