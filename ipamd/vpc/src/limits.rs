//! What instance types carry: `ipamd_core::limits`, under the name that this crate has always had it by.
//!
//! Owns nothing.

pub use ipamd_core::limits::{most_addresses, of};
