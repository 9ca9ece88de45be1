//! The threads that carry effects out.
//!
//! Owns the queues to them, all bounded. Executors have no policy: they do one thing and report it.

pub mod budget;
pub mod cloud;
pub mod netlink;
