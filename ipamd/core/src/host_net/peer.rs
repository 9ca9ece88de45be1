//! Whether amazon-vpc-cni is active on the node.
//!
//! Owns its signs: the shapes of its rules and its list. While it is active it gives the addresses of the same ENIs to its
//! own pods: what ipamd would lay for them (base routes, its nft table) would cut those off, and what ipamd would give out
//! is theirs. Does not decide what follows: the owner does. Chains in iptables are no sign: they stay when it is gone.

use crate::kernel::{HostView, Mark, PROTOCOL, RuleView};

/// `RT_TABLE_MAIN`.
const TABLE_MAIN: u32 = 254;
/// The peer's "to <pod>/32 lookup main".
const TO_POD: u32 = 512;
/// Its "fwmark 0x80/0x80 lookup main".
const NODE_PORT: u32 = 1024;
const NODE_PORT_MARK: Mark = Mark { value: 0x80, mask: 0x80 };
/// Its "from <pod>/32 lookup <an ENI's table>".
const FROM_POD: u32 = 1536;
/// The largest number of such a table: device indexes are below 100 on card 0, and 10000 + 100 · card + index elsewhere.
const LAST_TABLE: u32 = 19_999;

/// The first sign of an active amazon-vpc-cni, in words; none when there is none.
pub fn sign(observed: &HostView) -> Option<String> {
    if let Some(list) = &observed.peer_list {
        return Some(format!("its list {list} is there"));
    }
    let rule = observed.rules.iter().find(|rule| is_peers(rule))?;
    Some(format!("it has laid rule {} that looks up table {}", rule.priority, rule.table))
}

fn is_peers(rule: &RuleView) -> bool {
    let RuleView { priority, table, protocol, mark, other_selector } = *rule;
    protocol != PROTOCOL
        && match priority {
            TO_POD => table == TABLE_MAIN && other_selector && mark.is_none(),
            NODE_PORT => table == TABLE_MAIN && mark == Some(NODE_PORT_MARK),
            // The tables below 253 that it uses are small numbers, 253 to 255 are the kernel's.
            FROM_POD => {
                let an_enis = (1..253).contains(&table) || (10_000..=LAST_TABLE).contains(&table);
                an_enis && other_selector && mark.is_none()
            }
            _ => false,
        }
}

/// What is told of it, and what to do.
pub fn advice(sign: &str) -> String {
    format!(
        "amazon-vpc-cni is active on this node: {sign}; drain the node, take aws-node off it (its DaemonSet's selector or \
         a taint), remove its list and reboot, or delete its rules; data_plane.ignore_peer = true wires all the same"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(rule: RuleView) -> Option<String> {
        sign(&HostView { rules: vec![rule], ..HostView::default() })
    }

    const fn rule(priority: u32, table: u32, mark: Option<Mark>, other_selector: bool) -> RuleView {
        RuleView { priority, table, protocol: 0, mark, other_selector }
    }

    #[test]
    fn its_rules_and_its_list_are_signs() {
        for sign in [
            rule(512, 254, None, true),
            rule(1024, 254, Some(NODE_PORT_MARK), false),
            rule(1536, 2, None, true),
            rule(1536, 10_102, None, true),
        ] {
            assert!(seen(sign).is_some(), "{sign:?}");
        }
        let list = Some("/etc/cni/net.d/10-aws.conflist".to_owned());
        let told = advice(&sign(&HostView { peer_list: list, ..HostView::default() }).unwrap());
        assert!(told.contains("10-aws.conflist") && told.contains("drain"), "{told}");
    }

    #[test]
    fn ours_and_others_are_none() {
        let marked = Some(Mark { value: 2, mask: 0x7f });
        let ours = RuleView { protocol: PROTOCOL, ..rule(512, 254, None, true) };
        for other in [
            ours,
            rule(512, 254, None, false),
            rule(512, 0x0ec1_0000, None, true),
            rule(1024, 254, marked, false),
            rule(1536, 2, marked, false),
            rule(1536, 255, None, true),
            rule(32_766, 254, None, false),
        ] {
            assert_eq!(seen(other), None, "{other:?}");
        }
        assert_eq!(sign(&HostView::default()), None);
    }
}
