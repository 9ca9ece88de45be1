//! Which address comes next.
//!
//! Owns the order: the ENI that holds most allocated addresses first, so that the others drain and can be given
//! back; within it the address that was free the longest, so that none is reused sooner than it must be.

use super::Pool;
use std::cmp::Reverse;
use std::net::Ipv4Addr;

impl Pool {
    pub(super) fn pick(&self) -> Option<Ipv4Addr> {
        self.available
            .iter()
            .filter_map(|(id, free)| Some((self.enis.get(id)?, free.first()?)))
            .filter(|(eni, _)| eni.is_usable())
            .min_by_key(|(eni, _)| {
                let held = self.eni_counts(&eni.record.id).allocated;
                (Reverse(held), eni.record.device_index)
            })
            .map(|(_, &(_, address))| address)
    }
}
