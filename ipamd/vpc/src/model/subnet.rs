//! The subnet's free addresses.
//!
//! Owns which addresses are free and in which order they are given out. EC2 says nothing of the order; here a released
//! address goes to the end of the list, so that it comes back as late as the subnet allows. Does not know who holds
//! the others.

use super::setup::RESERVED;
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::net::Ipv4Addr;

/// The free addresses of one subnet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Subnet {
    free: VecDeque<Ipv4Addr>,
    /// What others than this account's model hold: taken away to make the subnet full.
    elsewhere: Vec<Ipv4Addr>,
}

impl Subnet {
    /// All of it but what AWS keeps; where there is room it begins at .10, which reads well.
    pub(super) fn new(cidr: Ipv4Net, first_needs: u32) -> Subnet {
        let (network, broadcast) = (cidr.network().to_bits(), cidr.broadcast().to_bits());
        let mut free: VecDeque<_> = (network + RESERVED..broadcast).map(Ipv4Addr::from_bits).collect();
        if broadcast - network > 2 * (first_needs + RESERVED) {
            free.rotate_left(6);
        }
        Subnet { free, elsewhere: Vec::new() }
    }

    /// AvailableIpAddressCount.
    pub(super) fn available(&self) -> usize {
        self.free.len()
    }

    /// Takes that many, or none at all.
    pub(super) fn take(&mut self, count: usize) -> Option<Vec<Ipv4Addr>> {
        (count <= self.free.len()).then(|| self.free.drain(..count).collect())
    }

    /// Gives addresses back.
    pub(super) fn release(&mut self, addresses: impl IntoIterator<Item = Ipv4Addr>) {
        self.free.extend(addresses);
    }

    /// Leaves at most that many free, as if others held the rest; none gives all of those back.
    pub(super) fn leave(&mut self, most: Option<usize>) {
        self.free.extend(self.elsewhere.drain(..));
        if let Some(over) = most.and_then(|most| self.free.len().checked_sub(most)) {
            self.elsewhere = self.free.drain(..over).collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_aws_keeps_is_never_given_out_and_the_released_comes_last() {
        let mut subnet = Subnet::new("10.0.1.0/28".parse().unwrap(), 9);
        assert_eq!(subnet.available(), 11);
        let all = subnet.take(11).unwrap();
        assert_eq!((all[0], all[10]), (Ipv4Addr::new(10, 0, 1, 4), Ipv4Addr::new(10, 0, 1, 14)));
        assert_eq!(subnet.take(1), None);
        subnet.release([all[3], all[1]]);
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
}
