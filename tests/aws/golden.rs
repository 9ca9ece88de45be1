//! The exact parameters of every call, beside files.
//!
//! Owns the files in `golden/`: one request each, its parameters sorted. One that is missing is written, and fails the
//! test once: look at it, and at what the model says of it. What the answers mean is judged here, too.

use crate::recorder::{Parameters, Recorder};
use crate::wait;
use eni_proto::ids::{EniId, SubnetId};
use ipamd_core::cloud::{
    EniApi, EniAttachmentStatus, EniObservation, EniScope, INSTANCE_TAG, Mutated, Mutation,
};
use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;

pub(crate) const INSTANCE: &str = "i-0b0000000000000b1";
const SUBNET: &str = "subnet-0c0000000000000c1";
const ENI: &str = "eni-0a0000000000000a2";

pub(crate) fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("aws/golden")
}

pub(crate) fn render(request: &Parameters) -> String {
    request.iter().map(|(key, value)| format!("{key}={value}\n")).collect()
}

/// The requests made since the last time are these, in this order.
fn same(recorder: &Recorder, names: &[&str]) {
    let requests = recorder.take();
    let actions: Vec<&String> = requests.iter().map(|request| &request["Action"]).collect();
    assert_eq!(requests.len(), names.len(), "{actions:?}");
    for (request, name) in requests.iter().zip(names) {
        let path = folder().join(format!("{name}.txt"));
        let made = render(request);
        let Ok(golden) = fs::read_to_string(&path) else {
            fs::write(&path, &made).unwrap();
            panic!("{} was missing and is written: look at it", path.display());
        };
        assert_eq!(made, golden, "{}", path.display());
    }
}

fn eni() -> EniId {
    ENI.parse().unwrap()
}

fn subnets(recorder: &Recorder) {
    let one = format!("<item><subnetId>{SUBNET}</subnetId><cidrBlock>10.0.1.0/24</cidrBlock></item>");
    recorder.answer_with("DescribeSubnets", &format!("<subnetSet>{one}</subnetSet>"));
}

/// An ENI as EC2 answers it (API_NetworkInterface of the EC2 API reference, "Examples").
fn item(id: &str, own: &str, more: &str) -> String {
    format!(
        "<networkInterfaceId>{id}</networkInterfaceId><subnetId>{SUBNET}</subnetId><vpcId>vpc-1</vpcId>\
         <macAddress>02:00:00:00:00:02</macAddress><privateIpAddress>{own}</privateIpAddress>\
         <privateDnsName>ip-10-0-1-20.ec2.internal</privateDnsName><interfaceType>interface</interfaceType>\
         <groupSet><item><groupId>sg-1</groupId><groupName>nodes</groupName></item></groupSet>\
         <privateIpAddressesSet><item><privateIpAddress>{own}</privateIpAddress><primary>true</primary></item>\
         <item><privateIpAddress>10.0.1.21</privateIpAddress><primary>false</primary></item></privateIpAddressesSet>{more}"
    )
}

fn set(items: &[String], next: Option<&str>) -> String {
    let items: String = items.iter().map(|item| format!("<item>{item}</item>")).collect();
    let next = next.map(|token| format!("<nextToken>{token}</nextToken>")).unwrap_or_default();
    format!("<networkInterfaceSet>{items}</networkInterfaceSet>{next}")
}

const ATTACHED: &str = "<attachment><attachmentId>eni-attach-1</attachmentId><instanceId>i-0b0000000000000b1</instanceId>\
    <deviceIndex>1</deviceIndex><networkCardIndex>0</networkCardIndex><status>attached</status>\
    <deleteOnTermination>true</deleteOnTermination></attachment><ipv4PrefixSet><item><ipv4Prefix>10.0.1.64/28</ipv4Prefix>\
    </item></ipv4PrefixSet><tagSet><item><key>eni-cni/instance</key><value>i-0b0000000000000b1</value></item></tagSet>";

