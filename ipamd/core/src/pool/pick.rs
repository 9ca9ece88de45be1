//! Which address comes next.
//!
//! Owns the order: the ENI that holds most allocated addresses first, so that the others drain and can be given back;
//! within it the prefix that holds most, for the same reason, then the addresses outside of prefixes, and a prefix that
//! holds nothing last; of these the address that was free the longest, so that none is reused sooner than it must be.

use super::Pool;
use super::prefixes::{Group, GroupKey};
use std::cmp::Reverse;
use std::net::Ipv4Addr;

impl Pool {
    pub(super) fn pick(&self) -> Option<Ipv4Addr> {
        let has_free = |groups: &std::collections::BTreeMap<GroupKey, Group>| {
            groups.values().any(|group| !group.free.is_empty())
        };
        let (_, groups) = self
            .groups
            .iter()
            .filter_map(|(id, groups)| Some((self.enis.get(id)?, groups)))
            .filter(|(eni, groups)| eni.is_usable() && has_free(groups))
            .min_by_key(|(eni, _)| {
                let held = self.eni_counts(&eni.record.id).allocated;
                (Reverse(held), eni.record.device_index)
            })?;
        let first = groups.iter().filter_map(|(key, group)| Some((rank(*key, group), *group.free.first()?)));
        first.min().map(|(_, (_, address))| address)
    }
}

fn rank(key: GroupKey, group: &Group) -> (u8, Reverse<usize>) {
    let class = match key {
        Some(_) if group.is_empty() => 2,
        Some(_) => 0,
        None => 1,
    };
    (class, Reverse(group.counts.allocated))
}
