//! What only looks: DescribeNetworkInterfaces, DescribeSubnets, DescribeInstanceTypes.
//!
//! Owns filters and pages (EC2 API reference, the pages of these actions; developer guide, "Pagination in Amazon
//! EC2"). What is not known of either is refused: a filter that is left out in silence would answer too much.

use super::refusal::Refusal;
use super::{Ec2, Fault};
use crate::limits;
use ipamd_core::cloud::{
    CloudError, EniAttachmentStatus, EniObservation, EniScope, INSTANCE_TAG, InstanceLimits,
};
use ipamd_core::time::Timestamp;
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

/// "MaxResults: Minimum value of 5. Maximum value of 1000."
pub const PAGE: std::ops::RangeInclusive<u32> = 5..=1_000;

/// What DescribeNetworkInterfaces is asked.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EniQuery {
    /// NetworkInterfaceId: these, each of which must be there.
    #[serde(default)]
    pub ids: Vec<String>,
    /// Filter: those that every filter has a value for.
    #[serde(default)]
    pub filters: Vec<(String, Vec<String>)>,
    /// MaxResults. "You cannot specify this parameter and the network interface IDs parameter in the same request."
    #[serde(default)]
    pub max_results: Option<u32>,
    /// NextToken, of the page before.
    #[serde(default)]
    pub next_token: Option<String>,
}

/// A page of ENIs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EniPage {
    /// The ENIs.
    pub enis: Vec<EniObservation>,
    /// What asks for the next page; none when there is no other.
    pub next_token: Option<String>,
}

/// What DescribeSubnets tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubnetView {
    /// Its id.
    pub id: String,
    /// Its CIDR.
    pub cidr: Ipv4Net,
    /// AvailableIpAddressCount.
    pub available: usize,
}

impl EniQuery {
    /// The query of a scope: all pages at once, which is what the calls of core are.
    pub fn of(scope: &EniScope) -> EniQuery {
        let (name, value) = match scope {
            EniScope::AttachedTo(instance) => ("attachment.instance-id".to_owned(), instance.to_string()),
            EniScope::TaggedFor(instance) => (format!("tag:{INSTANCE_TAG}"), instance.to_string()),
        };
        EniQuery { filters: vec![(name, vec![value])], ..EniQuery::default() }
    }

    /// Its parameters, for the journal.
    fn parameters(&self) -> String {
        let mut words: Vec<String> = Vec::new();
        if !self.ids.is_empty() {
            words.push(format!("NetworkInterfaceId=[{}]", self.ids.join(" ")));
        }
        words.extend(self.filters.iter().map(|(name, values)| format!("{name}={}", values.join(","))));
        words.extend(self.max_results.map(|most| format!("MaxResults={most}")));
        words.extend(self.next_token.as_ref().map(|token| format!("NextToken={token}")));
        words.join(" ")
    }

    fn check(&self) -> Result<(), Refusal> {
        if self.max_results.is_some_and(|most| !PAGE.contains(&most)) {
            return Err(Refusal::bad_value("MaxResults must be between 5 and 1000.".to_owned()));
        }
        if self.max_results.is_some() && !self.ids.is_empty() {
            let message = "MaxResults and network interface IDs cannot be given in one request.";
            return Err(Refusal::new("InvalidParameterCombination", message.to_owned()));
        }
        for (name, values) in &self.filters {
            if values.iter().any(|value| value.contains(['*', '?'])) {
                let message = format!("The model knows no wildcards; filter '{name}' has one.");
                return Err(Refusal::bad_value(message));
            }
        }
        Ok(())
    }

    fn matches(&self, eni: &EniObservation) -> Result<bool, Refusal> {
        for (name, values) in &self.filters {
            let mut matches = false;
            for value in values {
                let has = has(eni, name, value)
                    .ok_or_else(|| Refusal::bad_value(format!("The filter '{name}' is invalid")))?;
                matches |= has;
            }
            if !matches {
                return Ok(false);
            }
        }
        Ok(self.ids.is_empty() || self.ids.iter().any(|id| *id == eni.id.as_str()))
    }

    /// A page's token says where it begins and of which query it is; to the caller it says nothing.
    fn token(&self, from: usize) -> String {
        let of: String = self.filters.iter().map(|(name, values)| format!("{name}={values:?};")).collect();
        let sum = of.bytes().fold(0u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte)));
        format!("page-{sum:08x}-{from}")
    }

    /// Where the page begins that is asked for.
    fn from(&self) -> Result<usize, Refusal> {
        let Some(token) = &self.next_token else { return Ok(0) };
        let from = token.rsplit('-').next().and_then(|from| from.parse().ok());
        from.filter(|from| self.token(*from) == *token).ok_or_else(|| {
            Refusal::new("InvalidNextToken", format!("The token '{token}' is invalid or has expired."))
        })
    }
}

