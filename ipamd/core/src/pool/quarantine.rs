//! Addresses that EC2 does not name: kept by who holds them, and given to nobody else.
//!
//! Owns the way into quarantine and out of it. A held address keeps its holder: nothing that lives is forgotten because
//! EC2, or a look at it, has lost something. One that nobody holds is not given out. Does not count looks nor decide when:
//! the owner does.

use super::Pool;
use crate::record::{AddressRecord, AddressState};
use crate::time::Timestamp;
use std::net::Ipv4Addr;

/// Why an address that nobody holds is kept out of use.
const NOT_NAMED: &str = "EC2 does not name it";

/// The state of an address that nobody holds and that EC2 does not name.
pub(super) fn not_named() -> AddressState {
    AddressState::Quarantined { reason: NOT_NAMED.to_owned(), attachment: None }
}

/// Whether nobody holds an address, nor has it cooling: it may leave the pool.
pub(super) fn is_unheld(state: &AddressState) -> bool {
    matches!(state, AddressState::Free { .. }) || *state == not_named()
}

impl Pool {
    /// Quarantines an address that EC2 does not name: a held one for `reason`, under its holder; a free one under nobody.
    /// The record to commit; none when nothing changes.
    pub fn quarantine(&mut self, address: Ipv4Addr, reason: &str) -> Option<AddressRecord> {
        let quarantined = match &self.address(address)?.state {
            AddressState::Free { .. } => not_named(),
            AddressState::Allocated { attachment } => {
                AddressState::Quarantined { reason: reason.to_owned(), attachment: Some(attachment.clone()) }
            }
            AddressState::Cooling { .. } | AddressState::Quarantined { .. } => return None,
        };
        Some(self.transition(address, |record| record.state = quarantined))
    }

    /// Takes an address out of quarantine that EC2 names again: it is its holder's as before, or free. The record to
    /// commit; none when it was not quarantined for that.
    pub fn readmit(&mut self, address: Ipv4Addr, now: Timestamp) -> Option<AddressRecord> {
        let state = match &self.address(address)?.state {
            AddressState::Quarantined { attachment: Some(holder), .. } => {
                AddressState::Allocated { attachment: holder.clone() }
            }
            state if *state == not_named() => AddressState::Free { since: now },
            _ => return None,
        };
        Some(self.transition(address, |record| record.state = state))
    }

    /// The held addresses that are quarantined, with why.
    pub fn quarantined(&self) -> impl Iterator<Item = (&AddressRecord, &str)> {
        self.addresses().filter_map(|record| match &record.state {
            AddressState::Quarantined { reason, attachment: Some(_) } => Some((record, reason.as_str())),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::AttachmentId;
    use eni_proto::ids::{AttachmentKey, EniId};
    use std::collections::BTreeSet;
    use std::time::Duration;

    const HELD: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 20);
    const FREE: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 21);

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    fn holder() -> AttachmentId {
        let key = AttachmentKey {
            network: "vpc".parse().unwrap(),
            container: "a".parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
        };
        AttachmentId { key, generation: 1 }
    }

    fn pool() -> Pool {
        let eni: EniId = "eni-1".parse().unwrap();
        let mut pool = Pool::default();
        pool.claim(HELD, &eni, &holder());
        pool.adopt(FREE, &eni, at(0));
        pool.set_laid(&BTreeSet::from([HELD, FREE]));
        pool
    }

    #[test]
    fn a_held_address_keeps_its_holder_in_quarantine_and_comes_back_to_it() {
        let mut pool = pool();
        let record = pool.quarantine(HELD, "gone").unwrap();
        let reason = "gone".to_owned();
        assert_eq!(record.state, AddressState::Quarantined { reason, attachment: Some(holder()) });
        assert_eq!(pool.quarantine(HELD, "gone"), None, "once");
        assert_eq!((pool.counts().allocated, pool.counts().quarantined), (0, 1));
        assert_eq!(pool.quarantined().count(), 1);
        assert!(!pool.drop_free(HELD), "it is not to be had");
        assert!(pool.claim(HELD, &record.eni, &holder()).is_some(), "at a restart it is its holder's still");
        assert_eq!(pool.quarantined().count(), 1);
        let back = pool.readmit(HELD, at(1)).unwrap();
        assert_eq!(back.state, AddressState::Allocated { attachment: holder() });
        assert_eq!(pool.readmit(HELD, at(1)), None);
    }

    #[test]
    fn a_quarantined_address_is_released_by_its_holder_alone_and_then_is_nobodys() {
        let mut pool = pool();
        pool.quarantine(HELD, "gone");
        let other = AttachmentId { generation: 2, ..holder() };
        assert_eq!(pool.release(HELD, &other, at(30)), None);
        // EC2 has not named it twice.
        assert_eq!((pool.miss(HELD), pool.miss(HELD)), (1, 2));
        assert!(pool.release(HELD, &holder(), at(30)).is_some());
        pool.reaped(HELD, &holder());
        pool.settle(at(30));
        assert_eq!(pool.address(HELD).unwrap().state, not_named(), "it is not given out");
        assert!(pool.drop_free(HELD));
        assert_eq!(pool.address(HELD), None);
    }

    #[test]
    fn a_free_address_that_is_not_named_is_not_given_out_until_it_is_named() {
        let mut pool = pool();
        pool.quarantine(FREE, "whatever").unwrap();
        assert_eq!(pool.allocate(&holder(), at(1)), None);
        let back = pool.readmit(FREE, at(1) + Duration::from_secs(1)).unwrap();
        assert_eq!(back.state, AddressState::Free { since: at(2) });
    }
}
