//! How EC2 refuses: codes and their classes.
//!
//! Owns the codes that the model answers and the class of every code that it may be told to inject (EC2 API reference,
//! "Error codes for the Amazon EC2 API"). Does not decide when.

use super::fault::Fault;
use eni_proto::ids::EniId;
use ipamd_core::cloud::EniAttachmentStatus;
use ipamd_core::cloud::{CloudError, CloudErrorKind};

/// A refused call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: String,
    message: String,
}

impl Refusal {
    pub(super) fn new(code: &str, message: String) -> Refusal {
        Refusal { code: code.to_owned(), message }
    }

    /// What a fault answers, if it does not only delay.
    pub(super) fn injected(fault: &Fault) -> Option<Refusal> {
        fault.error.as_ref().map(|code| Refusal::new(code, "injected".to_owned()))
    }

    /// "The specified network interface does not exist."
    pub(super) fn no_such_eni(eni: &EniId) -> Refusal {
        Refusal::new(
            "InvalidNetworkInterfaceID.NotFound",
            format!("The networkInterface ID '{eni}' does not exist"),
        )
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
        let status = match status {
            EniAttachmentStatus::Attaching => "attaching",
            EniAttachmentStatus::Attached => "attached",
            EniAttachmentStatus::Detaching => "detaching",
        };
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

    /// As core sees it.
    pub(super) fn into_error(self, call: &str, request: u64) -> CloudError {
        CloudError {
            request_id: Some(format!("req-{request:08x}")),
            code: Some(self.code.clone()),
            ..CloudError::new(kind_of(&self.code), call, self.message)
        }
    }
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
