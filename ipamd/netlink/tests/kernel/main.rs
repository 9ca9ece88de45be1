//! The crate against the running kernel, as root, in network namespaces of its own.
//!
//! Each test makes namespaces with names that nobody else has and removes them, also when it fails. Without root they
//! fail.

// The modules are one program, and all of it is a test.
#![allow(unreachable_pub, clippy::unwrap_used)]

mod bench;
mod netns_confined;
mod netns_differential;
mod netns_forward;
mod netns_host;
mod netns_lock;
mod netns_look;
mod netns_monitor;
mod netns_reap;
mod netns_steering;
mod netns_wire;
