//! EC2's Query API and the metadata service, byte by byte: names of parameters, shapes of answers, refusals.
//!
//! Owns a client of its own, so that what an SDK forgives is seen. The names are those of botocore's service model.

mod client;
mod metadata;

use client::{SIGNED, action, element, elements, refusal, send, try_action};
use embedded_vpc::model::{BucketSize, Effect, Fault, Lags, NO_REPLY, Setup, Throttling};
use embedded_vpc::standalone::Standalone;
use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::Duration;

const SUBNET: &str = "subnet-0e1c0000000000001";
const INSTANCE: &str = "i-0e1c0000000000001";

fn vpc() -> Standalone {
    let setup = Setup { vcpus: Some(8), ..Setup::new("test.4x6p", 1) };
    Standalone::start(setup).expect("it starts")
}

fn create(vpc: &Standalone, parameters: &str) -> String {
    let xml = action(vpc, "CreateNetworkInterface", &format!("SubnetId={SUBNET}&{parameters}"));
    element(&xml, "networkInterfaceId").to_owned()
}

fn describe(vpc: &Standalone, eni: &str) -> String {
    action(vpc, "DescribeNetworkInterfaces", &format!("NetworkInterfaceId.1={eni}"))
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..2_000 {
        if holds() {
            return;
        }
        thread::sleep(Duration::from_millis(5));
    }
    panic!("waited in vain until {what}");
}

#[test]
fn an_eni_goes_through_its_life_by_the_names_of_the_service_model() {
    let vpc = vpc();
    let tags = "TagSpecification.1.ResourceType=network-interface&TagSpecification.1.Tag.1.Key=eni-cni%2Finstance\
                &TagSpecification.1.Tag.1.Value=i-1&TagSpecification.1.Tag.2.Key=a%20b\
                &TagSpecification.1.Tag.2.Value=%3C";
    let xml = action(
        &vpc,
        "CreateNetworkInterface",
        &format!(
            "SubnetId={SUBNET}&SecurityGroupId.1=sg-0e1c0000000000001&SecondaryPrivateIpAddressCount=2\
             &ClientToken=t-1&Description=eni-cni+of+x&{tags}"
        ),
    );
    assert_eq!(element(&xml, "clientToken"), "t-1");
    let made = element(&xml, "networkInterface");
    assert_eq!(elements(made, "privateIpAddressesSet").len(), 1);
    assert_eq!(elements(made, "primary"), ["true", "false", "false"]);
    assert_eq!(element(made, "status"), "available");
    assert_eq!(element(made, "description"), "eni-cni of x");
    assert_eq!(element(made, "interfaceType"), "interface");
    assert_eq!(element(element(made, "groupSet"), "groupId"), "sg-0e1c0000000000001");
    assert_eq!(elements(element(made, "tagSet"), "value"), ["&lt;", "i-1"]);
    assert!(elements(made, "attachment").is_empty());
    let eni = element(made, "networkInterfaceId");

    let index = format!("NetworkInterfaceId={eni}&InstanceId={INSTANCE}&DeviceIndex=1");
    let xml = action(&vpc, "AttachNetworkInterface", &index);
    let attachment = element(&xml, "attachmentId").to_owned();
    until("it is attached", || element(element(&describe(&vpc, eni), "attachment"), "status") == "attached");
    let seen = describe(&vpc, eni);
    assert_eq!(element(&seen, "attachmentId"), attachment);
    assert_eq!(element(&seen, "deviceIndex"), "1");
    assert_eq!(element(&seen, "networkCardIndex"), "0");
    assert_eq!(element(&seen, "deleteOnTermination"), "false");
    assert_eq!(element(&seen, "instanceId"), INSTANCE);
    let termination = format!(
        "NetworkInterfaceId={eni}&Attachment.AttachmentId={attachment}&Attachment.DeleteOnTermination=true"
    );
    assert_eq!(element(&action(&vpc, "ModifyNetworkInterfaceAttribute", &termination), "return"), "true");
    assert_eq!(element(&describe(&vpc, eni), "deleteOnTermination"), "true");

    assert_eq!(
        refusal(&vpc, "DeleteNetworkInterface", &format!("NetworkInterfaceId={eni}")),
        (400, "InvalidNetworkInterface.InUse".to_owned())
    );
    action(&vpc, "DetachNetworkInterface", &format!("AttachmentId={attachment}"));
    until("it is available", || element(&describe(&vpc, eni), "status") == "available");
    action(&vpc, "DeleteNetworkInterface", &format!("NetworkInterfaceId={eni}"));
    assert_eq!(
        refusal(&vpc, "DescribeNetworkInterfaces", &format!("NetworkInterfaceId.1={eni}")),
        (400, "InvalidNetworkInterfaceID.NotFound".to_owned())
    );
    let calls = vpc.with(|ec2, _| ec2.calls().clone());
    assert_eq!((calls["CreateNetworkInterface"], calls["AttachNetworkInterface"]), (1, 1));
}