/// Whether an ENI has a value for a filter; none when there is no such filter.
fn has(eni: &EniObservation, filter: &str, value: &str) -> Option<bool> {
    let attachment = eni.attachment.as_ref();
    if let Some(key) = filter.strip_prefix("tag:") {
        return Some(eni.tags.get(key).is_some_and(|tag| tag == value));
    }
    Some(match filter {
        "attachment.instance-id" => attachment.is_some_and(|a| a.instance.as_str() == value),
        "attachment.attachment-id" => attachment.is_some_and(|a| a.id.as_deref() == Some(value)),
        "attachment.device-index" => attachment.is_some_and(|a| a.device_index.to_string() == value),
        "attachment.status" => attachment.is_some_and(|a| status_word(a.status) == value),
        "network-interface-id" => eni.id.as_str() == value,
        "subnet-id" => eni.subnet.as_str() == value,
        "interface-type" => eni.kind == value,
        "mac-address" => eni.mac.to_string() == value,
        "tag-key" => eni.tags.contains_key(value),
        "status" => value == if attachment.is_some() { "in-use" } else { "available" },
        "addresses.private-ip-address" => {
            eni.primary.iter().chain(&eni.secondary).any(|address| address.to_string() == value)
        }
        _ => return None,
    })
}

/// EC2's word for the state of an attachment.
pub(crate) fn status_word(status: EniAttachmentStatus) -> &'static str {
    match status {
        EniAttachmentStatus::Attaching => "attaching",
        EniAttachmentStatus::Attached => "attached",
        EniAttachmentStatus::Detaching => "detaching",
    }
}

impl Ec2 {
    /// DescribeNetworkInterfaces, filtered, all of it. An ENI is described as `attaching` or `detaching` until its
    /// transition is done.
    pub fn describe_enis(
        &mut self,
        scope: &EniScope,
        fault: Option<&Fault>,
        now: Timestamp,
    ) -> Result<Vec<EniObservation>, CloudError> {
        self.describe_page(&EniQuery::of(scope), fault, now).map(|page| page.enis)
    }

    /// DescribeNetworkInterfaces, one page; without MaxResults that is all.
    pub fn describe_page(
        &mut self,
        query: &EniQuery,
        fault: Option<&Fault>,
        now: Timestamp,
    ) -> Result<EniPage, CloudError> {
        let bare = query.filters.is_empty() && query.max_results.is_none() && query.ids.is_empty();
        let parameters = query.parameters();
        self.call(("DescribeNetworkInterfaces", bare), parameters, fault, now, |ec2| ec2.page(query, now))
    }

    fn page(&self, query: &EniQuery, now: Timestamp) -> Result<EniPage, Refusal> {
        query.check()?;
        let from = query.from()?;
        let told = self.told(now);
        if let Some(unknown) = query.ids.iter().find(|id| !told.iter().any(|eni| eni.id.as_str() == *id)) {
            return Err(Refusal::no_such_eni(unknown));
        }
        let mut found = Vec::new();
        for eni in told {
            if query.matches(&eni)? {
                found.push(eni.into_owned());
            }
        }
        let Some(most) = query.max_results else {
            return Ok(EniPage { enis: found.split_off(from.min(found.len())), next_token: None });
        };
        let end = from.saturating_add(most as usize);
        let next_token = (end < found.len()).then(|| query.token(end));
        Ok(EniPage { enis: found.into_iter().skip(from).take(most as usize).collect(), next_token })
    }

    /// DescribeInstanceTypes for one type.
    pub fn describe_limits(
        &mut self,
        instance_type: &str,
        fault: Option<&Fault>,
        now: Timestamp,
    ) -> Result<InstanceLimits, CloudError> {
        let parameters = format!("InstanceType.1={instance_type}");
        self.call(("DescribeInstanceTypes", false), parameters, fault, now, |ec2| {
            let mut found = limits::of(instance_type).ok_or_else(|| {
                let message =
                    format!("The following supplied instance types do not exist: [{instance_type}]");
                Refusal::new("InvalidInstanceType", message)
            })?;
            found.vcpus = ec2.setup.vcpus.filter(|_| ec2.setup.instance_type == instance_type);
            Ok(found)
        })
    }

    /// DescribeSubnets, by id or all.
    pub fn describe_subnets(
        &mut self,
        ids: &[String],
        fault: Option<&Fault>,
        now: Timestamp,
    ) -> Result<Vec<SubnetView>, CloudError> {
        let parameters = format!("SubnetId=[{}]", ids.join(" "));
        self.call(("DescribeSubnets", false), parameters, fault, now, |ec2| {
            if let Some(unknown) = ids.iter().find(|id| *id != ec2.subnet_id.as_str()) {
                return Err(Refusal::no_such_subnet(unknown));
            }
            let available = ec2.subnet.available();
            Ok(vec![SubnetView { id: ec2.subnet_id.to_string(), cidr: ec2.setup.subnet, available }])
        })
    }
}
