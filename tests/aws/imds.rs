//! An instance metadata service, version 2, as the EC2 user guide describes it
//! (<https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html>).
//!
//! Owns tokens and the tree of keys: a PUT gives a token, a GET without one is 401, a key that is not there 404. The
//! credentials of an instance profile are among its keys.

use crate::server::{Reply, Request, Server};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

const TOKEN: &str = "AQAEAFTNrA4eEGx0AQgJ1arIq_Cc-t4tWt3fB0Hd8RKhXlKc5ccvhg==";
const ROOT: &str = "/latest/meta-data/";
/// The role that the instance profile names.
const CREDENTIALS: &str = r#"{"Code":"Success","LastUpdated":"2026-11-24T00:00:00Z","Type":"AWS-HMAC",
 "AccessKeyId":"ASIAIOSFODNN7EXAMPLE","SecretAccessKey":"wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
 "Token":"AQoDYXdzEJr","Expiration":"2099-01-01T00:00:00Z"}"#;

/// What it answers to one key, or to a PUT of a token (`TOKEN_KEY`), instead of its value.
pub(crate) type Faults = BTreeMap<String, Reply>;

/// Where a fault of the token is kept.
pub(crate) const TOKEN_KEY: &str = "token";

#[derive(Default)]
struct Tree {
    keys: BTreeMap<String, String>,
    faults: Faults,
    asked: Vec<String>,
}

/// The service; it ends with this.
pub(crate) struct Imds {
    server: Server,
    tree: Arc<Mutex<Tree>>,
}

/// One network interface of the tree.
pub(crate) struct Interface<'a> {
    pub(crate) mac: &'a str,
    pub(crate) id: &'a str,
    pub(crate) device: u32,
    pub(crate) addresses: &'a [&'a str],
    pub(crate) prefixes: &'a [&'a str],
    pub(crate) subnet: &'a str,
    pub(crate) vpc: &'a [&'a str],
}

impl Imds {
    /// Of an instance with one network interface.
    pub(crate) fn new(instance: &str, instance_type: &str, primary: &Interface<'_>) -> Imds {
        Imds::on(std::net::TcpListener::bind("127.0.0.1:0").unwrap(), instance, instance_type, primary)
    }

    /// The same on a listener that is there.
    pub(crate) fn on(
        listener: std::net::TcpListener,
        instance: &str,
        instance_type: &str,
        primary: &Interface<'_>,
    ) -> Imds {
        let tree = Arc::new(Mutex::new(Tree::default()));
        let answering = tree.clone();
        let server = Server::on(listener, move |request| answer(&mut answering.lock().unwrap(), request));
        let imds = Imds { server, tree };
        for (key, value) in [
            ("mac", primary.mac),
            ("instance-id", instance),
            ("instance-type", instance_type),
            ("placement/region", "us-east-1"),
            ("placement/availability-zone", "us-east-1a"),
            ("iam/security-credentials/", "node"),
            ("iam/security-credentials/node", CREDENTIALS),
            // The SDK asks for the extended form first, and takes the older when it is not there.
        ] {
            imds.set(key, value);
        }
        imds.attach(primary);
        imds
    }

    pub(crate) fn url(&self) -> String {
        self.server.url()
    }

    /// The tree gains a network interface, all of its keys at once.
    pub(crate) fn attach(&self, eni: &Interface<'_>) {
        let at = |key: &str| format!("network/interfaces/macs/{}/{key}", eni.mac);
        self.set(&at("interface-id"), eni.id);
        self.set(&at("device-number"), &eni.device.to_string());
        self.set(&at("local-ipv4s"), &eni.addresses.join("\n"));
        if !eni.prefixes.is_empty() {
            self.set(&at("ipv4-prefix"), &eni.prefixes.join("\n"));
        }
        self.set(&at("subnet-ipv4-cidr-block"), eni.subnet);
        self.set(&at("vpc-ipv4-cidr-blocks"), &eni.vpc.join("\n"));
        let list = "network/interfaces/macs/";
        let macs = self.tree.lock().unwrap().keys.get(list).cloned().unwrap_or_default();
        let macs = macs.lines().map(str::to_owned).chain([format!("{}/", eni.mac)]);
        self.set(list, &macs.collect::<Vec<_>>().join("\n"));
    }

    pub(crate) fn set(&self, key: &str, value: &str) {
        self.tree.lock().unwrap().keys.insert(key.to_owned(), value.to_owned());
    }

    pub(crate) fn remove(&self, key: &str) {
        assert!(self.tree.lock().unwrap().keys.remove(key).is_some(), "no key {key}");
    }

    /// From now on this key, or `TOKEN_KEY`, is answered so.
    pub(crate) fn fail(&self, key: &str, reply: Reply) {
        self.tree.lock().unwrap().faults.insert(key.to_owned(), reply);
    }

    pub(crate) fn mend(&self) {
        self.tree.lock().unwrap().faults.clear();
    }

    /// What was asked so far, as `PUT token` and keys.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.tree.lock().unwrap().asked.clone()
    }
}

fn answer(tree: &mut Tree, request: &Request) -> Reply {
    if request.path == "/latest/api/token" {
        tree.asked.push(format!("{} token", request.method));
        if let Some(fault) = tree.faults.get(TOKEN_KEY) {
            return fault.clone();
        }
        let ttl = request.headers.get("x-aws-ec2-metadata-token-ttl-seconds");
        return match ttl {
            Some(ttl) if request.method == "PUT" => {
                Reply::ok(TOKEN).with("x-aws-ec2-metadata-token-ttl-seconds", ttl)
            }
            _ => Reply::status(400, ""),
        };
    }
    let Some(key) = request.path.strip_prefix(ROOT) else { return Reply::status(404, "") };
    tree.asked.push(key.to_owned());
    if request.headers.get("x-aws-ec2-metadata-token").map(String::as_str) != Some(TOKEN) {
        return Reply::status(401, "");
    }
    if let Some(fault) = tree.faults.get(key) {
        return fault.clone();
    }
    tree.keys.get(key).map_or(Reply::status(404, ""), |value| Reply::ok(value.clone()))
}
