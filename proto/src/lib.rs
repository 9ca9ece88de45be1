//! What `eni-cni` (the plugin) and `ipamd` (the daemon) say to each other, and the CNI types that both need.
//!
//! Owns: ids as newtypes, the CNI result and error shapes of 0.3.1 to 1.1.0, requests and replies with their
//! version rules, the frame around them, error codes, what `debug.sock` answers, the forms of the two files that plugin
//! and daemon share (tombstones and the stamp), and, behind the feature `io`, the blocking client that passes a
//! descriptor.
//!
//! Does not own: policy, state, netlink, an async runtime. Nothing but the client reads a clock,
//! and nothing reads the environment.

pub mod cni;
pub mod debug;
pub mod error;
pub mod frame;
pub mod ids;
pub mod reply;
pub mod request;
pub mod spool;
pub mod stamp;

#[cfg(feature = "io")]
pub mod client;
#[cfg(feature = "io")]
pub mod fdpass;

/// The protocol version that this build speaks. A peer with another number is answered all the same: unknown
/// fields are ignored, missing ones defaulted. It tells the daemon which fields it may expect.
pub const PROTO_VERSION: u32 = 1;
