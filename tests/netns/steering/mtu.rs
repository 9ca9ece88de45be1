//! Packets that are too large: 1500 bytes reach the internet, 9001 the VPC, and a sender is told.
//!
//! Owns the pings at the edges. The router's answer names the sender by its masqueraded address; it must reach the pod.

use super::site::{Pod, Site};

/// What ping says of one echo request of so many bytes, headers included, that must not be fragmented.
fn ping(pod: &Pod, target: std::net::Ipv4Addr, bytes: usize) -> String {
    // Its answer may be an error, which is what is looked for.
    let line = format!("ping -n -c1 -W2 -M do -s {} {target} 2>&1 || true", bytes - 28);
    pod.sandbox.sh(&line).unwrap()
}

#[test]
fn netns_what_is_too_large_is_told_to_the_pod_and_the_edges_pass() {
    let site = Site::new("test.3x4", "");
    for (pod, other) in site.clients().into_iter().zip(site.servers()) {
        let name = format!("pod on ENI {}", pod.eni);
        let passes = |target, bytes| {
            let said = ping(pod, target, bytes);
            assert!(said.contains(" 0% packet loss"), "{name}: {bytes} bytes to {target}: {said}");
        };
        for target in [site.peer(), site.primary, other.address] {
            passes(target, 9001);
        }
        passes(site.internet(), 1500);
        let said = ping(pod, site.internet(), 1628);
        assert!(said.contains("Frag needed and DF set (mtu = 1500)"), "{name}: {said}");
        // Learnt: the next one does not even leave the sandbox.
        let said = ping(pod, site.internet(), 1501);
        assert!(
            said.contains("message too long, mtu=1500") || said.contains("Message too long"),
            "{name}: {said}"
        );
    }
    let [first, ..] = site.clients();
    assert!(ping(first, site.peer(), 9002).contains("essage too long"));
    site.assert_no_drops("after pings at the edges");
}
