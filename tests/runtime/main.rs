//! Real container runtimes as the plugin's callers: Debian's containerd over CRI, Debian's dockerd beside it.
//!
//! Owns the proof that what a kubelet asks a runtime for is served, and what a runtime does on its own account is
//! survived. A node is the embedded VPC's; runtimes run in its network namespace.

// All of this program is a test.
#![allow(clippy::unwrap_used)]

mod chain;
mod containerd;
mod cri;
mod daemon;
mod dockerd;
mod image;
mod pool;
mod restart;
mod sandboxes;

use eni_tests::node::{Node, Options};

/// A node for one test, with one ENI.
fn node(secondary: u32) -> Node {
    Node::new(&Options { secondary, ..Options::default() })
}
