//! What instance types carry: a table of published facts.
//!
//! Owns the look-up, and two types that EC2 does not have: one with room for more than a thousand containers (real types
//! reach that by prefixes only) and one that is full quickly. The table is made from `data/eni-limits.csv` by `scripts/make-limits`; a test compares them.

use crate::limits_table::LIMITS;
use ipamd_core::cloud::InstanceLimits;

/// Types of our own, named by network interfaces and addresses per interface.
const SYNTHETIC: [(&str, u32, u32); 2] = [("bench.8x150", 8, 150), ("test.4x6", 4, 6)];

/// The limits of an instance type; `None` when the table does not have it.
pub fn of(instance_type: &str) -> Option<InstanceLimits> {
    let own = SYNTHETIC.iter().find(|row| row.0 == instance_type);
    let published = || LIMITS.binary_search_by(|row| row.0.cmp(instance_type)).ok().map(|at| &LIMITS[at]);
    let &(_, enis, addresses_per_eni) = own.or_else(published)?;
    Some(InstanceLimits { enis, addresses_per_eni })
}

/// The most addresses per interface of any published type.
pub fn most_addresses() -> u32 {
    LIMITS.iter().map(|row| row.2).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn well_known_types_have_their_limits() {
        assert_eq!(of("m5.large"), Some(InstanceLimits { enis: 3, addresses_per_eni: 10 }));
        assert_eq!(of("m5.4xlarge"), Some(InstanceLimits { enis: 8, addresses_per_eni: 30 }));
        assert_eq!(of("m5.24xlarge"), Some(InstanceLimits { enis: 15, addresses_per_eni: 50 }));
        assert_eq!(of("m5.huge"), None);
        assert_eq!(most_addresses(), 64);
    }

    #[test]
    fn our_own_types_are_told_by_their_names_and_not_in_the_table() {
        assert_eq!(of("bench.8x150"), Some(InstanceLimits { enis: 8, addresses_per_eni: 150 }));
        assert_eq!(of("test.4x6"), Some(InstanceLimits { enis: 4, addresses_per_eni: 6 }));
        assert!(LIMITS.iter().all(|row| SYNTHETIC.iter().all(|own| own.0 != row.0)));
    }
}
