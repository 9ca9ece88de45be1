//! Giving addresses and prefixes back to EC2.
//!
//! Owns that they leave the pool with the commit that precedes the call, that no look brings them back that is older than
//! the call, and that they come back when EC2 refused. Also how patient the node is: what is given back and asked for
//! again soon is kept longer the next time. Does not decide how much goes, nor which addresses: the planner and the pool do.

use super::super::Owner;
use super::Growth;
use crate::capacity::{self, Amount, REGRET_MOST, Targets};
use crate::cloud::{CloudError, CloudErrorKind, Mutation, addresses_of};
use crate::record::Write;
use crate::time::Timestamp;
use eni_proto::ids::EniId;
use ipnet::Ipv4Net;
use std::net::Ipv4Addr;
use std::time::Duration;

/// For so long EC2's describes may still name what it was given back: they are eventually consistent, mostly within seconds
/// (EC2 developer guide, "Eventual consistency"). As long as the peer's cache of recently freed addresses.
const STAYS_OUT: Duration = Duration::from_secs(60);
/// Asked for again within so many times the wait is soon.
const SOON: u32 = 10;

impl Owner {
    /// Takes free addresses or wholly free prefixes out of the pool and asks EC2 to take them.
    pub(super) fn unassign(&mut self, eni: &EniId, amount: Amount, now: Timestamp) {
        let back = self.pool.give_back(eni, amount, now + STAYS_OUT);
        if back.addresses.is_empty() {
            return;
        }
        let mut batch: Vec<Write> = back.addresses.iter().copied().map(Write::DeleteAddress).collect();
        batch.extend(back.record.map(Write::PutEni));
        self.wake_host_net(now);
        let singles = if back.prefixes.is_empty() { back.addresses } else { Vec::new() };
        let mutation = Mutation::Unassign { eni: eni.clone(), addresses: singles, prefixes: back.prefixes };
        self.mutate(mutation, batch, now);
    }

    /// EC2 has them, or nobody knows: from now on a look may name them by mistake for a while.
    pub(super) fn unassigned(&mut self, mutation: &Mutation, now: Timestamp) {
        let Mutation::Unassign { addresses, prefixes, .. } = mutation else { return };
        self.pool.stay_out(&all_of(addresses, prefixes), now + STAYS_OUT);
    }

    /// EC2 has refused. Where it did not even look at them they are there as before; otherwise the next look says what is.
    pub(super) fn come_back(
        &mut self,
        mutation: &Mutation,
        error: Option<&CloudError>,
        now: Timestamp,
    ) -> Vec<Write> {
        let Mutation::Unassign { eni, addresses, prefixes } = mutation else { return Vec::new() };
        let all = all_of(addresses, prefixes);
        self.pool.welcome(all.iter().copied());
        let untouched =
            error.is_none_or(|e| matches!(e.kind, CloudErrorKind::Throttled | CloudErrorKind::Unauthorized));
        let stands = self.pool.eni(eni).is_some_and(|e| e.record.state.is_laid());
        if !untouched || !stands {
            return Vec::new();
        }
        let mut batch = Vec::new();
        if !prefixes.is_empty() {
            batch.extend(self.pool.add_prefixes(eni, prefixes).map(Write::PutEni));
        }
        for address in all {
            batch.extend(self.pool.adopt(address, eni, now).map(Write::PutAddress));
        }
        self.wake_host_net(now);
        batch
    }

    /// After a crash: what was being given back stays out until looks are sure to be newer.
    pub(in crate::owner) fn keep_out_what_was_given_back(&mut self, now: Timestamp) {
        let given: Vec<Mutation> = self.growth.intents().map(|i| i.mutation.clone()).collect();
        for mutation in &given {
            self.unassigned(mutation, now);
        }
    }
}

impl Growth {
    /// Something is given back.
    pub(super) fn gave_back(&mut self, now: Timestamp) {
        self.surplus_since = None;
        self.released = Some(now);
    }

    /// Something is asked for: if it was given back a moment ago, that was too soon.
    pub(super) fn grew(&mut self, targets: &Targets, now: Timestamp) {
        let Some(released) = self.released.take() else { return };
        let soon = capacity::patience(targets, self.regret) * SOON;
        if now - released < soon {
            self.regret = (self.regret + 1).min(REGRET_MOST);
        } else {
            self.regret = self.regret.saturating_sub(1);
        }
    }
}

fn all_of(addresses: &[Ipv4Addr], prefixes: &[Ipv4Net]) -> Vec<Ipv4Addr> {
    addresses.iter().copied().chain(prefixes.iter().flat_map(addresses_of)).collect()
}
