//! The section `[capacity]`: its own form, its defaults and its rules.
//!
//! Owns names, units and ranges of its keys; conf/ipamd.toml documents each, docs/capacity.md says how they work together.

use super::Placement;
use super::raw::{Broken, broken, millis, within};
use eni_proto::ids::SubnetId;
use ipamd_core::capacity::{PoolMode, Targets};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// One hour, in milliseconds: no wait is longer.
const HOUR: u64 = 3_600_000;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawCapacity {
    mode: PoolMode,
    warm_enis: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    warm_ip: Option<u32>,
    warm_prefixes: u32,
    minimum_ip: u32,
    max_enis: u32,
    max_pods: u32,
    no_release: bool,
    release_after_ms: u64,
    subnets: Vec<String>,
    security_groups: Vec<String>,
}

impl Default for RawCapacity {
    fn default() -> Self {
        RawCapacity::from((&Targets::default(), &Placement::default()))
    }
}

impl From<(&Targets, &Placement)> for RawCapacity {
    fn from((targets, placement): (&Targets, &Placement)) -> Self {
        RawCapacity {
            mode: targets.mode,
            warm_enis: targets.warm_enis,
            warm_ip: targets.warm_ip,
            warm_prefixes: targets.warm_prefixes,
            minimum_ip: targets.minimum_ip,
            max_enis: targets.max_enis,
            max_pods: targets.max_pods,
            no_release: targets.no_release,
            release_after_ms: millis(targets.release_after),
            subnets: placement.subnets.iter().map(ToString::to_string).collect(),
            security_groups: placement.security_groups.clone(),
        }
    }
}

impl RawCapacity {
    pub(super) fn validate(self) -> Result<(Targets, Placement), Broken> {
        let upto_15 = |key, value| within(key, value, 0, 15, "must be 0 to 15");
        let addresses = |key, value| within(key, value, 0, 10_000, "must be 0 to 10000");
        let warm_prefixes = within("capacity.warm_prefixes", self.warm_prefixes, 0, 64, "must be 0 to 64")?;
        let release = self.release_after_ms;
        let release = within("capacity.release_after_ms", release, 0, HOUR, "must be 0 to 3600000")?;
        let targets = Targets {
            mode: self.mode,
            warm_enis: upto_15("capacity.warm_enis", self.warm_enis)?,
            warm_ip: self.warm_ip.map(|warm| addresses("capacity.warm_ip", warm)).transpose()?,
            warm_prefixes,
            minimum_ip: addresses("capacity.minimum_ip", self.minimum_ip)?,
            max_enis: upto_15("capacity.max_enis", self.max_enis)?,
            max_pods: addresses("capacity.max_pods", self.max_pods)?,
            no_release: self.no_release,
            release_after: Duration::from_millis(release),
        };
        let subnets = self.subnets.iter().map(|text| {
            let id: Option<SubnetId> = text.parse().ok().filter(|_| text.starts_with("subnet-"));
            id.ok_or_else(|| {
                broken("capacity.subnets", &format!("{text:?}"), "must be ids as \"subnet-0a1b\"")
            })
        });
        let subnets = subnets.collect::<Result<_, _>>()?;
        // CreateNetworkInterface takes five groups by default, sixteen at most (Amazon VPC quotas).
        let groups = &self.security_groups;
        if let Some(other) = groups.iter().find(|text| !text.starts_with("sg-")) {
            let rule = "must be ids as \"sg-0a1b\"";
            return Err(broken("capacity.security_groups", &format!("{other:?}"), rule));
        }
        within("capacity.security_groups", groups.len(), 0, 16, "must be 16 at most")?;
        Ok((targets, Placement { subnets, security_groups: self.security_groups }))
    }
}
