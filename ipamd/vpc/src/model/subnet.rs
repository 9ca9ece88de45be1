//! The subnet's free addresses.
//!
//! Owns which addresses are free, in which order they are given out, and which /28 blocks are wholly free. EC2 says
//! nothing of the order; here a released address goes to the end of the list, so that it comes back as late as the
//! subnet allows, and can be kept out of it for a time besides. Does not know who holds the others.

use super::setup::RESERVED;
use ipamd_core::cloud::addresses_of;
use ipamd_core::time::Timestamp;
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::Ipv4Addr;

/// "IPv4 prefixes: /28" (EC2 user guide, "Prefix delegation for Amazon EC2 network interfaces").
pub(super) const PREFIX_LENGTH: u8 = 28;
/// How many addresses a prefix has.
pub(super) const PREFIX_ADDRESSES: usize = 1 << (32 - PREFIX_LENGTH);

/// The free addresses of one subnet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Subnet {
    free: VecDeque<Ipv4Addr>,
    /// What others than this account's model hold: taken away to make the subnet full.
    elsewhere: Vec<Ipv4Addr>,
    /// What others hold here and there: taken away so that no /28 is left.
    scattered: Vec<Ipv4Addr>,
    /// Released, and not back yet; in the order of time.
    released: Vec<(Timestamp, Ipv4Addr)>,
}

impl Subnet {
    /// All of it but what AWS keeps; where there is room it begins at .10, which reads well.
    pub(super) fn new(cidr: Ipv4Net, first_needs: u32) -> Subnet {
        let (network, broadcast) = (cidr.network().to_bits(), cidr.broadcast().to_bits());
        let mut free: VecDeque<_> = (network + RESERVED..broadcast).map(Ipv4Addr::from_bits).collect();
        if broadcast - network > 2 * (first_needs + RESERVED) {
            free.rotate_left(6);
        }
        Subnet { free, elsewhere: Vec::new(), scattered: Vec::new(), released: Vec::new() }
    }

    /// AvailableIpAddressCount.
    pub(super) fn available(&self) -> usize {
        self.free.len()
    }

    /// Takes that many, or none at all.
    pub(super) fn take(&mut self, count: usize) -> Option<Vec<Ipv4Addr>> {
        (count <= self.free.len()).then(|| self.free.drain(..count).collect())
    }

    /// Gives back what was taken by a call that is refused after all, in its place.
    pub(super) fn untake(&mut self, addresses: Vec<Ipv4Addr>) {
        for address in addresses.into_iter().rev() {
            self.free.push_front(address);
        }
    }

    /// The blocks whose sixteen addresses are all free, that whose last use is longest ago first.
    fn whole_blocks(&self) -> Vec<u32> {
        let mut blocks: BTreeMap<u32, (usize, usize)> = BTreeMap::new();
        for (place, address) in self.free.iter().enumerate() {
            let block = blocks.entry(block_of(*address)).or_default();
            *block = (block.0 + 1, block.1.max(place));
        }
        let mut whole: Vec<_> =
            blocks.into_iter().filter(|(_, (count, _))| *count == PREFIX_ADDRESSES).collect();
        whole.sort_by_key(|(_, (_, last))| *last);
        whole.into_iter().map(|(block, _)| block).collect()
    }

    /// How many prefixes it has left: EC2 tells nobody.
    pub(super) fn prefixes(&self) -> usize {
        self.whole_blocks().len()
    }

    /// Takes that many prefixes, or none at all. One that AWS keeps addresses of is never whole.
    pub(super) fn take_prefixes(&mut self, count: usize) -> Option<Vec<Ipv4Net>> {
        let mut whole = self.whole_blocks();
        if whole.len() < count {
            return None;
        }
        whole.truncate(count);
        let taken: BTreeSet<u32> = whole.iter().copied().collect();
        self.free.retain(|address| !taken.contains(&block_of(*address)));
        Some(whole.into_iter().map(|b| Ipv4Net::new_assert(Ipv4Addr::from_bits(b), PREFIX_LENGTH)).collect())
    }

    /// Gives addresses back; they are free at `back`.
    pub(super) fn release(
        &mut self,
        addresses: impl IntoIterator<Item = Ipv4Addr>,
        now: Timestamp,
        back: Timestamp,
    ) {
        if back <= now {
            return self.free.extend(addresses);
        }
        self.released.extend(addresses.into_iter().map(|address| (back, address)));
        self.released.sort_by_key(|(back, _)| *back);
    }

