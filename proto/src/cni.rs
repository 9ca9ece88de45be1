//! The CNI types: versions, the result of ADD and the error object, in the layout of each version.
//!
//! Owns the conversion of a 1.1.0 result down to 1.0.0, 0.4.0 and 0.3.1 (CNI spec, "ADD Success"). Does not parse a
//! network configuration: the plugin does.

use crate::error::WireError;
use crate::ids::MacAddr;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// The versions of the CNI specification that are served, oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CniVersion {
    /// 0.3.1
    V0_3_1,
    /// 0.4.0
    V0_4_0,
    /// 1.0.0
    V1_0_0,
    /// 1.1.0
    V1_1_0,
}

impl CniVersion {
    /// All of them, oldest first.
    pub const ALL: [CniVersion; 4] =
        [CniVersion::V0_3_1, CniVersion::V0_4_0, CniVersion::V1_0_0, CniVersion::V1_1_0];

    /// The version's text, as `cniVersion` has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            CniVersion::V0_3_1 => "0.3.1",
            CniVersion::V0_4_0 => "0.4.0",
            CniVersion::V1_0_0 => "1.0.0",
            CniVersion::V1_1_0 => "1.1.0",
        }
    }
}

impl fmt::Display for CniVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A version that is not served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownVersion(pub String);

impl fmt::Display for UnknownVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let served: Vec<_> = CniVersion::ALL.iter().map(|v| v.as_str()).collect();
        write!(f, "cniVersion {:?} is not served; served are {}", self.0, served.join(", "))
    }
}

impl std::error::Error for UnknownVersion {}

impl FromStr for CniVersion {
    type Err = UnknownVersion;
    fn from_str(text: &str) -> Result<Self, UnknownVersion> {
        let found = CniVersion::ALL.into_iter().find(|v| v.as_str() == text);
        found.ok_or_else(|| UnknownVersion(text.to_owned()))
    }
}

/// The result of ADD, in the 1.1.0 layout.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddResult {
    /// Host side first, then the sandbox's interface.
    pub interfaces: Vec<Interface>,
    /// The addresses.
    pub ips: Vec<IpConfig>,
    /// The routes inside the sandbox.
    #[serde(default)]
    pub routes: Vec<Route>,
    /// Name service: left empty, the runtime has its own.
    #[serde(default)]
    pub dns: Dns,
}

/// One interface that ADD made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its Ethernet address.
    pub mac: MacAddr,
    /// Its MTU in bytes; 1.1.0 only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// CNI_NETNS for the sandbox's interface, empty for the host's.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sandbox: String,
}

/// One address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpConfig {
    /// The address with its prefix length, as `10.0.1.5/32`.
    pub address: String,
    /// The gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Ipv4Addr>,
    /// The interface that holds it, as an index into `interfaces`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<u32>,
}

/// One route inside the sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The destination, as `0.0.0.0/0`.
    pub dst: String,
    /// The gateway; none for an on-link route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gw: Option<Ipv4Addr>,
    /// rtnetlink's scope (253 is link); 1.1.0 only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<u8>,
}

/// Name service settings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// Servers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
}

impl AddResult {
    /// The result in the layout of `version`: 0.3.x and 0.4.0 say `version` with each address; `mtu` and a route's
    /// scope are of 1.1.0 alone.
    pub fn to_version(&self, version: CniVersion) -> Value {
        let mut value = json!({
            "cniVersion": version.as_str(),
            "interfaces": self.interfaces,
            "ips": self.ips,
            "routes": self.routes,
            "dns": self.dns,
        });
        if version < CniVersion::V1_1_0 {
            strip(&mut value["interfaces"], "mtu");
            strip(&mut value["routes"], "scope");
        }
        if version < CniVersion::V1_0_0
            && let Some(ips) = value["ips"].as_array_mut()
        {
            for ip in ips {
                ip["version"] = "4".into();
            }
        }
        value
    }
}

fn strip(list: &mut Value, key: &str) {
    for item in list.as_array_mut().into_iter().flatten() {
        if let Some(object) = item.as_object_mut() {
            object.remove(key);
        }
    }
}

/// The error object that a plugin prints on stdout (CNI spec, "Error"). `version` is what the request asked for, as
/// it wrote it.
pub fn error_object(version: &str, error: &WireError) -> Value {
    let mut value = json!({ "cniVersion": version, "code": u32::from(error.code), "msg": error.msg });
    let details = error.details();
    if !details.is_empty() {
        value["details"] = details.into();
    }
    value
}

/// The answer to VERSION, for the version that the request named.
pub fn version_object(version: &str) -> Value {
    let served: Vec<_> = CniVersion::ALL.iter().map(|v| v.as_str()).collect();
    json!({ "cniVersion": version, "supportedVersions": served })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    fn result() -> AddResult {
        let mac = MacAddr([2, 0, 0, 0, 0, 1]);
        AddResult {
            interfaces: vec![
                Interface { name: "eni0123456789a".into(), mac, mtu: Some(9001), sandbox: String::new() },
                Interface { name: "eth0".into(), mac, mtu: Some(9001), sandbox: "/run/netns/a".into() },
            ],
            ips: vec![IpConfig { address: "10.0.1.5/32".into(), gateway: None, interface: Some(1) }],
            routes: vec![
                Route { dst: "169.254.1.1/32".into(), gw: None, scope: Some(253) },
                Route { dst: "0.0.0.0/0".into(), gw: Some(Ipv4Addr::new(169, 254, 1, 1)), scope: None },
            ],
            dns: Dns::default(),
        }
    }

    #[test]
    fn older_versions_lose_what_they_do_not_know() {
        let new = result().to_version(CniVersion::V1_1_0);
        assert_eq!(new["interfaces"][1]["mtu"], 9001);
        assert_eq!(new["routes"][0]["scope"], 253);
        assert_eq!(new["ips"][0].get("version"), None);
        for version in [CniVersion::V0_3_1, CniVersion::V0_4_0, CniVersion::V1_0_0] {
            let old = result().to_version(version);
            assert_eq!(old["cniVersion"], version.as_str());
            assert_eq!(old["interfaces"][1].get("mtu"), None);
            assert_eq!(old["routes"][0].get("scope"), None);
            let expected = (version < CniVersion::V1_0_0).then(|| Value::from("4"));
            assert_eq!(old["ips"][0].get("version"), expected.as_ref());
        }
    }

    #[test]
    fn an_independent_parser_takes_the_newest_result() {
        let value = result().to_version(CniVersion::V1_1_0);
        let parsed: rscni_types::types::CNIResult = serde_json::from_value(value).unwrap();
        assert_eq!(parsed.interfaces.len(), 2);
        assert_eq!(parsed.ips.len(), 1);
    }

    #[test]
    fn errors_carry_the_request_version_and_code() {
        let object = error_object("0.4.0", &WireError::new(Code::TryAgainLater, "no address").advice("wait"));
        assert_eq!(
            object,
            json!({"cniVersion": "0.4.0", "code": 11, "msg": "no address", "details": "wait"})
        );
    }

    #[test]
    fn unknown_versions_name_the_served_ones() {
        let error = "0.2.0".parse::<CniVersion>().unwrap_err();
        assert!(error.to_string().contains("0.3.1, 0.4.0, 1.0.0, 1.1.0"));
    }
}
