//! The real plugin against a real node, verb by verb: versions, good and bad input, races on one key.
//!
//! Owns what a runtime may rely on (CNI spec 1.1.0). Packets are the business of the tier `netns`.

// All of this program is a test.
#![allow(clippy::unwrap_used)]

mod bad_input;
mod check;
mod container;
mod gc;
mod operator;
mod service;
mod sockets;
mod spool;
mod status;

/// A node for one test.
fn node(secondary: u32) -> eni_tests::node::Node {
    eni_tests::node::Node::new(&eni_tests::node::Options { secondary, ..Default::default() })
}
