//! Every netlink, network namespace, nft and conntrack call of ipamd, and a stateful fake of the kernel beside it.
//!
//! Owns the sockets, the messages and the reading of what the kernel answers, in the terms of `ipamd_core::kernel`.
//! Every call but [`watch`] is blocking and bounded. CAP_NET_ADMIN is enough for [`host`] and [`lock`]: nothing there enters a
//! namespace or writes under /proc. [`netns`] needs CAP_SYS_ADMIN and is for the embedded VPC and for tests. Does not
//! decide anything: the owner and the planners do.

mod answer;
mod apply;
mod conntrack;
mod dump;
pub mod fail_point;
pub mod fake;
mod forward;
pub mod host;
pub mod lock;
mod look;
mod message;
pub mod monitor;
pub mod netns;
mod nfnl;
mod nft;
mod others;
mod ours;
mod program;
mod reap;
pub mod sandbox;
mod socket;
pub mod stats;
pub mod sys;
pub mod watch;
mod wire;

pub use ours::describe;
