//! What a failed call means: classed once, here, by EC2's code and the HTTP status.
//!
//! Owns the class of every code (EC2 API reference, "Error codes for the Amazon EC2 API",
//! <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html>) and what is kept of an answer: code,
//! words, request id, the action that was denied, how long to wait. Does not decide what is done about it.

use aws_config::imds::client::error::ImdsError;
use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_ec2::config::http::HttpResponse;
use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use ipamd_core::cloud::{CloudError, CloudErrorKind};
use std::error::Error;

/// EC2's words are kept up to this length: a refusal by IAM carries a kilobyte that only its issuer can read.
const WORDS: usize = 600;
/// The longest wait that a server may ask for, in seconds: longer is a mistake, and the caller would seem stuck.
const LONGEST_WAIT_S: u64 = 300;

/// The class of a code that EC2 answered.
fn kind_of(code: &str, status: u16) -> CloudErrorKind {
    match code {
        "RequestLimitExceeded"
        | "Throttling"
        | "ThrottlingException"
        | "ThrottledException"
        | "RequestThrottled"
        | "RequestThrottledException"
        | "EC2ThrottledException"
        | "SlowDown"
        | "TooManyRequestsException"
        | "BandwidthLimitExceeded" => CloudErrorKind::Throttled,

        "AttachmentLimitExceeded" | "PrivateIpAddressLimitExceeded" => CloudErrorKind::LimitReached,

        "NetworkInterfaceLimitExceeded"
        | "SecurityGroupsPerInterfaceLimitExceeded"
        | "TagLimitExceeded"
        | "ResourceCountExceeded"
        | "ResourceLimitExceeded" => CloudErrorKind::QuotaReached,

        "InsufficientFreeAddressesInSubnet" => CloudErrorKind::SubnetFull,
        "InsufficientCidrBlocks" => CloudErrorKind::PrefixesExhausted,

        "UnauthorizedOperation"
        | "AuthFailure"
        | "AccessDenied"
        | "AccessDeniedException"
        | "Blocked"
        | "OptInRequired"
        | "PendingVerification"
        | "InvalidClientTokenId"
        | "UnrecognizedClientException"
        | "ExpiredToken"
        | "ExpiredTokenException"
        | "RequestExpired"
        | "SignatureDoesNotMatch"
        | "IncompleteSignature"
        | "MissingAuthenticationToken"
        | "InvalidSecurity" => CloudErrorKind::Unauthorized,

        "InternalError"
        | "InternalFailure"
        | "Unavailable"
        | "ServiceUnavailable"
        | "RequestTimeout"
        | "RequestTimeoutException" => CloudErrorKind::Unreachable,

        // The thing is in another state than the call needs.
        "IncorrectState" | "IncorrectInstanceState" | "DependencyViolation" | "ConcurrentTagAccess" => {
            CloudErrorKind::InUse
        }

        // DescribeInstanceTypes of a type that the Region does not have.
        "InvalidInstanceType" => CloudErrorKind::NotFound,
        code if code.ends_with(".InUse") => CloudErrorKind::InUse,
        code if code.ends_with(".NotFound") => CloudErrorKind::NotFound,
        _ => kind_of_status(status),
    }
}

/// The class of an answer by its HTTP status alone.
fn kind_of_status(status: u16) -> CloudErrorKind {
    match status {
        429 => CloudErrorKind::Throttled,
        401 | 403 => CloudErrorKind::Unauthorized,
        500..=599 => CloudErrorKind::Unreachable,
        _ => CloudErrorKind::Other,
    }
}

