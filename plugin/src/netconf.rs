//! The network configuration on stdin.
//!
//! Owns its parsing, through `cni_plugin::config::NetworkConfig`, and the keys that are ours: `socket`, `spool`,
//! `deadline_ms`, `mode`, `mtu`, each optional. This is the only file that names the crate `cni-plugin`: it is archived since 2022 and
//! can be replaced here. Where it refuses a configuration that a DEL comes with, a lenient reading goes on: a plugin
//! that fails DEL makes containers undeletable.

use cni_plugin::config::NetworkConfig;
use eni_proto::cni::{CniVersion, UnknownVersion};
use eni_proto::ids::{IdError, NetworkName};
use eni_proto::request::{ANNOTATION_PREFIX, Mode};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where ipamd listens unless the configuration says otherwise.
const SOCKET: &str = "/run/eni-cni/cni.sock";
/// The spool's name in the run folder, unless the configuration names another.
const SPOOL: &str = "spool";
/// How long a call may take: kubelet gives RunPodSandbox four minutes.
const DEADLINE: Duration = Duration::from_secs(90);
/// The shortest and longest deadline that may be asked for.
const DEADLINE_RANGE_MS: std::ops::RangeInclusive<u64> = 1_000..=600_000;
/// IPv4's least MTU (RFC 791) up to what a link can have.
const MTU_RANGE: std::ops::RangeInclusive<u64> = 576..=65_535;
/// The capability that carries a pod's annotations (containerd, CRI-O).
const ANNOTATIONS: &str = "io.kubernetes.cri.pod-annotations";

/// What the plugin needs of its configuration.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NetConf {
    /// The version that the answer has.
    pub(crate) version: CniVersion,
    /// The network's name.
    pub(crate) network: NetworkName,
    /// ipamd's socket.
    pub(crate) socket: PathBuf,
    /// Where a DEL that nobody answers is written down.
    pub(crate) spool: PathBuf,
    /// How long this call may take.
    pub(crate) deadline: Duration,
    /// The wanted mode.
    pub(crate) mode: Option<Mode>,
    /// The wanted MTU, in bytes.
    pub(crate) mtu: Option<u32>,
    /// The pod's annotations of our own prefix.
    pub(crate) annotations: BTreeMap<String, String>,
}

impl NetConf {
    /// ipamd's run folder: where its socket lies.
    pub(crate) fn run_dir(&self) -> &Path {
        run_dir(&self.socket)
    }
}

fn run_dir(socket: &Path) -> &Path {
    socket.parent().unwrap_or(Path::new("/"))
}

/// Why a configuration is refused.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum NetConfError {
    /// It is no JSON object: error 6.
    Decode { cause: String },
    /// Its version is not served: error 1.
    Version(UnknownVersion),
    /// It is no network configuration: error 7.
    Invalid { cause: String },
    /// Its name is not valid: error 7.
    Name(IdError),
    /// A key of ours has a value that is not valid: error 7, naming it.
    Key { key: &'static str, value: String, rule: &'static str },
    /// A mode that is not served: error 2.
    Mode { value: String },
    /// The verb is of a later version than the configuration: error 1.
    Verb { verb: &'static str, least: CniVersion, version: CniVersion },
    /// An attachment of GC's list has an id that is not valid: error 7.
    Listed { key: &'static str, index: usize, cause: IdError },
}

impl fmt::Display for NetConfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NetConfError::Decode { cause } => write!(f, "the network configuration is not JSON: {cause}"),
            NetConfError::Version(unknown) => unknown.fmt(f),
            NetConfError::Invalid { cause } => write!(f, "the network configuration is not valid: {cause}"),
            NetConfError::Name(cause) => write!(f, "the network configuration's name: {cause}"),
            NetConfError::Key { key, value, rule } => {
                write!(f, "the network configuration's {key} is {value}: it must be {rule}")
            }
            NetConfError::Mode { value } => {
                write!(f, "the network configuration's mode is {value}: served is \"shared\"")
            }
            NetConfError::Verb { verb, least, version } => {
                let (least, version) = (least.as_str(), version.as_str());
                write!(
                    f,
                    "{verb} is of CNI {least} and later: the network configuration's cniVersion is {version}"
                )
            }
            NetConfError::Listed { key, index, cause } => {
                write!(f, "the network configuration's {key}[{index}]: {cause}")
            }
        }
    }
}

