//! A tombstone: what a DEL leaves in the spool when no ipamd answers it.
//!
//! Owns its form, its bounds and the names of its file. One file per attachment, named by a hash of the key, written
//! whole by rename: a later DEL of the key takes an earlier one's place. The version rules are those of requests:
//! unknown fields are ignored, new ones defaulted. Does not read or write a file, and does not decide what a tombstone
//! means for a record: the daemon does.

use crate::ids::{AttachmentKey, BootId, NetnsCookie};
use serde::{Deserialize, Serialize};

/// The version of the form that this build writes.
pub const VERSION: u32 = 1;

/// The longest file: a tombstone is a few hundred bytes, its ids at most [`crate::ids::IDS_MAX`].
pub const FILE_MAX: usize = 4096;

/// The end of a tombstone's name.
const SUFFIX: &str = ".json";
/// The end of the name of one that is being written.
const UNFINISHED: &str = ".new";

/// A DEL that was answered with success because it is written down here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// The version of the form.
    pub version: u32,
    /// What is to be deleted.
    pub key: AttachmentKey,
    /// The sandbox's network namespace, when the DEL came with one that could be entered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns_cookie: Option<NetnsCookie>,
    /// When the DEL began: CLOCK_BOOTTIME, in nanoseconds. What is newer is not what it meant.
    pub asked_ns: u64,
    /// The boot that `asked_ns` belongs to.
    pub boot: BootId,
}

/// The name of the tombstone of a key: FNV-1a of 128 bits, which needs no table and no dependency. The names come from
/// the node's own runtime; whoever could choose them to collide could as well call DEL.
pub fn file_name(key: &AttachmentKey) -> String {
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let mut hash: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    for part in [key.network.as_str(), key.container.as_str(), key.ifname.as_str()] {
        // No id holds a slash: what is hashed is no other key's.
        for byte in part.bytes().chain([b'/']) {
            hash = (hash ^ u128::from(byte)).wrapping_mul(PRIME);
        }
    }
    format!("{hash:032x}{SUFFIX}")
}

/// The name that a tombstone is written under before it is renamed: nobody else's, as long as process ids are not
/// reused within a nanosecond.
pub fn unfinished_name(key: &AttachmentKey, pid: u32, now_ns: u64) -> String {
    format!("{}.{pid}.{now_ns}{UNFINISHED}", file_name(key))
}

/// What a name in the spool says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// A tombstone.
    Tombstone,
    /// One that is being written, since this CLOCK_BOOTTIME in nanoseconds; or was, by a plugin that is gone.
    Unfinished {
        /// Since when.
        since_ns: u64,
    },
    /// Nothing that belongs there.
    Foreign,
}

/// Tells a name in the spool.
pub fn named(name: &str) -> Named {
    let whole = |name: &str| {
        let hash = name.strip_suffix(SUFFIX)?;
        let hex = hash.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        (hash.len() == 32 && hex).then_some(())
    };
    let unfinished = |name: &str| {
        let (name, since) = name.strip_suffix(UNFINISHED)?.rsplit_once('.')?;
        let (name, pid) = name.rsplit_once('.')?;
        let (_, _): (u32, ()) = (pid.parse().ok()?, whole(name)?);
        since.parse().ok()
    };
    match (whole(name), unfinished(name)) {
        (Some(()), _) => Named::Tombstone,
        (None, Some(since_ns)) => Named::Unfinished { since_ns },
        (None, None) => Named::Foreign,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(network: &str, container: &str, ifname: &str) -> AttachmentKey {
        AttachmentKey {
            network: network.parse().unwrap(),
            container: container.parse().unwrap(),
            ifname: ifname.parse().unwrap(),
        }
    }

    #[test]
    fn a_name_belongs_to_one_key_and_never_changes() {
        let name = file_name(&key("vpc", "c1", "eth0"));
        // A plugin and a daemon of different versions must agree on it.
        assert_eq!(name, "2c68a97d9113d93c7f293d538c4a70dc.json");
        for other in [key("vpc", "c2", "eth0"), key("vpc", "c1", "eth1"), key("vp", "cc1", "eth0")] {
            assert_ne!(file_name(&other), name);
        }
    }

    #[test]
    fn names_in_the_spool_are_told_apart() {
        let key = key("vpc", "c1", "eth0");
        let whole = file_name(&key);
        assert_eq!(named(&whole), Named::Tombstone);
        assert_eq!(named(&unfinished_name(&key, 7, 99)), Named::Unfinished { since_ns: 99 });
        let upper = whole.to_uppercase().replace("JSON", "json");
        for foreign in [
            "",
            "x",
            ".json",
            "core.12.new",
            &whole[1..],
            &upper,
            &format!("{whole}~"),
            &format!("{whole}.7.new"),
            &format!("{whole}.7.x.new"),
            &format!("x{whole}.7.9.new"),
        ] {
            assert_eq!(named(foreign), Named::Foreign, "{foreign:?}");
        }
    }
}
