//! What the embedded VPC knows and does, asked on its control socket: EC2's truth, beside what ipamd believes.
//!
//! Owns one connection per request. Does not judge the answers.

use crate::node::Node;
use embedded_vpc::control::{Answer, Request};
use embedded_vpc::model::{Effect, Fault, JournalEntry};
use ipamd_core::cloud::{EniAttachmentStatus, EniObservation};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

impl Node {
    /// Makes one request; a refusal or failure is the test's.
    pub fn inspect(&self, request: &Request) -> Answer {
        let mut stream = UnixStream::connect(self.control()).expect("the embedded VPC runs");
        let line = serde_json::to_string(request).expect("a request is JSON");
        writeln!(stream, "{line}").expect("it is sent");
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).expect("it answers");
        let answer = serde_json::from_str(&answer).expect("the answer is JSON");
        assert!(!matches!(answer, Answer::Failed(_) | Answer::Refused(_)), "{request:?}: {answer:?}");
        answer
    }

    /// EC2's ENIs.
    pub fn ec2_enis(&self) -> Vec<EniObservation> {
        match self.inspect(&Request::Enis) {
            Answer::Enis(enis) => enis,
            other => panic!("{other:?}"),
        }
    }

    /// The states of the secondary ENIs at EC2; none is one that is attached to nothing.
    pub fn ec2_secondaries(&self) -> Vec<Option<EniAttachmentStatus>> {
        let primary = |eni: &EniObservation| {
            eni.attachment.as_ref().is_some_and(|attachment| attachment.device_index == 0)
        };
        let secondaries = self.ec2_enis().into_iter().filter(|eni| !primary(eni));
        secondaries.map(|eni| eni.attachment.map(|attachment| attachment.status)).collect()
    }

    /// EC2's journal.
    pub fn journal(&self) -> Vec<JournalEntry> {
        match self.inspect(&Request::Journal) {
            Answer::Journal(entries) => entries,
            other => panic!("{other:?}"),
        }
    }

    /// How often a call has taken effect.
    pub fn took_effect(&self, call: &str) -> usize {
        self.journal().iter().filter(|entry| entry.call == call && entry.outcome == "ok").count()
    }

    /// Packets that the VPC's source checks have dropped, by counter: `v1` and up by ENI, `internet` at the gateway.
    pub fn all_drops(&self) -> BTreeMap<String, u64> {
        match self.inspect(&Request::Drops) {
            Answer::Drops(drops) => drops,
            other => panic!("{other:?}"),
        }
    }

    /// One of them.
    pub fn drops(&self, counter: &str) -> u64 {
        *self.all_drops().get(counter).unwrap_or_else(|| panic!("no counter {counter}"))
    }

    /// The next `count` calls of this name fail with this code and change nothing.
    pub fn cloud_fault(&self, call: &str, error: &str, count: u32) {
        let error = Some(error.to_owned());
        let fault = Fault { call: call.to_owned(), error, delay_ms: 0, count, effect: Effect::Before };
        self.inspect(&Request::SetFault(fault));
    }

    /// The next call of this name is late by so many milliseconds, before or after its effect.
    pub fn delay(&self, call: &str, delay_ms: u64, effect: Effect) {
        let fault = Fault { call: call.to_owned(), error: None, delay_ms, count: 1, effect };
        self.inspect(&Request::SetFault(fault));
    }

    /// The next call of this name takes effect and is answered with this code: a reply that does not tell the truth.
    pub fn lose_reply(&self, call: &str, code: &str) {
        let error = Some(code.to_owned());
        let fault = Fault { call: call.to_owned(), error, delay_ms: 0, count: 1, effect: Effect::After };
        self.inspect(&Request::SetFault(fault));
    }

    /// Others hold all of the subnet but so many addresses; none: they leave again.
    pub fn subnet_free(&self, addresses: Option<u32>) {
        self.inspect(&Request::SetSubnetFree { addresses });
    }
}
