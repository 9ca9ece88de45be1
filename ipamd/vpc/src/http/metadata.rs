//! The instance metadata service, version 2 (EC2 user guide, "Use the Instance Metadata Service to access instance
//! metadata"): a session's token first, then GETs that carry it.
//!
//! Owns tokens, paths and the credentials of the instance's role. What the tree says of network interfaces is the
//! model's.

use super::message::{Request, Response};
use super::{Http, xml};
use crate::model::{ACCOUNT, Ec2, REGION, ROLE};
use crate::served::now;
use ipamd_core::cloud::{CloudError, EniObservation, MetadataEni};
use ipamd_core::time::Timestamp;
use nix::time::{ClockId, clock_gettime};
use std::collections::VecDeque;
use std::fmt::Display;
use std::time::Duration;

/// "The TTL must be between one second and six hours."
const LONGEST_SESSION_S: u64 = 21_600;
/// The most sessions at once; the oldest goes.
const SESSIONS: usize = 10_000;
/// What the session tokens of credentials begin with; their end follows, in milliseconds since boot.
const CREDENTIAL: &str = "embedded-vpc-session-";

/// The sessions of the metadata service: token and end.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    made: u64,
    open: VecDeque<(String, Timestamp)>,
}

impl Sessions {
    fn begin(&mut self, ttl: Duration, now: Timestamp) -> String {
        self.made += 1;
        // No secret: whoever reaches this may read all of it.
        let token = format!("AQAEA{:027x}==", self.made);
        self.open.push_back((token.clone(), now + ttl));
        if self.open.len() > SESSIONS {
            self.open.pop_front();
        }
        token
    }

    fn is_open(&self, token: &str, now: Timestamp) -> bool {
        self.open.iter().any(|(open, end)| open == token && now < *end)
    }
}

/// Whether an `X-Amz-Security-Token` is one of ours that has ended. Others are not ours to judge.
pub(super) fn has_expired(token: &str) -> bool {
    let end = token.strip_prefix(CREDENTIAL).and_then(|end| end.parse().ok());
    end.is_some_and(|end| Timestamp::from_millis(end) <= now())
}

/// Answers a request; none closes the connection instead.
pub(super) fn answer(http: &Http, request: &Request) -> Option<Response> {
    let plain = |status, text: String| Response::new(status, "text/plain", text);
    let token = "/latest/api/token";
    let found = match (request.method.as_str(), request.path.as_str()) {
        ("PUT", path) if path == token => return begin(http, request),
        ("GET", _) => {
            let session = request.header("x-aws-ec2-metadata-token");
            if !session.is_some_and(|session| http.sessions().is_open(session, now())) {
                return Some(plain(401, "Unauthorized".to_owned()));
            }
            get(http, &request.path)
        }
        _ => return Some(plain(405, "Method Not Allowed".to_owned())),
    };
    match found {
        Ok(text) => Some(plain(200, text)),
        Err(error) => refused(&error),
    }
}

/// A status is injected as an error's code; what has no code had no answer.
fn refused(error: &CloudError) -> Option<Response> {
    let code = error.code.as_deref()?;
    Some(Response::new(code.parse().unwrap_or(500), "text/plain", error.message.clone()))
}

fn begin(http: &Http, request: &Request) -> Option<Response> {
    let path = format!("PUT {}", request.path);
    let made = http
        .served
        .call("InstanceMetadata", |ec2, fault| ec2.metadata_get(&path, fault, now(), |_| Some(())));
    if let Err(error) = made {
        return refused(&error);
    }
    // "Requests that contain an X-Forwarded-For header are rejected."
    if request.header("x-forwarded-for").is_some() {
        return Some(Response::new(403, "text/plain", "Forbidden".to_owned()));
    }
    let ttl = request.header("x-aws-ec2-metadata-token-ttl-seconds").and_then(|ttl| ttl.parse().ok());
    let Some(ttl) = ttl.filter(|ttl| (1..=LONGEST_SESSION_S).contains(ttl)) else {
        return Some(Response::new(400, "text/plain", "Bad Request".to_owned()));
    };
    let token = http.sessions().begin(Duration::from_secs(ttl), now());
    let mut response = Response::new(200, "text/plain", token);
    response.headers.push(("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", ttl.to_string()));
    Some(response)
}

fn get(http: &Http, path: &str) -> Result<String, CloudError> {
    let lifetime = http.credential_lifetime();
    http.served.call("InstanceMetadata", |ec2, fault| {
        ec2.metadata_get(path, fault, now(), |ec2| {
            let below = path.strip_prefix("/latest/")?.trim_end_matches('/');
            let parts: Vec<&str> = below.split('/').collect();
            match parts.as_slice() {
                ["dynamic", "instance-identity", "document"] => Some(document(ec2)),
                ["meta-data", rest @ ..] => meta_data(ec2, rest, lifetime),
                _ => None,
            }
        })
    })
}

/// What the primary ENI has of its own.
fn primary(ec2: &Ec2) -> &EniObservation {
    &ec2.enis()[0]
}

