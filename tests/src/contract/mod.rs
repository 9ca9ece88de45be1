//! The contract of EC2's calls on network interfaces: what the EC2 API reference and user guide promise, as named
//! checks.
//!
//! Owns the checks, which of them a server can be held to, and that each leaves nothing behind. They ask through core's
//! traits alone, so the same suite runs on the model, through an SDK against the model's HTTP, and against a foreign
//! server. Does not own a runtime or a clock: whoever runs it passes a pause in.

mod addresses;
mod enis;
pub mod model;
mod staged;

use embedded_vpc::model::Ec2;
use eni_proto::ids::{EniId, InstanceId, SubnetId};
use ipamd_core::cloud::{
    CloudError, CloudErrorKind, EniApi, EniAttachmentStatus, EniObservation, EniScope, INSTANCE_TAG,
    InstanceLimits, InstanceMetadata, Mutated, Mutation,
};
use ipamd_core::time::Timestamp;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

/// A future of this suite: polled by one thread.
pub type Later<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;
/// Lets some time pass: 100 ms or so.
pub type Pause<'a> = &'a dyn Fn() -> Later<'a, ()>;
/// Changes what is behind the server: a fault, a quota, a full subnet.
pub type Stage<'a> = &'a dyn Fn(&mut dyn FnMut(&mut Ec2, Timestamp));

/// So many pauses are longer than anything here takes.
const PAUSES: u32 = 200;

/// What a server can be held to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// It assigns and describes prefixes.
    pub prefixes: bool,
    /// It knows client tokens.
    pub tokens: bool,
    /// It keeps to what the instance's type carries.
    pub limits: bool,
    /// It refuses to attach or delete what is attached, and to attach at an index that is taken.
    pub in_use: bool,
    /// An assign answers the new addresses alone.
    pub assign_tells_new: bool,
    /// It refuses to unassign what is not assigned.
    pub unassign_checked: bool,
    /// DeleteOnTermination can be changed.
    pub termination: bool,
    /// It knows which ids do not exist.
    pub not_found: bool,
}

impl Capabilities {
    /// All of it: EC2, and a model that is to be as strict.
    pub fn all() -> Self {
        Capabilities {
            prefixes: true,
            tokens: true,
            limits: true,
            in_use: true,
            assign_tells_new: true,
            unassign_checked: true,
            termination: true,
            not_found: true,
        }
    }

    /// moto 5.2: it says yes to nearly everything.
    pub fn of_moto() -> Self {
        Capabilities {
            prefixes: false,
            tokens: false,
            limits: false,
            in_use: false,
            assign_tells_new: false,
            unassign_checked: false,
            termination: false,
            not_found: true,
        }
    }
}

/// Where the checks make their ENIs.
#[derive(Debug, Clone)]
pub struct Site {
    /// The instance that they are attached to; device indexes from 1 on are free.
    pub instance: InstanceId,
    /// Its type.
    pub instance_type: String,
    /// The subnet.
    pub subnet: SubnetId,
    /// Two security groups of the VPC, or one.
    pub security_groups: Vec<String>,
}

/// A server under contract.
pub struct Contract<'a> {
    /// Its calls.
    pub api: &'a dyn EniApi,
    /// Its metadata service, if it has one.
    pub metadata: Option<&'a dyn InstanceMetadata>,
    /// Where.
    pub site: Site,
    /// What it can be held to.
    pub can: Capabilities,
    /// How time passes.
    pub pause: Pause<'a>,
    /// What is behind it, where that can be changed.
    pub stage: Option<Stage<'a>>,
    made: Mutex<Vec<EniId>>,
    tokens: AtomicU32,
    /// Keeps tokens of two runs against one server apart.
    run: String,
}

