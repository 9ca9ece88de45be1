//! A client of the control socket: EC2 and the metadata service for ipamd, and inspection for tests.
//!
//! Owns one connection per call and its deadline. An answer that is no answer to the call is an error.

use crate::control::{Answer, MAX_LINE, Request};
use ipamd_core::cloud::{
    self, CloudError, CloudErrorKind, EniApi, EniObservation, EniScope, InstanceIdentity, InstanceLimits,
    InstanceMetadata, MetadataEni, Mutated, Mutation,
};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// How long one call may take.
const CALL: Duration = Duration::from_secs(5);
/// How long one that changes something may take: giving it up leaves open whether it was done.
const MUTATION: Duration = Duration::from_secs(15);

/// The client.
#[derive(Debug, Clone)]
pub struct ControlClient {
    path: PathBuf,
}

impl ControlClient {
    /// A client of the socket at `path`; nothing is connected yet.
    pub fn new(path: &Path) -> Self {
        ControlClient { path: path.to_owned() }
    }

    /// Makes one request.
    pub async fn call(&self, request: &Request) -> io::Result<Answer> {
        let deadline = if matches!(request, Request::Mutate(_)) { MUTATION } else { CALL };
        let exchange = async {
            let mut stream = UnixStream::connect(&self.path).await?;
            let mut line = serde_json::to_vec(request).map_err(io::Error::other)?;
            line.push(b'\n');
            stream.write_all(&line).await?;
            let mut answer = Vec::new();
            BufReader::new(stream).take(MAX_LINE as u64).read_until(b'\n', &mut answer).await?;
            serde_json::from_slice(&answer).map_err(io::Error::other)
        };
        timeout(deadline, exchange).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    async fn cloud<T>(
        &self,
        call: &'static str,
        request: Request,
        pick: impl FnOnce(Answer) -> Option<T>,
    ) -> Result<T, CloudError> {
        let error = |kind, message: String| CloudError::new(kind, call, message);
        match self.call(&request).await {
            Ok(Answer::Refused(refused)) => Err(refused),
            Ok(Answer::Failed(message)) => Err(error(CloudErrorKind::Other, message)),
            Ok(answer) => pick(answer)
                .ok_or_else(|| error(CloudErrorKind::Other, "another call was answered".to_owned())),
            Err(cause) => {
                let message = format!("the embedded VPC at {} did not answer: {cause}", self.path.display());
                Err(error(CloudErrorKind::Unreachable, message))
            }
        }
    }
}

impl EniApi for ControlClient {
    fn describe_enis(&self, scope: &EniScope) -> cloud::Answer<'_, Vec<EniObservation>> {
        let request = Request::DescribeEnis { scope: scope.clone() };
        Box::pin(self.cloud("DescribeNetworkInterfaces", request, |answer| match answer {
            Answer::Enis(enis) => Some(enis),
            _ => None,
        }))
    }

    fn describe_limits(&self, instance_type: &str) -> cloud::Answer<'_, InstanceLimits> {
        let request = Request::DescribeLimits { instance_type: instance_type.to_owned() };
        Box::pin(self.cloud("DescribeInstanceTypes", request, |answer| match answer {
            Answer::Limits(limits) => Some(limits),
            _ => None,
        }))
    }

    fn mutate(&self, mutation: &Mutation) -> cloud::Answer<'_, Mutated> {
        Box::pin(self.cloud(mutation.call(), Request::Mutate(mutation.clone()), |answer| match answer {
            Answer::Mutated(mutated) => Some(mutated),
            _ => None,
        }))
    }
}

impl InstanceMetadata for ControlClient {
    fn identity(&self) -> cloud::Answer<'_, InstanceIdentity> {
        Box::pin(self.cloud("InstanceIdentity", Request::Identity, |answer| match answer {
            Answer::Identity(identity) => Some(identity),
            _ => None,
        }))
    }

    fn interfaces(&self) -> cloud::Answer<'_, Vec<MetadataEni>> {
        Box::pin(self.cloud("network/interfaces/macs", Request::Interfaces, |answer| match answer {
            Answer::Interfaces(interfaces) => Some(interfaces),
            _ => None,
        }))
    }
}