#[test]
fn addresses_and_prefixes_are_assigned_by_the_names_of_the_service_model() {
    let vpc = vpc();
    let eni = &create(&vpc, "SecondaryPrivateIpAddressCount=1");
    let xml = action(
        &vpc,
        "AssignPrivateIpAddresses",
        &format!("NetworkInterfaceId={eni}&SecondaryPrivateIpAddressCount=1"),
    );
    let set = element(&xml, "assignedPrivateIpAddressesSet");
    assert_eq!(elements(set, "privateIpAddress").len(), 1, "the new one alone: {xml}");
    let address = element(set, "privateIpAddress");
    action(
        &vpc,
        "UnassignPrivateIpAddresses",
        &format!("NetworkInterfaceId={eni}&PrivateIpAddress.1={address}"),
    );
    let xml =
        action(&vpc, "AssignPrivateIpAddresses", &format!("NetworkInterfaceId={eni}&Ipv4PrefixCount=1"));
    let prefix = element(element(&xml, "assignedIpv4PrefixSet"), "ipv4Prefix");
    assert!(prefix.ends_with("/28"), "{prefix}");
    assert_eq!(element(element(&describe(&vpc, eni), "ipv4PrefixSet"), "ipv4Prefix"), prefix);
    let encoded = prefix.replace('/', "%2F");
    action(&vpc, "UnassignPrivateIpAddresses", &format!("NetworkInterfaceId={eni}&Ipv4Prefix.1={encoded}"));
    assert!(elements(&describe(&vpc, eni), "ipv4PrefixSet").is_empty());
}

#[test]
fn what_is_not_served_is_refused_by_name() {
    let vpc = vpc();
    let code = |action: &str, parameters: &str| refusal(&vpc, action, parameters).1;
    assert_eq!(code("DescribeInstances", ""), "InvalidAction");
    assert_eq!(code("CreateNetworkInterface", "SubnetID=x"), "MissingParameter", "a wrong name");
    assert_eq!(
        code("CreateNetworkInterface", &format!("SubnetId={SUBNET}&Groups.1=sg-1")),
        "UnknownParameter"
    );
    let wrong_filter = "Filter.1.Name=tag:a&Filter.1.Values.1=b";
    assert_eq!(code("DescribeNetworkInterfaces", wrong_filter), "UnknownParameter");
    let unknown_filter = "Filter.1.Name=colour&Filter.1.Value.1=b";
    assert_eq!(code("DescribeNetworkInterfaces", unknown_filter), "InvalidParameterValue");
    assert_eq!(
        code("DeleteNetworkInterface", "NetworkInterfaceId=eni-1%2F"),
        "InvalidNetworkInterfaceId.Malformed"
    );
    assert_eq!(code("DetachNetworkInterface", "AttachmentId=eni-attach-9"), "InvalidAttachmentID.NotFound");
    assert_eq!(code("DescribeInstanceTypes", "InstanceType.1=m5.huge"), "InvalidInstanceType");
    assert_eq!(vpc.with(|ec2, _| ec2.enis().len()), 1, "nothing was made");

    let unsigned = send(&vpc, "POST", "/", &[], "Action=DescribeSubnets&Version=2016-11-15").unwrap();
    assert_eq!((unsigned.status, element(&unsigned.body, "Code")), (401, "AuthFailure"));
    let old = send(&vpc, "POST", "/", &[SIGNED], "Action=DescribeSubnets&Version=2014-01-01").unwrap();
    assert_eq!(element(&old.body, "Code"), "InvalidParameterValue");
    let refused: Vec<String> = vpc.with(|ec2, _| ec2.journal().map(|e| e.call.clone()).collect());
    assert!(refused.contains(&"DescribeInstances".to_owned()), "the journal has them: {refused:?}");
}

#[test]
fn a_dry_run_tells_whether_it_would_be_allowed() {
    let vpc = vpc();
    let create = format!("SubnetId={SUBNET}&DryRun=true");
    assert_eq!(refusal(&vpc, "CreateNetworkInterface", &create), (412, "DryRunOperation".to_owned()));
    vpc.with(|ec2, _| ec2.set_denied(BTreeSet::from(["CreateNetworkInterface".to_owned()])));
    assert_eq!(refusal(&vpc, "CreateNetworkInterface", &create), (403, "UnauthorizedOperation".to_owned()));
    assert_eq!(vpc.with(|ec2, _| ec2.enis().len()), 1);
}

