//! What each subnet refused lately.
//!
//! Owns the back-off of each subnet by itself: one that is full, one that has no /28 left (single addresses are asked for
//! there until prefixes are worth another try), one that has fewer than were asked for. Does not choose among subnets:
//! the planner does.

use crate::capacity::{Amount, PER_PREFIX, SubnetView};
use crate::cloud::{CloudError, CloudErrorKind};
use crate::time::Timestamp;
use eni_proto::ids::SubnetId;
use std::collections::BTreeMap;
use std::time::Duration;

/// When a subnet without a free /28 is asked for one again: it stays so until others give theirs back, and every try costs a
/// call. Doubled with each refusal.
const PREFIXES_AGAIN: Duration = Duration::from_secs(120);
/// The longest of these waits is 32 minutes.
const FRAGMENTED_MOST: u32 = 4;

/// When a subnet that EC2 does not know is asked again: somebody has to mend the configuration first.
const UNKNOWN_AGAIN: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Default)]
struct Subnet {
    full: Option<(Timestamp, String)>,
    no_prefix: Option<(Timestamp, String)>,
    /// How often in a row it had no /28.
    fragmented: u32,
    most: Option<(Timestamp, u32)>,
    most_prefixes: Option<(Timestamp, u32)>,
}

/// The subnets that refused something.
#[derive(Debug, Clone, Default)]
pub(super) struct Subnets {
    known: BTreeMap<SubnetId, Subnet>,
}

impl Subnets {
    /// What the planner is told.
    pub(super) fn views(&self) -> BTreeMap<SubnetId, SubnetView> {
        let view = |subnet: &Subnet| SubnetView {
            full: subnet.full.clone(),
            no_prefix: subnet.no_prefix.clone(),
            most: subnet.most.map(|(_, most)| most),
            most_prefixes: subnet.most_prefixes.map(|(_, most)| most),
        };
        self.known.iter().map(|(id, subnet)| (id.clone(), view(subnet))).collect()
    }

    /// In words.
    pub(super) fn refusals(&self) -> impl Iterator<Item = &str> {
        let refused = self.known.values().flat_map(|subnet| subnet.full.iter().chain(&subnet.no_prefix));
        refused.map(|(_, why)| why.as_str())
    }

    /// A call was done.
    pub(super) fn gave(&mut self, subnet: &SubnetId, amount: Amount) {
        let Some(known) = self.known.get_mut(subnet) else { return };
        known.full = None;
        if matches!(amount, Amount::Prefixes(_)) {
            known.no_prefix = None;
            known.fragmented = 0;
        }
    }

    /// A call was refused for want of addresses or prefixes. One that has not so many may have some: the next call asks for
    /// what is waited for, then for half of it, and the refusal of a single one is the subnet's last word. Prefixes that
    /// are not there one by one are asked for as one at once: a fragmented subnet stays fragmented.
    pub(super) fn refused(
        &mut self,
        subnet: &SubnetId,
        asked: Amount,
        waiting: usize,
        error: &CloudError,
        now: Timestamp,
    ) {
        let known = self.known.entry(subnet.clone()).or_default();
        let until = now + error.retry_after();
        let fewer = |waiting: usize, asked: u32, otherwise: u32| {
            let waiting = u32::try_from(waiting).unwrap_or(u32::MAX);
            if (1..asked).contains(&waiting) { waiting } else { otherwise }
        };
        match asked {
            // EC2 does not know it, or a security group that was asked for there: asked for less is refused, too.
            _ if error.kind == CloudErrorKind::NotFound => {
                known.full = Some((until.max(now + UNKNOWN_AGAIN), format!("{subnet}: {error}")));
            }
            Amount::Prefixes(count @ 2..) => {
                known.most_prefixes = Some((until, fewer(waiting.div_ceil(PER_PREFIX), count, 1)));
            }
            Amount::Prefixes(_) => {
                let wait = PREFIXES_AGAIN * 2_u32.pow(known.fragmented.min(FRAGMENTED_MOST));
                known.fragmented += 1;
                let why = format!("{subnet} gives no prefixes, single addresses are asked for: {error}");
                known.no_prefix = Some((now + wait, why));
                known.most_prefixes = None;
            }
            Amount::Addresses(count @ 2..) if error.kind == CloudErrorKind::SubnetFull => {
                known.most = Some((until, fewer(waiting, count, count / 2)));
            }
            Amount::Addresses(_) => {
                known.full = Some((until, format!("{subnet}: {error}")));
                known.most = None;
            }
        }
    }

