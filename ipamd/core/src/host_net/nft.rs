//! The text of our nft table.
//!
//! Owns what one ENI needs: the set of CIDRs inside the VPC, the drop of what a dying link begins, and SNAT to the
//! node's primary address for what leaves the VPC. The text replaces the table atomically (`add; delete; table`), so
//! laying it again is free of gaps. Does not run nft.

use crate::kernel::{DYING_GROUP, ENI_GROUP, NFT_TABLE};
use ipnet::Ipv4Net;
use std::fmt::Write;
use std::net::Ipv4Addr;

/// What the table depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// The CIDRs inside the VPC.
    pub vpc_cidrs: Vec<Ipv4Net>,
    /// The address that what leaves the VPC is masqueraded to; none leaves it as it is.
    pub snat_to: Option<Ipv4Addr>,
}

/// What `nft -f -` reads.
pub fn render(table: &Table) -> String {
    let mut text = String::new();
    let mut line = |part: std::fmt::Arguments<'_>| {
        text.write_fmt(part).expect("writing to a string does not fail");
        text.push('\n');
    };
    line(format_args!("add table ip {NFT_TABLE}"));
    line(format_args!("delete table ip {NFT_TABLE}"));
    line(format_args!("table ip {NFT_TABLE} {{"));
    let cidrs: Vec<String> = table.vpc_cidrs.iter().map(ToString::to_string).collect();
    let elements =
        if cidrs.is_empty() { String::new() } else { format!(" elements = {{ {} }};", cidrs.join(", ")) };
    line(format_args!(" set vpc {{ type ipv4_addr; flags interval; auto-merge;{elements} }}"));
    // Maps by group, constant size: without `size` each lookup costs 20 to 40 ns more.
    line(format_args!(
        " map from {{ type devgroup : verdict; size 64; elements = {{ {DYING_GROUP} : drop }}; }}"
    ));
    // After DNAT (-100): at -160 a pod's packet to a service's remote endpoint is dropped.
    line(format_args!(" chain steer {{"));
    line(format_args!("  type filter hook prerouting priority dstnat + 10;"));
    line(format_args!("  iifgroup vmap @from"));
    line(format_args!(" }}"));
    if let Some(primary) = table.snat_to {
        let group = ENI_GROUP + 1;
        line(format_args!(" chain masq_out {{"));
        line(format_args!("  type nat hook postrouting priority srcnat + 10;"));
        line(format_args!(
            "  oifgroup {group} ip daddr != @vpc ip saddr != {primary} fib saddr type != local snat to {primary} fully-random"
        ));
        line(format_args!(" }}"));
    }
    line(format_args!("}}"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_replaced_atomically_and_masquerades() {
        let text = render(&Table {
            vpc_cidrs: vec!["10.0.0.0/16".parse().unwrap(), "10.2.0.0/16".parse().unwrap()],
            snat_to: Some(Ipv4Addr::new(10, 0, 1, 10)),
        });
        assert!(text.starts_with("add table ip eni-cni\ndelete table ip eni-cni\ntable ip eni-cni {\n"));
        assert!(text.contains("elements = { 10.0.0.0/16, 10.2.0.0/16 }"));
        assert!(text.contains("snat to 10.0.1.10 fully-random"));
    }

    #[test]
    fn without_snat_there_is_no_nat_chain() {
        let text = render(&Table { vpc_cidrs: Vec::new(), snat_to: None });
        assert!(!text.contains("nat hook") && !text.contains("elements = { }"));
    }
}
