//! What else on the node does what we do, and the settings that ipamd only checks.
//!
//! Owns the signs of amazon-vpc-cni (its iptables chains, its list) and of another CNI whose list the runtime takes
//! before ours. Needs no right beyond reading. Decides nothing, changes nothing. A folder that cannot be read from here
//! shows nothing: that is a report less, never a reason to act.

use crate::forward;
use crate::socket::{CallError, Socket};
use ipamd_core::kernel::GlobalSettings;
use std::fs;

/// amazon-vpc-cni's chains in iptables' nat table.
const PEER_CHAINS: [&str; 2] = ["AWS-SNAT-CHAIN-0", "AWS-CONNMARK-CHAIN-0"];
/// Where runtimes look for lists.
const LISTS: &str = "/etc/cni/net.d";
/// The peer's list.
const PEER_LIST: &str = "10-aws.conflist";
/// Ours.
const OUR_LIST: &str = "05-eni-cni.conflist";

/// The signs of others, in words.
pub(crate) fn look(netfilter: &mut Socket) -> Result<Vec<String>, CallError> {
    let mut signs = Vec::new();
    for chain in PEER_CHAINS {
        if forward::chain_of(netfilter, "nat", chain)?.is_some() {
            signs.push(format!("amazon-vpc-cni has been here: its chain {chain} is in the nat table"));
        }
    }
    let names = fs::read_dir(LISTS).into_iter().flatten().flatten();
    let mut names: Vec<String> = names.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    signs.extend(of_lists(&names));
    Ok(signs)
}

fn of_lists(names: &[String]) -> Vec<String> {
    let is_list = |name: &&String| [".conf", ".conflist", ".json"].iter().any(|end| name.ends_with(end));
    let mut signs = Vec::new();
    for name in names.iter().filter(is_list) {
        if name == PEER_LIST {
            signs.push(format!("amazon-vpc-cni's list is in {LISTS}: {name}"));
        } else if name.as_str() < OUR_LIST {
            signs.push(format!("another CNI's list comes before ours in {LISTS}: {name}"));
        }
    }
    signs
}

/// amazon-vpc-cni's list, when it is there.
pub(crate) fn peer_list() -> Option<String> {
    let path = format!("{LISTS}/{PEER_LIST}");
    fs::exists(&path).unwrap_or(false).then_some(path)
}

/// The whole network namespace's settings; none where /proc does not tell all of them.
pub(crate) fn globals() -> Option<GlobalSettings> {
    let read = |name: &str| {
        let text = fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).ok()?;
        text.trim().parse::<u8>().ok()
    };
    Some(GlobalSettings {
        forwarding: read("ip_forward")? != 0,
        send_redirects: read("conf/all/send_redirects")? != 0,
        rp_filter: read("conf/all/rp_filter")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_that_are_taken_before_ours_are_told() {
        let names = ["00-calico.conflist", OUR_LIST, PEER_LIST, "00-notes.txt", "99-loopback.conf"];
        let told = of_lists(&names.map(str::to_owned));
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].contains("00-calico") && told[1].contains("amazon-vpc-cni"), "{told:?}");
    }
}