impl std::error::Error for NetConfError {}

/// The `cniVersion` of a configuration, as it is written; for the error object of one that is refused.
pub(crate) fn version_text(input: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(input).ok()?;
    Some(value.get("cniVersion")?.as_str()?.to_owned())
}

/// Reads a configuration. `lenient`: as DEL reads it.
pub(crate) fn read(input: &[u8], lenient: bool) -> Result<NetConf, NetConfError> {
    let value: Value =
        serde_json::from_slice(input).map_err(|error| NetConfError::Decode { cause: error.to_string() })?;
    let Value::Object(object) = value else {
        return Err(NetConfError::Invalid { cause: "it is not an object".to_owned() });
    };
    // A configuration without a version is of 0.1.0 (CNI spec, "Version considerations"), which is not served.
    let version = object.get("cniVersion").and_then(Value::as_str).unwrap_or("0.1.0");
    let version = version.parse().map_err(NetConfError::Version)?;
    let keys = match serde_json::from_slice::<NetworkConfig>(input) {
        Ok(config) => Keys {
            name: config.name,
            specific: config.specific.into_iter().collect(),
            runtime: config.runtime,
        },
        Err(_) if lenient => Keys::lenient(&object),
        Err(error) => return Err(NetConfError::Invalid { cause: error.to_string() }),
    };
    keys.checked(version, lenient)
}

/// The parts that are used, however they were read.
struct Keys {
    name: String,
    specific: BTreeMap<String, Value>,
    runtime: Option<cni_plugin::config::RuntimeConfig>,
}

impl Keys {
    fn lenient(object: &Map<String, Value>) -> Keys {
        let name = object.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        let specific = object.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        Keys { name, specific, runtime: None }
    }

    fn checked(self, version: CniVersion, lenient: bool) -> Result<NetConf, NetConfError> {
        let network = self.name.parse().map_err(NetConfError::Name)?;
        let socket = self.path("socket")?.unwrap_or_else(|| PathBuf::from(SOCKET));
        let spool = self.path("spool");
        let deadline =
            self.number("deadline_ms", DEADLINE_RANGE_MS, "a number of milliseconds from 1000 to 600000");
        let mtu = self.number("mtu", MTU_RANGE, "a number of bytes from 576 to 65535");
        let mode = match self.specific.get("mode") {
            None => Ok(None),
            Some(Value::String(mode)) if mode == "shared" => Ok(Some(Mode::Shared)),
            Some(other) => Err(NetConfError::Mode { value: other.to_string() }),
        };
        // A DEL needs its paths alone: what else is wrong does not keep a container from going.
        let (deadline, mtu, mode) = if lenient {
            (deadline.unwrap_or(None), mtu.unwrap_or(None), mode.unwrap_or(None))
        } else {
            (deadline?, mtu?, mode?)
        };
        let spool = spool?.unwrap_or_else(|| run_dir(&socket).join(SPOOL));
        Ok(NetConf {
            version,
            network,
            socket,
            spool,
            deadline: deadline.map_or(DEADLINE, Duration::from_millis),
            mode,
            mtu: mtu.and_then(|mtu| u32::try_from(mtu).ok()),
            annotations: self.annotations(),
        })
    }

    fn path(&self, key: &'static str) -> Result<Option<PathBuf>, NetConfError> {
        match self.specific.get(key) {
            None => Ok(None),
            Some(Value::String(path)) if path.starts_with('/') => Ok(Some(PathBuf::from(path))),
            Some(other) => Err(refused(key, other, "an absolute path")),
        }
    }

    fn number(
        &self,
        key: &'static str,
        range: std::ops::RangeInclusive<u64>,
        rule: &'static str,
    ) -> Result<Option<u64>, NetConfError> {
        match self.specific.get(key) {
            None => Ok(None),
            Some(value) => match value.as_u64().filter(|number| range.contains(number)) {
                Some(number) => Ok(Some(number)),
                None => Err(refused(key, value, rule)),
            },
        }
    }

