//! Addresses and prefixes: assigned, unassigned, and how many there may be.
//!
//! Owns those checks.

use super::{Check, Contract, Outcome, holds, same};
use ipamd_core::cloud::{CloudErrorKind, EniObservation, Mutated, Mutation};
use ipnet::Ipv4Net;
use std::net::Ipv4Addr;

const ASSIGN: &str = "API_AssignPrivateIpAddresses";
const UNASSIGN: &str = "API_UnassignPrivateIpAddresses";
const PREFIXES: &str = "EC2 user guide, Prefix delegation for Amazon EC2 network interfaces";

pub(super) const CHECKS: &[Check] = &[
    Check {
        name: "an assign answers the new addresses and no others",
        source: ASSIGN,
        needs: |c| c.can.assign_tells_new,
        run: |c| Box::pin(assign_tells_new(c)),
    },
    Check {
        name: "assigned addresses are described, unassigned ones no more",
        source: UNASSIGN,
        needs: |_| true,
        run: |c| Box::pin(assigned_and_unassigned(c)),
    },
    Check {
        name: "only secondary addresses of the ENI can be unassigned",
        source: UNASSIGN,
        needs: |c| c.can.unassign_checked,
        run: |c| Box::pin(unassign_is_checked(c)),
    },
    Check {
        name: "an ENI carries as many addresses as its instance's type, or none of a call",
        source: "EC2 user guide, Maximum IP addresses per network interface",
        needs: |c| c.can.limits,
        run: |c| Box::pin(address_limit(c)),
    },
    Check {
        name: "a prefix is an aligned /28 of the subnet, at creation and later",
        source: PREFIXES,
        needs: |c| c.can.prefixes,
        run: |c| Box::pin(prefixes_come(c)),
    },
    Check {
        name: "a prefix counts as one address of the ENI",
        source: PREFIXES,
        needs: |c| c.can.prefixes && c.can.limits,
        run: |c| Box::pin(prefixes_count(c)),
    },
    Check {
        name: "a prefix is unassigned as a whole, and once",
        source: UNASSIGN,
        needs: |c| c.can.prefixes,
        run: |c| Box::pin(prefix_is_unassigned(c)),
    },
    Check {
        name: "addresses and prefixes cannot be asked for in one call",
        source: "API_CreateNetworkInterface, Ipv4PrefixCount",
        needs: |c| c.can.prefixes,
        run: |c| Box::pin(not_both(c)),
    },
];

pub(super) fn assign(eni: &EniObservation, count: u32, prefixes: u32) -> Mutation {
    Mutation::Assign { eni: eni.id.clone(), count, prefixes }
}

pub(super) fn unassign(eni: &EniObservation, addresses: &[Ipv4Addr], prefixes: &[Ipv4Net]) -> Mutation {
    Mutation::Unassign { eni: eni.id.clone(), addresses: addresses.to_vec(), prefixes: prefixes.to_vec() }
}

pub(super) async fn new_prefixes(
    c: &Contract<'_>,
    eni: &EniObservation,
    count: u32,
) -> Result<Vec<Ipv4Net>, String> {
    match c.api.mutate(&assign(eni, 0, count)).await {
        Ok(Mutated::AssignedPrefixes(prefixes)) => Ok(prefixes),
        other => Err(format!("assigning prefixes: {other:?}")),
    }
}

async fn assign_tells_new(c: &Contract<'_>) -> Outcome {
    let eni = c.created(1, 0).await?;
    let answer = c.api.mutate(&assign(&eni, 2, 0)).await.map_err(|e| e.to_string())?;
    let Mutated::Assigned(new) = answer else { return Err(format!("{answer:?}")) };
    same("how many", &new.len(), &2)?;
    holds(!new.iter().any(|a| eni.all_addresses().any(|old| old == *a)), || {
        format!("{new:?} are not all new to {eni:?}")
    })?;
    let seen = c.found(&eni.id).await?;
    same("described", &seen.secondary.len(), &3)?;
    holds(new.iter().all(|a| seen.secondary.contains(a)), || format!("{new:?} are not all in {seen:?}"))
}

async fn assigned_and_unassigned(c: &Contract<'_>) -> Outcome {
    let eni = c.created(1, 0).await?;
    c.done(&assign(&eni, 2, 0)).await?;
    let grown = c.found(&eni.id).await?;
    same("secondary addresses", &grown.secondary.len(), &3)?;
    same("its own", &grown.primary, &eni.primary)?;
    let (gone, kept): (Vec<_>, Vec<_>) = grown.secondary.iter().partition(|a| **a == eni.secondary[0]);
    c.done(&unassign(&eni, &gone, &[])).await?;
    let mut left = c.found(&eni.id).await?.secondary;
    left.sort_unstable();
    let mut kept = kept;
    kept.sort_unstable();
    same("what is left", &left, &kept)
}

