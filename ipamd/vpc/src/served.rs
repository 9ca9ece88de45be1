//! The model as a running thing: the calls of many callers, at the clock's time.
//!
//! Owns the model's lock, its clock, that a call waits as its fault says, and that what is laid follows what the model
//! says. Whoever serves a protocol (the control socket, HTTP) makes its calls here. Does not lay anything: a [`Follow`]
//! does, or nobody.

use crate::model::{Ec2, Effect, Extra, Fault};
use ipamd_core::cloud::{CloudError, EniObservation, Mutated, Mutation};
use ipamd_core::time::Timestamp;
use nix::time::{ClockId, clock_gettime};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Without a transition to wait for, the ticker looks so often.
const IDLE: Duration = Duration::from_secs(60);
/// A link that could not be laid or removed is tried again so much later.
const AGAIN: Duration = Duration::from_secs(1);

/// Whoever lays the ENIs' links and the router's knowledge of addresses.
pub(crate) trait Follow: Send + Sync {
    /// Makes what is laid what `look` says. One at a time: `look` is asked when it is this one's turn.
    fn follow(&self, look: &mut dyn FnMut() -> Vec<EniObservation>) -> Result<(), String>;
}

/// Nothing is laid: calls are all that there is.
pub(crate) struct NoNetwork;

impl Follow for NoNetwork {
    fn follow(&self, look: &mut dyn FnMut() -> Vec<EniObservation>) -> Result<(), String> {
        look();
        Ok(())
    }
}

/// What protocols share.
pub(crate) struct Served {
    ec2: Mutex<Ec2>,
    /// A transition was scheduled, or it is the end.
    scheduled: Condvar,
    ended: AtomicBool,
    network: Box<dyn Follow>,
}

/// Why a call was not done: EC2 refused, or the network did not follow.
pub(crate) enum NotDone {
    Refused(CloudError),
    NotFollowed(String),
}

impl Served {
    pub(crate) fn new(ec2: Ec2, network: Box<dyn Follow>) -> Arc<Served> {
        let (ec2, scheduled, ended) = (Mutex::new(ec2), Condvar::new(), AtomicBool::new(false));
        Arc::new(Served { ec2, scheduled, ended, network })
    }

    /// The model. Nobody waits or runs anything while holding it.
    pub(crate) fn ec2(&self) -> MutexGuard<'_, Ec2> {
        self.ec2.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at what is due soon anew: something was scheduled.
    pub(crate) fn wake(&self) {
        self.scheduled.notify_all();
    }

    /// Makes a call with its fault. A wait holds nobody else up: it is slept outside the lock.
    pub(crate) fn call<T>(&self, call: &str, make: impl FnOnce(&mut Ec2, Option<&Fault>) -> T) -> T {
        self.call_then(call, make, || ())
    }

    fn call_then<T>(
        &self,
        call: &str,
        make: impl FnOnce(&mut Ec2, Option<&Fault>) -> T,
        then: impl FnOnce(),
    ) -> T {
        let fault = self.ec2().take_fault(call);
        let wait = |strikes: Effect| {
            if let Some(fault) = fault.as_ref().filter(|f| f.effect == strikes) {
                thread::sleep(Duration::from_millis(fault.delay_ms));
            }
        };
        wait(Effect::Before);
        let answer = make(&mut self.ec2(), fault.as_ref());
        then();
        wait(Effect::After);
        answer
    }

    /// A call that changes ENIs. The router knows the addresses of an attached one when the answer goes out; links come
    /// and go by the ticker. `tell` makes of what was done what is answered, before anybody else changes it.
    pub(crate) fn mutate<T>(
        &self,
        mutation: &Mutation,
        extra: &Extra,
        tell: impl FnOnce(&Ec2, Mutated) -> T,
    ) -> Result<T, NotDone> {
        let mut followed = Ok(());
        let then = || match mutation {
            Mutation::Assign { .. } | Mutation::Unassign { .. } => followed = self.follow(),
            Mutation::Attach { .. } | Mutation::Detach { .. } => self.wake(),
            Mutation::Create { .. }
            | Mutation::Delete { .. }
            | Mutation::SetSecurityGroups { .. }
            | Mutation::SetDeleteOnTermination { .. } => {}
        };
        let make = |ec2: &mut Ec2, fault: Option<&Fault>| {
            let done = ec2.mutate_with(mutation, extra, fault, now());
            done.map(|mutated| tell(ec2, mutated))
        };
        let answer = self.call_then(mutation.call(), make, then);
        followed.map_err(NotDone::NotFollowed)?;
        answer.map_err(NotDone::Refused)
    }

    /// Makes the network what the model says, and what is due with it: attached is told when the link is there,
    /// available when it is gone.
    pub(crate) fn follow(&self) -> Result<(), String> {
        let mut due = Vec::new();
        self.network.follow(&mut || {
            let (ec2, now) = (self.ec2(), now());
            due = ec2.due(now);
            ec2.present(now)
        })?;
        let mut ec2 = self.ec2();
        for transition in &due {
            ec2.complete(transition);
        }
        Ok(())
    }

    /// Lets attachments become what they are due to become, until the end.
    #[allow(clippy::print_stderr)]
    pub(crate) fn tick(&self) {
        while !self.ended.load(Ordering::Acquire) {
            let next = self.ec2().next_due();
            let mut least = Duration::ZERO;
            if next.is_some_and(|at| at <= now())
                && let Err(error) = self.follow()
            {
                eprintln!("embedded-vpc: an ENI could not be attached or detached: {error}");
                least = AGAIN;
            }
            let ec2 = self.ec2();
            let span = ec2.next_due().map_or(IDLE, |at| at.since(now())).max(least);
            if !span.is_zero() && !self.ended.load(Ordering::Acquire) {
                drop(self.scheduled.wait_timeout(ec2, span).unwrap_or_else(PoisonError::into_inner));
            }
        }
    }

    /// Lets `tick` return.
    pub(crate) fn end(&self) {
        // Under the lock, so that nobody is between looking and waiting.
        let _ec2 = self.ec2();
        self.ended.store(true, Ordering::Release);
        self.scheduled.notify_all();
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }
}

/// The time since boot.
pub(crate) fn now() -> Timestamp {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default();
    Timestamp::from_nanos(u64::try_from(now.as_nanos()).unwrap_or(u64::MAX))
}
