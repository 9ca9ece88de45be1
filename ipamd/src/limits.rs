//! The process's own limits: how many descriptors it may have.
//!
//! Owns the sum of what the sockets' bounds need, and raising the limit to it. A limit that stays too low is a note to
//! the operator, not a reason to end: with few sandboxes it is never reached.

use crate::config::Sockets;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// What is open beside connections and sandboxes: netlink sockets, the store, the runtimes, `debug.sock` and
/// `/metrics` with 32 connections each, nft's pipes.
const MARGIN: u64 = 128;
/// Each operation under way holds its sandbox's socket and, while it wires, its namespace.
const PER_OPERATION: u64 = 2;

/// Sees to it that the sockets' bounds fit the limit of open descriptors; what is worth a word to the operator.
pub fn raise_descriptors(sockets: &Sockets) -> Option<String> {
    let needed = sockets.max_connections as u64 + PER_OPERATION * sockets.max_waiters as u64 + MARGIN;
    let (soft, hard) = match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok(limits) => limits,
        Err(error) => return Some(format!("the limit of open descriptors could not be read: {error}")),
    };
    let wanted = raised(soft, hard, needed);
    let set = if wanted > soft { setrlimit(Resource::RLIMIT_NOFILE, wanted, hard) } else { Ok(()) };
    let limit = if set.is_ok() { wanted } else { soft };
    (limit < needed).then(|| {
        format!(
            "at most {limit} descriptors may be open, {needed} are needed for sockets.max_connections and \
             sockets.max_waiters: raise LimitNOFILE, or lower them"
        )
    })
}

/// The soft limit to ask for: what is needed, as far as the hard one lets, never less than there is.
fn raised(soft: u64, hard: u64, needed: u64) -> u64 {
    soft.max(needed.min(hard))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_follows_the_need_up_to_the_hard_one() {
        assert_eq!(raised(1024, 524_288, 2176), 2176);
        assert_eq!(raised(1024, 1500, 2176), 1500);
        assert_eq!(raised(4096, 4096, 2176), 4096);
    }

    #[test]
    fn bounds_that_cannot_be_met_are_told() {
        assert_eq!(raise_descriptors(&Sockets { max_connections: 8, max_waiters: 1 }), None);
        let note = raise_descriptors(&Sockets { max_connections: usize::MAX / 2, max_waiters: 1 }).unwrap();
        assert!(note.contains("LimitNOFILE"), "{note}");
    }
}