async fn unassign_is_checked(c: &Contract<'_>) -> Outcome {
    let (eni, other) = (c.created(1, 0).await?, c.created(1, 0).await?);
    let own = eni.primary.ok_or("it has an address")?;
    c.refused(&unassign(&eni, &[own], &[]), CloudErrorKind::Other).await?;
    c.refused(&unassign(&eni, &[eni.secondary[0], other.secondary[0]], &[]), CloudErrorKind::Other).await?;
    same("all or nothing", &c.found(&eni.id).await?.secondary, &eni.secondary)?;
    c.done(&unassign(&eni, &eni.secondary, &[])).await?;
    c.refused(&unassign(&eni, &eni.secondary, &[]), CloudErrorKind::Other).await.map(|_| ())
}

async fn address_limit(c: &Contract<'_>) -> Outcome {
    let most = c.limits().await?.addresses_per_eni;
    let eni = c.attached(most - 2, 1).await?;
    c.refused(&assign(&eni, 2, 0), CloudErrorKind::LimitReached).await?;
    same("all or nothing", &c.found(&eni.id).await?.secondary.len(), &(most as usize - 2))?;
    c.done(&assign(&eni, 1, 0)).await?;
    let error = c.refused(&assign(&eni, 1, 0), CloudErrorKind::LimitReached).await?;
    same("code", &error.code.as_deref(), &Some("PrivateIpAddressLimitExceeded"))
}

fn is_prefix(prefix: &Ipv4Net, eni: &EniObservation) -> Outcome {
    let aligned = prefix.prefix_len() == 28 && prefix.addr() == prefix.network();
    holds(aligned && eni.subnet_cidr.contains(prefix), || format!("{prefix} of {}", eni.subnet_cidr))
}

async fn prefixes_come(c: &Contract<'_>) -> Outcome {
    let eni = c.created(0, 1).await?;
    same("at creation", &(eni.secondary.len(), eni.prefixes.len()), &(0, 1))?;
    let mut new = new_prefixes(c, &eni, 2).await?;
    same("how many", &new.len(), &2)?;
    c.done(&assign(&eni, 1, 0)).await?;
    let seen = c.found(&eni.id).await?;
    new.extend(&eni.prefixes);
    new.sort_unstable();
    let mut described = seen.prefixes.clone();
    described.sort_unstable();
    same("described", &described, &new)?;
    same("both kinds on one ENI", &seen.secondary.len(), &1)?;
    for prefix in &seen.prefixes {
        is_prefix(prefix, &seen)?;
        let overlaps = seen.primary.iter().chain(&seen.secondary).any(|address| prefix.contains(address));
        holds(!overlaps, || format!("{prefix} holds an address of its own: {seen:?}"))?;
    }
    same("for containers", &seen.for_containers().count(), &(1 + 3 * 16))
}

async fn prefixes_count(c: &Contract<'_>) -> Outcome {
    let most = c.limits().await?.addresses_per_eni;
    let eni = c.attached(most - 3, 1).await?;
    c.refused(&assign(&eni, 0, 3), CloudErrorKind::LimitReached).await?;
    new_prefixes(c, &eni, 1).await?;
    c.done(&assign(&eni, 1, 0)).await?;
    c.refused(&assign(&eni, 0, 1), CloudErrorKind::LimitReached).await?;
    c.refused(&assign(&eni, 1, 0), CloudErrorKind::LimitReached).await.map(|_| ())
}

async fn prefix_is_unassigned(c: &Contract<'_>) -> Outcome {
    let eni = c.created(0, 2).await?;
    let inside = Ipv4Addr::from_bits(eni.prefixes[0].network().to_bits() + 3);
    c.refused(&unassign(&eni, &[inside], &[]), CloudErrorKind::Other).await?;
    c.done(&unassign(&eni, &[], &eni.prefixes[..1])).await?;
    same("what is left", &c.found(&eni.id).await?.prefixes, &eni.prefixes[1..].to_vec())?;
    c.refused(&unassign(&eni, &[], &eni.prefixes[..1]), CloudErrorKind::Other).await.map(|_| ())
}

async fn not_both(c: &Contract<'_>) -> Outcome {
    let error = c.refused(&c.create(1, 1), CloudErrorKind::Other).await?;
    same("create", &error.code.as_deref(), &Some("InvalidParameterCombination"))?;
    let eni = c.created(1, 0).await?;
    let error = c.refused(&assign(&eni, 1, 1), CloudErrorKind::Other).await?;
    same("assign", &error.code.as_deref(), &Some("InvalidParameterCombination"))
}
