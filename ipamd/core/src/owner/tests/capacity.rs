//! Prefixes and counted addresses through the owner: what is asked of EC2, what it refuses, what is given back, and what a
//! crash leaves of it.

use super::*;
use crate::capacity::{PoolMode, Targets};
use crate::cloud::{CloudError, CloudErrorKind, Mutated, Mutation, addresses_of};
use eni_proto::ids::SubnetId;
use ipnet::Ipv4Net;

/// EC2 as far as addresses and prefixes go; ENIs attach at once.
#[derive(Debug, Clone)]
pub(super) struct SmallEc2 {
    pub(super) enis: Vec<EniObservation>,
    pub(super) limits: InstanceLimits,
    calls: Vec<Mutation>,
    made: u8,
    made_prefixes: u8,
    /// What is refused, before it has an effect.
    refuses: fn(&Mutation) -> Option<CloudErrorKind>,
    /// Changes take effect and are not answered.
    loses: bool,
}

impl SmallEc2 {
    /// The primary alone, without a secondary address, and room for nine on each of two ENIs.
    fn new(bench: &Bench) -> SmallEc2 {
        let limits = InstanceLimits { prefixes: true, ..InstanceLimits::new(2, 10) };
        let mut enis = bench.one_full_eni().enis;
        enis[0].secondary.clear();
        SmallEc2 {
            enis,
            limits,
            calls: Vec::new(),
            made: 0,
            made_prefixes: 0,
            refuses: |_| None,
            loses: false,
        }
    }

    pub(super) fn mutate(&mut self, mutation: &Mutation, stored: &Stored) -> Result<Mutated, CloudError> {
        assert!(stored.intents.iter().any(|i| i.mutation == *mutation), "no intent of {mutation:?}");
        if let Mutation::Unassign { addresses, prefixes, .. } = mutation {
            let gone: Vec<Ipv4Addr> =
                addresses.iter().copied().chain(prefixes.iter().flat_map(addresses_of)).collect();
            assert!(stored.addresses.iter().all(|a| !gone.contains(&a.address)), "they are in the pool yet");
            assert!(stored.enis.iter().all(|e| e.prefixes.iter().all(|p| !prefixes.contains(p))));
        }
        self.calls.push(mutation.clone());
        if let Some(kind) = (self.refuses)(mutation) {
            let code = Some(format!("{kind:?}"));
            return Err(CloudError { code, ..CloudError::new(kind, mutation.call(), "no") });
        }
        let done = self.change(mutation);
        if self.loses {
            return Err(CloudError::new(CloudErrorKind::Unreachable, mutation.call(), "no answer"));
        }
        Ok(done)
    }

    fn change(&mut self, mutation: &Mutation) -> Mutated {
        match mutation {
            Mutation::Assign { eni, count, prefixes } => {
                let (addresses, new) = (self.addresses(*count), self.prefixes(*prefixes));
                let eni = self.enis.iter_mut().find(|e| e.id == *eni).unwrap();
                eni.secondary.extend(&addresses);
                eni.prefixes.extend(&new);
                if *prefixes > 0 { Mutated::AssignedPrefixes(new) } else { Mutated::Assigned(addresses) }
            }
            Mutation::Unassign { eni, addresses, prefixes } => {
                let eni = self.enis.iter_mut().find(|e| e.id == *eni).unwrap();
                assert!(addresses.iter().all(|a| eni.secondary.contains(a)), "{addresses:?} of {eni:?}");
                assert!(prefixes.iter().all(|p| eni.prefixes.contains(p)), "{prefixes:?} of {eni:?}");
                eni.secondary.retain(|a| !addresses.contains(a));
                eni.prefixes.retain(|p| !prefixes.contains(p));
                Mutated::Done
            }
            Mutation::Create { subnet, security_groups, secondary, prefixes, tags, .. } => {
                let mut eni = self.enis[0].clone();
                eni.id = format!("eni-{}", self.enis.len() + 1).parse().unwrap();
                eni.mac = MacAddr([2, 0, 0, 0, 0, 2]);
                (eni.subnet, eni.security_groups) = (subnet.clone(), security_groups.clone());
                eni.primary = self.addresses(1).pop();
                (eni.secondary, eni.prefixes) = (self.addresses(*secondary), self.prefixes(*prefixes));
                (eni.tags, eni.attachment) = (tags.clone(), None);
                self.enis.push(eni.clone());
                Mutated::Created(eni)
            }
            Mutation::Attach { eni, device_index, .. } => {
                let at = self.enis[0].attachment.clone().unwrap();
                let eni = self.enis.iter_mut().find(|e| e.id == *eni).unwrap();
                eni.attachment = Some(EniAttachment { device_index: *device_index, ..at });
                Mutated::Done
            }
            other => panic!("{other:?} is not asked for here"),
        }
    }

