//! kill -9 at every step of ADD and DEL, hand-overs in the middle, and what happens to the store's file.
//!
//! Owns what must hold afterwards, whatever happened: [`Crowd`] has it in one place. ipamd is built with fail points for
//! this (`fail-points`), the plugin is killed at each of its system calls by strace.

// All of this program is a test.
#![allow(clippy::unwrap_used)]

mod crowd;
mod identity;
mod kills;
mod points;
mod restarts;
mod store;

/// A node for one test.
fn node(secondary: u32) -> eni_tests::node::Node {
    eni_tests::node::Node::new(&eni_tests::node::Options { secondary, ..Default::default() })
}
