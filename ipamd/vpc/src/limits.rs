//! What instance types carry: a table of published facts.
//!
//! Owns the look-up. The table is made from `data/eni-limits.csv` by `scripts/make-limits`; a test compares them.

use crate::limits_table::LIMITS;
use ipamd_core::cloud::InstanceLimits;

/// The limits of an instance type; `None` when the table does not have it.
pub fn of(instance_type: &str) -> Option<InstanceLimits> {
    let at = LIMITS.binary_search_by(|row| row.0.cmp(instance_type)).ok()?;
    let (_, enis, addresses_per_eni) = LIMITS[at];
    Some(InstanceLimits { enis, addresses_per_eni })
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
    }
}
