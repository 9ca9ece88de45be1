//! One request of `cni.sock`, checked.
//!
//! Owns the rules of which call may carry which descriptor, and the mapping of what breaks them to CNI errors. Pure
//! but for closing descriptors. Does not read a socket nor serve a call.

use eni_proto::error::{Code, WireError};
use eni_proto::frame;
use eni_proto::ids::NetnsCookie;
use eni_proto::request::{Add, Call, Del, HandOver, Mode, Request, args};
use ipamd_core::owner::event::AddAsk;
use ipamd_core::time::Timestamp;
use ipamd_netlink::sandbox::SandboxSocket;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// ADD is answered this long before its plugin gives up.
const MARGIN: Duration = Duration::from_secs(2);
/// No deadline is believed that is further away than this.
const LONGEST: Duration = Duration::from_secs(600);

/// A request that may be served.
#[derive(Debug)]
pub enum Asked {
    /// CNI ADD.
    Add(Box<AddAsk>, SandboxSocket),
    /// CNI DEL.
    Del(Del),
    /// CNI STATUS.
    Status,
    /// Another ipamd wants this one's place.
    HandOver(HandOver),
}

/// Checks a request's body and its descriptors.
pub fn check(
    body: &[u8],
    mut descriptors: Vec<OwnedFd>,
    host: NetnsCookie,
    now: Timestamp,
) -> Result<Asked, Box<WireError>> {
    let request: Request = frame::decode(body).map_err(|error| {
        let error = WireError::new(Code::Decode, "the request is not understood").cause(error.to_string());
        Box::new(error.advice("plugin and daemon differ too much in version: install matching ones"))
    })?;
    if descriptors.len() > 1 {
        let text = format!("{} descriptors came with a request: one is the most", descriptors.len());
        return Err(Box::new(WireError::new(Code::InvalidNetns, text)));
    }
    let descriptor = descriptors.pop();
    match request.call {
        Call::Add(add) => {
            let Some(descriptor) = descriptor else {
                let text = "ADD came without its descriptor, a NETLINK_ROUTE socket opened in the sandbox";
                return Err(Box::new(WireError::new(Code::InvalidNetns, text)));
            };
            let sandbox = sandbox(descriptor, host)?;
            let ask = ask(*add, sandbox.cookie(), now);
            Ok(Asked::Add(Box::new(ask), sandbox))
        }
        Call::Del(del) => {
            // Checked and closed: a DEL is authoritative whatever its sandbox is by now.
            descriptor.map(|d| sandbox(d, host)).transpose()?;
            Ok(Asked::Del(del))
        }
        Call::Status(_) => without_descriptor("STATUS", descriptor.as_ref()).map(|()| Asked::Status),
        Call::HandOver(ask) => {
            without_descriptor("hand_over", descriptor.as_ref()).map(|()| Asked::HandOver(ask))
        }
        Call::Other(value) => {
            let name = value.as_object().and_then(|o| o.keys().next().cloned()).unwrap_or_default();
            let text = format!("the call {name:?} is not served");
            let error = WireError::new(Code::InvalidEnvironment, text);
            Err(Box::new(
                error.advice("served are add, del, status and hand_over; is the plugin newer than ipamd?"),
            ))
        }
    }
}

fn without_descriptor(call: &str, descriptor: Option<&OwnedFd>) -> Result<(), Box<WireError>> {
    match descriptor {
        None => Ok(()),
        Some(_) => Err(Box::new(WireError::new(Code::InvalidNetns, format!("{call} takes no descriptor")))),
    }
}

fn sandbox(descriptor: OwnedFd, host: NetnsCookie) -> Result<SandboxSocket, Box<WireError>> {
    SandboxSocket::check(descriptor, host).map_err(|error| {
        let text = "the request's descriptor is no NETLINK_ROUTE socket of a sandbox";
        Box::new(WireError::new(Code::InvalidNetns, text).cause(error.to_string()))
    })
}

fn ask(add: Add, cookie: NetnsCookie, now: Timestamp) -> AddAsk {
    let left = Duration::from_millis(add.time_left_ms).min(LONGEST);
    let pod = match (add.args.get(args::POD_NAMESPACE), add.args.get(args::POD_NAME)) {
        (Some(namespace), Some(name)) if !namespace.is_empty() && !name.is_empty() => {
            Some((namespace.clone(), name.clone()))
        }
        _ => None,
    };
    AddAsk {
        key: add.key,
        cookie,
        netns: add.netns,
        mode: add.mode.unwrap_or(Mode::Shared),
        mtu: add.mtu,
        pod,
        deadline: now + left.saturating_sub(MARGIN),
    }
}
