//! The verbs: what each asks of ipamd, and what its answer becomes.
//!
//! Owns the requests, the deadlines and how long an absent daemon is tried again. Does not map errors to codes.

use crate::entry::Served;
use crate::environment::Container;
use crate::error::Failure;
use crate::netconf::{self, NetConf};
use crate::sandbox::{SandboxError, open_socket};
use crate::told;
use eni_proto::client::{Patience, call_with_retry};
use eni_proto::cni::{CniVersion, version_object};
use eni_proto::error::Code;
use eni_proto::ids::{AttachmentKey, IDS_MAX};
use eni_proto::reply::Outcome;
use eni_proto::request::{Add, Call, Check, Del, Gc, Request, Status};
use serde_json::Value;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// How long an ADD, CHECK or GC tries an absent daemon again, from each time that it is lost: a restart takes less.
const ADD_RETRY: Duration = Duration::from_secs(10);
/// How long a DEL does: its runtime comes again.
const DEL_RETRY: Duration = Duration::from_secs(2);
/// How long a STATUS may take in all: runtimes ask it every few seconds, without a time-out of their own.
const STATUS: Duration = Duration::from_secs(2);

/// The answer to VERSION.
pub(crate) fn version() -> Value {
    version_object(CniVersion::V1_1_0.as_str())
}

/// CNI ADD.
pub(crate) fn add(container: &Container, input: &[u8], begun: Duration) -> Result<Served, Failure> {
    let conf = netconf::read(input, false)?;
    let key = key(container, &conf)?;
    let sandbox = open_socket(&container.netns, container.own_netns_allowed).map_err(Failure::Sandbox)?;
    let shown = key.to_string();
    let call = Call::Add(Box::new(Add {
        key,
        netns: container.netns.clone(),
        mode: conf.mode,
        mtu: conf.mtu,
        args: container.args.clone(),
        annotations: conf.annotations.clone(),
        traceparent: container.traceparent.clone(),
        time_left_ms: 0,
    }));
    let patience = Patience::since(begun, conf.deadline, ADD_RETRY);
    match ask(&conf, call, Some(&sandbox), patience, Code::TryAgainLater)? {
        Outcome::Added(result) => {
            Ok(Served { answer: Some(result.to_version(conf.version)), key: Some(shown) })
        }
        _ => Err(Failure::UnknownReply),
    }
}

/// CNI DEL: whatever is wrong with the sandbox does not stop it.
pub(crate) fn del(container: &Container, input: &[u8], begun: Duration) -> Result<Served, Failure> {
    let conf = netconf::read(input, true)?;
    let key = key(container, &conf)?;
    let sandbox = match container.netns.as_str() {
        "" => None,
        path => match open_socket(path, container.own_netns_allowed) {
            Ok(socket) => Some(socket),
            // The host's own namespace is a mistake of the caller, not a sandbox that is gone.
            Err(error @ SandboxError::Own { .. }) => return Err(Failure::Sandbox(error)),
            Err(_) => None,
        },
    };
    let shown = key.to_string();
    let call = Call::Del(Del {
        key,
        netns: container.netns.clone(),
        traceparent: container.traceparent.clone(),
        time_left_ms: 0,
    });
    let patience = Patience::since(begun, conf.deadline, DEL_RETRY);
    match ask(&conf, call, sandbox.as_ref(), patience, Code::TryAgainLater)? {
        Outcome::Done => Ok(Served { answer: None, key: Some(shown) }),
        _ => Err(Failure::UnknownReply),
    }
}

/// CNI CHECK: of 0.4.0 and later.
pub(crate) fn check(container: &Container, input: &[u8], begun: Duration) -> Result<Served, Failure> {
    let conf = netconf::read(input, false)?;
    told::since("CHECK", CniVersion::V0_4_0, conf.version)?;
    let key = key(container, &conf)?;
    let addresses = told::prev_addresses(input, &container.ifname)?;
    let sandbox = open_socket(&container.netns, container.own_netns_allowed).map_err(Failure::Sandbox)?;
    let shown = key.to_string();
    let call = Call::Check(Check {
        key,
        netns: container.netns.clone(),
        addresses,
        traceparent: container.traceparent.clone(),
        time_left_ms: 0,
    });
    let patience = Patience::since(begun, conf.deadline, ADD_RETRY);
    match ask(&conf, call, Some(&sandbox), patience, Code::TryAgainLater)? {
        Outcome::Done => Ok(Served { answer: None, key: Some(shown) }),
        _ => Err(Failure::UnknownReply),
    }
}

/// CNI GC: of 1.1.0 and later. A list that is absent is refused: it does not say that nothing is valid.
pub(crate) fn gc(traceparent: Option<&str>, input: &[u8], begun: Duration) -> Result<Served, Failure> {
    let conf = netconf::read(input, true)?;
    told::since("GC", CniVersion::V1_1_0, conf.version)?;
    let valid = told::valid_attachments(input)?;
    let call = Call::Gc(Gc {
        network: conf.network.clone(),
        valid: Some(valid),
        traceparent: traceparent.map(str::to_owned),
        time_left_ms: 0,
    });
    let patience = Patience::since(begun, conf.deadline, ADD_RETRY);
    match ask(&conf, call, None, patience, Code::TryAgainLater)? {
        Outcome::Collected(_) => Ok(Served { answer: None, key: None }),
        _ => Err(Failure::UnknownReply),
    }
}

/// CNI STATUS.
pub(crate) fn status(input: &[u8], begun: Duration) -> Result<Served, Failure> {
    let conf = netconf::read(input, false)?;
    let patience = Patience::since(begun, conf.deadline.min(STATUS), STATUS);
    match ask(&conf, Call::Status(Status::default()), None, patience, Code::Unavailable)? {
        Outcome::Done => Ok(Served { answer: None, key: None }),
        _ => Err(Failure::UnknownReply),
    }
}

fn key(container: &Container, conf: &NetConf) -> Result<AttachmentKey, Failure> {
    let key = AttachmentKey {
        network: conf.network.clone(),
        container: container.id.clone(),
        ifname: container.ifname.clone(),
    };
    let length = key.ids_len();
    if length > IDS_MAX { Err(Failure::Ids { length, most: IDS_MAX }) } else { Ok(key) }
}

fn ask(
    conf: &NetConf,
    call: Call,
    sandbox: Option<&OwnedFd>,
    patience: Patience,
    absent: Code,
) -> Result<Outcome, Failure> {
    let mut request = Request::new(call);
    let reply = call_with_retry(&conf.socket, &mut request, sandbox.map(AsFd::as_fd), patience);
    match reply.map_err(|error| Failure::Call(error, absent))?.outcome {
        Outcome::Failed(error) => Err(Failure::Refused(error)),
        outcome => Ok(outcome),
    }
}
