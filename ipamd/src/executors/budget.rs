//! EC2 within a budget.
//!
//! Owns waiting for a call's turn, for a bounded time, and telling the budget what became of the call. A wait that would be
//! longer is an error that names it: whoever asked may plan anew. What a wait or a throttled call was is in the metrics and
//! in the error. Does not own the rates: `ipamd_core::budget` does.

use crate::clock;
use crate::metrics::Metrics;
use ipamd_core::budget::Budget;
use ipamd_core::cloud::{
    Answer, CloudError, CloudErrorKind, EniApi, EniObservation, EniScope, InstanceLimits, Mutated, Mutation,
};
use std::future::Future;
use std::hash::{BuildHasher, Hasher};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The longest wait of a change: an ADD that waits for it has 90 s by default.
const CHANGE_WAITS: Duration = Duration::from_secs(20);
/// The longest wait of a look: the next is due in 30 s by default.
const LOOK_WAITS: Duration = Duration::from_secs(10);
/// The code of the error of a call that was not made. It is a refusal: nothing was changed.
const CODE: &str = "BudgetExhausted";

/// EC2 behind a budget.
pub struct Budgeted {
    enis: Arc<dyn EniApi>,
    budget: Mutex<Budget>,
    metrics: Arc<Metrics>,
}

impl Budgeted {
    /// `enis`, called no more often than `budget` allows.
    pub fn new(enis: Arc<dyn EniApi>, budget: Budget, metrics: Arc<Metrics>) -> Budgeted {
        Budgeted { enis, budget: Mutex::new(budget), metrics }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Budget) -> T) -> T {
        // A panic in here would end ipamd: there is nothing half-done to be found.
        act(&mut self.budget.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn in_turn<T>(
        &self,
        action: &'static str,
        longest: Duration,
        call: impl Future<Output = Result<T, CloudError>>,
    ) -> Result<T, CloudError> {
        let turn = self.with(|budget| budget.take(action, longest, random(), clock::now()));
        let waited = turn.map_err(|wait| exhausted(action, wait))?;
        if !waited.is_zero() {
            self.metrics.ec2.waited(action, waited);
            tokio::time::sleep(waited).await;
        }
        let result = call.await;
        let now = clock::now();
        match &result {
            Err(error) if error.kind == CloudErrorKind::Throttled => {
                self.metrics.ec2.throttled(action);
                let asked = error.retry_after_ms.map(Duration::from_millis);
                self.with(|budget| budget.throttled(action, asked, now));
            }
            // What was not answered says nothing of the rate.
            Err(error) if error.kind == CloudErrorKind::Unreachable => {}
            _ => self.with(|budget| budget.answered(action, now)),
        }
        result.map_err(|mut error| {
            if !waited.is_zero() {
                let spent = waited.as_secs_f64();
                error.message = format!("{} (after {spent:.1} s of waiting for its turn)", error.message);
            }
            error
        })
    }
}

fn exhausted(action: &'static str, wait: Duration) -> CloudError {
    let seconds = wait.as_secs_f64();
    let message =
        format!("not called: ipamd's own budget for it is used up, its turn comes in {seconds:.1} s");
    CloudError {
        code: Some(CODE.to_owned()),
        retry_after_ms: u64::try_from(wait.as_millis()).ok(),
        ..CloudError::new(CloudErrorKind::Throttled, action, message)
    }
}

/// Any number: the standard library keys its hashers with random ones, another for each.
fn random() -> u32 {
    let hash = std::collections::hash_map::RandomState::new().build_hasher().finish();
    u32::try_from(hash >> 32).unwrap_or_default()
}

impl EniApi for Budgeted {
    fn describe_enis(&self, scope: &EniScope) -> Answer<'_, Vec<EniObservation>> {
        let scope = scope.clone();
        Box::pin(async move {
            let call = async { self.enis.describe_enis(&scope).await };
            self.in_turn("DescribeNetworkInterfaces", LOOK_WAITS, call).await
        })
    }

    fn describe_limits(&self, instance_type: &str) -> Answer<'_, InstanceLimits> {
        let instance_type = instance_type.to_owned();
        Box::pin(async move {
            let call = async { self.enis.describe_limits(&instance_type).await };
            self.in_turn("DescribeInstanceTypes", LOOK_WAITS, call).await
        })
    }

    fn mutate(&self, mutation: &Mutation) -> Answer<'_, Mutated> {
        let mutation = mutation.clone();
        Box::pin(async move {
            let call = async { self.enis.mutate(&mutation).await };
            self.in_turn(mutation.call(), CHANGE_WAITS, call).await
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use embedded_vpc::model::{Ec2, Setup};
    use ipamd_core::budget::Part;
    use ipamd_netlink::stats::Counters;

    /// The strict model, asked in process; it throttles while it is told to.
    struct Direct {
        ec2: Mutex<Ec2>,
        throttles: bool,
    }

    impl EniApi for Direct {
        fn describe_enis(&self, scope: &EniScope) -> Answer<'_, Vec<EniObservation>> {
            let answer = self.ec2.lock().unwrap().describe_enis(scope, None, clock::now());
            Box::pin(async move { answer })
        }

        fn describe_limits(&self, instance_type: &str) -> Answer<'_, InstanceLimits> {
            let answer = self.ec2.lock().unwrap().describe_limits(instance_type, None, clock::now());
            Box::pin(async move { answer })
        }

        fn mutate(&self, mutation: &Mutation) -> Answer<'_, Mutated> {
            let throttled = CloudError {
                code: Some("RequestLimitExceeded".to_owned()),
                retry_after_ms: Some(60_000),
                ..CloudError::new(CloudErrorKind::Throttled, mutation.call(), "Request limit exceeded.")
            };
            let answer = match self.throttles {
                true => Err(throttled),
                false => self.ec2.lock().unwrap().mutate(mutation, None, clock::now()),
            };
            Box::pin(async move { answer })
        }
    }

    const ASSIGN: &str = "AssignPrivateIpAddresses";

    fn budgeted(throttles: bool) -> (Budgeted, Mutation, Arc<Metrics>) {
        let ec2 = Ec2::boot(Setup::new("m5.large", 1)).unwrap();
        let most = Mutation::Assign { eni: ec2.enis()[0].id.clone(), count: 100, prefixes: 0 };
        let metrics = Arc::new(Metrics::new(Arc::new(Counters::default())));
        let direct = Arc::new(Direct { ec2: Mutex::new(ec2), throttles });
        (Budgeted::new(direct, Budget::new(Part::Alone), metrics.clone()), most, metrics)
    }

    #[tokio::test]
    async fn a_call_whose_turn_comes_later_waits_for_it_and_says_so() {
        let (budgeted, most, metrics) = budgeted(false);
        let error = budgeted.mutate(&most).await.unwrap_err();
        assert_eq!((error.kind, metrics.ec2.counts(ASSIGN)), (CloudErrorKind::LimitReached, (0, 0)));
        assert!(!error.to_string().contains("waiting"), "{error}");
        // Others have taken what was there, and a second's worth of what is to come.
        let others = |budget: &mut Budget| {
            (0..2000).all(|_| budget.take(ASSIGN, Duration::from_secs(60), 0, clock::now()).is_ok())
        };
        assert!(budgeted.with(others));
        let error = budgeted.mutate(&most).await.unwrap_err();
        assert_eq!((error.kind, metrics.ec2.counts(ASSIGN)), (CloudErrorKind::LimitReached, (1, 0)));
        assert!(error.to_string().contains("s of waiting for its turn)"), "{error}");
        assert!(budgeted.describe_limits("m5.large").await.is_ok(), "another action has its own");
    }

    #[tokio::test]
    async fn a_throttled_call_is_not_repeated_before_ec2_allows_and_the_wait_is_named() {
        let (budgeted, most, metrics) = budgeted(true);
        let first = budgeted.mutate(&most).await.unwrap_err();
        assert_eq!(first.code.as_deref(), Some("RequestLimitExceeded"));
        let second = budgeted.mutate(&most).await.unwrap_err();
        assert_eq!((second.kind, second.code.as_deref()), (CloudErrorKind::Throttled, Some(CODE)));
        assert!(!second.leaves_open(), "it was not made");
        assert!(second.retry_after() > Duration::from_secs(50), "{:?}", second.retry_after());
        assert!(second.to_string().contains("its turn comes in"), "{second}");
        assert_eq!(metrics.ec2.counts(ASSIGN), (0, 1), "EC2 was asked once");
    }
}
