//! The reaper's part: dying links are deleted, then the conntrack entries of their addresses.
//!
//! Owns the verification of every link, the group delete and its fall-back. A group delete takes every member of the
//! dying group; nothing but dying links of ours ever gets that group, a private number. One link is deleted by
//! itself. At most two rtnetlink messages per link (one look, and a move or a delete) and the group delete. Does not
//! decide when.

use crate::conntrack;
use crate::dump;
use crate::host::Host;
use crate::message;
use crate::ours;
use crate::wire;
use ipamd_core::kernel::{DYING_GROUP, ReapLink, Reaped};
use std::collections::{BTreeMap, BTreeSet};

/// Deletes what may be deleted. A link is `gone` only when its conntrack entries are, too.
pub(crate) fn reap(host: &mut Host, links: &[ReapLink]) -> Reaped {
    let mut kept = BTreeMap::new();
    let (present, absent) = look(host, links, &mut kept);
    let mut gone: Vec<u32> = absent;
    gone.extend(delete(host, &present, &mut kept));
    let clean = forget_connections(host, links, &gone, &mut kept);
    Reaped { gone: clean, kept: kept.into_iter().collect() }
}

/// A link that may be deleted, and whether it is in the dying group.
type Present = Vec<(u32, bool)>;

/// Which links are there to be deleted, and which are gone already.
fn look(host: &mut Host, links: &[ReapLink], kept: &mut BTreeMap<u32, String>) -> (Present, Vec<u32>) {
    let (mut present, mut absent) = (Vec::new(), Vec::new());
    let requests = links.iter().map(|link| message::get_link(link.ifindex)).collect();
    let answers = match host.route.get_all(requests, dump::RTM_NEWLINK) {
        Ok(answers) => answers,
        Err(error) => {
            kept.extend(links.iter().map(|link| (link.ifindex, format!("looking at it: {error}"))));
            return (present, absent);
        }
    };
    for (wanted, answer) in links.iter().zip(answers) {
        match wire::link(answer) {
            Ok(None) => absent.push(wanted.ifindex),
            Ok(Some(link)) => match ours::may_reap(&link, &wanted.alias) {
                Ok(()) => present.push((wanted.ifindex, link.group == DYING_GROUP)),
                Err(reason) => drop(kept.insert(wanted.ifindex, reason)),
            },
            Err(error) => drop(kept.insert(wanted.ifindex, format!("looking at it: {error}"))),
        }
    }
    (present, absent)
}

/// Deletes links; those that are gone.
fn delete(host: &mut Host, present: &Present, kept: &mut BTreeMap<u32, String>) -> Vec<u32> {
    if present.len() > 1 && delete_as_group(host, present) {
        return present.iter().map(|(ifindex, _)| *ifindex).collect();
    }
    let mut gone = Vec::new();
    for (ifindex, _) in present {
        match host.route.call(message::delete_link(*ifindex)) {
            Err(error) if error.errno() != Some(libc::ENODEV) => {
                kept.insert(*ifindex, format!("deleting it: {error}"));
            }
            _ => gone.push(*ifindex),
        }
    }
    gone
}

/// Whether one group delete took them all. One member that cannot be deleted fails it for all, with nothing deleted.
fn delete_as_group(host: &mut Host, present: &Present) -> bool {
    let outside = present.iter().filter(|(_, dying)| !dying);
    let moves: Vec<Vec<u8>> = outside.map(|(ifindex, _)| message::set_group(*ifindex, DYING_GROUP)).collect();
    // ENODEV: gone meanwhile. Any other refusal leaves one outside that the group delete would not take.
    let moved = host.route.batch(moves).is_ok_and(|refused| refused.iter().all(|r| r.errno == libc::ENODEV));
    moved && host.route.call(message::delete_group(DYING_GROUP)).is_ok()
}

/// Deletes the conntrack entries of links that are gone; those whose entries are gone, too.
fn forget_connections(
    host: &mut Host,
    links: &[ReapLink],
    gone: &[u32],
    kept: &mut BTreeMap<u32, String>,
) -> Vec<u32> {
    let gone: BTreeSet<u32> = gone.iter().copied().collect();
    let gone = || links.iter().filter(|link| gone.contains(&link.ifindex));
    let addresses: BTreeSet<_> = gone().flat_map(|link| link.addresses.iter().copied()).collect();
    let left = conntrack::delete(&mut host.netfilter, &addresses);
    let mut clean = BTreeSet::new();
    for link in gone() {
        let why = match &left {
            Ok(left) => link.addresses.iter().find_map(|address| left.get(address)).cloned(),
            Err(_) if link.addresses.is_empty() => None,
            Err(error) => Some(error.to_string()),
        };
        match why {
            None => drop(clean.insert(link.ifindex)),
            Some(why) => {
                kept.insert(link.ifindex, format!("its link is gone, deleting its conntrack entries: {why}"));
            }
        }
    }
    clean.into_iter().filter(|ifindex| !kept.contains_key(ifindex)).collect()
}
