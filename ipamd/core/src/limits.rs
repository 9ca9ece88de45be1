//! What instance types carry: EC2's answer, else a table of published facts; and how many pods follow from it.
//!
//! Owns the look-up in the table, which of the two sources counts, the advice for `--max-pods`, and two families that EC2
//! does not have, whose sizes are in their names: `bench` for room for more than a thousand containers (real types reach
//! that by prefixes only), `test` for nodes that are full quickly; a `p` at the end stands for interfaces that take
//! prefixes. The table is made from `data/eni-limits.csv` by
//! `scripts/make-limits`; a test compares them. Does not ask EC2.

mod table;

use crate::cloud::{CloudError, InstanceLimits};
use crate::eni_sync::Skipped;
use crate::kernel::MAX_ENI_NUMBER;
use eni_proto::debug::{LimitsView, OthersEniView};
use std::fmt;
use table::LIMITS;

/// The families of our own: `bench.8x150` carries 8 network interfaces of 150 addresses each, `test.3x4p` 3 of 4
/// addresses or prefixes.
const SYNTHETIC: [&str; 2] = ["bench.", "test."];
/// Addresses of a /28.
const PER_PREFIX: u32 = 16;
/// Pods that need no address of the pool: kube-proxy and the CNI's own, on the host's network.
const ON_HOST: u32 = 2;
/// EKS's advice ("Choosing an EC2 instance type", maximum pods): at most so many pods on an instance with fewer than
/// [`MANY_VCPUS`] vCPUs …
const FEW_PODS: u32 = 110;
/// … and so many on a larger one.
const MANY_PODS: u32 = 250;
/// See [`FEW_PODS`].
const MANY_VCPUS: u32 = 30;

/// Who told the limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// EC2.
    DescribeInstanceTypes,
    /// The built-in table, because EC2 did not answer: why not.
    Table(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::DescribeInstanceTypes => f.write_str("DescribeInstanceTypes"),
            Source::Table(why) => write!(f, "the built-in table, for EC2 did not tell: {why}"),
        }
    }
}

/// The limits of an instance type: what EC2 answered, else the table's. The error is EC2's, when the table does not have
/// the type either.
pub fn choose(
    instance_type: &str,
    told: Result<InstanceLimits, CloudError>,
) -> Result<(InstanceLimits, Source), Box<CloudError>> {
    match told {
        Ok(limits) => Ok((limits, Source::DescribeInstanceTypes)),
        Err(error) => match of(instance_type) {
            Some(limits) => Ok((limits, Source::Table(error.to_string()))),
            None => Err(Box::new(CloudError {
                message: format!(
                    "{}; the built-in table does not have {instance_type} either",
                    error.message
                ),
                ..error
            })),
        },
    }
}

/// The limits of an instance type by the table; `None` when it does not have it and it is none of our own.
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

/// What an operator is shown: what the type carries, whose of its ENIs are others', and how many pods follow.
pub fn view(instance_type: &str, limits: &InstanceLimits, source: String, skipped: &[Skipped]) -> LimitsView {
    let others = skipped.iter().filter(|eni| eni.network_card == 0).count();
    let MaxPods { addresses, prefixes, cap } = max_pods(limits, others);
    let others = skipped.iter().map(|eni| OthersEniView {
        id: eni.eni.clone(),
        device_index: eni.device_index,
        network_card: eni.network_card,
        reason: eni.reason.to_string(),
    });
    LimitsView {
        instance_type: instance_type.to_owned(),
        source,
        enis: limits.enis,
        addresses_per_eni: limits.addresses_per_eni,
        prefixes: limits.prefixes,
        vcpus: limits.vcpus,
        others: others.collect(),
        max_pods_addresses: addresses,
        max_pods_prefixes: prefixes,
        max_pods_cap: cap,
    }
}

/// How many pods an instance can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxPods {
    /// With single secondary addresses: ENIs × (addresses − 1) + 2.
    pub addresses: u32,
    /// With prefixes: sixteen times the addresses, plus 2, capped by the vCPUs; none when its ENIs take no prefixes.
    pub prefixes: Option<u32>,
    /// What `prefixes` is capped at.
    pub cap: u32,
}

