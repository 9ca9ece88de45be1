//! `eni-cni`, the CNI plugin: it reads what the runtime says, checks it, opens one netlink socket inside the
//! container's network namespace and hands that over to ipamd, which does the rest.
//!
//! Owns the CNI side: environment, network configuration, versions, error codes, and what is printed. It does not
//! own addresses, links or routes and keeps no state: one process per call, one thread, no runtime. The one file that it
//! writes is the tombstone of a DEL that ipamd does not answer.
//!
//! Verbs served: ADD, DEL, CHECK, GC, STATUS and VERSION, in CNI 0.3.1, 0.4.0, 1.0.0 and 1.1.0.

mod commands;
mod entry;
mod environment;
mod error;
mod input;
mod log;
mod netconf;
mod reply;
mod sandbox;
mod spool;
mod stamp;
mod told;

pub use entry::run;
