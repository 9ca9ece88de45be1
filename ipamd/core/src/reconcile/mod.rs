//! When reconcilers run.
//!
//! Owns the driver: period, wake-up, back-off, time-out, single flight and status of each reconciler. Does not
//! observe, plan or execute: the owner starts a pass when the driver says so and tells it how the pass ended.

pub mod driver;
