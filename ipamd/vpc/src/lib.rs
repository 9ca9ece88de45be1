//! An embedded VPC: what ipamd talks to when there is no AWS.
//!
//! Owns a strict model of EC2 and the instance metadata (`model`, pure: time is an argument), the words of its control
//! socket (`control`), a client of it (feature `client`), the same model by HTTP as EC2 and the metadata service
//! answer it (feature `http`; `standalone` is that and nothing more), and, for the program `embedded-vpc` (feature
//! `bin`), the network behind it: a VPC router, a peer host, an "internet" host and the node, each a network
//! namespace, with the source check that a real VPC has. The program is a process of its own: it outlives ipamd, as
//! AWS does.

pub mod control;
pub mod limits;
pub mod model;

#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "http")]
mod http;
#[cfg(feature = "bin")]
pub mod network;
#[cfg(feature = "bin")]
pub mod program;
#[cfg(feature = "http")]
mod served;
#[cfg(feature = "bin")]
mod server;
#[cfg(feature = "http")]
pub mod standalone;
