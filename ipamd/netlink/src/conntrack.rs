//! Deleting the conntrack entries of addresses, by ctnetlink.
//!
//! Owns one look at the table for a batch of addresses and a delete per entry that has one of them as its source or
//! as the source of its answers. So that an old flow never reaches an address's next holder. Does not know links.

use crate::answer::attributes;
use crate::nfnl;
use crate::socket::{BATCH_MAX, CallError, Socket};
use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

const SUBSYSTEM: u16 = 1;
const NEW: u16 = nfnl::kind(SUBSYSTEM, 0);
const GET: u16 = nfnl::kind(SUBSYSTEM, 1);
const DELETE: u16 = nfnl::kind(SUBSYSTEM, 2);
const GET_STATS: u16 = nfnl::kind(SUBSYSTEM, 5);

const CTA_STATS_GLOBAL_ENTRIES: u16 = 1;

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_FILTER: u16 = 25;
const CTA_TUPLE_IP: u16 = 1;
const CTA_IP_V4_SRC: u16 = 1;

/// Up to so many addresses the kernel is asked twice for each, and answers with what matches alone (5.8 and later;
/// older ones answer with everything). More are looked for in one dump of the whole table: each asking walks it.
const FILTERED_MAX: usize = 2;

/// What names an entry.
struct Entry {
    addresses: [Option<Ipv4Addr>; 2],
    name: Vec<u8>,
}

/// Deletes the entries of `addresses`. The addresses that still have one, with why.
pub(crate) fn delete(
    socket: &mut Socket,
    addresses: &BTreeSet<Ipv4Addr>,
) -> Result<BTreeMap<Ipv4Addr, String>, CallError> {
    let mut left = BTreeMap::new();
    let counted = if addresses.is_empty() { Some(0) } else { count(socket) };
    if counted == Some(0) {
        return Ok(left);
    }
    let entries = match list(socket, addresses) {
        Ok(entries) => entries,
        // Without the subsystem, which tells no number either, there is no table to be asked for.
        Err(error)
            if counted.is_none()
                && matches!(error.errno(), Some(libc::EINVAL | libc::EOPNOTSUPP | libc::ENOENT)) =>
        {
            return Ok(left);
        }
        Err(error) => return Err(error),
    };
    for chunk in entries.chunks(BATCH_MAX) {
        let batch = chunk.iter().map(|entry| nfnl::message(DELETE, NLM_F_ACK, nfnl::IPV4, 0, &entry.name));
        for refusal in socket.batch(batch.collect())? {
            if refusal.errno == libc::ENOENT {
                continue;
            }
            let held = chunk[refusal.index].addresses.iter().flatten();
            left.extend(held.filter(|a| addresses.contains(a)).map(|a| (*a, refusal.to_string())));
        }
    }
    Ok(left)
}

/// How many entries the namespace has; `None` when the kernel does not tell. Listing them walks the whole hash table,
/// which costs some milliseconds however few there are; their number it keeps.
pub(crate) fn count(socket: &mut Socket) -> Option<u32> {
    let asked = nfnl::message(GET_STATS, NLM_F_ACK, nfnl::UNSPEC, 0, &[]);
    let body = socket.get(asked, GET_STATS).ok()?;
    let mut told = attributes(nfnl::attributes_of(&body));
    let (_, value) = told.find(|(kind, _)| *kind == CTA_STATS_GLOBAL_ENTRIES)?;
    value.try_into().ok().map(u32::from_be_bytes)
}

fn list(socket: &mut Socket, addresses: &BTreeSet<Ipv4Addr>) -> Result<Vec<Entry>, CallError> {
    let read = |body: &[u8]| {
        let entry = entry(body);
        Some(Some(entry).filter(|e| e.addresses.iter().flatten().any(|a| addresses.contains(a))))
    };
    if addresses.len() > FILTERED_MAX {
        let all = nfnl::message(GET, NLM_F_DUMP, nfnl::IPV4, 0, &[]);
        return socket.dump(&all, NEW, read);
    }
    let mut entries = Vec::new();
    for address in addresses {
        for tuple in [CTA_TUPLE_ORIG, CTA_TUPLE_REPLY] {
            entries.extend(socket.dump(&filtered(tuple, *address), NEW, read)?);
        }
    }
    Ok(entries)
}