fn create(secondary: u32, prefixes: u32) -> Mutation {
    Mutation::Create {
        subnet: SUBNET.parse().unwrap(),
        security_groups: vec!["sg-1".into(), "sg-2".into()],
        secondary,
        prefixes,
        tags: BTreeMap::from([
            (INSTANCE_TAG.to_owned(), INSTANCE.to_owned()),
            ("team".to_owned(), "net & ops".to_owned()),
        ]),
        token: "5ba93c9db0cff93f52b521d7420e43f6eda2784f".into(),
    }
}

/// A change whose answer says no more than that it was made.
fn made(mutation: &Mutation, name: &str) {
    let recorder = Recorder::start();
    recorder.answer_with(mutation.call(), "<return>true</return>");
    assert_eq!(wait(recorder.aws().enis.mutate(mutation)), Ok(Mutated::Done));
    same(&recorder, &[name]);
}

#[test]
fn all_pages_of_a_look_are_one_answer_and_a_subnet_is_asked_for_once() {
    let recorder = Recorder::start();
    let aws = recorder.aws();
    let looked = |scope| {
        recorder.answer_with(
            "DescribeNetworkInterfaces",
            &set(&[item("eni-1", "10.0.1.10", "")], Some("page/2=")),
        );
        recorder.answer_with("DescribeNetworkInterfaces", &set(&[item(ENI, "10.0.1.20", ATTACHED)], None));
        scope
    };
    let attached = looked(EniScope::AttachedTo(INSTANCE.parse().unwrap()));
    subnets(&recorder);
    let tagged = EniScope::TaggedFor(INSTANCE.parse().unwrap());
    let seen: Vec<EniObservation> = wait(async {
        let seen = aws.enis.describe_enis(&attached).await.unwrap();
        let again = aws.enis.describe_enis(&looked(tagged)).await.unwrap();
        assert_eq!(seen, again);
        seen
    });
    same(
        &recorder,
        &[
            "describe-attached",
            "describe-attached-2",
            "describe-subnets",
            "describe-tagged",
            "describe-tagged-2",
        ],
    );
    assert_eq!(seen.iter().map(|eni| eni.id.as_str()).collect::<Vec<_>>(), ["eni-1", ENI]);
    let one = &seen[1];
    assert_eq!(one.primary, Some(Ipv4Addr::new(10, 0, 1, 20)));
    assert_eq!(one.secondary, [Ipv4Addr::new(10, 0, 1, 21)]);
    assert_eq!(one.prefixes, ["10.0.1.64/28".parse().unwrap()]);
    assert_eq!(one.subnet_cidr, "10.0.1.0/24".parse().unwrap());
    assert_eq!(
        (one.kind.as_str(), one.security_groups.as_slice()),
        ("interface", ["sg-1".to_owned()].as_slice())
    );
    assert_eq!(one.private_dns_name.as_deref(), Some("ip-10-0-1-20.ec2.internal"));
    assert_eq!(one.tags[INSTANCE_TAG], INSTANCE);
    let at = one.attachment.as_ref().unwrap();
    assert_eq!((at.status, at.device_index, at.network_card), (EniAttachmentStatus::Attached, 1, 0));
    assert_eq!((at.id.as_deref(), at.delete_on_termination), (Some("eni-attach-1"), true));
}

#[test]
fn a_page_or_a_subnet_that_fails_fails_the_look() {
    let recorder = Recorder::start();
    let aws = recorder.aws();
    let scope = EniScope::AttachedTo(INSTANCE.parse().unwrap());
    let first = set(&[item("eni-1", "10.0.1.10", "")], Some("more"));
    recorder.answer_with("DescribeNetworkInterfaces", &first);
    recorder.refuse(403, "UnauthorizedOperation", "You are not authorized to perform this operation.");
    recorder.answer_with("DescribeNetworkInterfaces", &set(&[item("eni-1", "10.0.1.10", "")], None));
    recorder.answer_with("DescribeSubnets", "<subnetSet/>");
    wait(async {
        let error = aws.enis.describe_enis(&scope).await.unwrap_err();
        assert_eq!(error.denied.as_deref(), Some("ec2:DescribeNetworkInterfaces"));
        let error = aws.enis.describe_enis(&scope).await.unwrap_err();
        assert!(error.to_string().contains(&format!("{SUBNET} is not named")), "{error}");
    });
}