    fn addresses(&mut self, count: u32) -> Vec<Ipv4Addr> {
        let first = self.made;
        self.made += u8::try_from(count).unwrap();
        (first..self.made).map(|n| Ipv4Addr::new(10, 0, 1, 20 + n)).collect()
    }

    fn prefixes(&mut self, count: u32) -> Vec<Ipv4Net> {
        let first = self.made_prefixes;
        self.made_prefixes += u8::try_from(count).unwrap();
        let net = |n: u8| Ipv4Net::new(Ipv4Addr::new(10, 0, 2 + n / 16, n % 16 * 16), 28).unwrap();
        (first..self.made_prefixes).map(net).collect()
    }
}

fn prefixed() -> Targets {
    Targets { mode: PoolMode::Prefixes, ..Targets::default() }
}

fn config(targets: Targets) -> OwnerConfig {
    OwnerConfig { cooldown: Duration::from_secs(1), targets, ..OwnerConfig::default() }
}

/// A node that starts on this EC2, or goes on with what is stored.
fn node(config: OwnerConfig, stored: Stored, prepare: impl FnOnce(&mut Bench)) -> Bench {
    let mut bench = Bench::bare(config, 0, stored, host());
    bench.small = Some(SmallEc2::new(&bench));
    prepare(&mut bench);
    bench.begin();
    bench.run(Duration::from_secs(1));
    bench
}

fn started(targets: Targets) -> Bench {
    node(config(targets), Stored::default(), |_| {})
}

impl Bench {
    /// Time goes on, and whatever is due is done when it is.
    fn run(&mut self, span: Duration) {
        let end = self.now + span;
        while let Some(due) = self.owner.next_deadline().filter(|due| *due <= end) {
            self.now = due.max(self.now);
            self.send(Event::Wake);
        }
        self.now = end;
        self.send(Event::Wake);
    }

    fn small(&mut self) -> &mut SmallEc2 {
        self.small.as_mut().unwrap()
    }

    fn calls(&mut self) -> Vec<Mutation> {
        std::mem::take(&mut self.small().calls)
    }

    /// What the calls asked for: call, addresses, prefixes.
    fn asked(&mut self) -> Vec<(&'static str, usize, usize)> {
        let what = |mutation: &Mutation| match mutation {
            Mutation::Create { secondary, prefixes, .. } => (*secondary as usize, *prefixes as usize),
            Mutation::Assign { count, prefixes, .. } => (*count as usize, *prefixes as usize),
            Mutation::Unassign { addresses, prefixes, .. } => (addresses.len(), prefixes.len()),
            _ => (0, 0),
        };
        let calls = self.calls();
        calls.iter().map(|m| (m.call(), what(m).0, what(m).1)).collect()
    }

    fn add(&mut self, number: u64) {
        self.send(Event::Add { op: OpId(number), ask: ask(&format!("c{number}"), number) });
    }

    fn del(&mut self, number: u64) {
        self.send(Event::Del { op: OpId(1000 + number), key: key(&format!("c{number}")) });
    }

    fn free(&self) -> usize {
        self.owner.pool().counts().free
    }

