//! An ENI's own primary address, by whoever tells it.
//!
//! Owns the order of the sources and what each may be believed. EC2 is the truth; for seconds after a change it may not
//! tell the address at all, and without it an ENI cannot be used: no route, no gateway, and nothing that keeps the node's
//! own address from a container. A source that is not EC2 is believed only for an address of the ENI's subnet that EC2
//! lists as nothing else. Does not resolve names: that is an effect.

use crate::cloud::{EniObservation, MetadataEni};
use crate::record::EniRecord;
use eni_proto::ids::EniId;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// Who told a primary address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// EC2.
    Ec2,
    /// Our record of what EC2 told before.
    Record,
    /// The metadata service: the first of `local-ipv4s`.
    Metadata,
    /// The private DNS name, which has it in it: `ip-10-0-1-10.eu-central-1.compute.internal` (EC2 user guide, "EC2
    /// instance hostnames and domains", IP name).
    Name,
    /// What the private DNS name resolves to: a resource name (`i-0123….eu-central-1.compute.internal`) has no address
    /// in it.
    Resolved,
}

impl Source {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Source::Ec2 => "EC2",
            Source::Record => "its record",
            Source::Metadata => "the metadata service",
            Source::Name => "its private DNS name",
            Source::Resolved => "what its private DNS name resolves to",
        }
    }
}

/// An ENI whose primary address nobody has told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unaddressed {
    /// Which.
    pub eni: EniId,
    /// Its private DNS name, when it has one that is worth resolving.
    pub name: Option<String>,
}

/// The primary address of an ENI and who told it: EC2, the record, the metadata service, the private DNS name, what that
/// was resolved to.
pub(super) fn find(
    eni: &EniObservation,
    known: Option<&EniRecord>,
    metadata: Option<&[MetadataEni]>,
    resolved: &BTreeMap<EniId, Vec<Ipv4Addr>>,
) -> Option<(Ipv4Addr, Source)> {
    if let Some(primary) = eni.primary {
        return Some((primary, Source::Ec2));
    }
    if let Some(known) = known {
        return Some((known.primary, Source::Record));
    }
    let fits = |address: &Ipv4Addr| {
        let else_where = eni.secondary.contains(address) || eni.prefixes.iter().any(|p| p.contains(address));
        eni.subnet_cidr.contains(address) && !else_where
    };
    let told = metadata.into_iter().flatten().find(|told| told.mac == eni.mac);
    let told = told.filter(|told| told.id.as_ref().is_none_or(|id| *id == eni.id));
    if let Some(address) = told.and_then(|told| told.addresses.first().copied()).filter(fits) {
        return Some((address, Source::Metadata));
    }
    if let Some(address) = eni.private_dns_name.as_deref().and_then(parse).filter(fits) {
        return Some((address, Source::Name));
    }
    let answers = resolved.get(&eni.id)?;
    let mut fitting = answers.iter().copied().filter(fits);
    // Several are no answer to "which".
    match (fitting.next(), fitting.next()) {
        (Some(address), None) => Some((address, Source::Resolved)),
        _ => None,
    }
}

/// The address in an IP name.
fn parse(name: &str) -> Option<Ipv4Addr> {
    let label = name.split('.').next()?.strip_prefix("ip-")?;
    let octets: Vec<u8> = label.split('-').map(|octet| octet.parse().ok()).collect::<Option<_>>()?;
    <[u8; 4]>::try_from(octets).ok().map(Ipv4Addr::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ip_name_has_its_address_in_it_and_a_resource_name_has_not() {
        let address = Some(Ipv4Addr::new(10, 0, 1, 10));
        assert_eq!(parse("ip-10-0-1-10.eu-central-1.compute.internal"), address);
        assert_eq!(parse("ip-10-0-1-10.ec2.internal"), address);
        for name in
            ["i-0123456789abcdef.eu-central-1.compute.internal", "ip-10-0-1.x", "ip-10-0-1-10-1.x", ""]
        {
            assert_eq!(parse(name), None, "{name}");
        }
        assert_eq!(parse("ip-10-0-1-300.x"), None);
    }
}
