//! What an attachment looks like from outside: the result of its ADD, its link's alias, the errors of wiring.
//!
//! Owns these shapes, and the mapping from a failure of wiring to a CNI error. Does not decide anything.

use crate::kernel::{Alias, SANDBOX_GATEWAY, WireError};
use crate::record::AttachmentRecord;
use eni_proto::cni::{AddResult, Dns, Interface, IpConfig, Route};
use eni_proto::error::{Code, WireError as ReplyError};

/// RT_SCOPE_LINK.
const SCOPE_LINK: u8 = 253;

/// What ADD answers: the host's link, the sandbox's, its address and the two routes in it.
pub(super) fn result(record: &AttachmentRecord) -> AddResult {
    let host = Interface {
        name: record.host_link.to_string(),
        mac: record.host_mac,
        mtu: Some(record.mtu),
        sandbox: String::new(),
    };
    let sandbox = Interface {
        name: record.key.ifname.to_string(),
        mac: record.sandbox_mac,
        mtu: Some(record.mtu),
        sandbox: record.netns.clone(),
    };
    let ip = |address: &std::net::Ipv4Addr| IpConfig {
        address: format!("{address}/32"),
        gateway: Some(SANDBOX_GATEWAY),
        interface: Some(1),
    };
    AddResult {
        interfaces: vec![host, sandbox],
        ips: record.addresses.iter().map(ip).collect(),
        routes: vec![
            Route { dst: format!("{SANDBOX_GATEWAY}/32"), gw: None, scope: Some(SCOPE_LINK) },
            Route { dst: "0.0.0.0/0".to_owned(), gw: Some(SANDBOX_GATEWAY), scope: None },
        ],
        dns: Dns::default(),
    }
}

/// The second copy of the record, on the link itself.
pub(super) fn alias(record: &AttachmentRecord) -> Alias {
    Alias {
        cookie: record.netns_cookie,
        container: record.key.container.to_string(),
        ifname: record.key.ifname.to_string(),
        generation: record.generation,
        network: record.key.network.to_string(),
        pod: record.pod.clone().unwrap_or_default(),
    }
}

/// The CNI error for a sandbox that could not be wired.
pub(super) fn wire_refusal(error: &WireError) -> ReplyError {
    let text = error.to_string();
    match error {
        WireError::IfnameTaken { .. } => ReplyError::new(Code::InvalidEnvironment, text)
            .advice("CNI_IFNAME must not exist in CNI_NETNS: DEL its owner first or choose another name"),
        WireError::SandboxGone => ReplyError::new(Code::InvalidNetns, text)
            .advice("the runtime removed CNI_NETNS while its ADD was under way"),
        WireError::IfindexTaken { .. } | WireError::HostNameTaken { .. } => {
            ReplyError::new(Code::TryAgainLater, "no free link name or number was found in three tries")
                .cause(text)
        }
        WireError::Refused { .. } => ReplyError::new(Code::Io, "the sandbox could not be wired").cause(text),
    }
}