/// A dump of the entries whose tuple has `address` as its source.
fn filtered(tuple: u16, address: Ipv4Addr) -> Vec<u8> {
    const CTA_FILTER_ORIG_FLAGS: u16 = 1;
    const CTA_FILTER_REPLY_FLAGS: u16 = 2;
    const SOURCE: u32 = 1;
    let mut source = Vec::new();
    nfnl::put(&mut source, CTA_IP_V4_SRC, &address.octets());
    let mut ip = Vec::new();
    nfnl::nest(&mut ip, CTA_TUPLE_IP, &source);
    let (original, reply) = if tuple == CTA_TUPLE_ORIG { (SOURCE, 0) } else { (0, SOURCE) };
    let mut flags = Vec::new();
    nfnl::put(&mut flags, CTA_FILTER_ORIG_FLAGS, &original.to_ne_bytes());
    nfnl::put(&mut flags, CTA_FILTER_REPLY_FLAGS, &reply.to_ne_bytes());
    let mut attributes = Vec::new();
    nfnl::nest(&mut attributes, tuple, &ip);
    nfnl::nest(&mut attributes, CTA_FILTER, &flags);
    nfnl::message(GET, NLM_F_DUMP, nfnl::IPV4, 0, &attributes)
}

/// The sources of an entry's two tuples, and the attributes that name it: original tuple, zone, id.
fn entry(body: &[u8]) -> Entry {
    let mut entry = Entry { addresses: [None; 2], name: Vec::new() };
    for (kind, value) in attributes(nfnl::attributes_of(body)) {
        match kind {
            CTA_TUPLE_ORIG => {
                entry.addresses[0] = source(value);
                nfnl::nest(&mut entry.name, kind, value);
            }
            CTA_TUPLE_REPLY => entry.addresses[1] = source(value),
            CTA_ZONE | CTA_ID => nfnl::put(&mut entry.name, kind, value),
            _ => {}
        }
    }
    entry
}

fn source(tuple: &[u8]) -> Option<Ipv4Addr> {
    let (_, ip) = attributes(tuple).find(|(kind, _)| *kind == CTA_TUPLE_IP)?;
    let (_, source) = attributes(ip).find(|(kind, _)| *kind == CTA_IP_V4_SRC)?;
    Some(Ipv4Addr::from(<[u8; 4]>::try_from(source).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuple(source: [u8; 4]) -> Vec<u8> {
        let mut ip = Vec::new();
        nfnl::put(&mut ip, CTA_IP_V4_SRC, &source);
        nfnl::put(&mut ip, 2, &[10, 0, 0, 9]);
        let mut tuple = Vec::new();
        nfnl::nest(&mut tuple, CTA_TUPLE_IP, &ip);
        tuple
    }

    #[test]
    fn an_entry_is_named_by_its_original_tuple_zone_and_id() {
        let mut body = vec![2, 0, 0, 0];
        nfnl::nest(&mut body, CTA_TUPLE_ORIG, &tuple([10, 0, 0, 1]));
        nfnl::nest(&mut body, CTA_TUPLE_REPLY, &tuple([10, 0, 0, 2]));
        nfnl::put(&mut body, 8, &[0; 4]);
        nfnl::put(&mut body, CTA_ZONE, &[0, 7]);
        nfnl::put(&mut body, CTA_ID, &[1, 2, 3, 4]);
        let entry = entry(&body);
        assert_eq!(entry.addresses, [Some(Ipv4Addr::new(10, 0, 0, 1)), Some(Ipv4Addr::new(10, 0, 0, 2))]);
        let kinds: Vec<u16> = attributes(&entry.name).map(|(kind, _)| kind).collect();
        assert_eq!(kinds, [CTA_TUPLE_ORIG, CTA_ZONE, CTA_ID]);
    }
}