    /// The pool, the store and EC2 agree.
    fn agrees(&self) {
        let ec2 = self.small.as_ref().unwrap();
        let mut theirs: Vec<Ipv4Addr> = ec2.enis.iter().flat_map(EniObservation::for_containers).collect();
        theirs.sort();
        let ours: Vec<Ipv4Addr> = self.owner.pool().addresses().map(|a| a.address).collect();
        assert_eq!(ours, theirs);
        let mut stored: Vec<Ipv4Addr> = self.stored.addresses.iter().map(|a| a.address).collect();
        stored.sort();
        assert_eq!(stored, theirs);
        for eni in &ec2.enis {
            let record = self.owner.pool().eni(&eni.id).unwrap();
            assert_eq!(record.record.prefixes, eni.prefixes);
            assert!(self.stored.enis.iter().any(|e| e.id == eni.id && e.prefixes == eni.prefixes));
        }
        assert_eq!(self.stored.intents, []);
    }
}

const ASSIGN: &str = "AssignPrivateIpAddresses";
const UNASSIGN: &str = "UnassignPrivateIpAddresses";

#[test]
fn a_prefix_brings_sixteen_addresses_and_a_burst_costs_one_call() {
    let mut node = started(prefixed());
    assert_eq!(node.asked(), [(ASSIGN, 0, 1)]);
    assert_eq!(node.free(), 16);
    node.agrees();
    for number in 1..=60 {
        node.add(number);
    }
    node.run(Duration::from_secs(1));
    for number in 1..=60 {
        node.added(number);
    }
    let asked = node.asked();
    assert_eq!(asked[0], (ASSIGN, 0, 4), "44 that wait and 16 warm");
    assert!(asked.len() <= 2, "{asked:?}: and recent demand");
    node.agrees();
}

#[test]
fn twenty_adds_that_wait_cost_one_assign_call() {
    let mut node = started(Targets { warm_ip: Some(0), ..prefixed() });
    node.small().limits.addresses_per_eni = 50;
    node.small().limits.prefixes = false;
    node.run(Duration::from_secs(60));
    assert_eq!(node.asked(), []);
    for number in 1..=20 {
        node.add(number);
    }
    node.run(Duration::from_secs(1));
    node.added(20);
    assert_eq!(node.asked(), [(ASSIGN, 20, 0)]);
    // Those that come while a call is under way wait for it, whatever else has room.
    node.hold_changes = true;
    for number in 21..=30 {
        node.add(number);
        node.run(Duration::from_millis(100));
    }
    node.hold_changes = false;
    node.release(|kind| matches!(kind, EffectKind::Mutate(_)));
    node.run(Duration::from_secs(1));
    node.added(30);
    assert_eq!(node.asked(), [(ASSIGN, 1, 0), (ASSIGN, 9, 0)]);
}

#[test]
fn a_subnet_without_a_28_gives_single_addresses_and_is_asked_again_later() {
    let mut node = node(config(prefixed()), Stored::default(), |bench| {
        bench.small().limits.addresses_per_eni = 30;
        bench.small().refuses = |mutation| match mutation {
            Mutation::Assign { prefixes: 1.., .. } => Some(CloudErrorKind::PrefixesExhausted),
            _ => None,
        };
    });
    assert_eq!(node.asked(), [(ASSIGN, 0, 1), (ASSIGN, 16, 0)], "as many addresses as the prefix has");
    let told = node.owner.health().reasons.iter().any(|why| why.contains("gives no prefixes"));
    assert!(told, "{:?}", node.owner.health().reasons);
    node.agrees();
    node.small().refuses = |_| None;
    node.add(1);
    node.run(Duration::from_secs(1));
    assert_eq!(node.asked(), [(ASSIGN, 1, 0)], "it is not asked for prefixes yet");
    node.run(Duration::from_secs(120));
    node.add(2);
    node.run(Duration::from_secs(1));
    node.added(2);
    assert_eq!(node.asked(), [(ASSIGN, 0, 1)], "both kinds on one ENI");
    node.agrees();
}

