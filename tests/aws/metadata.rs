//! The instance metadata service through the SDK: what is there, what is not, and what cannot be told.
//!
//! Owns that a key which is not there is none, and a service that fails is unknown, never empty.

use crate::imds::{Imds, Interface, TOKEN_KEY};
use crate::recorder::PRIMARY;
use crate::server::{Reply, Server};
use crate::wait;
use ipamd_core::cloud::{CloudErrorKind, InstanceMetadata};
use ipamd_ec2::{Aws, Settings};
use std::net::Ipv4Addr;

const SECONDARY: Interface<'static> = Interface {
    mac: "02:00:00:00:00:02",
    id: "eni-0a0000000000000a2",
    device: 1,
    addresses: &["10.0.1.20", "10.0.1.21"],
    prefixes: &["10.0.1.64/28"],
    subnet: "10.0.1.0/24",
    vpc: &["10.0.0.0/16", "10.1.0.0/16"],
};

fn key(name: &str) -> String {
    format!("network/interfaces/macs/{}/{name}", SECONDARY.mac)
}

fn service() -> (Imds, Aws) {
    let imds = Imds::new("i-0b0000000000000b1", "m5.large", &PRIMARY);
    imds.attach(&SECONDARY);
    let aws = of(&imds.url());
    (imds, aws)
}

fn of(url: &str) -> Aws {
    Aws::new(Settings { imds_endpoint: Some(url.to_owned()), ..Settings::default() }).unwrap()
}

#[test]
fn who_the_instance_is_and_what_its_interfaces_are() {
    let (imds, aws) = service();
    let (identity, interfaces) =
        wait(async { (aws.metadata.identity().await.unwrap(), aws.metadata.interfaces().await.unwrap()) });
    assert_eq!(
        (identity.instance.as_str(), identity.instance_type.as_str()),
        ("i-0b0000000000000b1", "m5.large")
    );
    assert_eq!((identity.region.as_str(), identity.availability_zone.as_str()), ("us-east-1", "us-east-1a"));
    assert_eq!(identity.primary_mac, PRIMARY.mac.parse().unwrap());
    assert_eq!(identity.vpc_cidrs, ["10.0.0.0/16".parse().unwrap()]);
    let second = &interfaces[1];
    assert_eq!((interfaces.len(), second.device_index), (2, Some(1)));
    assert_eq!(second.id, SECONDARY.id.parse().ok());
    assert_eq!(second.addresses, [Ipv4Addr::new(10, 0, 1, 20), Ipv4Addr::new(10, 0, 1, 21)]);
    assert_eq!(second.prefixes, ["10.0.1.64/28".parse().unwrap()]);
    assert_eq!(second.subnet_cidr, "10.0.1.0/24".parse().ok());
    assert_eq!(second.vpc_cidrs.len(), 2);
    assert_eq!(interfaces[0].prefixes, []);
    // One token for all of it.
    assert_eq!(imds.asked().iter().filter(|asked| *asked == "PUT token").count(), 1);
}

#[test]
fn what_is_not_there_yet_is_none_and_not_an_error() {
    let (imds, aws) = service();
    for name in [
        "interface-id",
        "device-number",
        "local-ipv4s",
        "ipv4-prefix",
        "subnet-ipv4-cidr-block",
        "vpc-ipv4-cidr-blocks",
    ] {
        imds.remove(&key(name));
    }
    imds.remove("placement/region");
    let (identity, interfaces) =
        wait(async { (aws.metadata.identity().await.unwrap(), aws.metadata.interfaces().await.unwrap()) });
    assert_eq!(identity.region, "");
    let second = &interfaces[1];
    assert_eq!((&second.id, second.device_index, second.subnet_cidr), (&None, None, None));
    assert_eq!((second.addresses.len(), second.prefixes.len(), second.vpc_cidrs.len()), (0, 0, 0));
}

#[test]
fn an_instance_that_does_not_say_who_it_is_is_unknown() {
    let primary = format!("network/interfaces/macs/{}/vpc-ipv4-cidr-blocks", PRIMARY.mac);
    for name in ["instance-id", "instance-type", "mac", primary.as_str()] {
        let (imds, aws) = service();
        imds.remove(name);
        let error = wait(aws.metadata.identity()).unwrap_err();
        assert_eq!(error.kind, CloudErrorKind::NotFound, "{name}: {error}");
        assert!(error.to_string().contains(name), "{name}: {error}");
    }
}

#[test]
fn a_service_that_fails_is_unknown_never_empty() {
    let list = "network/interfaces/macs/";
    let addresses = key("local-ipv4s");
    for (name, reply) in [
        (list, Reply::status(500, "")),
        (list, Reply::status(404, "")),
        (addresses.as_str(), Reply::status(500, "")),
        (addresses.as_str(), Reply::status(403, "")),
        (addresses.as_str(), Reply::Hang),
        (addresses.as_str(), Reply::ok("10.0.1.20\n10.0.1")),
        (list, Reply::ok("02:00:00:00:00:02/\nnot-a-mac/")),
    ] {
        let (imds, aws) = service();
        imds.fail(name, reply.clone());
        let answer = wait(aws.metadata.interfaces());
        assert!(answer.is_err(), "{name} with {reply:?}: {answer:?}");
        assert!(answer.unwrap_err().to_string().contains(name), "{name}");
    }
}

#[test]
fn a_token_that_expired_is_asked_for_again_and_one_that_is_refused_is_told() {
    let (imds, aws) = service();
    imds.fail(TOKEN_KEY, Reply::status(403, ""));
    let error = wait(aws.metadata.identity()).unwrap_err();
    assert_eq!(error.kind, CloudErrorKind::Unreachable);
    assert!(error.to_string().contains("hop limit"), "{error}");
    imds.mend();
    wait(aws.metadata.identity()).unwrap();
}

#[test]
fn a_service_that_is_not_there_is_unreachable() {
    let gone = Server::start(|_| Reply::Hang);
    let url = gone.url();
    drop(gone);
    let error = wait(of(&url).metadata.identity()).unwrap_err();
    assert_eq!(error.kind, CloudErrorKind::Unreachable, "{error}");
}
