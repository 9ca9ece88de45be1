//! Asking the cloud, and changing it.
//!
//! Owns which cloud it is, and the tasks on the outer runtime: looks, one at a time (identity and limits once, the ENIs
//! each time), and changes, each a task of its own, bounded in number. An answer that failed in any part is an error,
//! never a smaller observation. Does not plan.

use crate::completions::{CompletionSender, Finished};
use crate::config::{self, CloudKind};
use embedded_vpc::client::ControlClient;
use ipamd_core::cloud::{
    CloudError, CloudObservation, EniApi, EniObservation, EniScope, InstanceIdentity, InstanceLimits,
    InstanceMetadata, Mutation,
};
use ipamd_core::owner::event::{Completion, EffectId};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc};
use tracing::warn;

/// Looks are single flight by the driver, changes one per ENI: this holds what a whole node can ask at once.
const CAPACITY: usize = 128;
/// Changes that are under way at once; the others wait their turn.
const PARALLEL: usize = 16;

/// The cloud, whichever it is.
#[derive(Clone)]
pub struct Cloud {
    /// EC2's calls.
    pub enis: Arc<dyn EniApi>,
    /// The metadata service's.
    pub metadata: Arc<dyn InstanceMetadata>,
}

/// Why there is no client of the cloud that the configuration names.
#[derive(Debug, thiserror::Error)]
pub enum NoCloud {
    /// This ipamd was built without it.
    #[error(
        "cloud.kind = \"ec2\" needs an ipamd that is built with the AWS SDK, and this one is not: \
         cargo build --release -p ipamd --features ec2"
    )]
    NotBuilt,
    /// What the configuration says of it cannot be used.
    #[error("the AWS client cannot be made: {0}")]
    Unusable(#[from] CloudError),
}

impl Cloud {
    /// The cloud that the configuration names. Nothing is asked of it yet.
    pub fn connect(config: &config::Cloud) -> Result<Cloud, NoCloud> {
        match config.kind {
            CloudKind::Embedded => {
                let client = Arc::new(ControlClient::new(&config.control));
                Ok(Cloud { enis: client.clone(), metadata: client })
            }
            CloudKind::Ec2 => aws(&config.aws),
        }
    }
}

#[cfg(feature = "ec2")]
fn aws(config: &config::Aws) -> Result<Cloud, NoCloud> {
    let config::Aws { region, ec2_endpoint, imds_endpoint } = config.clone();
    let aws = ipamd_ec2::Aws::new(ipamd_ec2::Settings { region, ec2_endpoint, imds_endpoint })?;
    Ok(Cloud { enis: Arc::new(aws.enis), metadata: Arc::new(aws.metadata) })
}

#[cfg(not(feature = "ec2"))]
fn aws(_: &config::Aws) -> Result<Cloud, NoCloud> {
    Err(NoCloud::NotBuilt)
}

/// What is asked.
enum Ask {
    Observe { tagged: bool },
    Mutate(Mutation),
}

/// The queue to the cloud's task.
#[derive(Clone)]
pub struct CloudSender {
    queue: mpsc::Sender<(EffectId, Ask)>,
}

impl CloudSender {
    /// Asks for a look; false when the queue is full.
    pub fn observe(&self, effect: EffectId, tagged: bool) -> bool {
        self.queue.try_send((effect, Ask::Observe { tagged })).is_ok()
    }

    /// Asks for a change; false when the queue is full.
    pub fn mutate(&self, effect: EffectId, mutation: Mutation) -> bool {
        self.queue.try_send((effect, Ask::Mutate(mutation))).is_ok()
    }
}

/// The queue, and the task to spawn on the outer runtime.
pub fn task(cloud: Cloud, done: CompletionSender) -> (CloudSender, impl Future<Output = ()> + Send) {
    let (sender, mut receiver) = mpsc::channel(CAPACITY);
    let run = async move {
        let known = Arc::new(tokio::sync::Mutex::new(Known::default()));
        let seats = Arc::new(Semaphore::new(PARALLEL));
        while let Some((effect, ask)) = receiver.recv().await {
            let (cloud, done, known, seats) = (cloud.clone(), done.clone(), known.clone(), seats.clone());
            tokio::spawn(async move {
                let completion = match ask {
                    Ask::Observe { tagged } => {
                        let seen = observe(&cloud, &mut *known.lock().await, tagged).await;
                        Completion::CloudObserved(seen.map_err(|error| error.to_string()))
                    }
                    Ask::Mutate(mutation) => {
                        let _seat = seats.acquire().await;
                        Completion::Mutated(cloud.enis.mutate(&mutation).await)
                    }
                };
                done.push(Finished::Effect { effect, completion });
            });
        }
    };
    (CloudSender { queue: sender }, run)
}

/// What is asked once: it does not change while an instance runs.
#[derive(Default)]
struct Known {
    identity: Option<InstanceIdentity>,
    limits: Option<InstanceLimits>,
}

