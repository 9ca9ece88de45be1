//! The real SDK against a foreign EC2: moto, a server of another hand.
//!
//! Owns its process, and that our requests are read elsewhere and another's answers are read by us. It is no oracle: it
//! says yes to nearly everything, and where it lies the test says so.

use crate::imds::{Imds, Interface};
use crate::wait;
use eni_proto::ids::{EniId, InstanceId, SubnetId};
use eni_tests::programs::aws_python;
use eni_tests::traffic::inside;
use ipamd_core::cloud::{
    CloudErrorKind, EniApi, EniAttachmentStatus, EniObservation, EniScope, INSTANCE_TAG, Mutated, Mutation,
};
use ipamd_ec2::{Aws, Settings};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::{Child, Command, Stdio};

/// moto, on a port of its own; it ends with this.
pub(crate) struct Moto {
    process: Child,
    address: String,
    netns: Option<String>,
}

/// The instance that moto runs for a test.
pub(crate) struct Instance {
    pub(crate) id: InstanceId,
    pub(crate) subnet: SubnetId,
    pub(crate) group: String,
}

impl Moto {
    pub(crate) fn start() -> Moto {
        let mut python = Command::new("setpriv");
        python.args(["--pdeathsig", "KILL"]).arg(aws_python());
        Moto::with(python, None)
    }

