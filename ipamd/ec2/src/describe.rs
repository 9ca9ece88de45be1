//! EC2's reads: what ENIs there are, what an instance type carries.
//!
//! Owns paging and filters: many ENIs in one call, subnets in one more. A page that failed fails the look.

use crate::connection::Connection;
use crate::mutate;
use crate::observation::{observation, subnet};
use crate::subnets::Subnets;
use crate::told::Told;
use crate::{failure, instance_type};
use aws_sdk_ec2::types::{Filter, InstanceType, NetworkInterface};
use eni_proto::ids::EniId;
use ipamd_core::cloud::{
    Answer, CloudError, CloudErrorKind, EniApi, EniObservation, EniScope, INSTANCE_TAG, InstanceLimits,
    Mutated, Mutation,
};
use std::collections::BTreeSet;
use std::sync::Arc;

const ENIS: &str = "DescribeNetworkInterfaces";
const TYPES: &str = "DescribeInstanceTypes";
/// The most that DescribeNetworkInterfaces gives at once (its MaxResults is 5 to 1000): one call for any instance.
const PAGE: i32 = 1000;
/// An instance has a few dozen ENIs at most; more pages than this are a server that does not end.
const MOST_PAGES: usize = 50;

/// EC2, asked through the SDK.
#[derive(Debug)]
pub struct Ec2 {
    pub(crate) connection: Arc<Connection>,
    pub(crate) subnets: Subnets,
    pub(crate) told: Told,
}

impl Ec2 {
    pub(crate) fn new(connection: Arc<Connection>) -> Ec2 {
        Ec2 { connection, subnets: Subnets::default(), told: Told::default() }
    }

    async fn enis(&self, scope: EniScope) -> Result<Vec<EniObservation>, CloudError> {
        let (name, instance) = match &scope {
            EniScope::AttachedTo(instance) => ("attachment.instance-id".to_owned(), instance),
            EniScope::TaggedFor(instance) => (format!("tag:{INSTANCE_TAG}"), instance),
        };
        let filter = Filter::builder().name(name).values(instance.to_string()).build();
        let reads = &self.connection.ec2().await?.reads;
        let mut enis: Vec<NetworkInterface> = Vec::new();
        let mut next = None;
        for _ in 0..MOST_PAGES {
            let page = reads.describe_network_interfaces().filters(filter.clone()).max_results(PAGE);
            let page = page.set_next_token(next).send().await;
            let page = page.map_err(|error| failure::of_call(ENIS, &error))?;
            next = page.next_token().filter(|token| !token.is_empty()).map(str::to_owned);
            enis.extend(page.network_interfaces.unwrap_or_default());
            if next.is_none() {
                let enis = self.observations(ENIS, &enis).await?;
                match scope {
                    EniScope::AttachedTo(_) => self.told.seen_all(&enis),
                    EniScope::TaggedFor(_) => enis.iter().for_each(|eni| self.told.seen(eni)),
                }
                return Ok(enis);
            }
        }
        Err(failure::unreadable(ENIS, format!("it does not end after {MOST_PAGES} pages")))
    }

    /// One ENI as it is now.
    pub(crate) async fn eni(&self, eni: &EniId) -> Result<EniObservation, CloudError> {
        let asked = self.connection.ec2().await?.reads.describe_network_interfaces();
        let answer = asked.network_interface_ids(eni.to_string()).send().await;
        let answer = answer.map_err(|error| failure::of_call(ENIS, &error))?;
        let seen = self.observations(ENIS, answer.network_interfaces()).await?;
        let one = seen.into_iter().find(|seen| seen.id == *eni);
        one.ok_or_else(|| failure::unreadable(ENIS, format!("{eni} was asked for and is not named")))
    }

    /// Answers as core's data; `call` is whose answers they are.
    pub(crate) async fn observations(
        &self,
        call: &str,
        enis: &[NetworkInterface],
    ) -> Result<Vec<EniObservation>, CloudError> {
        let unreadable = |eni: &NetworkInterface, cause: String| {
            let id = eni.network_interface_id().unwrap_or("a network interface without id");
            failure::unreadable(call, format!("{id}: {cause}"))
        };
        let mut of_each = Vec::with_capacity(enis.len());
        for eni in enis {
            of_each.push(subnet(eni).map_err(|cause| unreadable(eni, cause))?);
        }
        let wanted: BTreeSet<_> = of_each.iter().cloned().collect();
        let cidrs = self.subnets.cidrs(&self.connection, &wanted).await?;
        let each = enis.iter().zip(&of_each);
        each.map(|(eni, subnet)| observation(eni, cidrs[subnet]).map_err(|cause| unreadable(eni, cause)))
            .collect()
    }

    async fn limits(&self, instance_type: String) -> Result<InstanceLimits, CloudError> {
        let asked = self.connection.ec2().await?.reads.describe_instance_types();
        let answer = asked.instance_types(InstanceType::from(instance_type.as_str())).send().await;
        let answer = answer.map_err(|error| failure::of_call(TYPES, &error))?;
        let named = |told: &&aws_sdk_ec2::types::InstanceTypeInfo| {
            told.instance_type().is_some_and(|named| named.as_str() == instance_type)
        };
        let Some(told) = answer.instance_types().iter().find(named) else {
            let message = format!("EC2 names no type {instance_type}");
            return Err(CloudError::new(CloudErrorKind::NotFound, TYPES, message));
        };
        instance_type::limits(told)
            .ok_or_else(|| failure::unreadable(TYPES, format!("{instance_type} is named without its limits")))
    }
}

impl EniApi for Ec2 {
    fn describe_enis(&self, scope: &EniScope) -> Answer<'_, Vec<EniObservation>> {
        Box::pin(self.enis(scope.clone()))
    }

    fn describe_limits(&self, instance_type: &str) -> Answer<'_, InstanceLimits> {
        Box::pin(self.limits(instance_type.to_owned()))
    }

    fn mutate(&self, mutation: &Mutation) -> Answer<'_, Mutated> {
        Box::pin(mutate::mutate(self, mutation.clone()))
    }
}
