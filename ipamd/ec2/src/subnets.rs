//! The CIDRs of subnets.
//!
//! Owns what was told of them. A subnet's IPv4 CIDR never changes (VPC user guide, "Subnet CIDR blocks"), so each is
//! asked for once, all that are missing in one call.

use crate::connection::Connection;
use crate::failure;
use eni_proto::ids::SubnetId;
use ipamd_core::cloud::CloudError;
use ipnet::Ipv4Net;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

const CALL: &str = "DescribeSubnets";
/// More subnets than any VPC has may have been named by somebody's ENIs over the years: then it begins anew.
const MOST: usize = 1024;

/// What is known.
#[derive(Debug, Default)]
pub(crate) struct Subnets(Mutex<BTreeMap<SubnetId, Ipv4Net>>);

impl Subnets {
    /// The CIDRs of all of these. One that cannot be told fails all: an ENI without its subnet is of no use.
    pub(crate) async fn cidrs(
        &self,
        connection: &Connection,
        wanted: &BTreeSet<SubnetId>,
    ) -> Result<BTreeMap<SubnetId, Ipv4Net>, CloudError> {
        let mut known = self.known(wanted);
        let missing: Vec<String> =
            wanted.iter().filter(|id| !known.contains_key(*id)).map(ToString::to_string).collect();
        if !missing.is_empty() {
            let asked = connection.ec2().await?.reads.describe_subnets().set_subnet_ids(Some(missing)).send();
            let answer = asked.await.map_err(|error| failure::of_call(CALL, &error))?;
            for subnet in answer.subnets() {
                let id = subnet.subnet_id().unwrap_or_default();
                let id: SubnetId = id.parse().map_err(|error| failure::unreadable(CALL, error))?;
                let cidr = subnet.cidr_block().unwrap_or_default();
                let cidr = cidr
                    .parse()
                    .map_err(|_| failure::unreadable(CALL, format!("{id} has the IPv4 CIDR {cidr:?}")))?;
                known.insert(id, cidr);
            }
            self.learn(&known);
        }
        match wanted.iter().find(|id| !known.contains_key(*id)) {
            Some(id) => Err(failure::unreadable(CALL, format!("{id} is not named"))),
            None => Ok(known),
        }
    }

    fn known(&self, wanted: &BTreeSet<SubnetId>) -> BTreeMap<SubnetId, Ipv4Net> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        wanted.iter().filter_map(|id| all.get(id).map(|cidr| (id.clone(), *cidr))).collect()
    }

    fn learn(&self, told: &BTreeMap<SubnetId, Ipv4Net>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() + told.len() > MOST {
            all.clear();
        }
        all.extend(told.iter().map(|(id, cidr)| (id.clone(), *cidr)));
    }
}
