//! The host's filter table: whether what is forwarded is dropped, and our two rules that accept it.
//!
//! Owns the look (the policy by nfnetlink, which costs nothing; the rules by iptables-nft, only where it drops) and the
//! rules. They are laid with iptables-nft, not with nft: the table is that program's. It needs CAP_NET_ADMIN alone;
//! iptables-legacy needs CAP_NET_RAW too, so of its table only the trouble is told. Removes nothing: an accept for links
//! that are not there does no harm.

use crate::answer::attributes;
use crate::host::Host;
use crate::nfnl;
use crate::nft::{NFTA_TABLE_NAME, SUBSYSTEM};
use crate::program::{self, ProgramError};
use crate::socket::{CallError, Socket};
use crate::stats::Counters;
use ipamd_core::kernel::{FilterChain, Forward};
use netlink_packet_core::NLM_F_ACK;
use std::fs;
use std::process::ExitStatus;
use std::sync::atomic::Ordering;

/// iptables-nft's filter table.
pub(crate) const FILTER_TABLE: &str = "filter";
const PROGRAM: &str = "iptables-nft";
const LEGACY: &str = "iptables-legacy";
/// The tables that iptables-legacy has in this thread's network namespace. Not there: the kernel has none of it.
const LEGACY_TABLES: &str = "/proc/thread-self/net/ip_tables_names";
/// Every host end of a pod is named so, and no ENI's link.
const PODS: &str = "eni+";
/// What marks a rule as ours.
const COMMENT: &str = "eni-cni";

const NEW_CHAIN: u16 = nfnl::kind(SUBSYSTEM, 3);
const GET_CHAIN: u16 = nfnl::kind(SUBSYSTEM, 4);
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_POLICY: u16 = 5;
const NF_DROP: u32 = 0;

/// Why a rule was not looked for or not laid.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ForwardError {
    /// The program did nothing.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// It refused.
    #[error("{PROGRAM} ended with {status}: {errors}")]
    Refused { status: ExitStatus, errors: String },
}

/// What the filter table does with what is forwarded.
pub(crate) fn look(host: &mut Host) -> Result<Forward, CallError> {
    let mut forward = Forward::Open;
    if drops(&mut host.netfilter)? {
        let docker = chain(&mut host.netfilter, FilterChain::DockerUser.name())?.is_some();
        // Where the program cannot tell, the step that it is needed for says why; the rest of the look holds.
        let told = accepted(&host.counters, docker);
        let (chain, accepted) = told.unwrap_or((FilterChain::Forward, false));
        forward = Forward::Drops { chain, accepted };
    }
    let laid = !matches!(forward, Forward::Drops { accepted: false, .. });
    Ok(if laid && legacy_drops(&host.counters) { Forward::Legacy } else { forward })
}

/// Where our rules belong, and whether they are there. dockerd's chain counts only while FORWARD jumps to it.
fn accepted(counters: &Counters, docker: bool) -> Result<(FilterChain, bool), ForwardError> {
    let jump = ["-C", FilterChain::Forward.name(), "-j", FilterChain::DockerUser.name()];
    let docker = docker && has(counters, &jump)?;
    let chain = if docker { FilterChain::DockerUser } else { FilterChain::Forward };
    Ok((chain, missing(counters, chain)?.is_empty()))
}

/// Lays at the top of a chain what is missing of our two rules.
pub(crate) fn accept(host: &mut Host, chain: FilterChain) -> Result<(), ForwardError> {
    for direction in missing(&host.counters, chain)? {
        let rule = rule("-I", chain, direction);
        let ended = run(&host.counters, PROGRAM, &rule)?;
        if !ended.status.success() {
            return Err(ForwardError::Refused { status: ended.status, errors: ended.errors });
        }
    }
    Ok(())
}

fn rule(verb: &'static str, chain: FilterChain, direction: &'static str) -> [&'static str; 10] {
    [verb, chain.name(), direction, PODS, "-m", "comment", "--comment", COMMENT, "-j", "ACCEPT"]
}

