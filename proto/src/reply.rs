//! What the daemon answers on `cni.sock`.
//!
//! Owns the shapes; results are of CNI 1.1.0 and the plugin converts them to the version that was asked. Does not
//! own the meaning of STATUS: that is decided by the daemon.

use crate::PROTO_VERSION;
use crate::cni::AddResult;
use crate::error::WireError;
use serde::{Deserialize, Serialize};

/// One reply to one request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// The version of this protocol that the daemon speaks.
    pub proto_version: u32,
    /// How it went.
    pub outcome: Outcome,
}

/// How a call went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// ADD: the container's interface, address and routes.
    Added(Box<AddResult>),
    /// DEL, CHECK, STATUS and hand-over: done, nothing to tell.
    Done,
    /// GC: what became of the attachments that its list did not name.
    Collected(Collected),
    /// The call was refused or failed; nothing half-made stayed behind.
    Failed(Box<WireError>),
    /// An outcome of a newer daemon.
    #[serde(untagged)]
    Other(serde_json::Value),
}

/// What became of the attachments of a network that GC's list did not name, in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collected {
    /// Freed: their network namespaces are proven gone.
    #[serde(default)]
    pub freed: u32,
    /// Kept; the daemon's log says of each why.
    #[serde(default)]
    pub kept: u32,
}

impl Reply {
    /// A reply of this build's version.
    pub fn new(outcome: Outcome) -> Self {
        Reply { proto_version: PROTO_VERSION, outcome }
    }

    /// A refusal.
    pub fn failed(error: WireError) -> Self {
        Reply::new(Outcome::Failed(Box::new(error)))
    }
}
