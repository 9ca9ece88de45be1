//! Packets through real namespaces, and what crashes leave.
//!
//! Owns the proof by packets: the VPC's router drops and counts what leaves by an ENI that does not own its source, so
//! wrong routing shows as a failed ping and a counted drop.

// All of this program is a test; the measured times are for who reads its log.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod filter;
mod growth;
mod instances;
mod metadata;
mod paths;
mod process;
mod repair;
mod spoof;
mod steering;

/// A node for one test.
fn node(secondary: u32) -> eni_tests::node::Node {
    eni_tests::node::Node::new(&eni_tests::node::Options { secondary, ..Default::default() })
}
