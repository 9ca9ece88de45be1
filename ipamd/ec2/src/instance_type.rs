//! What an instance type carries, as EC2's answer has it.
//!
//! Owns what the fields of InstanceTypeInfo mean
//! (<https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_InstanceTypeInfo.html>).

use aws_sdk_ec2::types::{InstanceTypeHypervisor, InstanceTypeInfo};
use ipamd_core::cloud::InstanceLimits;

/// Its limits; none when EC2 does not tell them.
pub(crate) fn limits(told: &InstanceTypeInfo) -> Option<InstanceLimits> {
    let network = told.network_info()?;
    // A type with several network cards counts all of them in its own maximum; ours is the first.
    let first = network.network_cards().iter().find(|card| card.network_card_index() == Some(0));
    let enis = first.map_or(
        network.maximum_network_interfaces(),
        aws_sdk_ec2::types::NetworkCardInfo::maximum_network_interfaces,
    )?;
    // Amazon EC2 user guide, "Prefix delegation for Amazon EC2 network interfaces": only instances built on the Nitro
    // System; bare metal is, and has no hypervisor.
    let nitro = told.hypervisor() == Some(&InstanceTypeHypervisor::Nitro);
    let vcpus = told.v_cpu_info().and_then(aws_sdk_ec2::types::VCpuInfo::default_v_cpus);
    Some(InstanceLimits {
        enis: positive(enis)?,
        addresses_per_eni: positive(network.ipv4_addresses_per_interface()?)?,
        prefixes: nitro || told.bare_metal() == Some(true),
        vcpus: vcpus.and_then(positive),
    })
}

fn positive(number: i32) -> Option<u32> {
    u32::try_from(number).ok().filter(|number| *number > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_sdk_ec2::types::{NetworkCardInfo, NetworkInfo, VCpuInfo};

    fn card(index: i32, enis: i32) -> NetworkCardInfo {
        NetworkCardInfo::builder().network_card_index(index).maximum_network_interfaces(enis).build()
    }

    #[test]
    fn several_cards_count_by_the_first() {
        let network = NetworkInfo::builder().maximum_network_interfaces(60).ipv4_addresses_per_interface(50);
        let network = network.network_cards(card(1, 15)).network_cards(card(0, 7)).build();
        let told = InstanceTypeInfo::builder()
            .network_info(network)
            .bare_metal(true)
            .v_cpu_info(VCpuInfo::builder().default_v_cpus(96).build());
        let limits = limits(&told.build()).unwrap();
        assert_eq!((limits.enis, limits.addresses_per_eni), (7, 50));
        assert_eq!((limits.prefixes, limits.vcpus), (true, Some(96)));
    }

    #[test]
    fn xen_takes_no_prefixes_and_what_is_not_told_is_unknown() {
        let network =
            NetworkInfo::builder().maximum_network_interfaces(4).ipv4_addresses_per_interface(15).build();
        let xen = InstanceTypeInfo::builder()
            .hypervisor(InstanceTypeHypervisor::Xen)
            .network_info(network.clone())
            .build();
        assert_eq!(limits(&xen), Some(InstanceLimits::new(4, 15)));
        let nitro =
            InstanceTypeInfo::builder().hypervisor(InstanceTypeHypervisor::Nitro).network_info(network);
        assert!(limits(&nitro.build()).unwrap().prefixes);
        assert_eq!(limits(&InstanceTypeInfo::builder().build()), None);
        let none =
            NetworkInfo::builder().maximum_network_interfaces(0).ipv4_addresses_per_interface(15).build();
        assert_eq!(limits(&InstanceTypeInfo::builder().network_info(none).build()), None);
    }
}
