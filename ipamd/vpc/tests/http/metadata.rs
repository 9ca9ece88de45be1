//! The metadata service: sessions, the tree, credentials that end.
//!
//! Owns those tests.

use crate::client::{SIGNED, element, send};
use crate::{create, until, vpc};
use embedded_vpc::model::{Effect, Fault, Gap, GapKind};
use embedded_vpc::standalone::Standalone;
use ipamd_core::cloud::Mutation;
use std::time::Duration;

const TTL: &str = "X-aws-ec2-metadata-token-ttl-seconds";

fn session(vpc: &Standalone) -> String {
    let answer = send(vpc, "PUT", "/latest/api/token", &[(TTL, "21600")], "").expect("an answer");
    assert_eq!(answer.status, 200);
    answer.body
}

fn get(vpc: &Standalone, session: &str, path: &str) -> (u16, String) {
    let headers = [("X-aws-ec2-metadata-token", session)];
    let answer = send(vpc, "GET", &format!("/latest/{path}"), &headers, "").expect("an answer");
    (answer.status, answer.body)
}

#[test]
fn metadata_needs_a_session_that_is_open() {
    let vpc = vpc();
    let path = "/latest/meta-data/instance-id";
    let without = send(&vpc, "GET", path, &[], "").unwrap();
    assert_eq!(without.status, 401, "version 1 is off");
    for ttl in ["0", "21601", "x"] {
        assert_eq!(send(&vpc, "PUT", "/latest/api/token", &[(TTL, ttl)], "").unwrap().status, 400, "{ttl}");
    }
    assert_eq!(send(&vpc, "PUT", "/latest/api/token", &[], "").unwrap().status, 400);
    let forwarded = [(TTL, "60"), ("X-Forwarded-For", "10.0.0.1")];
    assert_eq!(send(&vpc, "PUT", "/latest/api/token", &forwarded, "").unwrap().status, 403);
    let short = send(&vpc, "PUT", "/latest/api/token", &[(TTL, "1")], "").unwrap();
    assert!(short.headers.iter().any(|(name, value)| name.eq_ignore_ascii_case(TTL) && value == "1"));
    assert_eq!(get(&vpc, &short.body, "meta-data/instance-id"), (200, "i-0e1c0000000000001".to_owned()));
    until("the session ends", || get(&vpc, &short.body, "meta-data/instance-id").0 == 401);
    assert_eq!(get(&vpc, &session(&vpc), "meta-data/no-such-key").0, 404);
}

#[test]
fn the_tree_tells_the_instance_and_its_enis() {
    let vpc = vpc();
    let session = session(&vpc);
    let text = |path: &str| {
        let (status, text) = get(&vpc, &session, path);
        assert_eq!(status, 200, "{path}: {text}");
        text
    };
    assert_eq!(text("meta-data/instance-type"), "test.4x6p");
    assert_eq!(text("meta-data/placement/region"), "eu-central-1");
    assert_eq!(text("meta-data/placement/availability-zone"), "eu-central-1a");
    let document: serde_json::Value =
        serde_json::from_str(&text("dynamic/instance-identity/document")).unwrap();
    assert_eq!(document["region"], "eu-central-1");
    assert_eq!(document["instanceId"], "i-0e1c0000000000001");
    let mac = text("meta-data/mac");
    assert_eq!(text("meta-data/network/interfaces/macs/"), format!("{mac}/"));
    let primary = |key: &str| text(&format!("meta-data/network/interfaces/macs/{mac}/{key}"));
    assert_eq!(primary("device-number"), "0");
    assert_eq!(primary("local-ipv4s"), "10.0.1.10\n10.0.1.11");
    assert_eq!(primary("subnet-ipv4-cidr-block"), "10.0.1.0/24");
    assert_eq!(primary("security-group-ids"), "sg-0e1c0000000000001");
    assert!(primary("").contains("interface-id") && !primary("").contains("ipv4-prefix"));
    vpc.with(|ec2, _| ec2.set_more_cidrs(vec!["100.64.0.0/16".parse().unwrap()]));
    assert_eq!(primary("vpc-ipv4-cidr-blocks"), "10.0.0.0/16\n100.64.0.0/16");

    let eni = create(&vpc, "Ipv4PrefixCount=1");
    assert_eq!(text("meta-data/network/interfaces/macs").lines().count(), 1, "it is attached to nothing");
    let (second, prefix) = vpc.with(|ec2, now| {
        let instance = ec2.instance().clone();
        let attach = Mutation::Attach { eni: eni.parse().unwrap(), instance, device_index: 1 };
        ec2.mutate(&attach, None, now).unwrap();
        (ec2.enis()[1].mac, ec2.enis()[1].prefixes[0])
    });
    assert_eq!(text("meta-data/network/interfaces/macs").lines().count(), 2);
    let key = |key: &str| format!("meta-data/network/interfaces/macs/{second}/{key}");
    assert_eq!(text(&key("ipv4-prefix")), prefix.to_string());
    assert_eq!(text(&key("interface-id")), eni);
    let gap = |for_ms| Gap { eni: eni.parse().unwrap(), kind: GapKind::MetadataAddresses, for_ms };
    vpc.with(|ec2, now| ec2.set_gap(gap(None), now));
    assert_eq!(get(&vpc, &session, &key("local-ipv4s")).0, 404, "a tree without addresses");
    assert_eq!(text(&key("device-number")), "1");
    vpc.with(|ec2, now| ec2.set_gap(gap(Some(0)), now));
    assert!(text(&key("local-ipv4s")).starts_with("10.0.1."));
}

#[test]
fn metadata_can_be_down_and_is_counted() {
    let vpc = vpc();
    let session = session(&vpc);
    let fault = |error: &str, count| Fault {
        call: "InstanceMetadata".to_owned(),
        error: Some(error.to_owned()),
        delay_ms: 0,
        count,
        effect: Effect::Before,
    };
    vpc.with(|ec2, _| ec2.set_fault(fault("503", 2)));
    assert_eq!(get(&vpc, &session, "meta-data/mac").0, 503);
    assert_eq!(send(&vpc, "PUT", "/latest/api/token", &[(TTL, "60")], "").unwrap().status, 503);
    assert_eq!(get(&vpc, &session, "meta-data/mac").0, 200);
    let entries: Vec<String> = vpc.with(|ec2, _| ec2.journal().map(|e| e.parameters.clone()).collect());
    assert!(entries.contains(&"/latest/meta-data/mac".to_owned()), "{entries:?}");
}

#[test]
fn the_roles_credentials_end_and_what_they_sign_is_refused_then() {
    let vpc = vpc();
    let session = session(&vpc);
    let role = get(&vpc, &session, "meta-data/iam/security-credentials/").1;
    vpc.set_credential_lifetime(Duration::from_millis(300));
    let text = get(&vpc, &session, &format!("meta-data/iam/security-credentials/{role}")).1;
    let credentials: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&credentials["Code"], &credentials["Type"]), (&"Success".into(), &"AWS-HMAC".into()));
    assert!(credentials["Expiration"].as_str().unwrap().ends_with('Z'), "{text}");
    let token = credentials["Token"].as_str().unwrap();
    let describe = || {
        let headers = [SIGNED, ("X-Amz-Security-Token", token)];
        send(&vpc, "POST", "/", &headers, "Action=DescribeSubnets&Version=2016-11-15").expect("an answer")
    };
    assert_eq!(describe().status, 200);
    until("they end", || describe().status == 400);
    assert_eq!(element(&describe().body, "Code"), "RequestExpired");
    assert_eq!(get(&vpc, &session, "meta-data/iam/security-credentials/other").0, 404);
}
