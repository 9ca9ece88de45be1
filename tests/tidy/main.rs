//! What holds for the repository as text: arrows between crates, sizes, names, modules' first words, what runs on the
//! main loop, licences, that `conf/` parses and that the documents point at what is there.
//!
//! Owns one rule per module. Each rule is a function from text to what breaks it, held against the repository and
//! against a sample that breaks it. Does not know what the code does: the other tiers do.

// All of this program is a test.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod arrows;
mod conf;
mod docs;
mod features;
mod licences;
mod main_loop;
mod metadata;
mod modules;
mod promises;
mod sizes;
mod sources;
mod words;

/// Fails with all that breaks a rule, one per line.
fn assert_none(broken: &[String]) {
    assert!(broken.is_empty(), "{} broken:\n  {}", broken.len(), broken.join("\n  "));
}
