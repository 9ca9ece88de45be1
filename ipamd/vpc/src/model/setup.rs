//! What the account has before the first call, and what of it is refused.
//!
//! Owns the setup, its defaults and its rules. Does not keep state.

use crate::limits;
use ipamd_core::cloud::InstanceLimits;
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

/// AWS keeps the first four addresses of a subnet and the last for itself (VPC user guide, "Subnet sizing for IPv4").
pub(super) const RESERVED: u32 = 4;

/// What the account has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setup {
    /// The VPC's CIDR.
    pub vpc_cidr: Ipv4Net,
    /// The subnet of the node.
    pub subnet: Ipv4Net,
    /// The instance's type.
    pub instance_type: String,
    /// How many secondary addresses its primary ENI has.
    pub secondary: u32,
    /// The security groups of the VPC. The primary ENI has all of them; the first is the VPC's default.
    pub security_groups: Vec<String>,
    /// How long an ENI is `attaching`, in milliseconds.
    pub attach_ms: u64,
    /// How long an ENI is `detaching`, in milliseconds.
    pub detach_ms: u64,
    /// DefaultVCpus of the instance's type, which the table does not have.
    #[serde(default)]
    pub vcpus: Option<u32>,
}

/// Why a setup is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SetupError {
    /// The instance type is not in the table.
    #[error("instance type {0:?} is not known; see ipamd/core/data/eni-limits.csv")]
    UnknownType(String),
    /// More addresses than the type carries.
    #[error("{instance_type} carries {most} secondary addresses per ENI, {asked} were asked for")]
    TooMany {
        /// The type.
        instance_type: String,
        /// What it carries.
        most: u32,
        /// What was asked.
        asked: u32,
    },
    /// The subnet is not inside the VPC, or too small.
    #[error("subnet {subnet} does not lie in {vpc}, or has no room for {addresses} addresses")]
    Subnet {
        /// The subnet.
        subnet: Ipv4Net,
        /// The VPC.
        vpc: Ipv4Net,
        /// How many it must hold.
        addresses: u32,
    },
    /// EC2 has no VPC without a security group.
    #[error("a VPC has at least one security group")]
    NoSecurityGroup,
    /// What others are said to do cannot be.
    #[error("others cannot do that: {0}")]
    Other(String),
}

impl Setup {
    /// A node of this type in 10.0.0.0/16, in a subnet with room for all that the type carries, where attaching and
    /// detaching are done at the next tick.
    pub fn new(instance_type: &str, secondary: u32) -> Setup {
        let narrow = Ipv4Net::new_assert([10, 0, 1, 0].into(), 24);
        let wide = Ipv4Net::new_assert([10, 0, 0, 0].into(), 19);
        let most = limits::of(instance_type).map_or(0, |l| l.enis * l.addresses_per_eni);
        let subnet = if most < (1 << (32 - narrow.prefix_len())) - RESERVED { narrow } else { wide };
        Setup {
            vpc_cidr: Ipv4Net::new_assert([10, 0, 0, 0].into(), 16),
            subnet,
            instance_type: instance_type.to_owned(),
            secondary,
            security_groups: vec!["sg-0e1c0000000000001".to_owned()],
            attach_ms: 0,
            detach_ms: 0,
            vcpus: None,
        }
    }

    /// What the type carries, if all of the setup holds.
    pub(super) fn check(&self) -> Result<InstanceLimits, SetupError> {
        let limits = limits::of(&self.instance_type)
            .ok_or_else(|| SetupError::UnknownType(self.instance_type.clone()))?;
        let most = limits.addresses_per_eni - 1;
        if self.secondary > most {
            let instance_type = self.instance_type.clone();
            return Err(SetupError::TooMany { instance_type, most, asked: self.secondary });
        }
        let addresses = self.secondary + 1;
        let room = self.subnet.broadcast().to_bits() - self.subnet.network().to_bits();
        if !self.vpc_cidr.contains(&self.subnet) || room < addresses + RESERVED {
            return Err(SetupError::Subnet { subnet: self.subnet, vpc: self.vpc_cidr, addresses });
        }
        if self.security_groups.is_empty() {
            return Err(SetupError::NoSecurityGroup);
        }
        Ok(limits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut Setup)) -> SetupError {
        let mut setup = Setup::new("m5.large", 1);
        change(&mut setup);
        setup.check().unwrap_err()
    }

    #[test]
    fn a_setup_that_cannot_be_is_refused() {
        assert!(matches!(refused(|s| s.secondary = 10), SetupError::TooMany { most: 9, asked: 10, .. }));
        assert_eq!(
            refused(|s| s.instance_type = "m5.huge".into()),
            SetupError::UnknownType("m5.huge".into())
        );
        assert!(matches!(refused(|s| s.subnet = "10.1.0.0/24".parse().unwrap()), SetupError::Subnet { .. }));
        assert_eq!(refused(|s| s.security_groups.clear()), SetupError::NoSecurityGroup);
    }

    #[test]
    fn the_default_subnet_has_room_for_all_that_the_type_carries() {
        assert_eq!(Setup::new("m5.4xlarge", 29).subnet.to_string(), "10.0.1.0/24");
        assert_eq!(Setup::new("test.4x6", 5).subnet.to_string(), "10.0.1.0/24");
        assert_eq!(Setup::new("bench.8x150", 149).subnet.to_string(), "10.0.0.0/19");
    }
}
