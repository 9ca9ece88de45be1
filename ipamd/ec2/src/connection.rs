//! The connection to AWS: one HTTP client for everything, its timeouts, retries, Region and credentials.
//!
//! Owns how long a call may take and how often it is made. A read is repeated by the SDK's standard policy; a change is
//! made once, for only its caller knows whether it may be made again. Does not know any call.

use crate::failure;
use aws_config::environment::region::EnvironmentVariableRegionProvider;
use aws_config::imds;
use aws_config::meta::region::ProvideRegion;
use aws_config::provider_config::ProviderConfig;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{AppName, BehaviorVersion, Region, SdkConfig};
use aws_sdk_ec2::Client;
use aws_sdk_ec2::config::SharedHttpClient;
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use ipamd_core::cloud::{CloudError, CloudErrorKind};
use std::time::Duration;
use tokio::sync::OnceCell;

/// A Region's endpoint is at most a continent away: what takes longer is not there.
const CONNECT: Duration = Duration::from_secs(3);
/// EC2 answers most calls within a second, and a create or an assign under load within a few.
const ATTEMPT: Duration = Duration::from_secs(10);
/// All attempts of a read, their waits and the credentials' included. A change has one attempt of this length.
const OPERATION: Duration = Duration::from_secs(25);
/// Attempts of a read.
const READ_ATTEMPTS: u32 = 3;

/// The metadata service is on the same host: it connects at once or not at all, as where the hop limit is too small.
const IMDS_CONNECT: Duration = Duration::from_secs(1);
/// One question, one attempt.
const IMDS_ATTEMPT: Duration = Duration::from_secs(2);
/// One question, all attempts and the token's.
const IMDS_OPERATION: Duration = Duration::from_secs(6);
/// Attempts of a question that is answered with 5xx or, when the token has expired, with 401.
const IMDS_ATTEMPTS: u32 = 3;

/// What CloudTrail shows in the user agent of our calls, as `app/eni-cni`.
const APP: &str = "eni-cni";

/// Where AWS is, as far as the operator says. What is not said is found as every AWS SDK finds it: by its environment
/// variables, then from the instance's metadata.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// The Region; none: `AWS_REGION`, `AWS_DEFAULT_REGION`, else the instance's own.
    pub region: Option<String>,
    /// EC2's URL; none: `AWS_ENDPOINT_URL_EC2`, `AWS_ENDPOINT_URL`, else the Region's.
    pub ec2_endpoint: Option<String>,
    /// The metadata service's URL; none: `AWS_EC2_METADATA_SERVICE_ENDPOINT`, else `http://169.254.169.254`.
    pub imds_endpoint: Option<String>,
}

/// EC2's two clients: they share HTTP connections and credentials.
#[derive(Debug)]
pub(crate) struct Clients {
    /// Tried again by the SDK.
    pub(crate) reads: Client,
    /// Made once.
    pub(crate) changes: Client,
}

/// How AWS is reached.
#[derive(Debug)]
pub(crate) struct Connection {
    settings: Settings,
    http: SharedHttpClient,
    imds: imds::Client,
    clients: OnceCell<Clients>,
}

impl Connection {
    pub(crate) fn new(settings: Settings) -> Result<Connection, CloudError> {
        // Every client of the SDK is given this one: without, it would panic at its first request, for the SDK's own
        // default is left out of the build.
        let http = Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
        let mut imds = imds::Client::builder()
            .configure(&ProviderConfig::without_region().with_http_client(http.clone()))
            .connect_timeout(IMDS_CONNECT)
            .read_timeout(IMDS_ATTEMPT)
            .operation_attempt_timeout(IMDS_ATTEMPT)
            .operation_timeout(IMDS_OPERATION)
            .max_attempts(IMDS_ATTEMPTS);
        if let Some(endpoint) = &settings.imds_endpoint {
            let bad = |error| {
                let message = format!("{endpoint:?} is no URL of a metadata service: {error}");
                CloudError::new(CloudErrorKind::Other, "instance metadata", message)
            };
            imds = imds.endpoint(endpoint).map_err(bad)?;
        }
        Ok(Connection { settings, http, imds: imds.build(), clients: OnceCell::new() })
    }

    /// The metadata service's client.
    pub(crate) fn metadata(&self) -> &imds::Client {
        &self.imds
    }

    /// EC2's clients, made with the first call that finds a Region.
    pub(crate) async fn ec2(&self) -> Result<&Clients, CloudError> {
        self.clients.get_or_try_init(|| self.connect()).await
    }

    async fn connect(&self) -> Result<Clients, CloudError> {
        let region = self.region().await?;
        let shared = self.shared(region).await;
        let config = |retries: RetryConfig, attempt: Duration| {
            let mut config = aws_sdk_ec2::config::Builder::from(&shared)
                .retry_config(retries)
                .timeout_config(timeouts(attempt));
            if let Some(endpoint) = &self.settings.ec2_endpoint {
                config = config.endpoint_url(endpoint);
            }
            Client::from_conf(config.build())
        };
        Ok(Clients {
            reads: config(RetryConfig::standard().with_max_attempts(READ_ATTEMPTS), ATTEMPT),
            changes: config(RetryConfig::disabled(), OPERATION),
        })
    }

    async fn region(&self) -> Result<Region, CloudError> {
        if let Some(region) = &self.settings.region {
            return Ok(Region::new(region.clone()));
        }
        if let Some(region) = EnvironmentVariableRegionProvider::new().region().await {
            return Ok(region);
        }
        const PATH: &str = "/latest/meta-data/placement/region";
        let told = self.imds.get(PATH).await.map_err(|error| failure::of_metadata(PATH, &error))?;
        Ok(Region::new(told.as_ref().trim().to_owned()))
    }

    /// What both clients have in common, credentials first: the environment's, a profile's, a web identity's, a
    /// container's, the instance's, all asked for over our HTTP client.
    async fn shared(&self, region: Region) -> SdkConfig {
        let provider = ProviderConfig::without_region()
            .with_http_client(self.http.clone())
            .with_region(Some(region.clone()))
            .with_timeout_config(timeouts(ATTEMPT));
        let credentials = aws_config::default_provider::credentials::DefaultCredentialsChain::builder()
            .configure(provider)
            .region(region.clone())
            .imds_client(self.imds.clone())
            .build()
            .await;
        let app = AppName::new(APP).expect("a short name of letters and a hyphen");
        aws_config::defaults(BehaviorVersion::latest())
            .http_client(self.http.clone())
            .region(region)
            .credentials_provider(credentials)
            .app_name(app)
            .load()
            .await
    }
}

fn timeouts(attempt: Duration) -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(CONNECT)
        .operation_attempt_timeout(attempt)
        .operation_timeout(OPERATION)
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_that_is_no_url_is_told() {
        let settings = Settings { imds_endpoint: Some("http://[".to_owned()), ..Settings::default() };
        let error = Connection::new(settings).expect_err("no URL");
        assert!(error.to_string().contains("no URL of a metadata service"), "{error}");
    }
}
