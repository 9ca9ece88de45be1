//! The pool against a reference model on a small domain: three ENIs, four addresses each, three holders.

use super::*;
use crate::capacity::Amount;
use crate::record::EniState;
use eni_proto::ids::{AttachmentKey, MacAddr};
use proptest::prelude::*;
use std::time::Duration;

fn eni(index: u32) -> EniRecord {
    EniRecord {
        id: format!("eni-{index}").parse().unwrap(),
        mac: MacAddr([2, 0, 0, 0, 0, index as u8]),
        device_index: index,
        subnet: "subnet-1".parse().unwrap(),
        subnet_cidr: "10.0.0.0/24".parse().unwrap(),
        primary: Ipv4Addr::new(10, 0, 0, 10 + index as u8),
        state: EniState::InUse,
        prefixes: Vec::new(),
        attachment: None,
    }
}

fn holder(number: u64) -> AttachmentId {
    let key = AttachmentKey {
        network: "vpc".parse().unwrap(),
        container: format!("c{number}").parse().unwrap(),
        ifname: "eth0".parse().unwrap(),
    };
    AttachmentId { key, generation: number }
}

fn pool(enis: u32, each: u8) -> Pool {
    let mut pool = Pool::default();
    let mut laid = BTreeSet::new();
    for index in 0..enis {
        let record = eni(index);
        let id = record.id.clone();
        pool.put_eni(record);
        pool.set_link(&id, Some((index + 2, format!("ens{index}"))));
        for n in 0..each {
            let address = Ipv4Addr::new(10, 0, index as u8, 100 + n);
            pool.adopt(address, &id, Timestamp::from_millis(u64::from(n)));
            laid.insert(address);
        }
    }
    pool.set_laid(&laid);
    pool
}

#[test]
fn the_fullest_eni_comes_first_and_its_oldest_address() {
    let mut pool = pool(2, 2);
    let now = Timestamp::from_millis(10);
    let first = pool.allocate(&holder(1), now).unwrap();
    assert_eq!(first.address, Ipv4Addr::new(10, 0, 0, 100));
    assert_eq!(pool.allocate(&holder(2), now).unwrap().address, Ipv4Addr::new(10, 0, 0, 101));
    assert_eq!(pool.allocate(&holder(3), now).unwrap().address, Ipv4Addr::new(10, 0, 1, 100));
}

#[test]
fn an_address_without_its_base_route_is_not_given_out() {
    let mut pool = pool(1, 1);
    pool.set_laid(&BTreeSet::new());
    assert_eq!(pool.allocate(&holder(1), Timestamp::ZERO), None);
    assert_eq!(pool.available(), 0);
}

#[test]
fn an_eni_without_a_link_serves_nobody() {
    let mut pool = pool(1, 1);
    pool.set_link(&eni(0).id, None);
    assert_eq!(pool.allocate(&holder(1), Timestamp::ZERO), None);
}

#[test]
fn a_late_release_frees_nothing_of_the_next_holder() {
    let mut pool = pool(1, 1);
    let now = Timestamp::from_millis(10);
    let address = pool.allocate(&holder(1), now).unwrap().address;
    assert!(pool.release(address, &holder(1), now).is_some());
    pool.reaped(address, &holder(1));
    assert_eq!(pool.allocate(&holder(2), now).unwrap().generation, 2);
    assert_eq!(pool.release(address, &holder(1), now), None);
    assert_eq!(pool.counts().allocated, 1);
}

#[test]
fn a_cooling_address_needs_its_reaper_and_its_time() {
    let mut pool = pool(1, 1);
    let now = Timestamp::from_millis(10);
    let address = pool.allocate(&holder(1), now).unwrap().address;
    let until = now + Duration::from_secs(30);
    pool.release(address, &holder(1), until);
    assert_eq!(pool.allocate(&holder(2), until), None, "not reaped");
    pool.reaped(address, &holder(1));
    assert_eq!(pool.allocate(&holder(2), now), None, "not cooled down");
    assert!(pool.allocate(&holder(2), until).is_some());
}

#[test]
fn two_misses_in_a_row_are_counted_and_a_sighting_resets() {
    let mut pool = pool(1, 1);
    let address = Ipv4Addr::new(10, 0, 0, 100);
    assert_eq!(pool.miss(address), 1);
    pool.adopt(address, &eni(0).id, Timestamp::ZERO);
    assert_eq!(pool.miss(address), 1);
    assert_eq!(pool.miss(address), 2);
    assert!(pool.drop_free(address));
    assert_eq!(pool.counts(), PoolCounts::default());
}

