//! From failures to CNI error codes: the one place of the plugin.
//!
//! Owns the mapping and the advice. What the daemon answers has its code already.

use crate::environment::EnvironmentError;
use crate::input::InputError;
use crate::netconf::NetConfError;
use crate::sandbox::SandboxError;
use crate::spool::SpoolError;
use crate::stamp::StampError;
use eni_proto::client::CallError;
use eni_proto::error::{Code, WireError};
use eni_proto::request::ANNOTATION_PREFIX;
use std::error::Error;

/// A call of the plugin that failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The caller is not root.
    NotRoot {
        /// Its effective uid.
        uid: u32,
    },
    /// The environment is refused.
    Environment(EnvironmentError),
    /// stdin could not be read.
    Input(InputError),
    /// The network configuration is refused.
    NetConf(NetConfError),
    /// Network name, container id and ifname are too long together.
    Ids {
        /// How long, in bytes.
        length: usize,
        /// The limit.
        most: usize,
    },
    /// CNI_NETNS is refused.
    Sandbox(SandboxError),
    /// ipamd was not reached, and what that means for the verb.
    Call(CallError, Code),
    /// ipamd did not answer a DEL, and it could not be written down either.
    NotBuried(CallError, SpoolError),
    /// ipamd did not answer a STATUS, and nothing speaks for it.
    Silent(CallError, StampError),
    /// ipamd answered something that this plugin does not know.
    UnknownReply,
    /// ipamd refused.
    Refused(Box<WireError>),
}

impl From<EnvironmentError> for Failure {
    fn from(error: EnvironmentError) -> Self {
        Failure::Environment(error)
    }
}

impl From<NetConfError> for Failure {
    fn from(error: NetConfError) -> Self {
        Failure::NetConf(error)
    }
}

impl Failure {
    /// The CNI error.
    pub(crate) fn to_error(&self) -> WireError {
        match self {
            Failure::NotRoot { uid } => {
                let text = format!("eni-cni runs as root alone, this is uid {uid}");
                WireError::new(Code::InvalidEnvironment, text).advice("rootless containers are not served")
            }
            Failure::Environment(error) => WireError::new(Code::InvalidEnvironment, error.to_string()),
            Failure::Input(error) => {
                let code = match error {
                    InputError::TooLong => Code::Decode,
                    InputError::Open { .. } | InputError::Read(_) => Code::Io,
                };
                WireError::new(code, error.to_string())
            }
            Failure::NetConf(error) => {
                let code = match error {
                    NetConfError::Decode { .. } => Code::Decode,
                    NetConfError::Version(_) | NetConfError::Verb { .. } => Code::IncompatibleVersion,
                    NetConfError::Mode { .. } => Code::UnsupportedField,
                    NetConfError::Invalid { .. }
                    | NetConfError::Name(_)
                    | NetConfError::Key { .. }
                    | NetConfError::Listed { .. } => Code::InvalidConfig,
                };
                WireError::new(code, error.to_string())
            }
            Failure::Ids { length, most } => {
                let text = format!(
                    "network name, CNI_CONTAINERID and CNI_IFNAME have {length} bytes together, {most} are the most"
                );
                WireError::new(Code::InvalidEnvironment, text).advice("shorten the network's name")
            }
            Failure::Sandbox(error) => WireError::new(Code::InvalidNetns, error.to_string()),
            Failure::Call(error, code) => call_error(error, *code),
            Failure::NotBuried(error, cause) => {
                let wire = call_error(error, Code::TryAgainLater);
                wire.cause(format!("the DEL could not be written down for it either: {cause}"))
            }
            Failure::Silent(error, cause) => call_error(error, Code::Unavailable).cause(cause.to_string()),
            Failure::UnknownReply => WireError::new(Code::Decode, "ipamd's answer is not understood")
                .advice("plugin and daemon differ too much in version: install matching ones"),
            Failure::Refused(error) => error.as_ref().clone(),
        }
    }
}

fn call_error(error: &CallError, code: Code) -> WireError {
    if let CallError::Request(cause) = error {
        let text = "what eni-cni needs of the network configuration and CNI_ARGS is too large for a request";
        let wire = WireError::new(Code::InvalidConfig, text).cause(cause.to_string());
        return wire.advice(format!(
            "shorten the pod's annotations {ANNOTATION_PREFIX}…, CNI_ARGS or GC's list of valid attachments"
        ));
    }
    let mut wire = WireError::new(code, format!("ipamd did not answer: {error}"));
    if let Some(cause) = error.source() {
        wire = wire.cause(cause.to_string());
    }
    match error {
        CallError::Unreachable { .. } | CallError::NoReply { .. } => wire.advice(
            "is ipamd running? (systemctl status ipamd; the socket is the configuration's \"socket\")",
        ),
        CallError::Deadline { .. } => wire.advice("see `ipamctl status`"),
        CallError::Request(_) | CallError::Reply { .. } | CallError::Io { .. } => wire,
    }
}
