//! What a runtime adds to the network configuration for one verb: prevResult for CHECK, the list of valid attachments
//! for GC.
//!
//! Owns reading these two keys, and which CNI version may bring them. Of prevResult only what is compared is read: the
//! addresses of the attachment's own interface. Does not read the configuration itself: `netconf` does.

use crate::netconf::NetConfError;
use eni_proto::cni::CniVersion;
use eni_proto::ids::Ifname;
use eni_proto::request::ValidAttachment;
use serde_json::{Map, Value};
use std::net::Ipv4Addr;

const PREV_RESULT: &str = "prevResult";
/// GC's list (CNI spec 1.1.0, "GC").
const VALID: &str = "cni.dev/valid-attachments";
/// The same list as libcni before 1.2.3 named it; later ones write both.
const VALID_BEFORE: &str = "cni.dev/attachments";

/// Refuses a verb that the configuration's version does not have.
pub(crate) fn since(verb: &'static str, least: CniVersion, version: CniVersion) -> Result<(), NetConfError> {
    if version < least { Err(NetConfError::Verb { verb, least, version }) } else { Ok(()) }
}

/// The addresses that prevResult gives to the interface `ifname`. What later plugins of the chain have added to it is
/// theirs; a result that gives it none says nothing.
pub(crate) fn prev_addresses(input: &[u8], ifname: &Ifname) -> Result<Vec<Ipv4Addr>, NetConfError> {
    let result = match object(input).remove(PREV_RESULT) {
        Some(Value::Object(result)) => result,
        None | Some(Value::Null) => return Err(refused(PREV_RESULT, "absent", "what ADD has answered")),
        Some(other) => return Err(refused(PREV_RESULT, &short(&other), "what ADD has answered")),
    };
    let list = |key: &str| result.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    let interfaces = list("interfaces");
    let of_ours = |ip: &Value| {
        let index = ip.get("interface").and_then(Value::as_u64).and_then(|i| usize::try_from(i).ok());
        let Some(interface) = index.and_then(|i| interfaces.get(i)) else { return true };
        let inside = interface.get("sandbox").and_then(Value::as_str).is_some_and(|s| !s.is_empty());
        inside && interface.get("name").and_then(Value::as_str) == Some(ifname.as_str())
    };
    let address = |ip: &Value| ip.get("address")?.as_str()?.split('/').next()?.parse().ok();
    Ok(list("ips").iter().filter(|ip| of_ours(ip)).filter_map(address).collect())
}

/// GC's list. JSON's null is empty: so a Go runtime writes a list without elements. An absent one is refused: whoever
/// names no attachment has not said that there is none.
pub(crate) fn valid_attachments(input: &[u8]) -> Result<Vec<ValidAttachment>, NetConfError> {
    const RULE: &str = "the list of the attachments that are valid (null or [] when there is none)";
    let mut object = object(input);
    let lists: Vec<Value> = [VALID, VALID_BEFORE].iter().filter_map(|key| object.remove(*key)).collect();
    if lists.is_empty() {
        return Err(refused(VALID, "absent", RULE));
    }
    let mut valid = Vec::new();
    for list in lists {
        match list {
            Value::Null => {}
            Value::Array(list) => {
                for (index, attachment) in list.iter().enumerate() {
                    valid.push(listed(index, attachment)?);
                }
            }
            other => return Err(refused(VALID, &short(&other), RULE)),
        }
    }
    // Most runtimes name each twice, once under each key.
    valid.sort();
    valid.dedup();
    Ok(valid)
}

/// One attachment of the list. A list with an id that is none is not to be relied on: what else may be missing in it?
fn listed(index: usize, attachment: &Value) -> Result<ValidAttachment, NetConfError> {
    let text = |key: &str| attachment.get(key).and_then(Value::as_str).unwrap_or_default();
    let bad = |cause| NetConfError::Listed { key: VALID, index, cause };
    Ok(ValidAttachment {
        container: text("containerID").parse().map_err(bad)?,
        ifname: text("ifname").parse().map_err(bad)?,
    })
}

/// The configuration's keys: it was read before, so that it is an object.
fn object(input: &[u8]) -> Map<String, Value> {
    serde_json::from_slice(input).unwrap_or_default()
}

