//! An ENI as EC2's answer has it, as core's data.
//!
//! Owns what the fields of NetworkInterface mean
//! (<https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_NetworkInterface.html>). A field that is there and cannot
//! be read fails the ENI: an observation is whole or unknown.

use aws_sdk_ec2::types::{AttachmentStatus, NetworkInterface, NetworkInterfaceAttachment};
use eni_proto::ids::SubnetId;
use ipamd_core::cloud::{EniAttachment, EniAttachmentStatus, EniObservation, PLAIN_INTERFACE};
use ipnet::Ipv4Net;
use std::fmt::Display;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// Its subnet.
pub(crate) fn subnet(eni: &NetworkInterface) -> Result<SubnetId, String> {
    read("subnetId", eni.subnet_id())
}

/// All of it, with its subnet's CIDR.
pub(crate) fn observation(eni: &NetworkInterface, subnet_cidr: Ipv4Net) -> Result<EniObservation, String> {
    let mut primary: Option<Ipv4Addr> = None;
    let mut secondary = Vec::new();
    for told in eni.private_ip_addresses() {
        let address = read("privateIpAddress", told.private_ip_address())?;
        if told.primary() == Some(true) {
            primary = Some(address);
        } else {
            secondary.push(address);
        }
    }
    // What the ENI itself names is its primary, whatever its list says or does not say yet.
    if let Some(own) = eni.private_ip_address() {
        primary = Some(read("privateIpAddress", Some(own))?);
    }
    secondary.retain(|address| Some(*address) != primary);
    let prefixes = eni.ipv4_prefixes().iter().map(|told| read("ipv4Prefix", told.ipv4_prefix()));
    let tags = eni.tag_set().iter();
    Ok(EniObservation {
        id: read("networkInterfaceId", eni.network_interface_id())?,
        mac: read("macAddress", eni.mac_address())?,
        subnet: subnet(eni)?,
        subnet_cidr,
        primary,
        secondary,
        prefixes: prefixes.collect::<Result<_, _>>()?,
        attachment: eni.attachment().map(attachment).transpose()?.flatten(),
        security_groups: eni.groups().iter().filter_map(|g| g.group_id()).map(str::to_owned).collect(),
        tags: tags.filter_map(|tag| Some((tag.key()?.to_owned(), tag.value()?.to_owned()))).collect(),
        private_dns_name: eni.private_dns_name().filter(|name| !name.is_empty()).map(str::to_owned),
        kind: eni.interface_type().map_or(PLAIN_INTERFACE, |kind| kind.as_str()).to_owned(),
    })
}

fn attachment(told: &NetworkInterfaceAttachment) -> Result<Option<EniAttachment>, String> {
    let status = match told.status() {
        Some(AttachmentStatus::Attaching) => EniAttachmentStatus::Attaching,
        Some(AttachmentStatus::Attached) => EniAttachmentStatus::Attached,
        Some(AttachmentStatus::Detaching) => EniAttachmentStatus::Detaching,
        Some(AttachmentStatus::Detached) => return Ok(None),
        other => return Err(format!("the attachment's status is {other:?}")),
    };
    let number = |name: &str, value: Option<i32>| {
        u32::try_from(value.unwrap_or(0)).map_err(|_| format!("{name} is {value:?}"))
    };
    if told.device_index().is_none() {
        return Err("the attachment has no deviceIndex".to_owned());
    }
    Ok(Some(EniAttachment {
        instance: read("the attachment's instanceId", told.instance_id())?,
        device_index: number("deviceIndex", told.device_index())?,
        status,
        id: told.attachment_id().map(str::to_owned),
        network_card: number("networkCardIndex", told.network_card_index())?,
        delete_on_termination: told.delete_on_termination() == Some(true),
    }))
}

/// A field that must be there.
pub(crate) fn read<T>(name: &str, value: Option<&str>) -> Result<T, String>
where
    T: FromStr,
    T::Err: Display,
{
    let text = value.ok_or_else(|| format!("{name} is missing"))?;
    text.parse().map_err(|error| format!("{name} is {text:?}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_sdk_ec2::types::builders::NetworkInterfaceBuilder;
    use aws_sdk_ec2::types::{NetworkInterfacePrivateIpAddress, NetworkInterfaceType};

    fn own(address: &str, primary: bool) -> NetworkInterfacePrivateIpAddress {
        NetworkInterfacePrivateIpAddress::builder().private_ip_address(address).primary(primary).build()
    }

    fn eni() -> NetworkInterfaceBuilder {
        NetworkInterface::builder()
            .network_interface_id("eni-1")
            .mac_address("02:00:00:00:00:01")
            .subnet_id("subnet-1")
    }

    fn attached() -> NetworkInterfaceAttachment {
        NetworkInterfaceAttachment::builder()
            .attachment_id("eni-attach-1")
            .instance_id("i-1")
            .device_index(2)
            .network_card_index(1)
            .delete_on_termination(true)
            .status(AttachmentStatus::Attached)
            .build()
    }

    fn cidr() -> Ipv4Net {
        "10.0.1.0/24".parse().unwrap()
    }

    #[test]
    fn the_primary_is_what_the_eni_names_else_what_its_list_marks() {
        let listed = eni()
            .private_ip_addresses(own("10.0.1.9", false))
            .private_ip_addresses(own("10.0.1.5", true))
            .build();
        let seen = observation(&listed, cidr()).unwrap();
        assert_eq!(
            (seen.primary, seen.secondary),
            ("10.0.1.5".parse().ok(), vec!["10.0.1.9".parse().unwrap()])
        );
        // The list does not mark it: it is no secondary address all the same.
        let named = eni().private_ip_address("10.0.1.5").private_ip_addresses(own("10.0.1.5", false)).build();
        let seen = observation(&named, cidr()).unwrap();
        assert_eq!((seen.primary, seen.secondary), ("10.0.1.5".parse().ok(), Vec::new()));
        let untold = observation(&eni().build(), cidr()).unwrap();
        assert_eq!((untold.primary, untold.kind.as_str()), (None, "interface"));
    }

    #[test]
    fn an_attachment_is_whole_or_the_eni_is_unknown() {
        let seen = observation(&eni().attachment(attached()).build(), cidr()).unwrap().attachment.unwrap();
        assert_eq!((seen.device_index, seen.network_card, seen.delete_on_termination), (2, 1, true));
        assert_eq!(seen.id.as_deref(), Some("eni-attach-1"));
        let detached = NetworkInterfaceAttachment::builder().status(AttachmentStatus::Detached).build();
        assert_eq!(observation(&eni().attachment(detached).build(), cidr()).unwrap().attachment, None);
        let strange = NetworkInterfaceAttachment::builder().status("folded".into()).build();
        assert!(observation(&eni().attachment(strange).build(), cidr()).is_err());
        let nowhere = NetworkInterfaceAttachment::builder().status(AttachmentStatus::Attached).build();
        assert!(observation(&eni().attachment(nowhere).build(), cidr()).is_err());
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let bad = eni().mac_address("02:00").build();
        assert!(observation(&bad, cidr()).unwrap_err().contains("macAddress"));
        let bad = eni().private_ip_addresses(own("fe80::1", false)).build();
        assert!(observation(&bad, cidr()).unwrap_err().contains("privateIpAddress"));
        let trunk = eni().interface_type(NetworkInterfaceType::Trunk).build();
        assert_eq!(observation(&trunk, cidr()).unwrap().kind, "trunk");
    }
}
