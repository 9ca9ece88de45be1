//! The verbs: what each asks of ipamd, and what its answer becomes.
//!
//! Owns the requests, the deadlines and how long an absent daemon is tried again. Does not map errors to codes.

use crate::entry::Served;
use crate::environment::Container;
use crate::error::Failure;
use crate::netconf::{self, NetConf};
use crate::sandbox::open_socket;
use crate::{spool, stamp, told};
use eni_proto::client::{CallError, Patience, boottime, call_with_retry};
use eni_proto::cni::{CniVersion, version_object};
use eni_proto::error::Code;
use eni_proto::fdpass::netns_cookie;
use eni_proto::ids::{AttachmentKey, IDS_MAX, NetnsCookie};
use eni_proto::reply::Outcome;
use eni_proto::request::{Add, Call, Check, Del, Gc, Request, Status};
use serde_json::Value;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// How long an ADD, CHECK or GC tries an absent daemon again, from each time that it is lost: a restart takes less.
const ADD_RETRY: Duration = Duration::from_secs(10);
/// How long a DEL does: then it is written down.
const DEL_RETRY: Duration = Duration::from_secs(2);
/// How long a DEL that is written down is offered to a daemon that may have come meanwhile, past its deadline.
const DEL_LAST: Duration = Duration::from_millis(500);
/// How long a STATUS may take in all: runtimes ask it every few seconds, without a time-out of their own.
const STATUS: Duration = Duration::from_secs(2);

/// The answer to VERSION.
pub(crate) fn version() -> Value {
    version_object(CniVersion::V1_1_0.as_str())
}

/// CNI ADD.
pub(crate) fn add(container: &Container, input: &[u8], begun: Duration) -> Result<Served, Failure> {
    let conf = netconf::read(input, false)?;
    let key = key(container, &conf);
    let length = key.ids_len();
    if length > IDS_MAX {
        return Err(Failure::Ids { length, most: IDS_MAX });
    }
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
    // However long: an ADD of it was refused, and a DEL that fails keeps its pod for ever.
    let key = key(container, &conf);
    // A path that cannot be opened is that of a sandbox that is gone. One to the plugin's own namespace is, too: the
    // process that it goes by has ended, and its number is another's now. Nothing is ever done in it.
    let sandbox = match container.netns.as_str() {
        "" => None,
        path => open_socket(path, false).ok(),
    };
    let shown = key.to_string();
    let del = Del {
        key,
        netns: container.netns.clone(),
        traceparent: container.traceparent.clone(),
        time_left_ms: 0,
    };
    let patience = Patience::since(begun, conf.deadline, DEL_RETRY);
    match ask(&conf, Call::Del(del.clone()), sandbox.as_ref(), patience, Code::TryAgainLater) {
        Ok(Outcome::Done) => {}
        Ok(_) => return Err(Failure::UnknownReply),
        Err(Failure::Call(error, _)) if error.is_silence() => {
            bury(&conf, del, sandbox.as_ref(), begun, error)?;
        }
        Err(failure) => return Err(failure),
    }
    Ok(Served { answer: None, key: Some(shown) })
}

/// A DEL without an answer is written down, which is its success; then it is asked for once more, whatever that brings:
/// a daemon that has come meanwhile need not find the tombstone first.
fn bury(
    conf: &NetConf,
    del: Del,
    sandbox: Option<&OwnedFd>,
    begun: Duration,
    error: CallError,
) -> Result<(), Failure> {
    let cookie = sandbox.and_then(|socket| netns_cookie(socket.as_fd()).ok()).map(NetnsCookie);
    match spool::bury(conf.run_dir(), &conf.spool, &del.key, cookie, begun) {
        Ok(spool::Buried::NothingLives) => Ok(()),
        Ok(spool::Buried::Written) => {
            let patience = Patience::since(boottime(), DEL_LAST, Duration::ZERO);
            let _ = ask(conf, Call::Del(del), sandbox, patience, Code::TryAgainLater);
            Ok(())
        }
        Err(cause) => Err(Failure::NotBuried(error, cause)),
    }
}

/// CNI CHECK: of 0.4.0 and later.
pub(crate) fn check(container: &Container, input: &[u8], begun: Duration) -> Result<Served, Failure> {
    let conf = netconf::read(input, false)?;
    told::since("CHECK", CniVersion::V0_4_0, conf.version)?;
    let key = key(container, &conf);
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
    match ask(&conf, Call::Status(Status::default()), None, patience, Code::Unavailable) {
        Ok(Outcome::Done) => {}
        Ok(_) => return Err(Failure::UnknownReply),
        Err(Failure::Call(error, _)) if error.is_silence() => {
            stamp::vouches(conf.run_dir()).map_err(|cause| Failure::Silent(error, cause))?;
        }
        Err(failure) => return Err(failure),
    }
    Ok(Served { answer: None, key: None })
}

fn key(container: &Container, conf: &NetConf) -> AttachmentKey {
    AttachmentKey {
        network: conf.network.clone(),
        container: container.id.clone(),
        ifname: container.ifname.clone(),
    }
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
