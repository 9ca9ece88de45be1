//! What instance types carry: a table of published facts.
//!
//! Owns the look-up, and two families that EC2 does not have, whose sizes are in their names: `bench` for room for
//! more than a thousand containers (real types reach that by prefixes only), `test` for nodes that are full quickly; a
//! `p` at the end stands for interfaces that take prefixes. The table is made from `data/eni-limits.csv` by
//! `scripts/make-limits`; a test compares them.

use crate::limits_table::LIMITS;
use ipamd_core::cloud::InstanceLimits;

/// The families of our own: `bench.8x150` carries 8 network interfaces of 150 addresses each, `test.3x4p` 3 of 4
/// addresses or prefixes.
const SYNTHETIC: [&str; 2] = ["bench.", "test."];

/// The limits of an instance type; `None` when the table does not have it and it is none of our own.
pub fn of(instance_type: &str) -> Option<InstanceLimits> {
    if let Some(size) = SYNTHETIC.iter().find_map(|family| instance_type.strip_prefix(family)) {
        let (size, prefixes) = size.strip_suffix('p').map_or((size, false), |size| (size, true));
        let (enis, addresses) = size.split_once('x')?;
        let limits =
            InstanceLimits { prefixes, ..InstanceLimits::new(enis.parse().ok()?, addresses.parse().ok()?) };
        return (limits.enis > 0 && limits.addresses_per_eni > 0).then_some(limits);
    }
    let at = LIMITS.binary_search_by(|row| row.0.cmp(instance_type)).ok()?;
    let (_, enis, addresses_per_eni, prefixes) = LIMITS[at];
    Some(InstanceLimits { prefixes, ..InstanceLimits::new(enis, addresses_per_eni) })
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
        let nitro =
            |enis, addresses| Some(InstanceLimits { prefixes: true, ..InstanceLimits::new(enis, addresses) });
        assert_eq!(of("m5.large"), nitro(3, 10));
        assert_eq!(of("m5.4xlarge"), nitro(8, 30));
        assert_eq!(of("m5.24xlarge"), nitro(15, 50));
        assert_eq!(of("m5.metal"), nitro(15, 50), "bare metal");
        assert_eq!(of("m4.xlarge"), Some(InstanceLimits::new(4, 15)), "Xen");
        assert_eq!(of("m5.huge"), None);
        assert_eq!(most_addresses(), 64);
    }

    #[test]
    fn our_own_types_are_told_by_their_names_and_not_in_the_table() {
        assert_eq!(of("bench.8x150"), Some(InstanceLimits::new(8, 150)));
        assert_eq!(of("test.4x6"), Some(InstanceLimits::new(4, 6)));
        assert_eq!(of("test.4x6p"), Some(InstanceLimits { prefixes: true, ..InstanceLimits::new(4, 6) }));
        assert!(LIMITS.iter().all(|row| SYNTHETIC.iter().all(|family| !row.0.starts_with(family))));
        assert_eq!((of("test.0x6"), of("test.4"), of("bench.x")), (None, None, None));
    }

    #[test]
    fn the_table_is_what_the_data_says() {
        let row = |line: &'static str| {
            let columns: Vec<&str> = line.split(',').collect();
            let first_card = columns[6].split(';').next().and_then(|card| card.strip_prefix("0:"));
            let enis: u32 = first_card.unwrap_or(columns[1]).parse().unwrap();
            let prefixes = columns[4] == "nitro" || columns[5] == "true";
            (columns[0], enis, columns[2].parse::<u32>().unwrap(), prefixes)
        };
        let mut rows: Vec<_> = include_str!("../data/eni-limits.csv").lines().skip(1).map(row).collect();
        rows.sort_unstable();
        assert_eq!(rows, LIMITS, "run scripts/make-limits");
    }
}
