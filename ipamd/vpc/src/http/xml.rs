//! EC2's answers as XML, in the names of the service model (botocore, `ec2/2016-11-15`: the `locationName` of each
//! member).
//!
//! Owns the writing of elements and the shapes of network interfaces, subnets and instance types.

use crate::model::{ACCOUNT, Ec2, REGION, SubnetView, status_word};
use ipamd_core::cloud::{EniAttachment, EniObservation, InstanceLimits};
use std::fmt::Display;

/// The namespace of this version of the API.
const NAMESPACE: &str = "http://ec2.amazonaws.com/doc/2016-11-15/";
/// The VPC that all of this lies in.
pub(super) const VPC: &str = "vpc-0e1c0000000000001";

/// Text of elements.
#[derive(Debug, Default)]
pub(super) struct Xml(String);

impl Xml {
    /// An element with a value.
    pub(super) fn value(&mut self, name: &str, value: impl Display) -> &mut Xml {
        let text = value.to_string();
        let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        self.0 += &format!("<{name}>{text}</{name}>");
        self
    }

    /// An element with a value, if there is one.
    pub(super) fn maybe(&mut self, name: &str, value: Option<impl Display>) -> &mut Xml {
        if let Some(value) = value {
            self.value(name, value);
        }
        self
    }

    /// An element with elements.
    pub(super) fn element(&mut self, name: &str, inside: impl FnOnce(&mut Xml)) -> &mut Xml {
        self.0 += &format!("<{name}>");
        inside(self);
        self.0 += &format!("</{name}>");
        self
    }

    /// A list: each of its members is an `item`.
    pub(super) fn list<T>(
        &mut self,
        name: &str,
        members: impl IntoIterator<Item = T>,
        mut write: impl FnMut(&mut Xml, T),
    ) -> &mut Xml {
        self.element(name, |xml| {
            for member in members {
                xml.element("item", |xml| write(xml, member));
            }
        })
    }
}

/// The whole of an answer.
pub(super) fn response(action: &str, request_id: &str, inside: impl FnOnce(&mut Xml)) -> String {
    let mut xml = Xml::default();
    xml.value("requestId", request_id);
    inside(&mut xml);
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<{action}Response xmlns=\"{NAMESPACE}\">{}</{action}Response>",
        xml.0
    )
}

/// The whole of a refusal.
pub(super) fn refusal(code: &str, message: &str, request_id: &str) -> String {
    let mut xml = Xml::default();
    xml.element("Response", |xml| {
        xml.element("Errors", |xml| {
            xml.element("Error", |xml| {
                xml.value("Code", code).value("Message", message);
            });
        });
        xml.value("RequestID", request_id);
    });
    format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{}", xml.0)
}

/// A NetworkInterface.
pub(super) fn eni(xml: &mut Xml, eni: &EniObservation, ec2: &Ec2) {
    // It is "in-use" from the call that attaches it on; the states between are its attachment's.
    let status = if eni.attachment.is_some() { "in-use" } else { "available" };
    let dns = eni.private_dns_name.as_deref().filter(|_| eni.primary.is_some());
    xml.value("networkInterfaceId", &eni.id)
        .value("subnetId", &eni.subnet)
        .value("vpcId", VPC)
        .value("availabilityZone", format!("{REGION}a"))
        .value("description", ec2.description(&eni.id))
        .value("ownerId", ACCOUNT)
        .value("requesterManaged", false)
        .value("status", status)
        .value("macAddress", eni.mac)
        .maybe("privateIpAddress", eni.primary)
        .maybe("privateDnsName", dns)
        .value("sourceDestCheck", true)
        .list("groupSet", &eni.security_groups, |xml, group| {
            xml.value("groupId", group).value("groupName", group);
        });
    if let Some(at) = &eni.attachment {
        xml.element("attachment", |xml| attachment(xml, at));
    }
    xml.list("tagSet", &eni.tags, |xml, (key, value)| {
        xml.value("key", key).value("value", value);
    });
    let addresses = eni.primary.iter().map(|a| (a, true)).chain(eni.secondary.iter().map(|a| (a, false)));
    xml.list("privateIpAddressesSet", addresses, |xml, (address, primary)| {
        xml.value("privateIpAddress", address).value("primary", primary);
    });
    if !eni.prefixes.is_empty() {
        xml.list("ipv4PrefixSet", &eni.prefixes, |xml, prefix| {
            xml.value("ipv4Prefix", prefix);
        });
    }
    xml.element("ipv6AddressesSet", |_| ()).value("interfaceType", &eni.kind);
}

fn attachment(xml: &mut Xml, at: &EniAttachment) {
    xml.maybe("attachmentId", at.id.as_ref())
        .value("instanceId", &at.instance)
        .value("instanceOwnerId", ACCOUNT)
        .value("deviceIndex", at.device_index)
        .value("networkCardIndex", at.network_card)
        .value("status", status_word(at.status))
        .value("deleteOnTermination", at.delete_on_termination);
}

/// A Subnet.
pub(super) fn subnet(xml: &mut Xml, subnet: &SubnetView) {
    xml.value("subnetId", &subnet.id)
        .value("state", "available")
        .value("vpcId", VPC)
        .value("cidrBlock", subnet.cidr)
        .value("availableIpAddressCount", subnet.available)
        .value("availabilityZone", format!("{REGION}a"))
        .value("ownerId", ACCOUNT);
}

/// An InstanceTypeInfo, as far as the table knows it: of network cards it has the first alone.
pub(super) fn instance_type(xml: &mut Xml, name: &str, limits: &InstanceLimits) {
    let metal = name.contains(".metal");
    // What takes prefixes is Nitro or bare metal; bare metal has no hypervisor.
    let hypervisor = (!metal).then_some(if limits.prefixes { "nitro" } else { "xen" });
    xml.value("instanceType", name).value("bareMetal", metal).maybe("hypervisor", hypervisor);
    if let Some(vcpus) = limits.vcpus {
        xml.element("vCpuInfo", |xml| {
            xml.value("defaultVCpus", vcpus);
        });
    }
    xml.element("networkInfo", |xml| {
        xml.value("maximumNetworkInterfaces", limits.enis)
            .value("maximumNetworkCards", 1)
            .value("defaultNetworkCardIndex", 0)
            .list("networkCards", [0], |xml, card| {
                xml.value("networkCardIndex", card).value("maximumNetworkInterfaces", limits.enis);
            })
            .value("ipv4AddressesPerInterface", limits.addresses_per_eni);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_and_refusals_have_ec2s_form_and_are_escaped() {
        let text = response("X", "req-1", |xml| {
            xml.list("aSet", ["<&>"], |xml, value| {
                xml.value("b", value);
            });
        });
        assert!(text.ends_with(
            "<XResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><requestId>req-1</requestId>\
             <aSet><item><b>&lt;&amp;&gt;</b></item></aSet></XResponse>"
        ));
        assert!(refusal("C", "m", "req-2").ends_with(
            "<Response><Errors><Error><Code>C</Code><Message>m</Message></Error></Errors>\
             <RequestID>req-2</RequestID></Response>"
        ));
    }
}
