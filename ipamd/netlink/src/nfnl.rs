//! nfnetlink messages, built by hand: conntrack, the look at our nft table, the lock.
//!
//! Owns the header and attributes. Does not know the subsystems' meanings.

use netlink_packet_core::{NLA_F_NESTED, NLM_F_REQUEST};

/// `NFPROTO_IPV4`.
pub(crate) const IPV4: u8 = 2;
/// `NFPROTO_UNSPEC`.
pub(crate) const UNSPEC: u8 = 0;

/// A message's type: subsystem and number.
pub(crate) const fn kind(subsystem: u16, number: u16) -> u16 {
    subsystem << 8 | number
}

/// A message: `nlmsghdr`, `nfgenmsg`, attributes. `resource` is `res_id`.
pub(crate) fn message(kind: u16, flags: u16, family: u8, resource: u16, attributes: &[u8]) -> Vec<u8> {
    const HEADERS: usize = 16 + 4;
    let mut bytes = Vec::with_capacity(HEADERS + attributes.len());
    bytes.extend_from_slice(&((HEADERS + attributes.len()) as u32).to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
    bytes.extend_from_slice(&[0; 8]);
    bytes.extend_from_slice(&[family, 0]);
    bytes.extend_from_slice(&resource.to_be_bytes());
    bytes.extend_from_slice(attributes);
    bytes
}

/// The attributes after a message's `nfgenmsg`.
pub(crate) fn attributes_of(body: &[u8]) -> &[u8] {
    body.get(4..).unwrap_or_default()
}

/// Appends an attribute.
pub(crate) fn put(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    bytes.extend_from_slice(&((4 + value.len()) as u16).to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// Appends an attribute that holds attributes.
pub(crate) fn nest(bytes: &mut Vec<u8>, kind: u16, inside: &[u8]) {
    put(bytes, kind | NLA_F_NESTED, inside);
}

/// A name as nf_tables wants it.
pub(crate) fn put_text(bytes: &mut Vec<u8>, kind: u16, text: &str) {
    let mut value = text.as_bytes().to_vec();
    value.push(0);
    put(bytes, kind, &value);
}
