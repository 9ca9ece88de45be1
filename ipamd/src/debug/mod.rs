//! `debug.sock`: questions to a running ipamd, over HTTP and JSON.
//!
//! Owns the way of a question to the main loop (`query`) and the server on the outer runtime (`server`). Read-only, the switches
//! excepted, which are root's.

pub mod query;
pub mod server;