/// The `--max-pods` that follow from what an instance type carries, `others` of whose ENIs on network card 0 are not ours
/// to use. An instance whose vCPUs are not known has the lower cap.
pub fn max_pods(limits: &InstanceLimits, others: usize) -> MaxPods {
    let others = u32::try_from(others).unwrap_or(u32::MAX);
    let enis = limits.enis.min(MAX_ENI_NUMBER).saturating_sub(others);
    let secondary = enis.saturating_mul(limits.addresses_per_eni.saturating_sub(1));
    let cap = if limits.vcpus.is_some_and(|vcpus| vcpus >= MANY_VCPUS) { MANY_PODS } else { FEW_PODS };
    let with_prefixes = secondary.saturating_mul(PER_PREFIX).saturating_add(ON_HOST).min(cap);
    MaxPods {
        addresses: secondary.saturating_add(ON_HOST),
        prefixes: limits.prefixes.then_some(with_prefixes),
        cap,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::CloudErrorKind;

    fn pair(limits: Option<InstanceLimits>) -> Option<(u32, u32)> {
        limits.map(|l| (l.enis, l.addresses_per_eni))
    }

    #[test]
    fn well_known_types_have_their_limits() {
        assert_eq!(pair(of("m5.large")), Some((3, 10)));
        assert_eq!(pair(of("m5.4xlarge")), Some((8, 30)));
        assert_eq!(pair(of("m5.24xlarge")), Some((15, 50)));
        assert_eq!(of("m5.huge"), None);
        assert_eq!(most_addresses(), 64);
        let prefixes = |name| of(name).unwrap().prefixes;
        assert!(prefixes("m5.large") && prefixes("c5.metal") && !prefixes("m4.large"));
    }

    #[test]
    fn our_own_types_are_told_by_their_names_and_not_in_the_table() {
        assert_eq!(pair(of("bench.8x150")), Some((8, 150)));
        assert_eq!(of("test.4x6"), Some(InstanceLimits::new(4, 6)));
        assert!(of("test.4x6p").unwrap().prefixes);
        assert!(LIMITS.iter().all(|row| SYNTHETIC.iter().all(|family| !row.0.starts_with(family))));
        assert_eq!((of("test.0x6"), of("test.4"), of("bench.x")), (None, None, None));
    }

    #[test]
    fn the_table_is_what_the_data_says() {
        let data = include_str!("../data/eni-limits.csv");
        let mut rows = 0;
        for line in data.lines().skip(1) {
            let cells: Vec<&str> = line.split(',').collect();
            let [name, all, addresses, _, hypervisor, metal, cards] = cells[..] else { panic!("{line}") };
            let first = cards.split(';').next().and_then(|card| card.strip_prefix("0:"));
            let limits = of(name).unwrap_or_else(|| panic!("{name} is not in the table"));
            assert_eq!(limits.enis.to_string(), first.unwrap_or(all), "{name}");
            assert_eq!(limits.addresses_per_eni.to_string(), addresses, "{name}");
            assert_eq!(limits.prefixes, hypervisor == "nitro" || metal == "true", "{name}");
            rows += 1;
        }
        assert_eq!(rows, LIMITS.len());
    }

    #[test]
    fn pods_follow_from_enis_and_addresses_and_are_capped_with_prefixes() {
        let limits = InstanceLimits { prefixes: true, vcpus: Some(16), ..InstanceLimits::new(8, 30) };
        assert_eq!(max_pods(&limits, 0), MaxPods { addresses: 234, prefixes: Some(110), cap: 110 });
        assert_eq!(max_pods(&limits, 2).addresses, 6 * 29 + 2, "two ENIs are others'");
        let large = InstanceLimits { vcpus: Some(96), ..limits.clone() };
        assert_eq!(max_pods(&large, 0).prefixes, Some(250));
        let small = InstanceLimits { prefixes: true, ..InstanceLimits::new(2, 4) };
        assert_eq!(max_pods(&small, 0), MaxPods { addresses: 8, prefixes: Some(6 * 16 + 2), cap: 110 });
        assert_eq!(max_pods(&InstanceLimits::new(2, 4), 0).prefixes, None);
        assert_eq!(max_pods(&limits, 20).addresses, 2, "others have all of them");
    }

    #[test]
    fn ec2_counts_before_the_table_and_the_table_before_nothing() {
        let told = InstanceLimits::new(4, 15);
        assert_eq!(choose("m5.large", Ok(told.clone())), Ok((told, Source::DescribeInstanceTypes)));
        let denied = CloudError::new(CloudErrorKind::Unauthorized, "DescribeInstanceTypes", "not authorized");
        let (limits, source) = choose("m5.large", Err(denied.clone())).unwrap();
        assert_eq!((limits.enis, limits.addresses_per_eni), (3, 10));
        assert!(source.to_string().contains("not authorized"), "{source}");
        let unknown = choose("m99.huge", Err(denied)).unwrap_err();
        assert!(unknown.to_string().contains("m99.huge either"), "{unknown}");
    }
}
