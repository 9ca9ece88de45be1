//! Every golden request beside EC2's service model.
//!
//! Owns that operation, names, types, values and what is required are EC2's own, and none is guessed. `model.py` walks
//! the model that botocore ships.

use crate::golden;
use eni_tests::programs::aws_python;
use std::path::PathBuf;
use std::process::{Command, Output};

fn check(requests: &[PathBuf]) -> Output {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("aws/model.py");
    Command::new(aws_python()).arg(script).args(requests).output().unwrap()
}

#[test]
fn every_request_fits_ec2s_service_model() {
    let files = std::fs::read_dir(golden::folder()).unwrap().map(|entry| entry.unwrap().path());
    let requests: Vec<PathBuf> = files.collect();
    let output = check(&requests);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(said.lines().filter(|line| line.ends_with(" fits")).count(), requests.len(), "{said}");
    assert!(requests.len() >= 18, "{said}");
}

#[test]
fn a_request_that_does_not_fit_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let all = [
        ("Action=DescribeNetworkInterface\nVersion=2016-11-15\n", "no operation"),
        (
            "Action=DeleteNetworkInterface\nVersion=2014-01-01\nNetworkInterfaceId=eni-1\n",
            "is not 2016-11-15",
        ),
        (
            "Action=DeleteNetworkInterface\nVersion=2016-11-15\nNetworkInterface=eni-1\n",
            "has no member NetworkInterface",
        ),
        ("Action=DeleteNetworkInterface\nVersion=2016-11-15\n", "NetworkInterfaceId is required"),
        ("Action=DescribeSubnets\nVersion=2016-11-15\nSubnetId=subnet-1\n", "wants a number"),
        ("Action=DescribeSubnets\nVersion=2016-11-15\nMaxResults=all\n", "is no integer"),
        ("Action=DescribeNetworkInterfaces\nVersion=2016-11-15\nFilter.1.Nam=tag:x\n", "has no member Nam"),
        (
            "Action=ModifyNetworkInterfaceAttribute\nVersion=2016-11-15\nNetworkInterfaceId=eni-1\nAttachment.DeleteOnTermination=yes\n",
            "is no boolean",
        ),
        (
            "Action=CreateNetworkInterface\nVersion=2016-11-15\nSubnetId=s\nTagSpecification.1.ResourceType=eni\n",
            "none of the values",
        ),
    ];
    for (at, (request, problem)) in all.iter().enumerate() {
        let path = folder.path().join(format!("{at}.txt"));
        std::fs::write(&path, request).unwrap();
        let output = check(&[path]);
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success() && said.contains(problem), "{request}: {said}");
    }
}
