//! The reaper's part: dying links are deleted, then the conntrack entries of their addresses.
//!
//! Owns the verification of every link, the group delete and its fall-back. A group delete takes every member of the
//! dying group, so the group is listed now and then, and with a member that is not ours each link goes by itself. A
//! number that somebody else's link has by now says that ours is gone. At most two rtnetlink messages per link (a look,
//! and a move or a delete). Does not decide when.

use crate::conntrack;
use crate::dump;
use crate::host::Host;
use crate::message;
use crate::ours::{self, Whose};
use crate::socket::CallError;
use crate::wire;
use ipamd_core::kernel::{DYING_GROUP, LinkView, ReapLink, Reaped};
use std::collections::{BTreeMap, BTreeSet};

/// How many groups in a row are deleted on one list of the dying group.
const TRUST: u32 = 64;

/// Deletes what may be deleted. A link is `gone` only when its conntrack entries are, too.
pub(crate) fn reap(host: &mut Host, links: &[ReapLink]) -> Reaped {
    let mut kept = BTreeMap::new();
    let seen = look(host, links, &mut kept);
    let mut gone = seen.gone.clone();
    gone.extend(delete(host, &seen, &mut kept));
    let clean = forget_connections(host, links, &gone, &mut kept);
    Reaped { gone: clean, kept: kept.into_iter().collect() }
}

/// What a look has told of the links to be deleted.
#[derive(Default)]
struct Seen {
    /// Those that are there, and whether each is in the dying group.
    present: Vec<(u32, bool)>,
    /// Those that are gone already.
    gone: Vec<u32>,
    /// The dying group holds nothing but ours: a group delete takes nobody else's.
    group_is_ours: bool,
}

/// Which links are there to be deleted, each looked at by its number.
fn look(host: &mut Host, links: &[ReapLink], kept: &mut BTreeMap<u32, String>) -> Seen {
    let mut seen = Seen::default();
    let requests = links.iter().map(|link| message::get_link(link.ifindex)).collect();
    match host.route.get_all(requests, dump::RTM_NEWLINK) {
        Ok(answers) => {
            for (wanted, answer) in links.iter().zip(answers) {
                judge(wanted, wire::link(answer), &mut seen, kept);
            }
        }
        Err(error) => {
            kept.extend(links.iter().map(|link| (link.ifindex, format!("looking at it: {error}"))));
        }
    }
    if !seen.gone.is_empty() {
        host.group_trusted = 0;
    }
    if seen.present.len() > 1 {
        seen.group_is_ours = group_is_ours(host, &seen);
    }
    seen
}

/// Whether the dying group holds nothing but ours: what is to be deleted, and what another DEL has put there since. The
/// kernel lists no single group, and a list of all links grows with the pods: it is taken at first, then once in
/// [`TRUST`] groups, and whenever one of ours is gone, since what has its name or number by now may be somebody else's.
fn group_is_ours(host: &mut Host, seen: &Seen) -> bool {
    if host.group_trusted > 0 {
        host.group_trusted -= 1;
        return true;
    }
    let list = host.route.dump(&message::dump_links(), dump::RTM_NEWLINK, |body| dump::link(body).map(Some));
    let ours = list.is_ok_and(|all| {
        let mut dying = all.iter().filter(|link| link.group == DYING_GROUP);
        dying.all(|link| {
            seen.present.iter().any(|(ifindex, _)| *ifindex == link.ifindex) || ours::is_dying(link)
        })
    });
    host.group_trusted = if ours { TRUST } else { 0 };
    ours
}

fn judge(
    wanted: &ReapLink,
    found: Result<Option<LinkView>, CallError>,
    seen: &mut Seen,
    kept: &mut BTreeMap<u32, String>,
) {
    match found.map(|link| link.map(|link| (ours::whose(&link, &wanted.alias), link.group))) {
        Ok(None | Some((Whose::Anothers, _))) => seen.gone.push(wanted.ifindex),
        Ok(Some((Whose::Ours, group))) => seen.present.push((wanted.ifindex, group == DYING_GROUP)),
        Ok(Some((Whose::Unclear(reason), _))) => drop(kept.insert(wanted.ifindex, reason)),
        Err(error) => drop(kept.insert(wanted.ifindex, format!("looking at it: {error}"))),
    }
}

/// Deletes links; those that are gone.
fn delete(host: &mut Host, seen: &Seen, kept: &mut BTreeMap<u32, String>) -> Vec<u32> {
    if seen.present.len() > 1 && seen.group_is_ours && delete_as_group(host, &seen.present) {
        return seen.present.iter().map(|(ifindex, _)| *ifindex).collect();
    }
    let mut gone = Vec::new();
    for (ifindex, _) in &seen.present {
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
fn delete_as_group(host: &mut Host, present: &[(u32, bool)]) -> bool {
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