/// A failed call of EC2; `call` is its name there.
pub(crate) fn of_call<E>(call: &str, error: &SdkError<E, HttpResponse>) -> CloudError
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let status = error.raw_response().map_or(0, |response| response.status().as_u16());
    let mut failed = match error {
        SdkError::ServiceError(answered) => {
            let code = answered.err().code().filter(|code| !code.is_empty());
            let kind = code.map_or(kind_of_status(status), |code| kind_of(code, status));
            let words = answered.err().message().filter(|words| !words.is_empty());
            let words = words.map_or_else(|| format!("HTTP status {status}"), str::to_owned);
            let denied = match code {
                Some("UnauthorizedOperation" | "AccessDenied" | "AccessDeniedException") => {
                    Some(denied_action(&words).unwrap_or_else(|| format!("ec2:{call}")))
                }
                _ => None,
            };
            let code = code.map(str::to_owned);
            CloudError { code, denied, ..CloudError::new(kind, call, shortened(&words)) }
        }
        SdkError::TimeoutError(_) => {
            CloudError::new(CloudErrorKind::Unreachable, call, "EC2 did not answer in time")
        }
        SdkError::DispatchFailure(_) => {
            let kind = if without_credentials(error) {
                CloudErrorKind::Unauthorized
            } else {
                CloudErrorKind::Unreachable
            };
            CloudError::new(kind, call, shortened(&causes(error)))
        }
        SdkError::ResponseError(_) => CloudError::new(
            CloudErrorKind::Unreachable,
            call,
            shortened(&format!("the answer cannot be read (HTTP status {status}): {}", causes(error))),
        ),
        _ => CloudError::new(CloudErrorKind::Other, call, shortened(&causes(error))),
    };
    failed.request_id = request_id(error);
    failed.retry_after_ms = error.raw_response().and_then(retry_after_ms);
    failed
}

/// An answer of EC2 that lacks what it must have or has it in a form that is not known: nothing can be said of the
/// call's effect.
pub(crate) fn unreadable(call: &str, cause: impl std::fmt::Display) -> CloudError {
    CloudError::new(CloudErrorKind::Other, call, format!("the answer cannot be used: {cause}"))
}

/// A failed question to the metadata service.
pub(crate) fn of_metadata(path: &str, error: &ImdsError) -> CloudError {
    let call = format!("GET {path}");
    match error {
        ImdsError::ErrorResponse(answered) => {
            let status = answered.response().status().as_u16();
            let kind = if status == 404 { CloudErrorKind::NotFound } else { kind_of_status(status) };
            CloudError::new(kind, call, format!("the metadata service answers HTTP status {status}"))
        }
        ImdsError::FailedToLoadToken(_) => {
            let hint = "the metadata service gives no session token (is IMDS enabled, and its hop limit 2 if ipamd runs \
                        in a container's own network?)";
            let words = format!("{hint}: {}", causes(error));
            CloudError::new(CloudErrorKind::Unreachable, call, shortened(&words))
        }
        _ => CloudError::new(CloudErrorKind::Unreachable, call, shortened(&causes(error))),
    }
}

/// EC2 tells its request id in a header and in the body of an error; the SDK reads the header alone.
fn request_id<E>(error: &SdkError<E, HttpResponse>) -> Option<String> {
    let response = error.raw_response()?;
    if let Some(id) = response.headers().get("x-amzn-requestid") {
        return Some(id.to_owned());
    }
    let body = String::from_utf8_lossy(response.body().bytes()?);
    let (_, rest) = body.split_once("<RequestID>")?;
    rest.split_once("</RequestID>").map(|(id, _)| id.trim().to_owned())
}

/// Retry-After in seconds (RFC 9110 §10.2.3; EC2 is not known to send a date).
fn retry_after_ms(response: &HttpResponse) -> Option<u64> {
    let seconds: u64 = response.headers().get("retry-after")?.trim().parse().ok()?;
    Some(seconds.min(LONGEST_WAIT_S) * 1000)
}

/// "… is not authorized to perform: ec2:CreateTags on resource: …"
fn denied_action(words: &str) -> Option<String> {
    let (_, rest) = words.split_once("to perform: ")?;
    let action = rest.split(|c: char| c.is_whitespace() || c == ',').next()?.trim_end_matches('.');
    let (service, name) = action.split_once(':')?;
    let known = !service.is_empty() && !name.is_empty() && name.chars().all(char::is_alphanumeric);
    known.then(|| action.to_owned())
}

/// Whether nothing on this machine gives credentials; a source of them that failed for the moment is another thing.
fn without_credentials(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        match error.downcast_ref::<CredentialsError>() {
            Some(CredentialsError::CredentialsNotLoaded(_) | CredentialsError::InvalidConfiguration(_)) => {
                return true;
            }
            Some(_) => return false,
            None => cause = error.source(),
        }
    }
    false
}

