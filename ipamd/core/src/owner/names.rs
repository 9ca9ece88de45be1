//! Names and numbers that are chosen, not asked: host link names and MACs.
//!
//! Owns the derivations. Does not know which name is taken.

use eni_proto::ids::{AttachmentKey, Ifname, MacAddr};
use sha1::{Digest, Sha1};

fn digest(text: &str) -> [u8; 20] {
    Sha1::digest(text.as_bytes()).into()
}

fn link_name(text: &str) -> Ifname {
    let hex: String = digest(text).iter().take(6).map(|b| format!("{b:02x}")).collect();
    format!("eni{}", &hex[..11]).parse().expect("fourteen letters and digits are an ifname")
}

/// Whether a name has the form of a host link's: `eni` and 11 hex digits.
pub(super) fn is_host_link(name: &str) -> bool {
    let digits = name.strip_prefix("eni").unwrap_or_default();
    digits.len() == 11 && digits.bytes().all(|b| b.is_ascii_hexdigit())
}

/// The name that a pod's host link is wanted to have: policy engines compute it from `namespace.pod` for `eth0`.
/// Without a pod it is the attachment's own.
pub(super) fn host_link(pod: Option<&(String, String)>, key: &AttachmentKey) -> Ifname {
    match pod {
        Some((namespace, name)) if key.ifname.as_str() == "eth0" => link_name(&format!("{namespace}.{name}")),
        Some((namespace, name)) => link_name(&format!("{namespace}.{name}.{}", key.ifname)),
        None => own_link(key),
    }
}

/// The attachment's own name: used when another live attachment or a foreign link has the pod's.
pub(super) fn own_link(key: &AttachmentKey) -> Ifname {
    link_name(&key.to_string())
}

/// A locally administered unicast MAC (IEEE 802: the two low bits of the first byte are 1 and 0), the same for the
/// same attachment, generation and end.
pub(super) fn mac(key: &AttachmentKey, generation: u64, end: &str) -> MacAddr {
    let hash = digest(&format!("{key} {generation} {end}"));
    MacAddr([(hash[0] & 0xfc) | 0x02, hash[1], hash[2], hash[3], hash[4], hash[5]])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(ifname: &str) -> AttachmentKey {
        AttachmentKey {
            network: "vpc".parse().unwrap(),
            container: "c1".parse().unwrap(),
            ifname: ifname.parse().unwrap(),
        }
    }

    #[test]
    fn names_are_what_policy_engines_compute() {
        let pod = ("default".to_owned(), "web-0".to_owned());
        // printf default.web-0 | sha1sum | cut -c1-11
        assert_eq!(host_link(Some(&pod), &key("eth0")).as_str(), "eni0d7763386da");
        assert_ne!(host_link(Some(&pod), &key("eth0")), host_link(Some(&pod), &key("net1")));
        assert_ne!(host_link(None, &key("eth0")), host_link(Some(&pod), &key("eth0")));
        assert!(is_host_link(host_link(None, &key("eth0")).as_str()));
        assert!(
            !is_host_link("eni0d7763386d")
                && !is_host_link("eni0d7763386dx")
                && !is_host_link("veth0d7763386da")
        );
    }

    #[test]
    fn macs_are_local_unicast_and_differ() {
        let (host, sandbox) = (mac(&key("eth0"), 1, "host"), mac(&key("eth0"), 1, "sandbox"));
        assert_ne!(host, sandbox);
        assert_ne!(host, mac(&key("eth0"), 2, "host"));
        assert_eq!(host.0[0] & 0x03, 0x02);
    }
}