impl Known {
    async fn identity(&mut self, cloud: &Cloud) -> Result<InstanceIdentity, CloudError> {
        match &self.identity {
            Some(identity) => Ok(identity.clone()),
            None => Ok(self.identity.insert(cloud.metadata.identity().await?).clone()),
        }
    }

    /// EC2's, else those of the built-in table until EC2 answers.
    async fn limits(&mut self, cloud: &Cloud, instance_type: &str) -> Result<InstanceLimits, CloudError> {
        if let Some(limits) = &self.limits {
            return Ok(limits.clone());
        }
        match cloud.enis.describe_limits(instance_type).await {
            Ok(limits) => Ok(self.limits.insert(limits).clone()),
            Err(error) => {
                let Some(limits) = embedded_vpc::limits::of(instance_type) else { return Err(error) };
                warn!(%error, instance_type, "EC2 does not tell what the instance type carries: the built-in table does");
                Ok(limits)
            }
        }
    }
}

async fn observe(cloud: &Cloud, known: &mut Known, tagged: bool) -> Result<CloudObservation, CloudError> {
    let identity = known.identity(cloud).await?;
    let limits = known.limits(cloud, &identity.instance_type).await?;
    let instance = identity.instance.clone();
    let mut enis: BTreeMap<_, EniObservation> = BTreeMap::new();
    // The tagged ones first: one that is attached meanwhile is told by the later answer.
    if tagged {
        let of_ours = cloud.enis.describe_enis(&EniScope::TaggedFor(instance.clone())).await?;
        enis.extend(of_ours.into_iter().map(|eni| (eni.id.clone(), eni)));
    }
    let attached = cloud.enis.describe_enis(&EniScope::AttachedTo(instance)).await?;
    enis.extend(attached.into_iter().map(|eni| (eni.id.clone(), eni)));
    // A hint: that it did not answer is told, and stops nothing.
    let metadata = cloud.metadata.interfaces().await.ok();
    Ok(CloudObservation { identity, limits, enis: enis.into_values().collect(), tagged, metadata })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipamd_core::cloud::{Answer, CloudErrorKind, MetadataEni, Mutated};
    use std::sync::atomic::{AtomicU32, Ordering};

    /// An EC2 that does not tell limits the first time, and has no ENIs.
    struct Silent {
        asked: AtomicU32,
        instance_type: &'static str,
    }

    impl EniApi for Silent {
        fn describe_enis(&self, _: &EniScope) -> Answer<'_, Vec<EniObservation>> {
            Box::pin(std::future::ready(Ok(Vec::new())))
        }

        fn describe_limits(&self, _: &str) -> Answer<'_, InstanceLimits> {
            let first = self.asked.fetch_add(1, Ordering::SeqCst) == 0;
            let refused = CloudError::new(CloudErrorKind::Unauthorized, "DescribeInstanceTypes", "denied");
            let told = InstanceLimits { prefixes: true, ..InstanceLimits::new(3, 10) };
            Box::pin(std::future::ready(if first { Err(refused) } else { Ok(told) }))
        }

        fn mutate(&self, _: &Mutation) -> Answer<'_, Mutated> {
            Box::pin(std::future::ready(Ok(Mutated::Done)))
        }
    }

    impl InstanceMetadata for Silent {
        fn identity(&self) -> Answer<'_, InstanceIdentity> {
            Box::pin(std::future::ready(Ok(InstanceIdentity {
                instance: "i-1".parse().unwrap(),
                instance_type: self.instance_type.to_owned(),
                primary_mac: "02:00:00:00:00:01".parse().unwrap(),
                vpc_cidrs: Vec::new(),
                region: String::new(),
                availability_zone: String::new(),
            })))
        }

        fn interfaces(&self) -> Answer<'_, Vec<MetadataEni>> {
            Box::pin(std::future::ready(Err(CloudError::new(
                CloudErrorKind::Unreachable,
                "GET",
                "no answer",
            ))))
        }
    }

    fn silent(instance_type: &'static str) -> Cloud {
        let cloud = Arc::new(Silent { asked: AtomicU32::new(0), instance_type });
        Cloud { enis: cloud.clone(), metadata: cloud }
    }

    #[tokio::test]
    async fn limits_are_the_tables_until_ec2_tells_them() {
        let (cloud, mut known) = (silent("m5.large"), Known::default());
        let first = observe(&cloud, &mut known, false).await.unwrap();
        assert_eq!((first.limits, first.metadata), (InstanceLimits::new(3, 10), None));
        let second = observe(&cloud, &mut known, false).await.unwrap();
        assert!(second.limits.prefixes, "EC2 is asked again");
        let error = observe(&silent("m5.huge"), &mut Known::default(), false).await.unwrap_err();
        assert_eq!(error.kind, CloudErrorKind::Unauthorized, "a type that the table does not know");
    }

    #[cfg(not(feature = "ec2"))]
    #[test]
    fn a_build_without_the_sdk_says_how_to_get_one_with_it() {
        let refused = aws(&config::Aws::default()).err().unwrap().to_string();
        assert!(refused.contains("cargo build --release -p ipamd --features ec2"), "{refused}");
    }
}