/// One check.
pub struct Check {
    /// What holds.
    pub name: &'static str,
    /// Where EC2 says so.
    pub source: &'static str,
    needs: fn(&Contract<'_>) -> bool,
    run: for<'a> fn(&'a Contract<'a>) -> Later<'a, Outcome>,
}

/// A check's end: what did not hold.
pub type Outcome = Result<(), String>;

/// What came of all checks.
#[derive(Debug, Default)]
pub struct Report {
    /// What held.
    pub passed: Vec<&'static str>,
    /// What this server is not held to.
    pub skipped: Vec<&'static str>,
    /// What did not hold, and why.
    pub failed: Vec<(&'static str, String)>,
}

/// All checks.
pub fn checks() -> impl Iterator<Item = &'static Check> {
    enis::CHECKS.iter().chain(addresses::CHECKS).chain(staged::CHECKS)
}

impl<'a> Contract<'a> {
    /// A server under contract. `run` keeps the client tokens of two runs apart.
    pub fn new(
        api: &'a dyn EniApi,
        metadata: Option<&'a dyn InstanceMetadata>,
        site: Site,
        can: Capabilities,
        pause: Pause<'a>,
        stage: Option<Stage<'a>>,
        run: &str,
    ) -> Self {
        let (made, tokens) = (Mutex::default(), AtomicU32::new(0));
        Contract { api, metadata, site, can, pause, stage, made, tokens, run: run.to_owned() }
    }

    /// Runs every check that this server can be held to, one after the other.
    pub async fn run(&'a self) -> Report {
        let mut report = Report::default();
        for check in checks() {
            if !(check.needs)(self) {
                report.skipped.push(check.name);
                continue;
            }
            let ended = (check.run)(self).await;
            let ended = match (ended, self.clean().await) {
                (Ok(()), cleaned) => cleaned.map_err(|why| format!("taking it away again: {why}")),
                (failed, _) => failed,
            };
            match ended {
                Ok(()) => report.passed.push(check.name),
                Err(why) => report.failed.push((check.name, format!("{why} [{}]", check.source))),
            }
        }
        report
    }

    /// Takes away what a check has made.
    async fn clean(&self) -> Outcome {
        let made = std::mem::take(&mut *self.made.lock().unwrap_or_else(PoisonError::into_inner));
        for eni in made {
            let Some(seen) = self.find(&eni).await? else { continue };
            if seen.attachment.is_some() {
                if seen.attachment.is_some_and(|a| a.status == EniAttachmentStatus::Attached) {
                    self.done(&self.detach(&eni).await?).await?;
                }
                self.until("it is detached", &eni, |seen| seen.is_some_and(|e| e.attachment.is_none()))
                    .await?;
            }
            self.done(&Mutation::Delete { eni }).await?;
        }
        Ok(())
    }

    fn tags(&self) -> BTreeMap<String, String> {
        BTreeMap::from([(INSTANCE_TAG.to_owned(), self.site.instance.to_string())])
    }

    /// A create with a token of its own.
    fn create(&self, secondary: u32, prefixes: u32) -> Mutation {
        let number = self.tokens.fetch_add(1, Ordering::Relaxed);
        Mutation::Create {
            subnet: self.site.subnet.clone(),
            security_groups: self.site.security_groups[..1].to_vec(),
            secondary,
            prefixes,
            tags: self.tags(),
            token: format!("contract-{}-{number}", self.run),
        }
    }

    /// Makes a create; what it makes is taken away after the check.
    async fn make(&self, create: &Mutation) -> Result<EniObservation, CloudError> {
        match self.api.mutate(create).await? {
            Mutated::Created(eni) => {
                self.made.lock().unwrap_or_else(PoisonError::into_inner).push(eni.id.clone());
                Ok(eni)
            }
            other => Err(CloudError::new(CloudErrorKind::Other, create.call(), format!("{other:?}"))),
        }
    }

    async fn created(&self, secondary: u32, prefixes: u32) -> Result<EniObservation, String> {
        self.make(&self.create(secondary, prefixes)).await.map_err(|error| format!("creating: {error}"))
    }

    fn attach(&self, eni: &EniId, device_index: u32) -> Mutation {
        Mutation::Attach { eni: eni.clone(), instance: self.site.instance.clone(), device_index }
    }

