//! What was sent: the counts that metrics and guard tests read.
//!
//! Owns the counters. Does not interpret them. An expected answer (a route that is gone already) counts as an error
//! too: it is what the kernel said.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts over all sockets that share them. `messages`, `sends` and `errors` are of rtnetlink alone.
#[derive(Debug, Default)]
pub struct Counters {
    /// rtnetlink messages sent.
    pub messages: AtomicU64,
    /// Send calls that carried them.
    pub sends: AtomicU64,
    /// rtnetlink messages that the kernel answered with an error.
    pub errors: AtomicU64,
    /// nfnetlink messages sent (conntrack, nft).
    pub netfilter_messages: AtomicU64,
    /// nfnetlink messages that the kernel answered with an error.
    pub netfilter_errors: AtomicU64,
    /// Runs of the nft program.
    pub nft_runs: AtomicU64,
    /// Runs of iptables programs.
    pub iptables_runs: AtomicU64,
}

/// Which family's counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    /// NETLINK_ROUTE.
    Route,
    /// NETLINK_NETFILTER.
    Netfilter,
}

impl Counters {
    pub(crate) fn sent(&self, family: Family, messages: usize) {
        let messages = messages as u64;
        match family {
            Family::Route => {
                self.messages.fetch_add(messages, Ordering::Relaxed);
                self.sends.fetch_add(1, Ordering::Relaxed);
            }
            Family::Netfilter => {
                self.netfilter_messages.fetch_add(messages, Ordering::Relaxed);
            }
        }
    }

    pub(crate) fn refused(&self, family: Family) {
        let errors = match family {
            Family::Route => &self.errors,
            Family::Netfilter => &self.netfilter_errors,
        };
        errors.fetch_add(1, Ordering::Relaxed);
    }
}