fn meta_data(ec2: &Ec2, path: &[&str], lifetime: Duration) -> Option<String> {
    let zone = format!("{REGION}a");
    match path {
        ["instance-id"] => Some(ec2.instance().to_string()),
        ["instance-type"] => Some(ec2.setup().instance_type.clone()),
        ["mac"] => Some(primary(ec2).mac.to_string()),
        ["local-ipv4"] => primary(ec2).primary.map(|address| address.to_string()),
        ["local-hostname"] => primary(ec2).private_dns_name.clone(),
        ["placement", "region"] => Some(REGION.to_owned()),
        ["placement", "availability-zone"] => Some(zone),
        ["iam", "security-credentials"] => Some(ROLE.to_owned()),
        ["iam", "security-credentials", role] => (*role == ROLE).then(|| credentials(lifetime)),
        ["network", "interfaces", "macs"] => {
            Some(lines(ec2.metadata(now()).iter().map(|(told, _)| format!("{}/", told.mac))))
        }
        ["network", "interfaces", "macs", mac, rest @ ..] => {
            let all = ec2.metadata(now());
            let (told, eni) = all.iter().find(|(told, _)| told.mac.to_string() == *mac)?;
            interface(told, eni, rest)
        }
        _ => None,
    }
}

const KEYS: [&str; 14] = [
    "device-number",
    "interface-id",
    "ipv4-prefix",
    "local-hostname",
    "local-ipv4s",
    "mac",
    "network-card",
    "owner-id",
    "security-group-ids",
    "subnet-id",
    "subnet-ipv4-cidr-block",
    "vpc-id",
    "vpc-ipv4-cidr-block",
    "vpc-ipv4-cidr-blocks",
];

fn lines<T: Display>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join("\n")
}

/// A key of an ENI's tree; one that has no value is not there.
fn interface(told: &MetadataEni, eni: &EniObservation, path: &[&str]) -> Option<String> {
    let some = |text: String| Some(text).filter(|text| !text.is_empty());
    match path {
        [] => some(lines(KEYS.iter().filter(|key| interface(told, eni, &[key]).is_some()))),
        ["device-number"] => told.device_index.map(|index| index.to_string()),
        ["interface-id"] => told.id.as_ref().map(ToString::to_string),
        ["ipv4-prefix"] => some(lines(&told.prefixes)),
        ["local-hostname"] => eni.private_dns_name.clone(),
        ["local-ipv4s"] => some(lines(&told.addresses)),
        ["mac"] => Some(told.mac.to_string()),
        // "Some instance types support multiple network cards": it is there where it is not 0.
        ["network-card"] => {
            let card = eni.attachment.as_ref().map_or(0, |at| at.network_card);
            (card > 0).then(|| card.to_string())
        }
        ["owner-id"] => Some(ACCOUNT.to_owned()),
        ["security-group-ids"] => some(lines(&eni.security_groups)),
        ["subnet-id"] => Some(eni.subnet.to_string()),
        ["subnet-ipv4-cidr-block"] => told.subnet_cidr.map(|cidr| cidr.to_string()),
        ["vpc-id"] => Some(xml::VPC.to_owned()),
        ["vpc-ipv4-cidr-block"] => told.vpc_cidrs.first().map(ToString::to_string),
        ["vpc-ipv4-cidr-blocks"] => some(lines(&told.vpc_cidrs)),
        _ => None,
    }
}

fn document(ec2: &Ec2) -> String {
    let document = serde_json::json!({
        "accountId": ACCOUNT,
        "architecture": "x86_64",
        "availabilityZone": format!("{REGION}a"),
        "instanceId": ec2.instance().to_string(),
        "instanceType": ec2.setup().instance_type,
        "privateIp": primary(ec2).primary,
        "region": REGION,
        "version": "2017-09-30",
    });
    document.to_string()
}

/// The role's credentials, which end after `lifetime`: a request with their session token is refused then.
fn credentials(lifetime: Duration) -> String {
    let end = now() + lifetime;
    let wall = clock_gettime(ClockId::CLOCK_REALTIME).map(Duration::from).unwrap_or_default();
    let credentials = serde_json::json!({
        "Code": "Success",
        "LastUpdated": iso_8601(wall.as_secs()),
        "Type": "AWS-HMAC",
        "AccessKeyId": "ASIAEMBEDDEDVPC00000",
        "SecretAccessKey": "embedded-vpc-has-no-secrets",
        "Token": format!("{CREDENTIAL}{}", end.as_millis()),
        "Expiration": iso_8601((wall + lifetime).as_secs()),
    });
    credentials.to_string()
}

/// `2026-11-24T22:59:00Z` of seconds since 1970, by the civil calendar.
fn iso_8601(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Years begin in March, so that the day that is added is a year's last; 719468 days lie before 1970-01-01.
    let day = days + 719_468;
    let (era, of_era) = (day / 146_097, day % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let of_month = of_year - (153 * month + 2) / 5 + 1;
    let (civil_month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let (hours, minutes) = (second / 3_600, second % 3_600 / 60);
    format!(
        "{:04}-{civil_month:02}-{of_month:02}T{hours:02}:{minutes:02}:{:02}Z",
        era * 400 + year + next,
        second % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_by_the_calendar() {
        assert_eq!(iso_8601(0), "1970-01-01T00:00:00Z");
        assert_eq!(iso_8601(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(iso_8601(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(iso_8601(1_798_761_599), "2026-12-31T23:59:59Z");
    }

    #[test]
    fn a_session_ends_and_a_foreign_token_opens_nothing() {
        let mut sessions = Sessions::default();
        let token = sessions.begin(Duration::from_secs(1), Timestamp::ZERO);
        assert!(sessions.is_open(&token, Timestamp::from_millis(999)));
        assert!(!sessions.is_open(&token, Timestamp::from_millis(1_000)));
        assert!(!sessions.is_open("other", Timestamp::ZERO));
    }
}
