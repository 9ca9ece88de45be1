//! One rule is wrong on purpose: the router's check counts it at the ENI that the packet left by.
//!
//! Owns the proof that the check counts, and that ipamd's start puts each wrong thing right. ipamd is away while a thing
//! is wrong, so that it cannot mend it meanwhile.

use super::probe::{self, Ask};
use super::site::Site;
use super::{direct, services, stand_in};
use eni_tests::traffic::inside;

/// What is wrong, who meets it, and which counter rises.
struct Wrong {
    name: &'static str,
    line: String,
    ask: Ask,
    counter: &'static str,
}

fn wrong_things(site: &Site) -> Vec<Wrong> {
    let [first, second, third] = site.clients();
    let (peer, port) = (site.peer(), site.at_peer.port);
    let (internet, internet_port) = (site.internet(), site.at_internet.port);
    let wrong = |name, line: &str, ask, counter| Wrong { name, line: line.to_owned(), ask, counter };
    let mut bound = site.from("node", peer, port);
    bound.bound = Some(site.own[&site.enis[1]].0);
    // The link's group says which ENI a pod is on: 0x0ec10200 + 2.
    let link = site.host_link(third);
    vec![
        wrong(
            "no rule for the third ENI's mark",
            "ip rule del fwmark 3/0x7f",
            site.of_pod(third, peer, port),
            "v1",
        ),
        wrong(
            "nothing is steered",
            "nft flush chain ip eni-cni steer",
            site.of_pod(second, peer, port),
            "v1",
        ),
        wrong(
            "a pod's link in another ENI's group",
            &format!("ip link set {link} group 247529986"),
            site.of_pod(third, peer, port),
            "v2",
        ),
        wrong(
            "the second ENI's table leads out by the third",
            "ip route replace table 247529730 10.0.1.1 dev ens7; \
             ip route replace table 247529730 default via 10.0.1.1 dev ens7",
            site.of_pod(second, peer, port),
            "v3",
        ),
        wrong(
            "what came in by the primary is not remembered",
            "nft flush chain ip eni-cni eni1",
            services::by_primary_to_second(site),
            "v2",
        ),
        wrong("answers of the node go by the primary", "nft flush chain ip eni-cni answers", bound, "v1"),
        wrong(
            "no SNAT, from the primary ENI",
            "nft flush chain ip eni-cni masq_out",
            site.of_pod(first, internet, internet_port),
            "internet",
        ),
        wrong(
            "no SNAT, from another ENI",
            "nft flush chain ip eni-cni masq_out",
            site.of_pod(third, internet, internet_port),
            "v1",
        ),
    ]
}

#[test]
fn netns_each_wrong_rule_is_counted_at_the_right_eni_and_mended_at_the_next_start() {
    let mut site = Site::new("test.3x4", "");
    stand_in::lay(&site.node, stand_in::Form::Nft, &services::services(&site));
    for Wrong { name, line, ask, counter } in wrong_things(&site) {
        site.node.kill_ipamd();
        let before = site.node.all_drops();
        site.node.sh("node", &line).unwrap();
        let netns = ask.netns.clone();
        assert!(inside(&netns, move || probe::sent_in_vain(&ask)), "{name}: it was answered");
        for (at, now) in site.node.all_drops() {
            assert_eq!(now > before[&at], at == counter, "{name}: the counter {at}");
        }
        site.node.start_ipamd();
        site.node.wait_ready();
    }
    probe::check("after every wrong thing was mended", &direct::paths(&site));
    probe::check("after every wrong thing was mended", &services::paths(&site));
}