#[test]
fn what_ec2_does_not_name_is_not_given_out_until_it_does() {
    let mut pool = pool(1, 1);
    let address = Ipv4Addr::new(10, 0, 0, 100);
    let now = Timestamp::from_millis(10);
    let is_given = |pool: &Pool| pool.clone().allocate(&holder(9), now).is_some();
    assert!(is_given(&pool));
    pool.miss(address);
    assert_eq!((is_given(&pool), pool.available(), pool.counts().free), (false, 0, 1));
    pool.adopt(address, &eni(0).id, now);
    assert_eq!((is_given(&pool), pool.available(), pool.counts().free), (true, 1, 1));
    // Missed while it is held: it comes back free, and serves nobody.
    pool.allocate(&holder(1), now).unwrap();
    pool.miss(address);
    pool.release(address, &holder(1), now);
    pool.reaped(address, &holder(1));
    pool.settle(now);
    assert_eq!((is_given(&pool), pool.available(), pool.counts().free), (false, 0, 1));
    pool.set_laid(&BTreeSet::new());
    pool.set_laid(&BTreeSet::from([address]));
    assert!(!is_given(&pool));
    assert_eq!(pool.miss(address), 2);
    assert!(pool.drop_free(address));
    assert_eq!((pool.available(), pool.counts()), (0, PoolCounts::default()));
}

#[derive(Debug, Clone)]
enum Op {
    Allocate(u64),
    Release(u64),
    Reap(u64),
    Pass(u64),
    Lay(bool),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (0..3u64).prop_map(Op::Allocate),
        (0..3u64).prop_map(Op::Release),
        (0..3u64).prop_map(Op::Reap),
        (0..40u64).prop_map(Op::Pass),
        any::<bool>().prop_map(Op::Lay),
    ]
}

/// The model: of each address who holds or held it, since when it cools, whether it is reaped.
#[derive(Debug, Clone, PartialEq)]
enum Model {
    Free,
    Held(u64),
    Cooling { by: u64, until: u64, reaped: bool },
}

proptest! {
    #[test]
    fn the_pool_agrees_with_a_model(ops in prop::collection::vec(op(), 1..80)) {
        let mut pool = pool(3, 4);
        let all: Vec<Ipv4Addr> = pool.addresses().map(|a| a.address).collect();
        let mut model: BTreeMap<Ipv4Addr, Model> = all.iter().map(|a| (*a, Model::Free)).collect();
        let (mut now, mut laid) = (100u64, true);
        for op in ops {
            let at = Timestamp::from_millis(now);
            match op {
                Op::Allocate(h) => {
                    let can = laid && model.values().any(|m| match m {
                        Model::Free => true,
                        Model::Cooling { until, reaped, .. } => *reaped && *until <= now,
                        Model::Held(_) => false,
                    });
                    let got = pool.allocate(&holder(h), at);
                    prop_assert_eq!(got.is_some(), can);
                    for state in model.values_mut() {
                        if matches!(state, Model::Cooling { until, reaped: true, .. } if *until <= now) {
                            *state = Model::Free;
                        }
                    }
                    if let Some(record) = got {
                        let before = model.insert(record.address, Model::Held(h));
                        prop_assert_eq!(before, Some(Model::Free), "given out while not free");
                    }
                }
                Op::Release(h) => for address in &all {
                    let released = pool.release(*address, &holder(h), Timestamp::from_millis(now + 20));
                    let held = model[address] == Model::Held(h);
                    prop_assert_eq!(released.is_some(), held);
                    if held {
                        model.insert(*address, Model::Cooling { by: h, until: now + 20, reaped: false });
                    }
                },
                Op::Reap(h) => for address in &all {
                    pool.reaped(*address, &holder(h));
                    if let Some(Model::Cooling { by, reaped, .. }) = model.get_mut(address) && *by == h {
                        *reaped = true;
                    }
                },
                Op::Pass(ms) => now += ms,
                Op::Lay(on) => {
                    laid = on;
                    pool.set_laid(&if on { all.iter().copied().collect() } else { BTreeSet::new() });
                }
            }
            let counts = pool.counts();
            let held = model.values().filter(|m| matches!(m, Model::Held(_))).count();
            prop_assert_eq!(counts.allocated, held);
            prop_assert_eq!(counts.free + counts.allocated + counts.cooling + counts.quarantined, all.len());
        }
    }
}

