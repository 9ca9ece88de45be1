//! A server that writes down what EC2 is asked, and answers what a test tells it to.
//!
//! Owns the form that a request comes in (the EC2 Query API's), and the answers' envelope.

use crate::imds::{Imds, Interface};
use crate::server::{Reply, Request, Server};
use ipamd_ec2::{Aws, Settings};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

/// The parameters of one request.
pub(crate) type Parameters = BTreeMap<String, String>;

#[derive(Default)]
struct Log {
    requests: Vec<Parameters>,
    answers: VecDeque<Reply>,
}

/// EC2's stand-in, with the metadata service that gives the client its credentials and Region.
pub(crate) struct Recorder {
    server: Server,
    imds: Imds,
    log: Arc<Mutex<Log>>,
}

/// The instance's primary network interface.
pub(crate) const PRIMARY: Interface<'static> = Interface {
    mac: "02:00:00:00:00:01",
    id: "eni-0a0000000000000a1",
    device: 0,
    addresses: &["10.0.1.10", "10.0.1.11"],
    prefixes: &[],
    subnet: "10.0.1.0/24",
    vpc: &["10.0.0.0/16"],
};

impl Recorder {
    pub(crate) fn start() -> Recorder {
        let log = Arc::new(Mutex::new(Log::default()));
        let recording = log.clone();
        let server = Server::start(move |request| record(&mut recording.lock().unwrap(), request));
        Recorder { server, imds: Imds::new("i-0b0000000000000b1", "m5.large", &PRIMARY), log }
    }

    /// A client of it; its Region and credentials are the instance's.
    pub(crate) fn aws(&self) -> Aws {
        Aws::new(self.settings()).unwrap()
    }

    /// One whose EC2 is elsewhere.
    pub(crate) fn aws_at(&self, url: &str) -> Aws {
        Aws::new(Settings { ec2_endpoint: Some(url.to_owned()), ..self.settings() }).unwrap()
    }

    pub(crate) fn settings(&self) -> Settings {
        Settings { region: None, ec2_endpoint: Some(self.server.url()), imds_endpoint: Some(self.imds.url()) }
    }

    pub(crate) fn imds(&self) -> &Imds {
        &self.imds
    }

    /// The next request that is not answered yet is answered so.
    pub(crate) fn answer(&self, reply: Reply) {
        self.log.lock().unwrap().answers.push_back(reply);
    }

    /// The next one is answered with this answer of an action.
    pub(crate) fn answer_with(&self, action: &str, fields: &str) {
        let body = format!(
            "<{action}Response xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><requestId>req-1</requestId>{fields}\
             </{action}Response>"
        );
        self.answer(Reply::ok(body).with("content-type", "text/xml;charset=UTF-8"));
    }

    /// The next one is refused with this code.
    pub(crate) fn refuse(&self, status: u16, code: &str, message: &str) {
        self.answer(refusal(status, code, message));
    }

    /// What was asked so far; it is forgotten.
    pub(crate) fn take(&self) -> Vec<Parameters> {
        std::mem::take(&mut self.log.lock().unwrap().requests)
    }
}

/// EC2's form of an error ("Error responses", Amazon EC2 Developer Guide).
pub(crate) fn refusal(status: u16, code: &str, message: &str) -> Reply {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Response><Errors><Error><Code>{code}</Code><Message>{message}\
         </Message></Error></Errors><RequestID>req-of-a-refusal</RequestID></Response>"
    );
    Reply::status(status, body).with("content-type", "text/xml;charset=UTF-8")
}

fn record(log: &mut Log, request: &Request) -> Reply {
    assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/"));
    assert_eq!(
        request.headers.get("content-type").map(String::as_str),
        Some("application/x-www-form-urlencoded")
    );
    let authorization = &request.headers["authorization"];
    assert!(authorization.contains("/us-east-1/ec2/aws4_request"), "{authorization}");
    assert!(authorization.contains("ASIAIOSFODNN7EXAMPLE"), "the instance's credentials: {authorization}");
    let agent = request.headers.get("x-amz-user-agent").or_else(|| request.headers.get("user-agent"));
    assert!(agent.is_some_and(|agent| agent.contains("app/eni-cni")), "{agent:?}");
    log.requests.push(form(&request.body));
    log.answers.pop_front().unwrap_or_else(|| refusal(400, "InvalidAction", "no answer was prepared"))
}

/// `application/x-www-form-urlencoded`.
pub(crate) fn form(body: &str) -> Parameters {
    body.split('&').filter_map(|pair| pair.split_once('=')).map(|(k, v)| (decoded(k), decoded(v))).collect()
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [rest.next().unwrap(), rest.next().unwrap()];
                u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).unwrap()
}
