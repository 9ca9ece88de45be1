//! How EC2 refuses: codes and their classes.
//!
//! Owns the codes that the model answers and the class of every code that it may be told to inject (EC2 API reference,
//! "Error codes for the Amazon EC2 API"). Does not decide when.

use super::NO_REPLY;
use super::describe::status_word;
use super::fault::Fault;
use super::subnet::PREFIX_ADDRESSES;
use eni_proto::ids::EniId;
use ipamd_core::cloud::{CloudError, CloudErrorKind, EniAttachmentStatus};
use std::fmt::Display;

/// The account that all of this belongs to.
pub(crate) const ACCOUNT: &str = "111122223333";
/// Who calls: the role of the instance.
pub(crate) const ROLE: &str = "eni-cni-node";

/// A refused call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: String,
    message: String,
    /// The action that is not allowed.
    denied: Option<String>,
}

impl Refusal {
    pub(super) fn new(code: &str, message: String) -> Refusal {
        Refusal { code: code.to_owned(), message, denied: None }
    }

    /// What a fault answers, if it does not only delay.
    pub(super) fn injected(fault: &Fault) -> Option<Refusal> {
        fault.error.as_ref().map(|code| Refusal::new(code, "injected".to_owned()))
    }

    /// "The specified network interface does not exist."
    pub(super) fn no_such_eni(eni: &impl Display) -> Refusal {
        Refusal::new(
            "InvalidNetworkInterfaceID.NotFound",
            format!("The networkInterface ID '{eni}' does not exist"),
        )
    }

    /// "The specified subnet does not exist."
    pub(super) fn no_such_subnet(subnet: &impl Display) -> Refusal {
        Refusal::new("InvalidSubnetID.NotFound", format!("The subnet ID '{subnet}' does not exist"))
    }

    /// "The attachment does not exist."
    pub(super) fn no_such_attachment(attachment: &str) -> Refusal {
        Refusal::new("InvalidAttachmentID.NotFound", format!("The attachment '{attachment}' does not exist"))
    }

    /// "The specified interface is currently in use and cannot be deleted or attached to another instance."
    pub(super) fn in_use(eni: &EniId) -> Refusal {
        Refusal::new(
            "InvalidNetworkInterface.InUse",
            format!("Network interface '{eni}' is currently in use."),
        )
    }

    /// "The resource is in an incorrect state for the request."
    pub(super) fn wrong_state(eni: &EniId, status: EniAttachmentStatus) -> Refusal {
        let status = status_word(status);
        Refusal::new("IncorrectState", format!("The attachment of network interface '{eni}' is {status}."))
    }

    /// "A value specified in a parameter is not valid, is unsupported, or cannot be used."
    pub(super) fn bad_value(message: String) -> Refusal {
        Refusal::new("InvalidParameterValue", message)
    }

    /// "You've reached the limit on the number of private IP addresses that you can assign to the specified network
    /// interface for that type of instance."
    pub(super) fn too_many_addresses() -> Refusal {
        Refusal::new(
            "PrivateIpAddressLimitExceeded",
            "Number of private addresses will exceed limit.".to_owned(),
        )
    }

    /// "The specified subnet does not contain enough free private IP addresses to fulfill your request."
    pub(super) fn subnet_full(wanted: usize, free: usize) -> Refusal {
        let message =
            format!("There aren't sufficient free addresses in the subnet: {wanted} asked for, {free} free.");
        Refusal::new("InsufficientFreeAddressesInSubnet", message)
    }

    /// "There aren't sufficient free Ipv4 addresses or prefixes" where sixteen addresses for each are not even free,
    /// else "The specified subnet does not have enough free cidr blocks to satisfy the request": EC2 has two codes for
    /// it (cilium pull request 31016 has its support's explanation).
    pub(super) fn prefixes_exhausted(wanted: usize, free: usize) -> Refusal {
        if wanted.saturating_mul(PREFIX_ADDRESSES) > free {
            return Refusal::bad_value(TOO_FEW_FOR_PREFIXES.to_owned());
        }
        let message =
            "The specified subnet does not have enough free cidr blocks to satisfy the request.".to_owned();
        Refusal::new("InsufficientCidrBlocks", message)
    }