    fn annotations(&self) -> BTreeMap<String, String> {
        let all = self.runtime.as_ref().and_then(|r| r.specific.get(ANNOTATIONS)).and_then(Value::as_object);
        let ours = all.into_iter().flatten().filter(|(key, _)| key.starts_with(ANNOTATION_PREFIX));
        ours.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
    }
}

fn refused(key: &'static str, value: &Value, rule: &'static str) -> NetConfError {
    NetConfError::Key { key, value: value.to_string().chars().take(64).collect(), rule }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn conf(changes: &Value) -> Result<NetConf, NetConfError> {
        let mut value = json!({ "cniVersion": "1.0.0", "name": "vpc", "type": "eni-cni" });
        for (key, change) in changes.as_object().unwrap() {
            value[key] = change.clone();
        }
        read(value.to_string().as_bytes(), false)
    }

    #[test]
    fn the_least_configuration_has_the_defaults() {
        let conf = conf(&json!({})).unwrap();
        assert_eq!((conf.network.as_str(), conf.version), ("vpc", CniVersion::V1_0_0));
        assert_eq!(conf.run_dir(), Path::new("/run/eni-cni"));
        assert_eq!(conf.spool, PathBuf::from("/run/eni-cni/spool"));
        assert_eq!((conf.socket, conf.deadline), (PathBuf::from(SOCKET), DEADLINE));
        assert_eq!((conf.mode, conf.mtu), (None, None));
    }

    #[test]
    fn keys_of_ours_are_read_and_checked() {
        let all = json!({ "socket": "/x/s", "deadline_ms": 5000, "mode": "shared", "mtu": 1500 });
        assert_eq!(conf(&json!({ "socket": "/x/s", "spool": "/y" })).unwrap().spool, PathBuf::from("/y"));
        let read = conf(&all).unwrap();
        assert_eq!(read.spool, PathBuf::from("/x/spool"));
        assert_eq!((read.socket, read.deadline), (PathBuf::from("/x/s"), Duration::from_secs(5)));
        assert_eq!((read.mode, read.mtu), (Some(Mode::Shared), Some(1500)));
        for (key, value) in [
            ("socket", json!("relative")),
            ("socket", json!(1)),
            ("spool", json!("relative")),
            ("deadline_ms", json!(1)),
            ("deadline_ms", json!("5")),
            ("mtu", json!(100)),
            ("mtu", json!(-1)),
            ("mode", json!("exclusive")),
        ] {
            let error = conf(&json!({ key: value })).unwrap_err().to_string();
            assert!(error.contains(key), "{key}: {error}");
        }
    }

    #[test]
    fn annotations_of_our_prefix_alone_travel() {
        let annotations =
            json!({ "eni-cni.io/mode": "shared", "kubectl/last": "x".repeat(1000), "eni-cni.io/n": 1 });
        let read = conf(&json!({ "runtimeConfig": { ANNOTATIONS: annotations } })).unwrap();
        assert_eq!(read.annotations, BTreeMap::from([("eni-cni.io/mode".to_owned(), "shared".to_owned())]));
    }

    #[test]
    fn a_del_goes_on_where_the_crate_refuses() {
        let odd = json!({ "cniVersion": "1.0.0", "name": "vpc", "type": "eni-cni", "ipam": {}, "args": null, "mtu": -1 });
        let odd = odd.to_string();
        assert!(matches!(read(odd.as_bytes(), false), Err(NetConfError::Invalid { .. })));
        assert_eq!(read(odd.as_bytes(), true).unwrap().network.as_str(), "vpc");
    }

    #[test]
    fn what_is_no_configuration_says_why() {
        assert!(matches!(read(b"{", false), Err(NetConfError::Decode { .. })));
        assert!(matches!(read(b"[]", false), Err(NetConfError::Invalid { .. })));
        assert!(matches!(conf(&json!({ "cniVersion": "0.2.0" })), Err(NetConfError::Version(_))));
        assert!(matches!(conf(&json!({ "name": "a b" })), Err(NetConfError::Name(_))));
        assert_eq!(version_text(b"{\"cniVersion\":\"9\"}").as_deref(), Some("9"));
        assert_eq!(version_text(b"{"), None);
    }
}