    /// By a command that ends in a Python, in a network namespace if one is named.
    pub(crate) fn with(mut python: Command, netns: Option<&str>) -> Moto {
        // What it would compile belongs to whoever made its environment.
        python.env("PYTHONDONTWRITEBYTECODE", "1");
        let command = python.args(["-u", "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]);
        let mut process =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(process.stderr.take().unwrap());
        let mut line = String::new();
        let address = loop {
            line.clear();
            assert!(said.read_line(&mut line).unwrap() > 0, "moto ended before it served");
            if let Some((_, address)) = line.split_once("Running on http://") {
                break address.trim().to_owned();
            }
        };
        // It writes a line for each request, and must not meet a full pipe.
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        Moto { process, address, netns: netns.map(str::to_owned) }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Asks it without the SDK; its answer.
    pub(crate) fn ask(&self, form: &str) -> String {
        let scope = "Credential=test/20260101/us-east-1/ec2/aws4_request, SignedHeaders=host, Signature=0";
        let request = format!(
            "POST / HTTP/1.1\r\nHost: ec2.us-east-1.amazonaws.com\r\nAuthorization: AWS4-HMAC-SHA256 {scope}\r\n\
             Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{form}",
            form.len()
        );
        let address = self.address.clone();
        let exchange = move || {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        };
        let answer = match &self.netns {
            Some(netns) => inside(netns, exchange),
            None => exchange(),
        };
        assert!(answer.starts_with("HTTP/1.1 200"), "{form}: {answer}");
        answer
    }

    /// One m5.large in moto's default VPC.
    pub(crate) fn run_instance(&self) -> Instance {
        // Without a subnet moto gives an address of none.
        let subnet = first(&self.ask("Action=DescribeSubnets&Version=2016-11-15"), "subnetId");
        let answer = self.ask(&format!(
            "Action=RunInstances&Version=2016-11-15&ImageId=ami-12c6146b&InstanceType=m5.large&MinCount=1&MaxCount=1&\
             SubnetId={subnet}"
        ));
        Instance {
            id: first(&answer, "instanceId").parse().unwrap(),
            subnet: first(&answer, "subnetId").parse().unwrap(),
            group: first(&answer, "groupId"),
        }
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The first text of a tag.
pub(crate) fn first(answer: &str, tag: &str) -> String {
    let (_, rest) = answer.split_once(&format!("<{tag}>")).unwrap_or_else(|| panic!("no {tag}: {answer}"));
    rest.split_once('<').unwrap().0.to_owned()
}

fn aws(moto: &Moto, instance: &Instance) -> (Imds, Aws) {
    let primary = Interface {
        mac: "02:00:00:00:00:01",
        id: "eni-1",
        device: 0,
        addresses: &[],
        prefixes: &[],
        subnet: "172.31.0.0/20",
        vpc: &["172.31.0.0/16"],
    };
    let imds = Imds::new(instance.id.as_str(), "m5.large", &primary);
    let settings = Settings { region: None, ec2_endpoint: Some(moto.url()), imds_endpoint: Some(imds.url()) };
    (imds, Aws::new(settings).unwrap())
}

fn create(instance: &Instance, secondary: u32) -> Mutation {
    Mutation::Create {
        subnet: instance.subnet.clone(),
        security_groups: vec![instance.group.clone()],
        secondary,
        prefixes: 0,
        tags: BTreeMap::from([(INSTANCE_TAG.to_owned(), instance.id.to_string())]),
        token: "token-1".into(),
    }
}

async fn attached(aws: &Aws, instance: &Instance) -> Vec<EniObservation> {
    let mut enis = aws.enis.describe_enis(&EniScope::AttachedTo(instance.id.clone())).await.unwrap();
    enis.sort_by_key(|eni| eni.attachment.as_ref().map(|at| at.device_index));
    enis
}

#[test]
fn the_life_of_an_eni() {
    let moto = Moto::start();
    let instance = moto.run_instance();
    let (_imds, aws) = aws(&moto, &instance);
    wait(async {
        let before = attached(&aws, &instance).await;
        assert_eq!(before.len(), 1);
        assert!(before[0].subnet_cidr.contains(&before[0].primary.unwrap()));
        assert_eq!(before[0].attachment.as_ref().unwrap().device_index, 0);

        let Mutated::Created(created) = aws.enis.mutate(&create(&instance, 3)).await.unwrap() else {
            panic!("a create answers an ENI");
        };
        assert_eq!((created.subnet.clone(), created.attachment.clone()), (instance.subnet.clone(), None));
        assert_eq!(created.secondary.len(), 3, "{created:?}");
        assert!(created.secondary.iter().all(|address| Some(*address) != created.primary));
        assert_eq!(created.tags[INSTANCE_TAG], instance.id.as_str());
        assert_eq!(created.security_groups, std::slice::from_ref(&instance.group));
        let tagged = aws.enis.describe_enis(&EniScope::TaggedFor(instance.id.clone())).await.unwrap();
        assert_eq!(tagged.iter().map(|eni| &eni.id).collect::<Vec<_>>(), [&created.id]);

        let eni = created.id.clone();
        let attach = Mutation::Attach { eni: eni.clone(), instance: instance.id.clone(), device_index: 1 };
        assert_eq!(aws.enis.mutate(&attach).await, Ok(Mutated::Done));
        let now = attached(&aws, &instance).await;
        let at = now[1].attachment.clone().unwrap();
        assert_eq!((now.len(), at.device_index, at.status), (2, 1, EniAttachmentStatus::Attached));
        assert!(at.id.as_ref().is_some_and(|id| id.starts_with("eni-attach-")), "{at:?}");

        let groups =
            Mutation::SetSecurityGroups { eni: eni.clone(), security_groups: vec![instance.group.clone()] };
        assert_eq!(aws.enis.mutate(&groups).await, Ok(Mutated::Done));
        let mark = Mutation::SetDeleteOnTermination { eni: eni.clone(), attachment: at.id.clone().unwrap() };
        // moto says yes and forgets it.
        assert_eq!(aws.enis.mutate(&mark).await, Ok(Mutated::Done));

        // Without the attachment's id: it is asked for.
        let detach = Mutation::Detach { eni: eni.clone(), attachment: None };
        assert_eq!(aws.enis.mutate(&detach).await, Ok(Mutated::Done));
        assert_eq!(attached(&aws, &instance).await.len(), 1);
        let delete = Mutation::Delete { eni: eni.clone() };
        assert_eq!(aws.enis.mutate(&delete).await, Ok(Mutated::Done));
        let error = aws.enis.mutate(&delete).await.unwrap_err();
        assert_eq!(error.kind, CloudErrorKind::NotFound, "{error}");
        assert_eq!(error.code.as_deref(), Some("InvalidNetworkInterfaceID.NotFound"));
    });
}

#[test]
fn an_answer_that_lists_the_primary_gives_the_new_addresses_alone() {
    let moto = Moto::start();
    let instance = moto.run_instance();
    let (_imds, aws) = aws(&moto, &instance);
    wait(async {
        let primary = attached(&aws, &instance).await.remove(0);
        let own = primary.primary.unwrap();
        let assign = |count| Mutation::Assign { eni: primary.id.clone(), count, prefixes: 0 };
        // moto's answer lists the primary address, too: it is the node's own.
        let Mutated::Assigned(first) = aws.enis.mutate(&assign(2)).await.unwrap() else {
            panic!("addresses")
        };
        assert_eq!(first.len(), 2);
        assert!(!first.contains(&own), "{first:?} has {own}");
        let Mutated::Assigned(second) = aws.enis.mutate(&assign(3)).await.unwrap() else {
            panic!("addresses")
        };
        assert_eq!(second.len(), 3);
        assert!(second.iter().all(|address| !first.contains(address) && *address != own), "{second:?}");
        let unassign =
            Mutation::Unassign { eni: primary.id.clone(), addresses: first.clone(), prefixes: Vec::new() };
        assert_eq!(aws.enis.mutate(&unassign).await, Ok(Mutated::Done));
        let mut now: Vec<Ipv4Addr> = attached(&aws, &instance).await.remove(0).secondary;
        now.sort();
        let mut left = second.clone();
        left.sort();
        assert_eq!(now, left);
        // moto takes a count of prefixes, and assigns none.
        let prefixes = Mutation::Assign { eni: primary.id.clone(), count: 0, prefixes: 1 };
        assert_eq!(aws.enis.mutate(&prefixes).await, Ok(Mutated::AssignedPrefixes(Vec::new())));
    });
}

#[test]
fn limits_are_those_of_the_built_in_table() {
    let moto = Moto::start();
    let instance = moto.run_instance();
    let (_imds, aws) = aws(&moto, &instance);
    wait(async {
        for (name, prefixes, vcpus) in [
            ("m5.large", true, 2),
            ("c5n.xlarge", true, 4),
            ("m5.4xlarge", true, 16),
            ("m4.xlarge", false, 4),
        ] {
            let told = aws.enis.describe_limits(name).await.unwrap();
            let table = embedded_vpc::limits::of(name).unwrap();
            assert_eq!((told.enis, told.addresses_per_eni), (table.enis, table.addresses_per_eni), "{name}");
            assert_eq!((told.prefixes, told.vcpus), (prefixes, Some(vcpus)), "{name}");
        }
        let error = aws.enis.describe_limits("m5.huge").await.unwrap_err();
        assert_eq!(error.kind, CloudErrorKind::NotFound, "{error}");
    });
}

#[test]
fn what_does_not_exist_is_not_found_and_an_unknown_instance_has_no_enis() {
    let moto = Moto::start();
    let instance = moto.run_instance();
    let (_imds, aws) = aws(&moto, &instance);
    wait(async {
        let eni: EniId = "eni-00000000000000001".parse().unwrap();
        for mutation in [
            Mutation::Attach { eni: eni.clone(), instance: instance.id.clone(), device_index: 1 },
            Mutation::Assign { eni: eni.clone(), count: 1, prefixes: 0 },
            Mutation::Detach { eni: eni.clone(), attachment: None },
            Mutation::Delete { eni },
        ] {
            let error = aws.enis.mutate(&mutation).await.unwrap_err();
            assert_eq!(error.kind, CloudErrorKind::NotFound, "{error}");
            assert!(!error.leaves_open() && error.request_id.is_some(), "{error:?}");
        }
        let other = EniScope::AttachedTo("i-00000000000000001".parse().unwrap());
        assert_eq!(aws.enis.describe_enis(&other).await, Ok(Vec::new()));
    });
}