    /// An ENI that is attached.
    async fn attached(&self, secondary: u32, device_index: u32) -> Result<EniObservation, String> {
        let eni = self.created(secondary, 0).await?.id;
        self.done(&self.attach(&eni, device_index)).await?;
        self.until_attached(&eni).await
    }

    async fn until_attached(&self, eni: &EniId) -> Result<EniObservation, String> {
        let attached = |seen: Option<&EniObservation>| {
            seen.and_then(|e| e.attachment.as_ref())
                .is_some_and(|a| a.status == EniAttachmentStatus::Attached)
        };
        self.until("it is attached", eni, attached).await?.ok_or_else(|| format!("{eni} is gone"))
    }

    /// A detach, by the attachment that a look tells.
    async fn detach(&self, eni: &EniId) -> Result<Mutation, String> {
        let seen = self.find(eni).await?.ok_or_else(|| format!("{eni} is gone"))?;
        let attachment = seen.attachment.and_then(|attachment| attachment.id);
        Ok(Mutation::Detach { eni: eni.clone(), attachment })
    }

    /// A change that has to be done.
    async fn done(&self, mutation: &Mutation) -> Outcome {
        match self.api.mutate(mutation).await {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("{mutation:?}: {error}")),
        }
    }

    /// A change that has to be refused, and how.
    async fn refused(&self, mutation: &Mutation, kind: CloudErrorKind) -> Result<CloudError, String> {
        match self.make_any(mutation).await {
            Ok(done) => Err(format!("{mutation:?} was done: {done:?}")),
            Err(error) if error.kind == kind => Ok(error),
            Err(error) => Err(format!("{mutation:?}: {error}, classed {:?} and not {kind:?}", error.kind)),
        }
    }

    async fn make_any(&self, mutation: &Mutation) -> Result<Mutated, CloudError> {
        match mutation {
            Mutation::Create { .. } => self.make(mutation).await.map(Mutated::Created),
            _ => self.api.mutate(mutation).await,
        }
    }

    async fn described(&self, scope: &EniScope) -> Result<Vec<EniObservation>, String> {
        self.api.describe_enis(scope).await.map_err(|error| format!("describing {scope:?}: {error}"))
    }

    async fn tagged(&self) -> Result<Vec<EniObservation>, String> {
        self.described(&EniScope::TaggedFor(self.site.instance.clone())).await
    }

    /// An ENI of ours, as it is described.
    async fn find(&self, eni: &EniId) -> Result<Option<EniObservation>, String> {
        Ok(self.tagged().await?.into_iter().find(|seen| seen.id == *eni))
    }

    async fn found(&self, eni: &EniId) -> Result<EniObservation, String> {
        self.find(eni).await?.ok_or_else(|| format!("{eni} is not described"))
    }

    /// Looks until something holds of an ENI.
    async fn until(
        &self,
        what: &str,
        eni: &EniId,
        holds: impl Fn(Option<&EniObservation>) -> bool,
    ) -> Result<Option<EniObservation>, String> {
        for _ in 0..PAUSES {
            let seen = self.find(eni).await?;
            if holds(seen.as_ref()) {
                return Ok(seen);
            }
            (self.pause)().await;
        }
        Err(format!("{eni}: waited in vain until {what}"))
    }

    async fn limits(&self) -> Result<InstanceLimits, String> {
        let limits = self.api.describe_limits(&self.site.instance_type).await;
        limits.map_err(|error| format!("the limits: {error}"))
    }

    /// Changes what is behind the server.
    fn set(&self, mut change: impl FnMut(&mut Ec2, Timestamp)) {
        if let Some(stage) = self.stage {
            stage(&mut change);
        }
    }
}

/// Whether something holds.
fn holds(what: bool, why: impl FnOnce() -> String) -> Outcome {
    if what { Ok(()) } else { Err(why()) }
}

/// Whether two are the same.
fn same<T: PartialEq + Debug>(what: &str, is: &T, should: &T) -> Outcome {
    holds(is == should, || format!("{what}: {is:?}, and not {should:?}"))
}
