//! What the host must have, and what to do where it has it not.
//!
//! Owns one sentence for each requirement, told from the step that failed and the kernel's or the program's words. Does not
//! check anything itself: the steps and looks do.

use crate::kernel::HostStep;

/// What to do about a step that failed because the host lacks something; none when it is no such failure.
pub fn advice(step: &HostStep, cause: &str) -> Option<&'static str> {
    let unsupported =
        ["not supported", "No such file or directory", "EOPNOTSUPP", "EAFNOSUPPORT", "EPROTONOSUPPORT"];
    let unsupported = unsupported.iter().any(|words| cause.contains(words));
    let refused = cause.contains("EPERM") || cause.contains("not permitted");
    match step {
        HostStep::ReplaceNft { .. } if cause.contains("is missing") => {
            Some("install nftables (the program nft, 1.0 or later); ipamd lays its own table with it")
        }
        HostStep::ReplaceNft { .. } if unsupported => Some(
            "the kernel lacks a part of nf_tables: it needs CONFIG_NF_TABLES, NF_TABLES_IPV4, NFT_CT, NFT_NAT, NFT_FIB_IPV4 \
             and NF_CONNTRACK_MARK (modules nf_tables, nft_ct, nft_chain_nat, nft_fib_ipv4)",
        ),
        HostStep::AddRule { .. } if unsupported => {
            Some("the kernel has no policy routing: it needs CONFIG_IP_MULTIPLE_TABLES")
        }
        HostStep::AddRule { .. } | HostStep::ReplaceNft { .. } if refused => {
            Some("ipamd lacks the right: it needs CAP_NET_ADMIN in the host's network namespace")
        }
        _ => None,
    }
}

/// What is told while the kernel forwards nothing.
pub const FORWARDING_OFF: &str = "net.ipv4.ip_forward is 0, so that no packet of a pod leaves the node: run `sysctl -w \
                                  net.ipv4.ip_forward=1` and install conf/sysctl.d";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_missing_requirement_has_its_sentence() {
        let nft = HostStep::ReplaceNft { text: String::new() };
        let rule = HostStep::AddRule { priority: 512, table: 1, mark: None };
        let told = |step: &HostStep, cause: &str| advice(step, cause).unwrap_or_default();
        assert!(told(&nft, "the program nft is missing: install it").contains("install nftables"));
        let words = "nft ended with exit status: 1: Error: Could not process rule: No such file or directory";
        assert!(told(&nft, words).contains("CONFIG_NF_TABLES"));
        assert!(told(&rule, "EAFNOSUPPORT: Address family not supported").contains("IP_MULTIPLE_TABLES"));
        assert!(told(&rule, "EPERM: Operation not permitted").contains("CAP_NET_ADMIN"));
        let alias = HostStep::SetAlias { ifindex: 1, alias: String::new() };
        assert_eq!(advice(&alias, "EPERM: Operation not permitted"), None, "it concerns that link alone");
        assert_eq!(advice(&rule, "EBUSY: Device or resource busy"), None);
    }
}
