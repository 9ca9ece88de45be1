//! What EC2 has told of each ENI's addresses and prefixes so far.
//!
//! Owns that an answer to an assign names the new ones and no others, whatever the server lists: EC2's is the new ones,
//! others' servers list all that the ENI has, its primary address among them. Does not own what the pool knows.

use eni_proto::ids::EniId;
use ipamd_core::cloud::EniObservation;
use ipnet::Ipv4Net;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What one ENI has.
#[derive(Debug, Default)]
struct Held {
    addresses: BTreeSet<Ipv4Addr>,
    prefixes: BTreeSet<Ipv4Net>,
}

/// What each ENI has, as last told. Bounded: it holds the ENIs of the last look and those created since.
#[derive(Debug, Default)]
pub(crate) struct Told(Mutex<BTreeMap<EniId, Held>>);

impl Told {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<EniId, Held>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A look at all ENIs of an instance: what it does not name is forgotten.
    pub(crate) fn seen_all(&self, enis: &[EniObservation]) {
        self.lock().retain(|id, _| enis.iter().any(|eni| eni.id == *id));
        enis.iter().for_each(|eni| self.seen(eni));
    }

    /// A look at one ENI.
    pub(crate) fn seen(&self, eni: &EniObservation) {
        let held = Held {
            addresses: eni.primary.into_iter().chain(eni.secondary.iter().copied()).collect(),
            prefixes: eni.prefixes.iter().copied().collect(),
        };
        self.lock().insert(eni.id.clone(), held);
    }

    /// An answer to an assign: those of it that the ENI did not have before. They are known from now on.
    pub(crate) fn new_addresses(&self, eni: &EniId, answered: Vec<Ipv4Addr>) -> Vec<Ipv4Addr> {
        let mut all = self.lock();
        let held = &mut all.entry(eni.clone()).or_default().addresses;
        answered.into_iter().filter(|address| held.insert(*address)).collect()
    }

    /// As `new_addresses`, of prefixes.
    pub(crate) fn new_prefixes(&self, eni: &EniId, answered: Vec<Ipv4Net>) -> Vec<Ipv4Net> {
        let mut all = self.lock();
        let held = &mut all.entry(eni.clone()).or_default().prefixes;
        answered.into_iter().filter(|prefix| held.insert(*prefix)).collect()
    }

    /// These may be gone, and may come back as new ones.
    pub(crate) fn unassigned(&self, eni: &EniId, addresses: &[Ipv4Addr], prefixes: &[Ipv4Net]) {
        if let Some(held) = self.lock().get_mut(eni) {
            held.addresses.retain(|address| !addresses.contains(address));
            held.prefixes.retain(|prefix| !prefixes.contains(prefix));
        }
    }

    /// It is gone.
    pub(crate) fn deleted(&self, eni: &EniId) {
        self.lock().remove(eni);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipamd_core::cloud::PLAIN_INTERFACE;

    fn address(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 1, last)
    }

    fn eni(id: &str, secondary: &[u8]) -> EniObservation {
        EniObservation {
            id: id.parse().unwrap(),
            mac: "02:00:00:00:00:01".parse().unwrap(),
            subnet: "subnet-1".parse().unwrap(),
            subnet_cidr: "10.0.1.0/24".parse().unwrap(),
            primary: Some(address(10)),
            secondary: secondary.iter().map(|last| address(*last)).collect(),
            prefixes: vec!["10.0.1.64/28".parse().unwrap()],
            attachment: None,
            security_groups: Vec::new(),
            tags: BTreeMap::new(),
            private_dns_name: None,
            kind: PLAIN_INTERFACE.to_owned(),
        }
    }

    #[test]
    fn an_answer_that_lists_all_gives_the_new_ones_and_never_the_primary() {
        let told = Told::default();
        let one = eni("eni-1", &[11]);
        told.seen_all(std::slice::from_ref(&one));
        let all = vec![address(10), address(11), address(12), address(13)];
        assert_eq!(told.new_addresses(&one.id, all.clone()), [address(12), address(13)]);
        assert!(told.new_addresses(&one.id, all).is_empty(), "they are known now");
        let prefixes = vec!["10.0.1.64/28".parse().unwrap(), "10.0.1.80/28".parse().unwrap()];
        assert_eq!(told.new_prefixes(&one.id, prefixes), ["10.0.1.80/28".parse().unwrap()]);
    }

    #[test]
    fn what_was_unassigned_may_come_back() {
        let told = Told::default();
        let one = eni("eni-1", &[11]);
        told.seen(&one);
        told.unassigned(&one.id, &[address(11)], &["10.0.1.64/28".parse().unwrap()]);
        assert_eq!(told.new_addresses(&one.id, vec![address(11)]), [address(11)]);
        assert_eq!(told.new_prefixes(&one.id, vec!["10.0.1.64/28".parse().unwrap()]).len(), 1);
    }

    #[test]
    fn what_is_gone_is_forgotten() {
        let told = Told::default();
        told.seen(&eni("eni-1", &[]));
        told.seen(&eni("eni-2", &[]));
        told.seen_all(&[eni("eni-3", &[])]);
        assert_eq!(told.lock().keys().map(|id| id.as_str().to_owned()).collect::<Vec<_>>(), ["eni-3"]);
        told.deleted(&"eni-3".parse().unwrap());
        assert!(told.lock().is_empty());
    }
}