#[test]
fn both_kinds_live_on_one_eni_and_slots_are_counted_together() {
    let mut node = node(config(prefixed()), Stored::default(), |bench| {
        let singles = bench.small().addresses(7);
        bench.small().enis[0].secondary = singles;
    });
    assert_eq!(node.asked(), [(ASSIGN, 0, 1)], "nine are missing");
    for number in 1..=30 {
        node.add(number);
    }
    node.run(Duration::from_secs(1));
    let asked = node.asked();
    assert_eq!(asked[0], (ASSIGN, 0, 1), "one slot is left");
    assert!(asked.contains(&("CreateNetworkInterface", 0, 1)), "{asked:?}");
    let full = &node.small().enis[0];
    assert_eq!((full.secondary.len(), full.prefixes.len()), (7, 2));
    node.agrees();
}

#[test]
fn a_prefix_goes_back_only_when_all_of_it_is_free_and_no_old_look_brings_it_back() {
    let mut node = started(Targets { warm_prefixes: 0, ..prefixed() });
    for number in 1..=20 {
        node.add(number);
    }
    node.run(Duration::from_secs(1));
    node.added(20);
    assert_eq!(node.asked(), [(ASSIGN, 0, 2)]);
    for number in 2..=20 {
        node.del(number);
    }
    node.run(Duration::from_secs(59));
    assert_eq!(node.asked(), [], "not before the hysteresis");
    let before = node.small().enis.clone();
    node.run(Duration::from_secs(10));
    assert_eq!(node.asked(), [(UNASSIGN, 0, 1)], "the other one is held from");
    assert_eq!(node.free(), 15);
    node.agrees();
    let after = std::mem::replace(&mut node.small().enis, before);
    node.run(Duration::from_secs(45));
    assert_eq!(node.free(), 15, "EC2 says for a while what was");
    node.small().enis = after;
    node.run(Duration::from_secs(60));
    node.agrees();
    node.added(1);
}

#[test]
fn what_cools_and_what_is_held_is_not_given_back() {
    let mut node = node(
        OwnerConfig {
            cooldown: Duration::from_secs(600),
            ..config(Targets { warm_prefixes: 0, ..prefixed() })
        },
        Stored::default(),
        |_| {},
    );
    node.add(1);
    node.run(Duration::from_secs(1));
    node.added(1);
    node.del(1);
    node.asked();
    node.run(Duration::from_secs(500));
    assert_eq!(node.asked(), [], "one of its addresses cools");
    node.run(Duration::from_secs(300));
    assert_eq!(node.asked(), [(UNASSIGN, 0, 1)]);
    node.agrees();
}

#[test]
fn free_addresses_beyond_the_warm_ones_go_back_and_nothing_does_with_no_release() {
    for no_release in [false, true] {
        let mut node = started(Targets { warm_ip: Some(2), no_release, ..Targets::default() });
        for number in 1..=6 {
            node.add(number);
        }
        node.run(Duration::from_secs(1));
        node.added(6);
        for number in 1..=6 {
            node.del(number);
        }
        node.asked();
        node.run(Duration::from_secs(120));
        let asked = node.asked();
        if no_release {
            assert_eq!((asked, node.free()), (vec![], 9));
        } else {
            assert_eq!((asked, node.free()), (vec![(UNASSIGN, 6, 0)], 3), "two, and one more");
        }
        node.agrees();
    }
}

#[test]
fn what_ec2_refuses_to_take_comes_back() {
    let mut node = started(prefixed());
    let targets = Targets { warm_prefixes: 0, ..prefixed() };
    for kind in [CloudErrorKind::Throttled, CloudErrorKind::Other] {
        let stored = node.stored.clone();
        let ec2 = node.small.clone();
        node = super::capacity::node(config(targets), stored, |bench| bench.small = ec2);
        node.small().refuses = match kind {
            CloudErrorKind::Throttled => |_| Some(CloudErrorKind::Throttled),
            _ => |_| Some(CloudErrorKind::Other),
        };
        node.asked();
        node.run(Duration::from_secs(60));
        assert_eq!(node.asked(), [(UNASSIGN, 0, 1)], "{kind:?}");
        node.run(Duration::from_secs(2));
        assert_eq!(node.free(), 16, "{kind:?}");
        node.agrees();
    }
}

