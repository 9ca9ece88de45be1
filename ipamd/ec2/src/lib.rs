//! EC2 and the instance metadata service as core asks for them, on the AWS SDK.
//!
//! Owns the connection (one HTTP client, timeouts, retries, region, credentials), how each question and change of
//! `ipamd_core::cloud` is asked at AWS, what the answers mean, and the class of every failure. This is the one user of
//! the SDK. Decides nothing: what is asked, when and how often is its caller's.

mod connection;
mod describe;
mod failure;
mod instance_type;
mod metadata;
mod mutate;
mod observation;
mod subnets;
mod told;

pub use connection::Settings;
pub use describe::Ec2;
pub use metadata::Imds;

use connection::Connection;
use ipamd_core::cloud::CloudError;
use std::sync::Arc;

/// AWS, asked by one HTTP client.
#[derive(Debug)]
pub struct Aws {
    /// EC2's calls.
    pub enis: Ec2,
    /// The metadata service's.
    pub metadata: Imds,
}

impl Aws {
    /// The clients. Nothing is asked yet: Region and credentials are looked for with the first call and, when that
    /// fails, with the next.
    ///
    /// # Errors
    /// An endpoint that is no URL.
    pub fn new(settings: Settings) -> Result<Aws, CloudError> {
        let connection = Arc::new(Connection::new(settings)?);
        Ok(Aws { metadata: Imds::new(connection.metadata().clone()), enis: Ec2::new(connection) })
    }
}