#[test]
fn limits_are_asked_for_by_the_type() {
    let recorder = Recorder::start();
    let fields = "<instanceTypeSet><item><instanceType>m5.large</instanceType><hypervisor>nitro</hypervisor>\
        <bareMetal>false</bareMetal><vCpuInfo><defaultVCpus>2</defaultVCpus></vCpuInfo><networkInfo>\
        <maximumNetworkInterfaces>3</maximumNetworkInterfaces><ipv4AddressesPerInterface>10</ipv4AddressesPerInterface>\
        <networkCards><item><networkCardIndex>0</networkCardIndex><maximumNetworkInterfaces>3</maximumNetworkInterfaces>\
        </item></networkCards></networkInfo></item></instanceTypeSet>";
    recorder.answer_with("DescribeInstanceTypes", fields);
    let limits = wait(recorder.aws().enis.describe_limits("m5.large")).unwrap();
    same(&recorder, &["describe-instance-types"]);
    assert_eq!((limits.enis, limits.addresses_per_eni), (3, 10));
    assert_eq!((limits.prefixes, limits.vcpus), (true, Some(2)));
}

#[test]
fn an_eni_is_created_with_addresses_tags_and_token_in_one_call() {
    for (mutation, name) in [(create(9, 0), "create-addresses"), (create(0, 2), "create-prefixes")] {
        let recorder = Recorder::start();
        subnets(&recorder);
        recorder.answer_with(
            "CreateNetworkInterface",
            &format!("<networkInterface>{}</networkInterface>", item(ENI, "10.0.1.20", "")),
        );
        let Ok(Mutated::Created(created)) = wait(recorder.aws().enis.mutate(&mutation)) else {
            panic!("an ENI is created");
        };
        same(&recorder, &["describe-subnets", name]);
        assert_eq!((created.id, created.attachment), (eni(), None));
        assert_eq!(created.primary, Some(Ipv4Addr::new(10, 0, 1, 20)));
    }
}

#[test]
fn what_a_create_needs_is_asked_before_it() {
    let recorder = Recorder::start();
    recorder.refuse(400, "InvalidSubnetID.NotFound", "The subnet ID 'subnet-1' does not exist");
    let error = wait(recorder.aws().enis.mutate(&create(1, 0))).unwrap_err();
    assert_eq!((error.call.as_str(), error.leaves_open()), ("DescribeSubnets", false));
    same(&recorder, &["describe-subnets"]);
}

#[test]
fn attach_and_detach_are_one_call_each() {
    let attach = Mutation::Attach { eni: eni(), instance: INSTANCE.parse().unwrap(), device_index: 2 };
    let recorder = Recorder::start();
    recorder.answer_with(attach.call(), "<attachmentId>eni-attach-1</attachmentId>");
    assert_eq!(wait(recorder.aws().enis.mutate(&attach)), Ok(Mutated::Done));
    same(&recorder, &["attach"]);
    made(&Mutation::Detach { eni: eni(), attachment: Some("eni-attach-1".into()) }, "detach");
}

#[test]
fn an_attachment_that_no_look_has_told_is_asked_for_first() {
    let detach = Mutation::Detach { eni: eni(), attachment: None };
    let recorder = Recorder::start();
    recorder.answer_with("DescribeNetworkInterfaces", &set(&[item(ENI, "10.0.1.20", ATTACHED)], None));
    subnets(&recorder);
    recorder.answer_with("DetachNetworkInterface", "<return>true</return>");
    assert_eq!(wait(recorder.aws().enis.mutate(&detach)), Ok(Mutated::Done));
    same(&recorder, &["describe-one", "describe-subnets", "detach"]);
    let recorder = Recorder::start();
    recorder.answer_with("DescribeNetworkInterfaces", &set(&[item(ENI, "10.0.1.20", "")], None));
    subnets(&recorder);
    let error = wait(recorder.aws().enis.mutate(&detach)).unwrap_err();
    assert!(error.to_string().contains("attached to nothing"), "{error}");
}

