//! The model as a cloud, without a server: calls take no time, and time passes when it is told to.
//!
//! Owns the clock. The contract's first and strictest subject.

use embedded_vpc::model::{Ec2, Fault};
use ipamd_core::cloud::{
    Answer, EniApi, EniObservation, EniScope, InstanceIdentity, InstanceLimits, InstanceMetadata,
    MetadataEni, Mutated, Mutation,
};
use ipamd_core::time::Timestamp;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The model and its time.
pub struct ModelCloud(Mutex<(Ec2, Timestamp)>);

impl ModelCloud {
    /// At the model's first hour, so that there is a past.
    pub fn new(ec2: Ec2) -> Self {
        ModelCloud(Mutex::new((ec2, Timestamp::from_millis(3_600_000))))
    }

    fn state(&self) -> MutexGuard<'_, (Ec2, Timestamp)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets time pass, and what is due happen.
    pub fn pass(&self, span: Duration) {
        let mut state = self.state();
        state.1 = state.1 + span;
        let now = state.1;
        state.0.tick(now);
    }

    /// The model itself, at its time.
    pub fn with<T>(&self, change: impl FnOnce(&mut Ec2, Timestamp) -> T) -> T {
        let mut state = self.state();
        let now = state.1;
        let result = change(&mut state.0, now);
        state.0.tick(now);
        result
    }

    fn call<T: Send + 'static>(
        &self,
        name: &str,
        make: impl FnOnce(&mut Ec2, Option<&Fault>, Timestamp) -> Result<T, ipamd_core::cloud::CloudError>,
    ) -> Answer<'_, T> {
        let answer = self.with(|ec2, now| {
            let fault = ec2.take_fault(name);
            make(ec2, fault.as_ref(), now)
        });
        Box::pin(std::future::ready(answer))
    }
}

impl EniApi for ModelCloud {
    fn describe_enis(&self, scope: &EniScope) -> Answer<'_, Vec<EniObservation>> {
        self.call("DescribeNetworkInterfaces", |ec2, fault, now| ec2.describe_enis(scope, fault, now))
    }

    fn describe_limits(&self, instance_type: &str) -> Answer<'_, InstanceLimits> {
        self.call("DescribeInstanceTypes", |ec2, fault, now| ec2.describe_limits(instance_type, fault, now))
    }

    fn mutate(&self, mutation: &Mutation) -> Answer<'_, Mutated> {
        self.call(mutation.call(), |ec2, fault, now| ec2.mutate(mutation, fault, now))
    }
}

impl InstanceMetadata for ModelCloud {
    fn identity(&self) -> Answer<'_, InstanceIdentity> {
        self.call("InstanceIdentity", Ec2::identity)
    }

    fn interfaces(&self) -> Answer<'_, Vec<MetadataEni>> {
        self.call("InstanceInterfaces", Ec2::interfaces)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::{Capabilities, Contract, Later, Report, Site, checks};
    use embedded_vpc::model::Setup;
    use std::future::Future;
    use std::task::{Context, Poll, Waker};

    /// Nothing here ever waits: a future that does is at its end never.
    fn ready<T>(future: impl Future<Output = T>) -> T {
        let mut future = Box::pin(future);
        match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => value,
            Poll::Pending => panic!("the model waits for something"),
        }
    }

    fn run(setup: Setup, can: Capabilities) -> Report {
        let groups = setup.security_groups.clone();
        let cloud = ModelCloud::new(Ec2::boot(setup).unwrap());
        let site = cloud.with(|ec2, _| Site {
            instance: ec2.instance().clone(),
            instance_type: ec2.setup().instance_type.clone(),
            subnet: ec2.enis()[0].subnet.clone(),
            security_groups: groups,
        });
        let pause = || -> Later<'_, ()> {
            cloud.pass(Duration::from_millis(100));
            Box::pin(std::future::ready(()))
        };
        let stage = |change: &mut dyn FnMut(&mut Ec2, Timestamp)| cloud.with(change);
        let contract = Contract::new(&cloud, Some(&cloud), site, can, &pause, Some(&stage), "model");
        ready(contract.run())
    }

    fn setup() -> Setup {
        let groups = ["sg-1", "sg-2"].map(str::to_owned).to_vec();
        Setup { security_groups: groups, attach_ms: 300, detach_ms: 300, ..Setup::new("test.4x6p", 2) }
    }

    #[test]
    fn the_model_keeps_the_whole_contract() {
        let report = run(setup(), Capabilities::all());
        assert_eq!(report.failed, []);
        assert_eq!(report.skipped, [""; 0]);
        assert_eq!(report.passed.len(), checks().count());
        assert!(report.passed.len() > 30, "{:?}", report.passed);
    }

    #[test]
    fn a_server_that_breaks_the_contract_is_found() {
        // A type that takes no prefixes and carries less than it says is held to both.
        let failed =
            run(Setup { secondary: 1, instance_type: "test.4x6".to_owned(), ..setup() }, Capabilities::all());
        let names: Vec<&str> = failed.failed.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["a prefix counts as one address of the ENI"], "{:?}", failed.failed);
    }

    #[test]
    fn what_a_server_is_not_held_to_is_skipped_by_name() {
        let report = run(setup(), Capabilities::of_moto());
        assert_eq!(report.failed, []);
        assert!(report.skipped.contains(&"a create that is repeated with its token makes nothing"));
        assert!(!report.skipped.contains(&"an attached ENI tells its attachment"));
    }
}