/// Which of our rules a chain lacks: in by a pod's host end, out by one.
fn missing(counters: &Counters, chain: FilterChain) -> Result<Vec<&'static str>, ForwardError> {
    let mut missing = Vec::new();
    for direction in ["-i", "-o"] {
        if !has(counters, &rule("-C", chain, direction))? {
            missing.push(direction);
        }
    }
    Ok(missing)
}

/// Whether a rule is there: the program ends with 0 when it is and with 1 when not.
fn has(counters: &Counters, check: &[&str]) -> Result<bool, ForwardError> {
    let ended = run(counters, PROGRAM, check)?;
    match ended.status.code() {
        Some(0) => Ok(true),
        Some(1) => Ok(false),
        _ => Err(ForwardError::Refused { status: ended.status, errors: ended.errors }),
    }
}

fn run(
    counters: &Counters,
    program: &'static str,
    arguments: &[&str],
) -> Result<program::Ended, ProgramError> {
    counters.iptables_runs.fetch_add(1, Ordering::Relaxed);
    program::run(program, arguments, "")
}

/// Whether the policy of FORWARD is to drop.
fn drops(socket: &mut Socket) -> Result<bool, CallError> {
    let Some(body) = chain(socket, FilterChain::Forward.name())? else { return Ok(false) };
    let policy = attributes(nfnl::attributes_of(&body)).find(|(kind, _)| *kind == NFTA_CHAIN_POLICY);
    let policy = policy.and_then(|(_, value)| Some(u32::from_be_bytes(value.try_into().ok()?)));
    Ok(policy == Some(NF_DROP))
}

fn chain(socket: &mut Socket, name: &str) -> Result<Option<Vec<u8>>, CallError> {
    chain_of(socket, FILTER_TABLE, name)
}

/// What the kernel says of a chain of an IPv4 table; `None` when it is not there.
pub(crate) fn chain_of(socket: &mut Socket, table: &str, name: &str) -> Result<Option<Vec<u8>>, CallError> {
    let mut named = Vec::new();
    nfnl::put_text(&mut named, NFTA_TABLE_NAME, table);
    nfnl::put_text(&mut named, NFTA_CHAIN_NAME, name);
    match socket.get(nfnl::message(GET_CHAIN, NLM_F_ACK, nfnl::IPV4, 0, &named), NEW_CHAIN) {
        Ok(body) => Ok(Some(body)),
        Err(error) if matches!(error.errno(), Some(libc::ENOENT | libc::EINVAL)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether iptables-legacy has a filter table whose FORWARD drops or cannot be read.
fn legacy_drops(counters: &Counters) -> bool {
    let tables = fs::read_to_string(LEGACY_TABLES).unwrap_or_default();
    if !tables.lines().any(|table| table == "filter") {
        return false;
    }
    match run(counters, LEGACY, &["-S", FilterChain::Forward.name()]) {
        Ok(ended) if ended.status.success() => legacy_text_drops(&ended.output),
        _ => true,
    }
}

/// Whether a chain, as `iptables -S` prints it, drops what pods' host ends forward.
fn legacy_text_drops(text: &str) -> bool {
    let accepts = |direction| {
        let link = format!(" {direction} {PODS} ");
        text.lines().any(|line| line.contains(&link) && line.ends_with("-j ACCEPT"))
    };
    text.lines().any(|line| line == "-P FORWARD DROP") && !(accepts("-i") && accepts("-o"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_legacy_chain_drops_by_its_policy_unless_pods_are_accepted() {
        assert!(!legacy_text_drops("-P FORWARD ACCEPT\n"));
        assert!(legacy_text_drops("-P FORWARD DROP\n-A FORWARD -i eni+ -j ACCEPT\n"));
        let both = "-P FORWARD DROP\n-A FORWARD -i eni+ -j ACCEPT\n-A FORWARD -o eni+ -j ACCEPT\n";
        assert!(!legacy_text_drops(both));
    }
}
