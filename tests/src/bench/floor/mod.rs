//! The floor: the least plugin and the least daemon that wire a container right. Ratios are taken against this pair.
//!
//! Owns what both ends say to each other: one SOCK_SEQPACKET message `VERB ID IFNAME\n` and the network configuration,
//! with two descriptors for an ADD (the sandbox's namespace, and a netlink socket opened inside); one message back.
//! What it leaves out is what a product owes beyond that: checks, versions, errors with advice, reading back, recovery.

pub mod daemon;
pub mod plugin;
mod wiring;

/// The variable that names the daemon's socket: the plugin need not parse its configuration to find it.
pub const SOCKET: &str = "FLOOR_SOCKET";
/// What an answer of the daemon's begins with when it failed.
const FAILED: &str = "error: ";
/// The longest message either way.
const MESSAGE_MAX: usize = 16 * 1024;
