//! What a tombstone means for the attachment that has its key now.
//!
//! Owns that one decision: the DEL that it stands for is done, or it is dropped, with the reason. A late tombstone must
//! never delete a newer attachment: runtimes use an id again, a daemon may be away for long, and a file may have been
//! left behind. Does not read the spool, and does not delete anything.

use crate::record::AttachmentRecord;
use crate::time::Timestamp;
use eni_proto::ids::{AttachmentKey, BootId, NetnsCookie};
use eni_proto::spool::Tombstone;
use std::fmt;

/// A DEL that was written down, with its clock's value as an instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Buried {
    /// What is to be deleted.
    pub key: AttachmentKey,
    /// The sandbox's network namespace, when it was known.
    pub cookie: Option<NetnsCookie>,
    /// When the DEL began.
    pub asked: Timestamp,
    /// The boot that `asked` belongs to.
    pub boot: BootId,
}

impl From<Tombstone> for Buried {
    fn from(tombstone: Tombstone) -> Buried {
        Buried {
            key: tombstone.key,
            cookie: tombstone.netns_cookie,
            asked: Timestamp::from_nanos(tombstone.asked_ns),
            boot: tombstone.boot,
        }
    }
}

/// Why a tombstone is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dropped {
    /// It was written in another boot: its sandbox did not outlive it.
    OtherBoot,
    /// Its time has not come yet: no clock of this boot wrote it.
    FromTheFuture,
    /// No attachment has its key: the DEL was done already, or there was nothing to do.
    NoAttachment,
    /// The attachment is not older than the DEL.
    Older,
    /// The attachment is in another sandbox.
    OtherSandbox,
}

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Dropped::OtherBoot => "it is of another boot",
            Dropped::FromTheFuture => "its time has not come yet",
            Dropped::NoAttachment => "there is no such attachment",
            Dropped::Older => "it is older than the attachment",
            Dropped::OtherSandbox => "the attachment is in another sandbox",
        })
    }
}

/// Whether the DEL of a tombstone is to be done now. `current` is the attachment of its key that is not dying.
pub fn judge(
    tombstone: &Buried,
    current: Option<&AttachmentRecord>,
    boot: &BootId,
    now: Timestamp,
) -> Result<(), Dropped> {
    if tombstone.boot != *boot {
        return Err(Dropped::OtherBoot);
    }
    if tombstone.asked > now {
        return Err(Dropped::FromTheFuture);
    }
    let Some(record) = current else { return Err(Dropped::NoAttachment) };
    // At the same instant, which two clock readings of one machine hardly have, what lives is kept.
    if tombstone.asked <= record.created {
        return Err(Dropped::Older);
    }
    if tombstone.cookie.is_some_and(|cookie| cookie != record.netns_cookie) {
        return Err(Dropped::OtherSandbox);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::AttachmentState;
    use eni_proto::cni::AddResult;
    use eni_proto::ids::MacAddr;
    use eni_proto::request::Mode;
    use std::collections::BTreeSet;
    use std::net::Ipv4Addr;

    const CREATED: Timestamp = Timestamp::from_millis(500);
    const NOW: Timestamp = Timestamp::from_millis(1000);

    fn key() -> AttachmentKey {
        AttachmentKey {
            network: "vpc".parse().unwrap(),
            container: "c1".parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
        }
    }

    fn record() -> AttachmentRecord {
        AttachmentRecord {
            key: key(),
            generation: 1,
            state: AttachmentState::Live,
            mode: Mode::Shared,
            addresses: BTreeSet::from([Ipv4Addr::new(10, 0, 1, 20)]),
            eni: "eni-1".parse().unwrap(),
            netns_cookie: NetnsCookie(7),
            netns: String::new(),
            host_ifindex: 9,
            host_link: "eni1".parse().unwrap(),
            host_mac: MacAddr([2; 6]),
            sandbox_mac: MacAddr([4; 6]),
            mtu: 1500,
            pod: None,
            created: CREATED,
            boot: BootId::new("boot-1"),
            claimed_by: None,
            first_seen: None,
            netns_seen: false,
            result: AddResult::default(),
        }
    }

    #[test]
    fn each_reason_by_itself_and_the_first_one_that_holds() {
        let good =
            Buried { key: key(), cookie: Some(NetnsCookie(7)), asked: NOW, boot: BootId::new("boot-1") };
        let record = record();
        let judge = |buried: &Buried, there: bool| {
            judge(buried, there.then_some(&record), &BootId::new("boot-1"), NOW)
        };
        let at = |millis| Buried { asked: Timestamp::from_millis(millis), ..good.clone() };
        let in_sandbox = |cookie| Buried { cookie, ..good.clone() };
        assert_eq!(judge(&good, true), Ok(()));
        assert_eq!(judge(&at(501), true), Ok(()));
        assert_eq!(
            judge(&in_sandbox(None), true),
            Ok(()),
            "of a DEL without a sandbox the key is all that is known"
        );
        assert_eq!(judge(&at(500), true), Err(Dropped::Older), "in doubt what lives is kept");
        assert_eq!(judge(&at(1001), true), Err(Dropped::FromTheFuture));
        assert_eq!(judge(&in_sandbox(Some(NetnsCookie(8))), true), Err(Dropped::OtherSandbox));
        assert_eq!(judge(&good, false), Err(Dropped::NoAttachment));
        let other = Buried { boot: BootId::new("boot-0"), ..at(1001) };
        assert_eq!(judge(&other, false), Err(Dropped::OtherBoot));
    }
}
