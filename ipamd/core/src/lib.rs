//! ipamd's decisions.
//!
//! Owns the state machine of attachments and addresses (`owner`, `pool`), what the host's network should look like
//! (`host_net`), what an attachment should look like (`check`), which attachments may go (`gc`), the data of effects and
//! observations (`kernel`, `cloud`), when EC2 may be called (`budget`), when reconcilers run (`reconcile`), what a
//! tombstone means (`tombstone`), and the invariants that hold after every step (`invariant`).
//!
//! Does not own a clock, a thread, a socket, a log: time comes in as an argument, effects go out as data, and the
//! shell (crate `ipamd`) or a seeded scheduler (tests) carries them out.

pub mod budget;
pub mod capacity;
pub mod check;
pub mod cloud;
pub mod eni_sync;
pub mod gc;
pub mod host_net;
pub mod invariant;
pub mod kernel;
pub mod limits;
pub mod owner;
pub mod pool;
pub mod reconcile;
pub mod record;
pub mod time;
pub mod tombstone;
