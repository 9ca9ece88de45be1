//! The bytes of records: a version, a checksum, JSON.
//!
//! Owns the layout `[version u8][crc32 of the rest, big-endian][JSON]` and the keys. redb checks its own pages; the
//! checksum tells when a value was changed by anything else. JSON, because fields that a later version adds are
//! defaulted, and fields that an older one does not know are passed over.

use eni_proto::ids::AttachmentKey;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The version of the layout.
const VERSION: u8 = 1;
const HEADER: usize = 5;

/// Why a value cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a record of table {table} cannot be read: {cause}")]
pub(super) struct DecodeError {
    /// The table.
    pub(super) table: &'static str,
    /// Why.
    pub(super) cause: String,
}

/// A record's bytes.
pub(super) fn encode<T: Serialize>(record: &T) -> Vec<u8> {
    let mut bytes = vec![VERSION, 0, 0, 0, 0];
    serde_json::to_writer(&mut bytes, record).expect("records have text keys, so JSON can hold them");
    let checksum = crc32fast::hash(&bytes[HEADER..]);
    bytes[1..HEADER].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

/// The record of bytes.
pub(super) fn decode<T: DeserializeOwned>(table: &'static str, bytes: &[u8]) -> Result<T, DecodeError> {
    let error = |cause: String| DecodeError { table, cause };
    let (header, body) =
        bytes.split_first_chunk::<HEADER>().ok_or_else(|| error("it is too short".into()))?;
    if header[0] != VERSION {
        return Err(error(format!("its layout is version {}, this is {VERSION}", header[0])));
    }
    if crc32fast::hash(body).to_be_bytes() != header[1..] {
        return Err(error("its checksum is wrong".into()));
    }
    serde_json::from_slice(body).map_err(|e| error(e.to_string()))
}

/// The key of an attachment's record. Ids hold no NUL, so the order is by network, container, ifname, generation.
pub(super) fn attachment_key(key: &AttachmentKey, generation: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(key.ids_len() + 11);
    for part in [key.network.as_str(), key.container.as_str(), key.ifname.as_str()] {
        bytes.extend_from_slice(part.as_bytes());
        bytes.push(0);
    }
    bytes.extend_from_slice(&generation.to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_changed_byte_is_noticed() {
        let bytes = encode(&vec![1, 2, 3]);
        assert_eq!(decode::<Vec<i32>>("t", &bytes).unwrap(), [1, 2, 3]);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert!(decode::<Vec<i32>>("t", &damaged).is_err(), "byte {at}");
        }
        assert!(decode::<Vec<i32>>("t", &bytes[..3]).is_err());
    }
}