#[test]
fn what_cools_does_not_leave_with_its_eni() {
    let mut pool = pool(1, 2);
    let id = eni(0).id;
    let now = Timestamp::from_millis(10);
    let address = pool.allocate(&holder(1), now).unwrap().address;
    pool.release(address, &holder(1), now + Duration::from_secs(30)).unwrap();
    assert_eq!(pool.drop_all_free(&id), [Ipv4Addr::new(10, 0, 0, 101)]);
    assert_eq!(pool.remove_eni(&id), None, "EC2 may name the address again: it must not come back free");
    pool.reaped(address, &holder(1));
    pool.settle(now + Duration::from_secs(30));
    assert_eq!(pool.remove_eni(&id), Some(vec![address]));
}

/// One ENI with two prefixes and two single addresses, all laid.
fn prefixed() -> (Pool, EniId, [ipnet::Ipv4Net; 2]) {
    let mut pool = pool(1, 2);
    let id = eni(0).id;
    let prefixes = ["10.0.2.0/28", "10.0.2.16/28"].map(|text| text.parse().unwrap());
    pool.add_prefixes(&id, &prefixes);
    for address in prefixes.iter().flat_map(crate::cloud::addresses_of) {
        pool.adopt(address, &id, Timestamp::ZERO);
    }
    pool.set_laid(&pool.addresses().map(|a| a.address).collect());
    (pool, id, prefixes)
}

#[test]
fn slots_are_counted_together_and_prefixes_are_whole() {
    let (pool, id, _) = prefixed();
    assert_eq!((pool.counts().free, pool.available()), (34, 34));
    assert_eq!((pool.slots_used(&id), pool.free_singles(&id), pool.free_prefixes(&id)), (4, 2, 2));
}

#[test]
fn single_addresses_come_before_an_empty_prefix_and_the_fullest_prefix_before_them() {
    let (mut pool, id, prefixes) = prefixed();
    let now = Timestamp::from_millis(100);
    let singles = [1, 2].map(|n| pool.allocate(&holder(n), now).unwrap().address);
    assert!(singles.iter().all(|a| a.octets()[2] == 0), "{singles:?}");
    let inside = pool.allocate(&holder(3), now).unwrap().address;
    let used = *prefixes.iter().find(|p| p.contains(&inside)).unwrap();
    pool.release(singles[0], &holder(1), now);
    pool.reaped(singles[0], &holder(1));
    let next = pool.allocate(&holder(4), now).unwrap().address;
    assert!(used.contains(&next), "{next}: not the single one, not the other prefix");
    assert_eq!(pool.free_prefixes(&id), 1);
    for n in 5..19 {
        let address = pool.allocate(&holder(n), now).unwrap().address;
        assert!(used.contains(&address), "{address}");
    }
    assert_eq!(pool.allocate(&holder(19), now).unwrap().address, singles[0]);
}

#[test]
fn what_is_given_back_leaves_whole_and_stays_out() {
    let (mut pool, id, prefixes) = prefixed();
    let (now, until) = (Timestamp::from_millis(100), Timestamp::from_millis(200));
    for n in 1..4 {
        pool.allocate(&holder(n), now);
    }
    let back = pool.give_back(&id, Amount::Prefixes(5), until);
    assert_eq!((back.prefixes.len(), back.addresses.len()), (1, 16), "the other one is held from");
    assert_eq!(back.record.map(|r| r.prefixes.len()), Some(1));
    assert_eq!(pool.adopt(back.addresses[0], &id, now), None, "a look that is older");
    assert!(pool.adopt(back.addresses[0], &id, until).is_some());
    assert!(prefixes.contains(&back.prefixes[0]));
    assert_eq!(pool.give_back(&id, Amount::Addresses(5), until).addresses, [back.addresses[0]]);
    pool.welcome([back.addresses[1]].into_iter());
    assert!(pool.adopt(back.addresses[1], &id, now).is_some(), "EC2 has assigned it again");
}

#[test]
fn the_last_allocations_are_remembered() {
    let (mut pool, ..) = prefixed();
    for n in 1..=5 {
        pool.allocate(&holder(n), Timestamp::from_millis(n * 10));
    }
    let then = Timestamp::from_millis(20);
    assert_eq!(pool.handed_out_since(then), 3);
    assert_eq!(pool.earliest_handed_out_since(then), Some(Timestamp::from_millis(30)));
    assert_eq!(pool.earliest_handed_out_since(Timestamp::from_millis(50)), None);
}