fn refused(key: &'static str, value: &str, rule: &'static str) -> NetConfError {
    NetConfError::Key { key, value: value.to_owned(), rule }
}

fn short(value: &Value) -> String {
    value.to_string().chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn prev(result: &Value) -> Result<Vec<Ipv4Addr>, NetConfError> {
        let input = json!({ "prevResult": result }).to_string();
        prev_addresses(input.as_bytes(), &"eth0".parse().unwrap())
    }

    #[test]
    fn the_addresses_of_the_own_interface_are_read() {
        let interfaces = json!([
            { "name": "eni0", "mac": "02:00:00:00:00:01" },
            { "name": "eth0", "sandbox": "/x" },
            { "name": "net1", "sandbox": "/x" },
        ]);
        let ips = json!([
            { "address": "10.0.0.1/32", "interface": 1 },
            { "address": "10.0.0.2/32", "interface": 2 },
            { "address": "10.0.0.3/32", "interface": 0 },
            { "address": "10.0.0.4/32" },
            { "address": "fd00::1/128", "interface": 1 },
            { "address": 5, "interface": 1 },
        ]);
        let read = prev(&json!({ "interfaces": interfaces, "ips": ips })).unwrap();
        assert_eq!(read, [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 4)]);
        assert!(prev(&json!({})).unwrap().is_empty());
        for bad in [json!(null), json!([]), json!("x")] {
            assert!(prev(&bad).unwrap_err().to_string().contains("prevResult"), "{bad}");
        }
        let absent = prev_addresses(b"{}", &"eth0".parse().unwrap()).unwrap_err();
        assert!(absent.to_string().contains("prevResult is absent"), "{absent}");
    }

    fn list(value: &Value) -> Result<Vec<(String, String)>, NetConfError> {
        let read = valid_attachments(value.to_string().as_bytes())?;
        Ok(read.iter().map(|a| (a.container.to_string(), a.ifname.to_string())).collect())
    }

    #[test]
    fn absent_null_empty_and_full_lists_are_told_apart() {
        let one = |container: &str| json!([{ "containerID": container, "ifname": "eth0" }]);
        let told = |container: &str| vec![(container.to_owned(), "eth0".to_owned())];
        let absent = list(&json!({})).unwrap_err().to_string();
        assert!(absent.contains("cni.dev/valid-attachments is absent"), "{absent}");
        assert_eq!(list(&json!({ VALID: null })), Ok(vec![]));
        assert_eq!(list(&json!({ VALID: [] })), Ok(vec![]));
        assert_eq!(list(&json!({ VALID: one("ABC-1") })), Ok(told("ABC-1")));
        assert_eq!(list(&json!({ VALID: one("a"), VALID_BEFORE: one("a") })), Ok(told("a")));
        assert_eq!(list(&json!({ VALID_BEFORE: one("a") })), Ok(told("a")), "libcni before 1.2.3");
        let both = list(&json!({ VALID: one("a"), VALID_BEFORE: one("b") })).unwrap();
        assert_eq!(both.len(), 2, "what one of them names is valid");
    }

    #[test]
    fn a_bad_list_is_refused_whole() {
        for (value, words) in [
            (json!({}), "valid-attachments is {}"),
            (json!("none"), "valid-attachments"),
            (
                json!([{ "containerID": "a", "ifname": "eth0" }, { "containerID": "-", "ifname": "eth0" }]),
                "[1]",
            ),
            (json!([{ "containerID": "a", "ifname": "a/b" }]), "a/b"),
            (json!([{ "containerID": "a" }]), "ifname"),
            (json!(["a"]), "container id"),
        ] {
            let error = list(&json!({ VALID: value })).unwrap_err().to_string();
            assert!(error.contains(words), "{words}: {error}");
        }
    }

    #[test]
    fn a_verb_is_of_its_version_and_later_ones() {
        assert!(since("CHECK", CniVersion::V0_4_0, CniVersion::V0_4_0).is_ok());
        let error = since("GC", CniVersion::V1_1_0, CniVersion::V1_0_0).unwrap_err().to_string();
        assert!(error.contains("GC") && error.contains("1.1.0") && error.contains("1.0.0"), "{error}");
    }
}