#[test]
fn describes_come_in_pages_and_by_filters() {
    let vpc = vpc();
    let mut made: Vec<String> = (0..7)
        .map(|n| {
            let tag = "TagSpecification.1.ResourceType=network-interface&TagSpecification.1.Tag.1.Key=k";
            create(&vpc, &format!("{tag}&TagSpecification.1.Tag.1.Value=v{}", n % 2))
        })
        .collect();
    let filter = "Filter.1.Name=tag:k&Filter.1.Value.1=v0&Filter.1.Value.2=v1&MaxResults=5";
    let first = action(&vpc, "DescribeNetworkInterfaces", filter);
    let mut seen: Vec<String> =
        elements(&first, "networkInterfaceId").into_iter().map(str::to_owned).collect();
    assert_eq!(seen.len(), 5);
    let next = format!("{filter}&NextToken={}", element(&first, "nextToken"));
    let second = action(&vpc, "DescribeNetworkInterfaces", &next);
    assert!(elements(&second, "nextToken").is_empty(), "it is the last");
    seen.extend(elements(&second, "networkInterfaceId").into_iter().map(str::to_owned));
    seen.sort();
    made.sort();
    assert_eq!(seen, made);
    let one = action(&vpc, "DescribeNetworkInterfaces", "Filter.1.Name=tag:k&Filter.1.Value.1=v1");
    assert_eq!(elements(&one, "networkInterfaceId").len(), 3);
    for (parameters, code) in [
        ("MaxResults=4", "InvalidParameterValue"),
        ("MaxResults=5&NextToken=x", "InvalidNextToken"),
        (&next.replace("v1", "v2"), "InvalidNextToken"),
        ("MaxResults=5&NetworkInterfaceId.1=eni-1", "InvalidParameterCombination"),
    ] {
        assert_eq!(refusal(&vpc, "DescribeNetworkInterfaces", parameters).1, code, "{parameters}");
    }
}

#[test]
fn types_and_subnets_are_described() {
    let vpc = vpc();
    let own = action(&vpc, "DescribeInstanceTypes", "InstanceType.1=test.4x6p");
    assert_eq!(element(&own, "ipv4AddressesPerInterface"), "6");
    assert_eq!(element(element(&own, "networkCards"), "maximumNetworkInterfaces"), "4");
    assert_eq!((element(&own, "hypervisor"), element(&own, "defaultVCpus")), ("nitro", "8"));
    let xen = action(&vpc, "DescribeInstanceTypes", "InstanceType.1=m4.xlarge");
    assert_eq!((element(&xen, "hypervisor"), element(&xen, "bareMetal")), ("xen", "false"));
    assert!(elements(&xen, "vCpuInfo").is_empty(), "not known");
    let subnet = action(&vpc, "DescribeSubnets", &format!("SubnetId.1={SUBNET}"));
    assert_eq!(element(&subnet, "cidrBlock"), "10.0.1.0/24");
    assert_eq!(element(&subnet, "availableIpAddressCount"), "249");
    assert_eq!(refusal(&vpc, "DescribeSubnets", "SubnetId.1=subnet-2").1, "InvalidSubnetID.NotFound");
}

#[test]
fn faults_have_their_status_and_a_lost_reply_is_no_reply() {
    let vpc = vpc();
    let fault = |error: &str, effect| Fault {
        call: "CreateNetworkInterface".to_owned(),
        error: Some(error.to_owned()),
        delay_ms: 0,
        count: 1,
        effect,
    };
    let request = format!("SubnetId={SUBNET}&ClientToken=t");
    vpc.with(|ec2, _| ec2.set_fault(fault("InternalError", Effect::Before)));
    assert_eq!(refusal(&vpc, "CreateNetworkInterface", &request), (500, "InternalError".to_owned()));
    vpc.with(|ec2, _| ec2.set_fault(fault(NO_REPLY, Effect::After)));
    assert!(try_action(&vpc, "CreateNetworkInterface", &request).is_none());
    let made = vpc.with(|ec2, _| ec2.enis()[1].id.to_string());
    assert_eq!(create(&vpc, "ClientToken=t"), made, "the token finds it");

    let none = BucketSize { capacity: 0, refill: 0 };
    vpc.with(|ec2, _| {
        ec2.set_throttling(Throttling::Buckets(BTreeMap::from([("DescribeSubnets".to_owned(), none)])));
        ec2.set_retry_after(Some(1_500));
    });
    let throttled = try_action(&vpc, "DescribeSubnets", "").unwrap();
    assert_eq!((throttled.status, element(&throttled.body, "Code")), (503, "RequestLimitExceeded"));
    assert!(
        throttled.headers.contains(&("Retry-After".to_owned(), "2".to_owned())),
        "{:?}",
        throttled.headers
    );

    vpc.with(|ec2, _| ec2.set_denied(BTreeSet::from(["DeleteNetworkInterface".to_owned()])));
    let denied = try_action(&vpc, "DeleteNetworkInterface", &format!("NetworkInterfaceId={made}")).unwrap();
    assert_eq!((denied.status, element(&denied.body, "Code")), (403, "UnauthorizedOperation"));
    let message = element(&denied.body, "Message");
    assert!(message.starts_with("You are not authorized to perform this operation. User: arn:aws:sts::"));
    assert!(
        message.contains("is not authorized to perform: ec2:DeleteNetworkInterface on resource"),
        "{message}"
    );
}

#[test]
fn describes_lag_by_http_as_well() {
    let vpc = vpc();
    vpc.with(|ec2, _| ec2.set_lags(Lags { describe_ms: 300, ..Lags::default() }));
    let eni = create(&vpc, "");
    let query = format!("NetworkInterfaceId.1={eni}");
    assert_eq!(refusal(&vpc, "DescribeNetworkInterfaces", &query).1, "InvalidNetworkInterfaceID.NotFound");
    until("it is described", || {
        try_action(&vpc, "DescribeNetworkInterfaces", &query).is_some_and(|answer| answer.status == 200)
    });
}
