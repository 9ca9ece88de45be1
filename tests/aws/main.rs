//! The tier `aws`: the real SDK, asked through core's traits.
//!
//! Owns the evidence that no AWS account is needed for: the exact parameters of every call beside EC2's service model,
//! a foreign EC2 (moto), an instance metadata service with its failures, and the IAM policy. What the owner does with
//! the answers is the simulation's.

#![allow(clippy::unwrap_used, reason = "all of this crate is tests, what they share, too")]

mod failures;
mod golden;
mod imds;
mod metadata;
mod model;
mod moto;
mod policy;
mod recorder;
mod server;
mod whole;

/// Runs an answer to its end.
fn wait<T>(answer: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(answer)
}
