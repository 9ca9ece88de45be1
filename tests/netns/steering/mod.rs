//! Every packet path of a node with several ENIs, with the source that its server must see, past a router that drops and
//! counts what leaves an ENI that does not own its source.
//!
//! Owns the lists of paths, what stands in for kube-proxy, and the circumstances that the lists are tried under.

mod circumstances;
mod direct;
mod mtu;
mod portmap;
mod probe;
mod services;
mod site;
mod stand_in;
mod wrong;

use site::Site;
use stand_in::Form;

/// Every path of both lists, and that the router has dropped nothing.
fn all_paths(when: &str, site: &Site) {
    probe::check(when, &direct::paths(site));
    probe::check(when, &services::paths(site));
    site.assert_no_drops(when);
}

#[test]
fn netns_every_path_over_three_enis_beside_kube_proxy_in_either_form() {
    let site = Site::new("test.3x4", "");
    probe::check("without kube-proxy", &direct::paths(&site));
    site.assert_no_drops("without kube-proxy");
    direct::unheld(&site);
    site.assert_no_drops("after an address that nobody holds was asked");
    let services = services::services(&site);
    stand_in::lay(&site.node, Form::Nft, &services);
    all_paths("beside kube-proxy in nft form", &site);
    stand_in::remove_nft(&site.node);
    stand_in::lay(&site.node, Form::Iptables, &services);
    all_paths("beside kube-proxy in iptables form", &site);
}
