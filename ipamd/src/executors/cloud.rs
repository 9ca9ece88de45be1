//! Asking the cloud.
//!
//! Owns the task on the outer runtime that answers one look at a time: identity and limits once, the ENIs each time.
//! An answer that failed in any part is an error, never a smaller observation. Does not plan.

use crate::completions::{CompletionSender, Finished};
use ipamd_core::cloud::{
    CloudError, CloudObservation, EniApi, EniScope, InstanceIdentity, InstanceLimits, InstanceMetadata,
};
use ipamd_core::owner::event::{Completion, EffectId};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Looks are single flight by the driver; this holds a late one beside the next.
const CAPACITY: usize = 4;

/// The cloud, whichever it is.
#[derive(Clone)]
pub struct Cloud {
    /// EC2's calls.
    pub enis: Arc<dyn EniApi>,
    /// The metadata service's.
    pub metadata: Arc<dyn InstanceMetadata>,
}

/// The queue to the cloud's task.
#[derive(Clone)]
pub struct CloudSender {
    queue: mpsc::Sender<EffectId>,
}

impl CloudSender {
    /// Asks for a look; false when the queue is full.
    pub fn observe(&self, effect: EffectId) -> bool {
        self.queue.try_send(effect).is_ok()
    }
}

/// The queue, and the task to spawn on the outer runtime.
pub fn task(cloud: Cloud, done: CompletionSender) -> (CloudSender, impl Future<Output = ()> + Send) {
    let (sender, mut receiver) = mpsc::channel(CAPACITY);
    let run = async move {
        let mut known = None;
        while let Some(effect) = receiver.recv().await {
            let seen = observe(&cloud, &mut known).await.map_err(|error| error.to_string());
            done.push(Finished::Effect { effect, completion: Completion::CloudObserved(seen) });
        }
    };
    (CloudSender { queue: sender }, run)
}

async fn observe(
    cloud: &Cloud,
    known: &mut Option<(InstanceIdentity, InstanceLimits)>,
) -> Result<CloudObservation, CloudError> {
    let (identity, limits) = match known {
        Some(known) => known.clone(),
        None => {
            let identity = cloud.metadata.identity().await?;
            let limits = cloud.enis.describe_limits(&identity.instance_type).await?;
            known.insert((identity, limits)).clone()
        }
    };
    let enis = cloud.enis.describe_enis(&EniScope::AttachedTo(identity.instance.clone())).await?;
    Ok(CloudObservation { identity, limits, enis })
}