#[test]
fn an_assign_gives_the_new_ones_alone() {
    let recorder = Recorder::start();
    let aws = recorder.aws();
    let fields = |addresses: &[&str]| {
        let item = |address: &&str| format!("<item><privateIpAddress>{address}</privateIpAddress></item>");
        let items: String = addresses.iter().map(item).collect();
        format!(
            "<networkInterfaceId>{ENI}</networkInterfaceId><assignedPrivateIpAddressesSet>{items}</assignedPrivateIpAddressesSet>"
        )
    };
    let assign = Mutation::Assign { eni: eni(), count: 2, prefixes: 0 };
    recorder.answer_with("AssignPrivateIpAddresses", &fields(&["10.0.1.30", "10.0.1.31"]));
    // All that it has, where nothing was told of it: new ones cannot be told apart, and none is given away.
    let all = fields(&["10.0.1.20", "10.0.1.21", "10.0.1.32", "10.0.1.33"]);
    recorder.answer_with("AssignPrivateIpAddresses", &all);
    wait(async {
        let new = aws.enis.mutate(&assign).await.unwrap();
        assert_eq!(new, Mutated::Assigned(vec![Ipv4Addr::new(10, 0, 1, 30), Ipv4Addr::new(10, 0, 1, 31)]));
        let error = aws.enis.mutate(&assign).await.unwrap_err();
        assert!(error.leaves_open() && error.to_string().contains("4 new ones where 2"), "{error}");
    });
    same(&recorder, &["assign-addresses", "assign-addresses"]);
    // A look has told what it has: the others are new.
    recorder.answer_with("DescribeNetworkInterfaces", &set(&[item(ENI, "10.0.1.20", ATTACHED)], None));
    subnets(&recorder);
    recorder.answer_with("AssignPrivateIpAddresses", &all);
    wait(async {
        aws.enis.describe_enis(&EniScope::AttachedTo(INSTANCE.parse().unwrap())).await.unwrap();
        let new = aws.enis.mutate(&assign).await.unwrap();
        assert_eq!(new, Mutated::Assigned(vec![Ipv4Addr::new(10, 0, 1, 32), Ipv4Addr::new(10, 0, 1, 33)]));
    });
}

#[test]
fn prefixes_are_assigned_by_count() {
    let recorder = Recorder::start();
    let fields =
        "<assignedIpv4PrefixSet><item><ipv4Prefix>10.0.1.80/28</ipv4Prefix></item></assignedIpv4PrefixSet>";
    recorder.answer_with("AssignPrivateIpAddresses", fields);
    let assign = Mutation::Assign { eni: eni(), count: 0, prefixes: 1 };
    let new = wait(recorder.aws().enis.mutate(&assign)).unwrap();
    assert_eq!(new, Mutated::AssignedPrefixes(vec!["10.0.1.80/28".parse().unwrap()]));
    same(&recorder, &["assign-prefixes"]);
}

#[test]
fn the_other_changes_are_one_call_each() {
    let addresses = vec![Ipv4Addr::new(10, 0, 1, 21), Ipv4Addr::new(10, 0, 1, 22)];
    made(&Mutation::Unassign { eni: eni(), addresses, prefixes: Vec::new() }, "unassign-addresses");
    let prefixes = vec!["10.0.1.64/28".parse().unwrap()];
    made(&Mutation::Unassign { eni: eni(), addresses: Vec::new(), prefixes }, "unassign-prefixes");
    made(&Mutation::Delete { eni: eni() }, "delete");
    let security_groups = vec!["sg-1".into(), "sg-3".into()];
    made(&Mutation::SetSecurityGroups { eni: eni(), security_groups }, "modify-groups");
    let attachment = "eni-attach-1".into();
    made(&Mutation::SetDeleteOnTermination { eni: eni(), attachment }, "modify-delete-on-termination");
}

#[test]
fn golden_files_are_of_known_calls() {
    let subnet: SubnetId = SUBNET.parse().unwrap();
    let files = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    let texts: Vec<String> = files.map(|path| fs::read_to_string(path).unwrap()).collect();
    assert!(texts.iter().all(|text| text.contains("Version=2016-11-15\n")));
    assert!(texts.iter().any(|text| text.contains(&format!("SubnetId={subnet}\n"))));
}
