//! Packets that are too large: 1500 bytes reach the internet, 9001 the VPC, and a sender is told.
//!
//! Owns the pings at the edges. The router tells the address that it knows, which is masqueraded: it must reach the pod.

use super::site::Site;
use eni_tests::programs::run;
use eni_tests::traffic::{inside, spawn};
use std::net::Ipv4Addr;

/// What ping says, in the caller's namespace, of an echo request of so many bytes, headers included, that must not be
/// fragmented.
fn ping(target: Ipv4Addr, bytes: usize) -> String {
    // Its end may be an error, which is what is looked for.
    run("sh", &["-c", &format!("ping -n -c1 -W2 -M do -s {} {target} 2>&1 || true", bytes - 28)]).unwrap()
}

fn assert_passes(target: Ipv4Addr, bytes: usize) {
    let said = ping(target, bytes);
    assert!(said.contains(" 0% packet loss"), "{bytes} bytes: {said}");
}

#[test]
fn netns_what_is_too_large_is_told_to_the_pod_and_the_edges_pass() {
    let site = Site::new("test.3x4", "");
    let internet = site.internet();
    let pods = site.clients().into_iter().zip(site.servers()).map(|(pod, other)| {
        let within = [site.peer(), site.primary, other.address];
        spawn(pod.sandbox.name(), move || {
            for target in within {
                assert_passes(target, 9001);
            }
            assert_passes(internet, 1500);
            let said = ping(internet, 1628);
            assert!(said.contains("Frag needed and DF set (mtu = 1500)"), "{said}");
            // Learnt: the next one does not even leave the sandbox.
            let said = ping(internet, 1501);
            assert!(said.contains("message too long, mtu=1500"), "{said}");
        })
    });
    for pod in pods.collect::<Vec<_>>() {
        pod.join().expect("every ping says what it must");
    }
    let [first, ..] = site.clients();
    let peer = site.peer();
    let said = inside(first.sandbox.name(), move || ping(peer, 9002));
    assert!(said.contains("message too long, mtu=9001"), "{said}");
    site.assert_no_drops("after pings at the edges");
}