    /// "You've reached the limit on the number of network interfaces that you can create."
    pub(super) fn quota_reached(quota: u32) -> Refusal {
        let message = format!("The maximum number of network interfaces, {quota}, has been reached.");
        Refusal::new("NetworkInterfaceLimitExceeded", message)
    }

    /// "The maximum request rate permitted by the Amazon EC2 APIs has been exceeded for your account."
    pub(super) fn throttled(action: &str) -> Refusal {
        let message = format!(
            "Request limit exceeded. Account {ACCOUNT} has been throttled on ec2:{action} because it exceeded its \
             request rate limit."
        );
        Refusal::new("RequestLimitExceeded", message)
    }

    /// "You are not authorized to perform this operation." EC2 names the action, and adds what only
    /// DecodeAuthorizationMessage can read (IAM user guide, "Troubleshoot access denied error messages").
    pub(super) fn unauthorized(action: &str) -> Refusal {
        let message = format!(
            "You are not authorized to perform this operation. User: \
             arn:aws:sts::{ACCOUNT}:assumed-role/{ROLE}/session is not authorized to perform: ec2:{action} on \
             resource: arn:aws:ec2:*:{ACCOUNT}:network-interface/* because no identity-based policy allows the \
             ec2:{action} action. Encoded authorization failure message: ZW5jb2RlZA"
        );
        Refusal { denied: Some(format!("ec2:{action}")), ..Refusal::new("UnauthorizedOperation", message) }
    }

    /// As core sees it.
    pub(super) fn into_error(self, call: &str, request: u64) -> CloudError {
        if self.code == NO_REPLY {
            return CloudError::new(CloudErrorKind::Unreachable, call, "no answer came");
        }
        let kind = if self.message == TOO_FEW_FOR_PREFIXES {
            CloudErrorKind::PrefixesExhausted
        } else {
            kind_of(&self.code)
        };
        CloudError {
            request_id: Some(request_id(request)),
            code: Some(self.code),
            denied: self.denied,
            ..CloudError::new(kind, call, self.message)
        }
    }
}

const TOO_FEW_FOR_PREFIXES: &str = "There aren't sufficient free Ipv4 addresses or prefixes";

/// The id of the n-th request.
pub(super) fn request_id(request: u64) -> String {
    format!("req-{request:08x}")
}

fn kind_of(code: &str) -> CloudErrorKind {
    match code {
        "RequestLimitExceeded" | "Throttling" => CloudErrorKind::Throttled,
        "UnauthorizedOperation" | "AuthFailure" => CloudErrorKind::Unauthorized,
        "Unavailable" | "InternalError" => CloudErrorKind::Unreachable,
        "InsufficientFreeAddressesInSubnet" => CloudErrorKind::SubnetFull,
        "InsufficientCidrBlocks" => CloudErrorKind::PrefixesExhausted,
        "NetworkInterfaceLimitExceeded" => CloudErrorKind::QuotaReached,
        "IncorrectState" => CloudErrorKind::InUse,
        code if code.ends_with(".InUse") => CloudErrorKind::InUse,
        code if code.ends_with(".NotFound") => CloudErrorKind::NotFound,
        code if code.ends_with("LimitExceeded") => CloudErrorKind::LimitReached,
        _ => CloudErrorKind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_their_classes() {
        for (code, kind) in [
            ("RequestLimitExceeded", CloudErrorKind::Throttled),
            ("AttachmentLimitExceeded", CloudErrorKind::LimitReached),
            ("PrivateIpAddressLimitExceeded", CloudErrorKind::LimitReached),
            ("NetworkInterfaceLimitExceeded", CloudErrorKind::QuotaReached),
            ("InsufficientCidrBlocks", CloudErrorKind::PrefixesExhausted),
            ("InsufficientFreeAddressesInSubnet", CloudErrorKind::SubnetFull),
            ("InvalidNetworkInterface.InUse", CloudErrorKind::InUse),
            ("InvalidNetworkInterfaceID.NotFound", CloudErrorKind::NotFound),
            ("InvalidParameterValue", CloudErrorKind::Other),
            ("IdempotentParameterMismatch", CloudErrorKind::Other),
            ("InternalError", CloudErrorKind::Unreachable),
        ] {
            assert_eq!(kind_of(code), kind, "{code}");
        }
    }
}
