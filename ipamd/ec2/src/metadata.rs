//! The instance metadata service, by IMDSv2 alone.
//!
//! Owns the paths (EC2 user guide, "Instance metadata categories",
//! <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-instance-metadata.html>) and the difference between a key
//! that is not there (404: not yet, or never), and one that could not be asked for, which fails the whole answer.

use crate::failure;
use aws_config::imds::client::Client;
use aws_config::imds::client::error::ImdsError;
use eni_proto::ids::MacAddr;
use ipamd_core::cloud::{
    Answer, CloudError, CloudErrorKind, InstanceIdentity, InstanceMetadata, MetadataEni,
};
use std::fmt::Display;
use std::str::FromStr;

const ROOT: &str = "/latest/meta-data/";
const MACS: &str = "network/interfaces/macs/";
/// More network interfaces than any instance has on all its cards: a list that is longer is no list of them.
const MOST: usize = 256;

/// The metadata service, asked through the SDK.
#[derive(Debug)]
pub struct Imds {
    client: Client,
}

impl Imds {
    pub(crate) fn new(client: Client) -> Imds {
        Imds { client }
    }

    /// A key's value; none when there is no such key.
    async fn find(&self, key: &str) -> Result<Option<String>, CloudError> {
        let path = format!("{ROOT}{key}");
        match self.client.get(&path).await {
            Ok(value) => Ok(Some(value.as_ref().trim().to_owned())),
            Err(ImdsError::ErrorResponse(answer)) if answer.response().status().as_u16() == 404 => Ok(None),
            Err(error) => Err(failure::of_metadata(&path, &error)),
        }
    }

    /// A key's value, which must be there.
    async fn get(&self, key: &str) -> Result<String, CloudError> {
        let missing = || {
            let message = "the metadata service has no such key (yet)";
            CloudError::new(CloudErrorKind::NotFound, format!("GET {ROOT}{key}"), message)
        };
        self.find(key).await?.ok_or_else(missing)
    }

    async fn find_one<T: FromStr>(&self, key: &str) -> Result<Option<T>, CloudError>
    where
        T::Err: Display,
    {
        self.find(key).await?.map(|value| parse(key, &value)).transpose()
    }

    /// A key whose value is a list, one a line; empty when there is no such key.
    async fn find_list<T: FromStr>(&self, key: &str) -> Result<Vec<T>, CloudError>
    where
        T::Err: Display,
    {
        let value = self.find(key).await?.unwrap_or_default();
        value.lines().map(|line| parse(key, line.trim())).collect()
    }

    async fn ask_identity(&self) -> Result<InstanceIdentity, CloudError> {
        let mac = self.get("mac").await?;
        let primary_mac = parse("mac", &mac)?;
        // Both names of the VPC's CIDRs are old; the plural lists all of them.
        let cidrs = format!("{MACS}{mac}/vpc-ipv4-cidr-blocks");
        let told = self.get(&cidrs).await?;
        let vpc_cidrs: Result<Vec<_>, _> = told.lines().map(|line| parse(&cidrs, line.trim())).collect();
        Ok(InstanceIdentity {
            instance: parse("instance-id", &self.get("instance-id").await?)?,
            instance_type: self.get("instance-type").await?,
            primary_mac,
            vpc_cidrs: vpc_cidrs?,
            region: self.find("placement/region").await?.unwrap_or_default(),
            availability_zone: self.find("placement/availability-zone").await?.unwrap_or_default(),
        })
    }

    async fn ask_interfaces(&self) -> Result<Vec<MetadataEni>, CloudError> {
        let list = self.get(MACS).await?;
        let macs: Vec<&str> = list.lines().map(|line| line.trim().trim_end_matches('/')).collect();
        if macs.len() > MOST {
            return Err(unreadable(MACS, format!("it lists {} network interfaces", macs.len())));
        }
        let mut interfaces = Vec::with_capacity(macs.len());
        for mac in macs {
            let mac_address = parse(MACS, mac)?;
            interfaces.push(self.ask_interface(mac, mac_address).await?);
        }
        Ok(interfaces)
    }

    async fn ask_interface(&self, key: &str, mac: MacAddr) -> Result<MetadataEni, CloudError> {
        let at = |name: &str| format!("{MACS}{key}/{name}");
        Ok(MetadataEni {
            mac,
            id: self.find_one(&at("interface-id")).await?,
            device_index: self.find_one(&at("device-number")).await?,
            addresses: self.find_list(&at("local-ipv4s")).await?,
            prefixes: self.find_list(&at("ipv4-prefix")).await?,
            subnet_cidr: self.find_one(&at("subnet-ipv4-cidr-block")).await?,
            vpc_cidrs: self.find_list(&at("vpc-ipv4-cidr-blocks")).await?,
        })
    }
}

fn parse<T: FromStr>(key: &str, value: &str) -> Result<T, CloudError>
where
    T::Err: Display,
{
    value.parse().map_err(|error| unreadable(key, format!("{value:?}: {error}")))
}

fn unreadable(key: &str, cause: impl Display) -> CloudError {
    failure::unreadable(&format!("GET {ROOT}{key}"), cause)
}

impl InstanceMetadata for Imds {
    fn identity(&self) -> Answer<'_, InstanceIdentity> {
        Box::pin(self.ask_identity())
    }

    fn interfaces(&self) -> Answer<'_, Vec<MetadataEni>> {
        Box::pin(self.ask_interfaces())
    }
}
