//! What the plugin (or a second ipamd) asks over `cni.sock`.
//!
//! Owns the requests' fields and their version rules: unknown fields are ignored, new ones are defaulted, an
//! unknown call is carried as [`Call::Other`] so that the daemon can name it. Golden fixtures of every released
//! version are in `tests/fixtures/proto`. Does not own how a request is answered.

use crate::ids::{AttachmentKey, ContainerId, Ifname, NetworkName};
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// One request: one frame, answered by one [`crate::reply::Reply`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// The version of this protocol that the sender speaks.
    pub proto_version: u32,
    /// What is asked.
    pub call: Call,
}

impl Request {
    /// A request of this build's version.
    pub fn new(call: Call) -> Self {
        Request { proto_version: crate::PROTO_VERSION, call }
    }

    /// Says anew how long the sender will wait, in milliseconds: a call that is tried again has less time left.
    pub fn set_time_left_ms(&mut self, ms: u64) {
        match &mut self.call {
            Call::Add(add) => add.time_left_ms = ms,
            Call::Del(del) => del.time_left_ms = ms,
            Call::Check(check) => check.time_left_ms = ms,
            Call::Gc(gc) => gc.time_left_ms = ms,
            Call::Status(status) => status.time_left_ms = ms,
            Call::HandOver(_) | Call::Other(_) => {}
        }
    }
}

/// The calls. ADD and CHECK come with one descriptor, a NETLINK_ROUTE socket opened inside the sandbox's network
/// namespace; DEL may; the others must not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Call {
    /// CNI ADD.
    Add(Box<Add>),
    /// CNI DEL.
    Del(Del),
    /// CNI CHECK.
    Check(Check),
    /// CNI GC.
    Gc(Gc),
    /// CNI STATUS.
    Status(Status),
    /// A second ipamd asks the first for its place (`ipamd --take-over`).
    HandOver(HandOver),
    /// A call of a newer peer.
    #[serde(untagged)]
    Other(serde_json::Value),
}

impl Call {
    /// Why a call is not understood although its name is known: serde carries a broken `add` as [`Call::Other`] like
    /// a call of a newer peer. `None` for calls that were read, and for those whose name is unknown.
    pub fn misread(&self) -> Option<String> {
        fn cause<T: serde::de::DeserializeOwned>(body: &serde_json::Value) -> Option<String> {
            serde_json::from_value::<T>(body.clone()).err().map(|error| error.to_string())
        }
        let Call::Other(serde_json::Value::Object(call)) = self else { return None };
        let (name, body) = call.iter().next()?;
        let cause = match name.as_str() {
            "add" => cause::<Add>(body),
            "del" => cause::<Del>(body),
            "check" => cause::<Check>(body),
            "gc" => cause::<Gc>(body),
            "status" => cause::<Status>(body),
            "hand_over" => cause::<HandOver>(body),
            _ => None,
        };
        cause.map(|cause| format!("{name}: {cause}"))
    }
}

/// How a sandbox is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// A veth pair, an address of a shared ENI.
    #[default]
    Shared,
    /// A mode of a newer peer.
    #[serde(other)]
    Other,
}

/// CNI ADD.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Add {
    /// Network, container id and ifname.
    pub key: AttachmentKey,
    /// CNI_NETNS, as the runtime wrote it: for display and evidence, never opened by the daemon.
    pub netns: String,
    /// The wanted mode; the daemon's configured one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// The wanted MTU in bytes; the daemon's configured one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// CNI_ARGS, pair by pair.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub args: BTreeMap<String, String>,
    /// Pod annotations of our own prefix only.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// TRACEPARENT, when the runtime traces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// Milliseconds until the plugin gives up and closes the socket.
    #[serde(default = "default_time_left_ms")]
    pub time_left_ms: u64,
}

/// CNI DEL. The descriptor is optional: a DEL comes up to three times, the later ones without a netns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Del {
    /// Network, container id and ifname.
    pub key: AttachmentKey,
    /// CNI_NETNS, as the runtime wrote it; empty when it has none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub netns: String,
    /// TRACEPARENT, when the runtime traces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// Milliseconds until the plugin gives up and closes the socket.
    #[serde(default = "default_time_left_ms")]
    pub time_left_ms: u64,
}

/// CNI CHECK: is an attachment as its ADD has made it?
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// Network, container id and ifname.
    pub key: AttachmentKey,
    /// CNI_NETNS, as the runtime wrote it: for display.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub netns: String,
    /// The addresses of the interface that prevResult names; empty when it names none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<Ipv4Addr>,
    /// TRACEPARENT, when the runtime traces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// Milliseconds until the plugin gives up and closes the socket.
    #[serde(default = "default_time_left_ms")]
    pub time_left_ms: u64,
}

/// CNI GC: which attachments of a network a runtime knows. It speaks of this network alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gc {
    /// The network.
    pub network: NetworkName,
    /// Those that are valid. Absent is not empty: a runtime that names none says nothing. JSON's null is empty: that is
    /// how a Go runtime writes a list without elements.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Option::is_none")]
    pub valid: Option<Vec<ValidAttachment>>,
    /// TRACEPARENT, when the runtime traces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// Milliseconds until the plugin gives up and closes the socket.
    #[serde(default = "default_time_left_ms")]
    pub time_left_ms: u64,
}

/// One attachment of GC's list.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ValidAttachment {
    /// The container's id.
    pub container: ContainerId,
    /// The interface inside its sandbox.
    pub ifname: Ifname,
}

fn null_is_empty<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Vec<ValidAttachment>>, D::Error> {
    Ok(Some(Option::deserialize(input)?.unwrap_or_default()))
}

/// CNI STATUS: can this node serve ADD?
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Milliseconds until the plugin gives up and closes the socket.
    #[serde(default = "default_time_left_ms")]
    pub time_left_ms: u64,
}

/// A second ipamd, started with `--take-over`, asks the first to end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HandOver {
    /// The asker's process id, for the first one's log.
    pub pid: u32,
    /// The asker's version, for the first one's log.
    #[serde(default)]
    pub version: String,
}

fn default_time_left_ms() -> u64 {
    90_000
}

/// The keys of CNI_ARGS that name a pod (set by containerd, CRI-O and cri-dockerd).
pub mod args {
    /// The pod's namespace.
    pub const POD_NAMESPACE: &str = "K8S_POD_NAMESPACE";
    /// The pod's name.
    pub const POD_NAME: &str = "K8S_POD_NAME";
    /// The pod's uid; not set by cri-dockerd.
    pub const POD_UID: &str = "K8S_POD_UID";
}

/// The prefix of the pod annotations that travel.
pub const ANNOTATION_PREFIX: &str = "eni-cni.io/";