/// An error and what caused it, without what says the same twice.
fn causes(error: &(dyn Error + 'static)) -> String {
    let mut words: Vec<String> = Vec::new();
    let mut cause = Some(error);
    while let Some(error) = cause {
        let next = error.to_string();
        if !words.last().is_some_and(|last| last.contains(&next)) {
            words.push(next);
        }
        cause = error.source();
    }
    words.join(": ")
}

fn shortened(words: &str) -> String {
    let words = words.split("Encoded authorization failure message").next().unwrap_or(words).trim();
    match words.char_indices().nth(WORDS) {
        Some((end, _)) => format!("{}…", &words[..end]),
        None => words.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use CloudErrorKind::*;

    /// The page of the EC2 API reference that lists a code and says what it means.
    const REFERENCE: &str = "https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html";
    /// What every AWS service may answer.
    const COMMON: &str = "https://docs.aws.amazon.com/AWSEC2/latest/APIReference/CommonErrors.html";
    /// The codes that AWS's SDKs take for throttling.
    const THROTTLING: &str = "https://docs.aws.amazon.com/sdkref/latest/guide/feature-retry-behavior.html";
    /// Prefixes: "InsufficientCidrBlocks: There are not enough free cidr blocks in the specified subnet".
    const PREFIXES: &str = "https://docs.aws.amazon.com/eks/latest/best-practices/prefix-mode-linux.html";

    /// Each code with its HTTP status, its class and where it is described.
    const CODES: &[(&str, u16, CloudErrorKind, &str)] = &[
        ("RequestLimitExceeded", 503, Throttled, REFERENCE),
        ("BandwidthLimitExceeded", 503, Throttled, THROTTLING),
        ("EC2ThrottledException", 503, Throttled, THROTTLING),
        ("Throttling", 400, Throttled, THROTTLING),
        ("ThrottlingException", 400, Throttled, COMMON),
        ("ThrottledException", 400, Throttled, THROTTLING),
        ("RequestThrottled", 400, Throttled, THROTTLING),
        ("RequestThrottledException", 400, Throttled, THROTTLING),
        ("TooManyRequestsException", 400, Throttled, THROTTLING),
        ("SlowDown", 503, Throttled, THROTTLING),
        ("AttachmentLimitExceeded", 400, LimitReached, REFERENCE),
        ("PrivateIpAddressLimitExceeded", 400, LimitReached, REFERENCE),
        ("NetworkInterfaceLimitExceeded", 400, QuotaReached, REFERENCE),
        ("SecurityGroupsPerInterfaceLimitExceeded", 400, QuotaReached, REFERENCE),
        ("TagLimitExceeded", 400, QuotaReached, REFERENCE),
        ("ResourceCountExceeded", 400, QuotaReached, REFERENCE),
        ("ResourceLimitExceeded", 400, QuotaReached, REFERENCE),
        ("InsufficientFreeAddressesInSubnet", 400, SubnetFull, REFERENCE),
        ("InsufficientCidrBlocks", 400, PrefixesExhausted, PREFIXES),
        ("UnauthorizedOperation", 403, Unauthorized, REFERENCE),
        ("AuthFailure", 401, Unauthorized, REFERENCE),
        ("AccessDeniedException", 400, Unauthorized, COMMON),
        ("AccessDenied", 403, Unauthorized, COMMON),
        ("Blocked", 403, Unauthorized, REFERENCE),
        ("OptInRequired", 403, Unauthorized, REFERENCE),
        ("PendingVerification", 400, Unauthorized, REFERENCE),
        ("InvalidClientTokenId", 403, Unauthorized, REFERENCE),
        ("UnrecognizedClientException", 403, Unauthorized, COMMON),
        ("ExpiredToken", 400, Unauthorized, COMMON),
        ("ExpiredTokenException", 403, Unauthorized, COMMON),
        ("RequestExpired", 400, Unauthorized, REFERENCE),
        ("SignatureDoesNotMatch", 403, Unauthorized, COMMON),
        ("IncompleteSignature", 400, Unauthorized, REFERENCE),
        ("MissingAuthenticationToken", 403, Unauthorized, COMMON),
        ("InvalidSecurity", 403, Unauthorized, COMMON),
        ("InternalError", 500, Unreachable, REFERENCE),
        ("InternalFailure", 500, Unreachable, REFERENCE),
        ("Unavailable", 503, Unreachable, REFERENCE),
        ("ServiceUnavailable", 503, Unreachable, REFERENCE),
        ("RequestTimeout", 400, Unreachable, COMMON),
        ("RequestTimeoutException", 400, Unreachable, THROTTLING),
        ("IncorrectState", 400, InUse, REFERENCE),
        ("IncorrectInstanceState", 400, InUse, REFERENCE),
        ("DependencyViolation", 400, InUse, REFERENCE),
        ("ConcurrentTagAccess", 400, InUse, REFERENCE),
        ("InvalidNetworkInterface.InUse", 400, InUse, REFERENCE),
        ("InvalidIPAddress.InUse", 400, InUse, REFERENCE),
        ("InvalidAttachment.InUse", 400, InUse, REFERENCE),
        ("InvalidNetworkInterfaceID.NotFound", 400, NotFound, REFERENCE),
        ("InvalidNetworkInterface.NotFound", 400, NotFound, REFERENCE),
        ("InvalidAttachmentID.NotFound", 400, NotFound, REFERENCE),
        ("InvalidSubnetID.NotFound", 400, NotFound, REFERENCE),
        ("InvalidInstanceID.NotFound", 400, NotFound, REFERENCE),
        ("InvalidGroup.NotFound", 400, NotFound, REFERENCE),
        ("InvalidSecurityGroupID.NotFound", 400, NotFound, REFERENCE),
        ("InvalidInstanceType", 400, NotFound, REFERENCE),
        ("IdempotentParameterMismatch", 400, Other, REFERENCE),
        ("InvalidParameter", 400, Other, REFERENCE),
        ("InvalidParameterValue", 400, Other, REFERENCE),
        ("InvalidParameterCombination", 400, Other, REFERENCE),
        ("MissingParameter", 400, Other, REFERENCE),
        ("InvalidNetworkInterfaceId.Malformed", 400, Other, REFERENCE),
        ("OperationNotPermitted", 400, Other, REFERENCE),
        ("UnsupportedOperation", 400, Other, REFERENCE),
        ("UnknownParameter", 400, Other, REFERENCE),
        ("DryRunOperation", 412, Other, REFERENCE),
    ];

    #[test]
    fn every_code_has_its_class_and_its_source() {
        for (code, status, kind, source) in CODES {
            assert_eq!(kind_of(code, *status), *kind, "{code}: {source}");
            assert!(source.starts_with("https://docs.aws.amazon.com/"), "{code}");
        }
    }

    #[test]
    fn a_code_that_is_not_known_is_classed_by_its_status() {
        assert_eq!(kind_of("Brand.New", 400), Other);
        assert_eq!(kind_of("BrandNew", 503), Unreachable);
        assert_eq!(kind_of("BrandNew", 429), Throttled);
        assert_eq!(kind_of("BrandNew", 403), Unauthorized);
    }

    #[test]
    fn the_denied_action_is_taken_from_the_words() {
        let words = "You are not authorized to perform this operation. User: arn:aws:sts::1:assumed-role/node/i-1 is \
                     not authorized to perform: ec2:CreateTags on resource: arn:aws:ec2:r:1:network-interface/* \
                     because no identity-based policy allows the ec2:CreateTags action. Encoded authorization \
                     failure message: abcdef";
        assert_eq!(denied_action(words).as_deref(), Some("ec2:CreateTags"));
        assert!(shortened(words).ends_with("the ec2:CreateTags action."), "{}", shortened(words));
        assert_eq!(denied_action("You are not authorized to perform this operation."), None);
        assert_eq!(denied_action("not authorized to perform: everything"), None);
    }

    #[test]
    fn long_words_are_cut_between_characters() {
        let cut = shortened(&"ä".repeat(WORDS * 2));
        assert_eq!(cut.chars().count(), WORDS + 1);
    }
}
