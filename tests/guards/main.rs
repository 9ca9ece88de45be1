//! What an ADD and a DEL cost and leave, by count: system calls, netlink messages, commits, links, routes, rules,
//! descriptors, the plugin's file.
//!
//! Owns the limits, each a constant with its reason beside what it limits. Nothing here is timed, so a busy machine
//! fails nothing. Each count has a floor, too: one that reads nothing fails. Does not prove that anything works: the
//! other tiers do.

// All of this program is a test; the figures are for who reads its log.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod commits;
mod descriptors;
mod host;
mod many;
mod netlink;
mod plugin;
mod recording;
mod strace;
mod syscalls;
