//! ipamd: the IPAM daemon of eni-cni, one per node.
//!
//! Owns the shell around `ipamd_core`: the main loop, the threads that carry effects out, the store, the sockets, the
//! configuration, metrics, and `ipamctl`. Decides nothing about addresses: the core does.

pub mod clock;
pub mod completions;
pub mod config;
pub mod ctl;
pub mod debug;
pub mod entry;
pub mod executors;
pub mod instance_lock;
pub mod limits;
pub mod main_loop;
pub mod memory;
pub mod metrics;
pub mod notes;
pub mod panics;
pub mod queries;
pub mod queue;
pub mod run;
pub mod server;
pub mod shell;
pub mod spool;
pub mod store;
pub mod take_over;
pub mod telemetry;
