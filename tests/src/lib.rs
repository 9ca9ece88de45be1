//! What the tiers and the demo stand on: a whole node made of the real programs, sandboxes, calls as libcni makes them,
//! and traffic inside namespaces; and the contract of EC2's calls (`contract`), which stands alone.
//!
//! Owns the life of everything it starts: namespaces, mounts and processes go when their value is dropped, also when a
//! test fails. Names carry the process id, so that several copies run side by side. Does not assert anything about
//! the system: the tests do.

pub mod bench;
pub mod client;
pub mod cni;
pub mod contract;
pub mod demo;
pub mod held;
pub mod node;
pub mod programs;
pub mod sandbox;
pub mod traffic;
pub mod vpc;
pub mod wait;
