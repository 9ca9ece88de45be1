//! Asking the cloud, and changing it.
//!
//! Owns which cloud it is, and the tasks on the outer runtime: looks, one at a time (identity and limits once, the ENIs
//! each time), and changes, each a task of its own, bounded in number; and resolving the private DNS names of ENIs. An
//! answer that failed in any part is an error, never a smaller observation. Does not plan.

use crate::clock;
use crate::completions::{CompletionSender, Finished};
use crate::config::{self, CloudKind};
use embedded_vpc::client::ControlClient;
use eni_proto::ids::EniId;
use ipamd_core::cloud::{
    CloudError, CloudErrorKind, CloudObservation, EniApi, EniObservation, EniScope, InstanceIdentity,
    InstanceLimits, InstanceMetadata, Mutation,
};
use ipamd_core::limits::{self, Source};
use ipamd_core::owner::event::{CloudTold, Completion, EffectId};
use ipamd_core::time::Timestamp;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};

/// Looks are single flight by the driver, changes one per ENI: this holds what a whole node can ask at once.
const CAPACITY: usize = 128;
/// Changes that are under way at once; the others wait their turn.
const PARALLEL: usize = 16;

/// EC2 is asked again for limits that it has refused to tell, so much later: it is for want of a right, as a rule. What it
/// did not answer is asked with the next look.
const LIMITS_AGAIN: Duration = Duration::from_secs(600);
/// How long a name may take to resolve.
const NAME: Duration = Duration::from_secs(5);

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
    Resolve(Vec<(EniId, String)>),
}

/// What is asked once.
struct Known {
    identity: InstanceIdentity,
    limits: InstanceLimits,
    source: Source,
    again: Timestamp,
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

    /// Asks for names to be resolved; they come back when the queue is full.
    pub fn resolve(&self, effect: EffectId, names: Vec<(EniId, String)>) -> Option<Vec<(EniId, String)>> {
        match self.queue.try_send((effect, Ask::Resolve(names))) {
            Err(full) => match full.into_inner() {
                (_, Ask::Resolve(names)) => Some(names),
                _ => None,
            },
            Ok(()) => None,
        }
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
        let known = Arc::new(tokio::sync::Mutex::new(None));
        let seats = Arc::new(Semaphore::new(PARALLEL));
        while let Some((effect, ask)) = receiver.recv().await {
            let (cloud, done, known, seats) = (cloud.clone(), done.clone(), known.clone(), seats.clone());
            tokio::spawn(async move {
                let completion = match ask {
                    Ask::Observe { tagged } => {
                        let seen = observe(&cloud, &mut *known.lock().await, tagged, &done).await;
                        Completion::CloudObserved(seen.map_err(|error| error.to_string()))
                    }
                    Ask::Mutate(mutation) => {
                        let _seat = seats.acquire().await;
                        Completion::Mutated(cloud.enis.mutate(&mutation).await)
                    }
                    Ask::Resolve(names) => Completion::Resolved(resolve_all(names).await),
                };
                done.push(Finished::Effect { effect, completion });
            });
        }
    };
    (CloudSender { queue: sender }, run)
}

/// Resolves names, one after the other: there is one, as a rule, and none at all mostly.
async fn resolve_all(names: Vec<(EniId, String)>) -> Vec<(EniId, Result<Vec<Ipv4Addr>, String>)> {
    let mut answers = Vec::new();
    for (eni, name) in names {
        let found = match tokio::time::timeout(NAME, tokio::net::lookup_host((name.as_str(), 0))).await {
            Ok(Ok(found)) => Ok(found.filter_map(|socket| v4(socket.ip())).collect()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {} s", NAME.as_secs())),
        };
        answers.push((eni, found));
    }
    answers
}

fn v4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

/// What a metadata service that does not answer in time means, when it is not away: it lets its answer to the request for
/// a token travel so many hops and no more (EC2 user guide, "Configure the Instance Metadata Service options",
/// HttpPutResponseHopLimit, 1 by default), and behind a bridge the request is not answered at all.
fn explained(error: CloudError) -> CloudError {
    let late = ["timed out", "timeout", "deadline"].iter().any(|words| error.message.contains(words));
    if error.kind != CloudErrorKind::Unreachable || !late {
        return error;
    }
    let message = format!(
        "{}; if ipamd is in a container with a network of its own, the instance's metadata hop limit stops the answer: run it \
         on the host's network, or raise the limit (aws ec2 modify-instance-metadata-options \
         --http-put-response-hop-limit 2)",
        error.message
    );
    CloudError { message, ..error }
}

/// Asks who this is and what the type carries, unless it is known.
async fn identify<'a>(
    cloud: &Cloud,
    known: &'a mut Option<Known>,
    done: &CompletionSender,
) -> Result<&'a Known, CloudError> {
    let identity = match &*known {
        Some(known) if known.source == Source::DescribeInstanceTypes => None,
        Some(known) if clock::now() < known.again => None,
        Some(known) => Some(known.identity.clone()),
        None => {
            let identity = cloud.metadata.identity().await.map_err(explained)?;
            let (instance, instance_type) = (identity.instance.clone(), identity.instance_type.clone());
            done.push(Finished::CloudTold(CloudTold::Identity { instance, instance_type }));
            Some(identity)
        }
    };
    if let Some(identity) = identity {
        let told = cloud.enis.describe_limits(&identity.instance_type).await;
        let refused = matches!(&told, Err(error) if error.kind == CloudErrorKind::Unauthorized);
        let again = clock::now() + if refused { LIMITS_AGAIN } else { Duration::ZERO };
        let (limits, source) = limits::choose(&identity.instance_type, told).map_err(|error| *error)?;
        done.push(Finished::CloudTold(CloudTold::Limits { limits: limits.clone(), source: source.clone() }));
        *known = Some(Known { identity, limits, source, again });
    }
    known.as_ref().ok_or_else(|| CloudError::new(CloudErrorKind::Other, "identify", "nothing is known"))
}

async fn observe(
    cloud: &Cloud,
    known: &mut Option<Known>,
    tagged: bool,
    done: &CompletionSender,
) -> Result<CloudObservation, CloudError> {
    let Known { identity, limits, .. } = identify(cloud, known, done).await?;
    let (identity, limits) = (identity.clone(), limits.clone());
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

    #[test]
    fn a_metadata_service_that_is_late_is_told_with_the_hop_limit_and_one_that_refuses_is_not() {
        let error = |kind, words: &str| explained(CloudError::new(kind, "token", words)).message;
        assert!(error(CloudErrorKind::Unreachable, "the request timed out").contains("hop limit"));
        let refused = "connection refused";
        assert_eq!(error(CloudErrorKind::Unreachable, refused), refused);
        assert_eq!(error(CloudErrorKind::Other, "timed out"), "timed out");
    }

    #[tokio::test]
    async fn names_are_resolved_to_their_ipv4_addresses_or_to_a_reason() {
        let eni: EniId = "eni-1".parse().unwrap();
        let names = ["127.0.0.5", "no-such-host.invalid"].map(|name| (eni.clone(), name.to_owned()));
        let answers = resolve_all(names.into()).await;
        assert_eq!(answers[0].1, Ok(vec![Ipv4Addr::new(127, 0, 0, 5)]));
        assert!(answers[1].1.is_err(), "{answers:?}");
    }

    #[cfg(not(feature = "ec2"))]
    #[test]
    fn a_build_without_the_sdk_says_how_to_get_one_with_it() {
        let refused = aws(&config::Aws::default()).err().unwrap().to_string();
        assert!(refused.contains("cargo build --release -p ipamd --features ec2"), "{refused}");
    }
}
