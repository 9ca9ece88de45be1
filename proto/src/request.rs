//! What the plugin (or a second ipamd) asks over `cni.sock`.
//!
//! Owns the requests' fields and their version rules: unknown fields are ignored, new ones are defaulted, an
//! unknown call is carried as [`Call::Other`] so that the daemon can name it. Golden fixtures of every released
//! version are in `tests/fixtures/proto`. Does not own how a request is answered.

use crate::ids::AttachmentKey;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

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
            Call::Status(status) => status.time_left_ms = ms,
            Call::HandOver(_) | Call::Other(_) => {}
        }
    }
}

/// The calls. ADD (and CHECK) come with one descriptor, a NETLINK_ROUTE socket opened inside the sandbox's network
/// namespace; DEL may; the others must not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Call {
    /// CNI ADD.
    Add(Box<Add>),
    /// CNI DEL.
    Del(Del),
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