    /// Gives prefixes back.
    pub(super) fn release_prefixes(&mut self, prefixes: &[Ipv4Net], now: Timestamp, back: Timestamp) {
        self.release(prefixes.iter().flat_map(addresses_of), now, back);
    }

    /// What was released long enough ago is free.
    pub(super) fn settle(&mut self, now: Timestamp) {
        let back = self.released.partition_point(|(back, _)| *back <= now);
        self.free.extend(self.released.drain(..back).map(|(_, address)| address));
    }

    /// Leaves at most that many free, as if others held the rest; none gives all of those back.
    pub(super) fn leave(&mut self, most: Option<usize>) {
        self.free.extend(self.elsewhere.drain(..));
        if let Some(over) = most.and_then(|most| self.free.len().checked_sub(most)) {
            self.elsewhere = self.free.drain(..over).collect();
        }
    }

    /// Others take one address of every block that is wholly free, so that no prefix is left; or give those back.
    pub(super) fn scatter(&mut self, scattered: bool) {
        self.free.extend(self.scattered.drain(..));
        if scattered {
            self.scattered = self.whole_blocks().into_iter().map(Ipv4Addr::from_bits).collect();
            let gone: BTreeSet<Ipv4Addr> = self.scattered.iter().copied().collect();
            self.free.retain(|address| !gone.contains(address));
        }
    }
}

/// The first address of the /28 that an address lies in.
fn block_of(address: Ipv4Addr) -> u32 {
    address.to_bits() & !(PREFIX_ADDRESSES as u32 - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Timestamp = Timestamp::ZERO;

    #[test]
    fn what_aws_keeps_is_never_given_out_and_the_released_comes_last() {
        let mut subnet = Subnet::new("10.0.1.0/28".parse().unwrap(), 9);
        assert_eq!((subnet.available(), subnet.prefixes()), (11, 0), "AWS keeps five of its sixteen");
        let all = subnet.take(11).unwrap();
        assert_eq!((all[0], all[10]), (Ipv4Addr::new(10, 0, 1, 4), Ipv4Addr::new(10, 0, 1, 14)));
        assert_eq!(subnet.take(1), None);
        subnet.release([all[3], all[1]], T0, T0);
        assert_eq!(subnet.take(3), None, "all or nothing");
        assert_eq!(subnet.take(2).unwrap(), [all[3], all[1]]);
    }

    #[test]
    fn others_can_fill_it_and_leave_again() {
        let mut subnet = Subnet::new("10.0.1.0/24".parse().unwrap(), 1);
        subnet.leave(Some(2));
        assert_eq!(subnet.available(), 2);
        assert_eq!(subnet.take(3), None);
        subnet.leave(Some(0));
        assert_eq!(subnet.take(1), None);
        subnet.leave(None);
        assert_eq!(subnet.available(), 251);
    }

    #[test]
    fn prefixes_are_aligned_whole_and_come_back_last() {
        let mut subnet = Subnet::new("10.0.1.0/24".parse().unwrap(), 1);
        assert_eq!(subnet.prefixes(), 14, "but the first and the last block");
        let first = subnet.take_prefixes(1).unwrap();
        assert_eq!(first[0].to_string(), "10.0.1.16/28");
        assert_eq!(subnet.available(), 251 - 16);
        let single = subnet.take(8).unwrap();
        assert_eq!(single[7], Ipv4Addr::new(10, 0, 1, 33), "singles go around it, and break the next block");
        assert_eq!(subnet.prefixes(), 12);
        subnet.release_prefixes(&first, T0, T0);
        assert_eq!(subnet.prefixes(), 13);
        let rest = subnet.take_prefixes(13).unwrap();
        assert_eq!(rest.last(), first.last());
        assert_eq!(subnet.take_prefixes(1), None);
    }

    #[test]
    fn scattered_addresses_leave_addresses_and_no_prefix() {
        let mut subnet = Subnet::new("10.0.1.0/24".parse().unwrap(), 1);
        subnet.scatter(true);
        assert_eq!((subnet.prefixes(), subnet.available()), (0, 251 - 14));
        subnet.scatter(false);
        assert_eq!((subnet.prefixes(), subnet.available()), (14, 251));
    }

    #[test]
    fn the_released_is_not_free_before_its_time() {
        let mut subnet = Subnet::new("10.0.1.0/24".parse().unwrap(), 1);
        let taken = subnet.take(2).unwrap();
        let later = Timestamp::from_millis(5_000);
        subnet.release(taken, T0, later);
        subnet.settle(Timestamp::from_millis(4_999));
        assert_eq!(subnet.available(), 249);
        subnet.settle(later);
        assert_eq!(subnet.available(), 251);
    }
}
