//! Error codes, as CNI numbers them, and the error that travels in a reply.
//!
//! Owns the numbers and the wire shape. Does not own the mapping from failures to codes: the daemon does that in
//! one file, the plugin in another.

use serde::{Deserialize, Serialize};
use std::fmt;

/// CNI spec 1.1.0, "Error": the codes that eni-cni answers with. Code 3 (container unknown) is never used: it
/// licenses a runtime to skip DEL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "u32", into = "u32")]
pub enum Code {
    /// 1: the configuration's CNI version is not spoken here.
    IncompatibleVersion,
    /// 2: a field of the configuration is not supported; the message names key and value.
    UnsupportedField,
    /// 4: an environment variable is missing or not valid; the message names it.
    InvalidEnvironment,
    /// 5: I/O failed.
    Io,
    /// 6: input could not be decoded.
    Decode,
    /// 7: the network configuration is not valid.
    InvalidConfig,
    /// 8: the network namespace is not valid (libcni's number).
    InvalidNetns,
    /// 11: try again later.
    TryAgainLater,
    /// 50: the plugin is not available: it cannot serve ADD.
    Unavailable,
    /// 51: as 50, and existing containers may have limited connectivity.
    Impaired,
    /// 100, of our own range: an attachment is not as its ADD has made it.
    Differs,
    /// 999: an internal error (libcni's number).
    Internal,
    /// Any other number, from a newer peer.
    Other(u32),
}

impl From<u32> for Code {
    fn from(number: u32) -> Self {
        match number {
            1 => Code::IncompatibleVersion,
            2 => Code::UnsupportedField,
            4 => Code::InvalidEnvironment,
            5 => Code::Io,
            6 => Code::Decode,
            7 => Code::InvalidConfig,
            8 => Code::InvalidNetns,
            11 => Code::TryAgainLater,
            50 => Code::Unavailable,
            51 => Code::Impaired,
            100 => Code::Differs,
            999 => Code::Internal,
            other => Code::Other(other),
        }
    }
}

impl From<Code> for u32 {
    fn from(code: Code) -> u32 {
        match code {
            Code::IncompatibleVersion => 1,
            Code::UnsupportedField => 2,
            Code::InvalidEnvironment => 4,
            Code::Io => 5,
            Code::Decode => 6,
            Code::InvalidConfig => 7,
            Code::InvalidNetns => 8,
            Code::TryAgainLater => 11,
            Code::Unavailable => 50,
            Code::Impaired => 51,
            Code::Differs => 100,
            Code::Internal => 999,
            Code::Other(number) => number,
        }
    }
}

/// What went wrong, as it travels from the daemon to the plugin and lands in the runtime's event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireError {
    /// The CNI code.
    pub code: Code,
    /// One line: what failed, and on what.
    pub msg: String,
    /// The cause beneath it, when there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// What the reader can do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
    /// When it is worth trying again, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// EC2's own error code, when EC2 refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ec2_code: Option<String>,
    /// EC2's request id, when EC2 answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ec2_request_id: Option<String>,
}

impl WireError {
    /// An error with a code and one line; the rest is added by [`WireError::cause`] and [`WireError::advice`].
    pub fn new(code: Code, msg: impl Into<String>) -> Self {
        WireError {
            code,
            msg: msg.into(),
            cause: None,
            advice: None,
            retry_after_ms: None,
            ec2_code: None,
            ec2_request_id: None,
        }
    }

    /// Adds the cause beneath.
    #[must_use]
    pub fn cause(mut self, cause: impl Into<String>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// Adds what to do.
    #[must_use]
    pub fn advice(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    /// The `details` of a CNI error object: all but `msg`, in one line.
    pub fn details(&self) -> String {
        let mut parts = Vec::new();
        parts.extend(self.cause.clone());
        if let Some(code) = &self.ec2_code {
            let id = self.ec2_request_id.as_deref().unwrap_or("none");
            parts.push(format!("EC2 answered {code} (request id {id})"));
        }
        if let Some(ms) = self.retry_after_ms {
            parts.push(format!("try again in {ms} ms"));
        }
        parts.extend(self.advice.clone());
        parts.join("; ")
    }
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (code {})", self.msg, u32::from(self.code))?;
        let details = self.details();
        if details.is_empty() { Ok(()) } else { write!(f, ": {details}") }
    }
}

impl std::error::Error for WireError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_round_trip() {
        for number in [0, 1, 2, 3, 4, 5, 6, 7, 8, 11, 50, 51, 100, 999] {
            assert_eq!(u32::from(Code::from(number)), number);
        }
    }

    #[test]
    fn details_join_cause_ec2_and_advice() {
        let mut error =
            WireError::new(Code::TryAgainLater, "no address").cause("subnet full").advice("add a subnet");
        error.ec2_code = Some("InsufficientFreeAddressesInSubnet".into());
        error.retry_after_ms = Some(500);
        assert_eq!(
            error.details(),
            "subnet full; EC2 answered InsufficientFreeAddressesInSubnet (request id none); try again in 500 ms; add a subnet"
        );
    }
}
