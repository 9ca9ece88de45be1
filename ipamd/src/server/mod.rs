//! The sockets that are served on the main loop.
//!
//! Owns `cni.sock`. `debug.sock` is served on the outer runtime (see `debug`).

pub mod cni;
pub mod request;
