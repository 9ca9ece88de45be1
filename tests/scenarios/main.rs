//! Scenarios of a node at AWS on a virtual clock: the real owner over the strict EC2, effect by effect, with latencies.
//!
//! Owns the stories that operators tell of such nodes, one test each: bursts, full subnets, throttling, quotas, an EC2 that
//! is away. Faults at random are the simulation's (`tests/sim`), whose kernel and store are used here.

#[path = "../sim/kernel.rs"]
#[allow(dead_code, reason = "the simulation uses all of it")]
mod kernel;
#[path = "../sim/world.rs"]
#[allow(dead_code, reason = "the simulation uses all of it")]
mod world;

mod away;
mod burst;
mod late;
mod node;
mod refusals;
