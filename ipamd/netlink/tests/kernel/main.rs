//! The crate against the running kernel, as root, in network namespaces of its own.
//!
//! Each test makes namespaces with names that nobody else has and removes them, also when it fails. Without root they
//! fail.

mod bench;
mod confined;
mod host;
mod lock;
mod reap;
mod wire;