    /// Forgets what is worth another try; whether there was any.
    pub(super) fn expire(&mut self, now: Timestamp) -> bool {
        let mut expired = false;
        for subnet in self.known.values_mut() {
            for refused in [&mut subnet.full, &mut subnet.no_prefix] {
                expired |= refused.take_if(|(until, _)| *until <= now).is_some();
            }
            for most in [&mut subnet.most, &mut subnet.most_prefixes] {
                expired |= most.take_if(|(until, _)| *until <= now).is_some();
            }
        }
        let told = |s: &Subnet| s.full.is_some() || s.most.is_some() || s.most_prefixes.is_some();
        // How often it was fragmented outlives the wait: the next refusal doubles it.
        self.known.retain(|_, subnet| told(subnet) || subnet.fragmented > 0);
        expired
    }

    pub(super) fn deadline(&self) -> Option<Timestamp> {
        let of = |subnet: &Subnet| {
            let refused = [&subnet.full, &subnet.no_prefix].into_iter().flatten().map(|(until, _)| *until);
            let most = [subnet.most, subnet.most_prefixes].into_iter().flatten().map(|(until, _)| until);
            refused.chain(most).min()
        };
        self.known.values().filter_map(of).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    fn error(kind: CloudErrorKind) -> CloudError {
        CloudError::new(kind, "AssignPrivateIpAddresses", "no")
    }

    #[test]
    fn a_fragmented_subnet_is_asked_for_fewer_then_one_then_single_addresses_and_later_again() {
        let id: SubnetId = "subnet-1".parse().unwrap();
        let mut subnets = Subnets::default();
        let exhausted = error(CloudErrorKind::PrefixesExhausted);
        let view = |subnets: &Subnets| subnets.views().remove(&id).unwrap();
        subnets.refused(&id, Amount::Prefixes(10), 40, &exhausted, at(0));
        assert_eq!(view(&subnets).most_prefixes, Some(3), "what is waited for");
        subnets.refused(&id, Amount::Prefixes(3), 40, &exhausted, at(0));
        assert_eq!(view(&subnets).most_prefixes, Some(1));
        subnets.refused(&id, Amount::Prefixes(1), 40, &exhausted, at(0));
        assert_eq!((view(&subnets).most_prefixes, view(&subnets).full), (None, None));
        assert_eq!(subnets.deadline(), Some(at(120)));
        assert!(!subnets.expire(at(119)) && subnets.expire(at(120)));
        subnets.refused(&id, Amount::Prefixes(1), 0, &exhausted, at(120));
        assert_eq!(subnets.deadline(), Some(at(360)), "doubled");
        subnets.gave(&id, Amount::Addresses(3));
        assert!(view(&subnets).no_prefix.is_some(), "single addresses say nothing of prefixes");
        subnets.gave(&id, Amount::Prefixes(1));
        subnets.refused(&id, Amount::Prefixes(1), 0, &exhausted, at(360));
        assert_eq!(subnets.deadline(), Some(at(480)), "it had some meanwhile");
    }

    #[test]
    fn a_full_subnet_backs_off_by_itself() {
        let (one, other): (SubnetId, SubnetId) = ("subnet-1".parse().unwrap(), "subnet-2".parse().unwrap());
        let mut subnets = Subnets::default();
        let full = error(CloudErrorKind::SubnetFull);
        subnets.refused(&one, Amount::Addresses(8), 3, &full, at(0));
        assert_eq!(subnets.views()[&one].most, Some(3));
        subnets.refused(&one, Amount::Addresses(3), 3, &full, at(0));
        assert_eq!(subnets.views()[&one].most, Some(1));
        subnets.refused(&one, Amount::Addresses(1), 3, &full, at(0));
        assert_eq!(subnets.views()[&one].full.as_ref().map(|(until, _)| *until), Some(at(30)));
        assert_eq!(subnets.views().get(&other), None);
        assert!(subnets.refusals().all(|why| why.starts_with("subnet-1: ")));
        assert!(subnets.expire(at(30)));
        assert_eq!(subnets.views(), BTreeMap::new());
        subnets.refused(&one, Amount::Prefixes(4), 3, &error(CloudErrorKind::NotFound), at(0));
        assert_eq!(subnets.deadline(), Some(at(30)), "nothing less is asked for where nothing is");
    }
}
