//! Ids as newtypes: what an id may look like is checked once, where it comes in.
//!
//! Owns the syntax of each id and its source. Does not own what an id refers to.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Why a text is no id of its kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdError {
    /// The kind of id, as the field names it: `container id`, `ifname`, `MAC address`.
    pub kind: &'static str,
    /// The text that was refused, cut to 64 characters.
    pub text: String,
    /// The rule that it breaks.
    pub rule: &'static str,
}

impl IdError {
    fn new(kind: &'static str, text: &str, rule: &'static str) -> Self {
        IdError { kind, text: text.chars().take(64).collect(), rule }
    }
}

impl fmt::Display for IdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} is not valid: {}", self.kind, self.text, self.rule)
    }
}

impl std::error::Error for IdError {}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The text of the id.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                let check: fn(&str) -> Result<(), &'static str> = $check;
                match check(text) {
                    Ok(()) => Ok($name(text.to_owned())),
                    Err(rule) => Err(IdError::new($kind, text, rule)),
                }
            }
        }
        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

/// CNI spec, "Parameters": starts alphanumeric, then alphanumerics, `_`, `.`, `-`; upper case is legal.
fn cni_identifier(text: &str) -> Result<(), &'static str> {
    let mut bytes = text.bytes();
    let first = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric());
    if first && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-')) {
        Ok(())
    } else {
        Err("must start with a letter or digit, then letters, digits, '_', '.', '-'")
    }
}

fn aws_id(text: &str) -> Result<(), &'static str> {
    if !text.is_empty() && text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        Ok(())
    } else {
        Err("must be letters, digits and '-', 1 to 64 of them")
    }
}

text_id!(
    /// The `name` of a network configuration (CNI spec, "Network configuration format").
    NetworkName, "network name", cni_identifier
);
text_id!(
    /// CNI_CONTAINERID: the runtime's id of a sandbox.
    ContainerId, "container id", cni_identifier
);
text_id!(
    /// CNI_IFNAME: the interface inside the sandbox. The kernel's rule (IFNAMSIZ, `dev_valid_name`) and CNI's.
    Ifname, "ifname", |t| {
        if t.is_empty() || t.len() > 15 {
            Err("must be 1 to 15 bytes")
        } else if t == "." || t == ".." {
            Err("must not be '.' or '..'")
        } else if t.bytes().any(|b| matches!(b, b'/' | b':' | b'%' | 0xa0) || b.is_ascii_whitespace() || b.is_ascii_control()) {
            // The kernel takes bytes, of Latin-1: 0xa0 is a blank to it. '%' begins a template: "eth%d" is another name.
            Err("must not hold '/', ':', '%', blanks or the byte 0xa0")
        } else {
            Ok(())
        }
    }
);
text_id!(
    /// An elastic network interface: `eni-…`.
    EniId, "ENI id", aws_id
);
text_id!(
    /// An EC2 instance: `i-…`.
    InstanceId, "instance id", aws_id
);
text_id!(
    /// A subnet of a VPC: `subnet-…`.
    SubnetId, "subnet id", aws_id
);

/// The key of everything, as CNI keys it: one interface of one container in one network.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttachmentKey {
    /// The network's name.
    pub network: NetworkName,
    /// The container's id.
    pub container: ContainerId,
    /// The interface's name inside the sandbox.
    pub ifname: Ifname,
}

/// The most that network, container id and ifname may have together, in bytes. They travel whole in the host link's
/// alias, of which the kernel takes 255 (IFALIASZ - 1); the rest is for the cookie, the generation and the pod.
pub const IDS_MAX: usize = 180;

impl AttachmentKey {
    /// The bytes of network, container id and ifname together, to be held against [`IDS_MAX`].
    pub fn ids_len(&self) -> usize {
        self.network.as_str().len() + self.container.as_str().len() + self.ifname.as_str().len()
    }
}

impl fmt::Display for AttachmentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.network, self.container, self.ifname)
    }
}

impl fmt::Debug for AttachmentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// SO_NETNS_COOKIE: a network namespace's number, unique within a boot (inode numbers are reused at once).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NetnsCookie(pub u64);

impl fmt::Display for NetnsCookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddr(pub [u8; 6]);

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MacAddr {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let refuse = || IdError::new("MAC address", text, "must be six hex bytes joined by ':'");
        let mut mac = [0u8; 6];
        let mut parts = text.split(':');
        for byte in &mut mac {
            let part = parts.next().filter(|p| p.len() == 2).ok_or_else(refuse)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| refuse())?;
        }
        if parts.next().is_some() { Err(refuse()) } else { Ok(MacAddr(mac)) }
    }
}

impl TryFrom<String> for MacAddr {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<MacAddr> for String {
    fn from(mac: MacAddr) -> String {
        mac.to_string()
    }
}

/// `/proc/sys/kernel/random/boot_id`: which boot a CLOCK_BOOTTIME value belongs to.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BootId(String);

impl BootId {
    /// Takes the kernel's text as it is, without its line end.
    pub fn new(text: &str) -> Self {
        BootId(text.trim().to_owned())
    }

    /// The kernel's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_hold_their_rules() {
        assert!("ABC-1.2_x".parse::<ContainerId>().is_ok());
        for bad in ["", "-a", ".x", "a/b", "a b", "é"] {
            assert!(bad.parse::<ContainerId>().is_err(), "{bad:?}");
        }
        assert!("eth0".parse::<Ifname>().is_ok());
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "a:b",
            "a b",
            "eth%d",
            "a%",
            "\u{e0}",
            "a\u{a0}",
            "a\u{b}",
            "0123456789abcdef",
        ] {
            assert!(bad.parse::<Ifname>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn mac_round_trips() {
        let mac: MacAddr = "02:00:5e:00:fa:01".parse().unwrap();
        assert_eq!(mac.to_string(), "02:00:5e:00:fa:01");
        assert!("02:00:5e:00:fa".parse::<MacAddr>().is_err());
        assert!("02:00:5e:00:fa:01:02".parse::<MacAddr>().is_err());
        assert!("2:0:5e:0:fa:1".parse::<MacAddr>().is_err());
    }

    #[test]
    fn a_refused_id_says_what_and_why() {
        let error = "a b".parse::<ContainerId>().unwrap_err();
        assert!(error.to_string().starts_with("container id \"a b\" is not valid"), "{error}");
    }
}