#[test]
fn a_crash_between_the_intent_of_giving_back_and_its_answer_loses_nothing_and_gives_nothing_out_twice() {
    for happened in [false, true] {
        let node = started(prefixed());
        let (stored, ec2) = (node.stored.clone(), node.small.clone());
        let nothing_warm = config(Targets { warm_prefixes: 0, ..prefixed() });
        let mut node = super::capacity::node(nothing_warm, stored, |bench| {
            bench.small = ec2;
            bench.hold_changes = true;
        });
        node.run(Duration::from_secs(61));
        assert_eq!((node.stored.intents.len(), node.stored.addresses.len()), (1, 0));
        let (stored, mut ec2) = (node.stored.clone(), node.small.clone());
        if happened {
            let mutation = stored.intents[0].mutation.clone();
            ec2.as_mut().unwrap().mutate(&mutation, &stored).unwrap();
        }
        let kept = Targets { warm_prefixes: 0, no_release: true, ..prefixed() };
        let mut after = super::capacity::node(config(kept), stored, |bench| bench.small = ec2);
        assert_eq!(after.free(), 0, "what may be gone is not given out");
        after.run(Duration::from_secs(120));
        assert_eq!(after.free(), if happened { 0 } else { 16 }, "EC2 has said what is");
        after.agrees();
    }
}

#[test]
fn an_answer_that_is_lost_is_found_by_the_next_look() {
    let mut node = node(config(prefixed()), Stored::default(), |bench| bench.small().loses = true);
    node.small().loses = false;
    node.run(Duration::from_secs(30));
    assert_eq!(node.asked(), [(ASSIGN, 0, 1)], "it is not asked for twice");
    assert_eq!(node.free(), 16);
    node.agrees();
}

#[test]
fn a_full_subnet_is_left_for_the_next_and_new_enis_get_the_configured_groups() {
    let subnets: Vec<SubnetId> = ["subnet-a", "subnet-b"].map(|id| id.parse().unwrap()).into();
    let config = OwnerConfig {
        subnets: subnets.clone(),
        security_groups: vec!["sg-a".into()],
        ..config(Targets { warm_enis: 0, ..Targets::default() })
    };
    let mut node = node(config, Stored::default(), |bench| {
        bench.small().refuses = |mutation| match mutation {
            Mutation::Create { subnet, .. } if subnet.as_str() == "subnet-a" => {
                Some(CloudErrorKind::SubnetFull)
            }
            _ => None,
        };
    });
    for number in 1..=12 {
        node.add(number);
    }
    node.run(Duration::from_secs(1));
    let created: Vec<(SubnetId, Vec<String>, u32)> = node
        .calls()
        .into_iter()
        .filter_map(|m| match m {
            Mutation::Create { subnet, security_groups, secondary, .. } => {
                Some((subnet, security_groups, secondary))
            }
            _ => None,
        })
        .collect();
    let at =
        |subnet: &str| created.iter().filter(|(s, ..)| s.as_str() == subnet).map(|c| c.2).collect::<Vec<_>>();
    assert_eq!(at("subnet-b"), [9], "{created:?}");
    assert_eq!(at("subnet-a").last(), Some(&1), "its last word");
    assert!(created.iter().all(|(_, groups, _)| groups == &["sg-a"]));
    let reasons = node.owner.health().reasons;
    assert!(reasons.iter().any(|why| why.contains("subnet-a: ")), "{reasons:?}");
}

#[test]
fn what_was_given_back_and_asked_for_again_is_kept_longer() {
    let mut node = started(Targets { warm_prefixes: 0, ..prefixed() });
    let mut waits = Vec::new();
    for number in 1..=3 {
        node.add(number);
        node.run(Duration::from_secs(1));
        node.added(number);
        node.del(number);
        node.asked();
        let begun = node.now;
        while node.asked() != [(UNASSIGN, 0, 1)] {
            node.run(Duration::from_secs(1));
        }
        waits.push((node.now - begun).as_secs());
    }
    assert!(waits[0] < 70 && waits[1] > 110 && waits[2] > 230, "{waits:?}");
}
