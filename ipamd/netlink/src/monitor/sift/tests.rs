//! What is told and what is not, message by message.

use super::*;
use ipamd_core::kernel::{InetSettings, PODS_RULE_PRIORITY};

const POD_LINK: u32 = 0x1000_0001;
const OURS: u32 = 0x0ec1_0007;
const OTHERS: u32 = 4711;

fn pod() -> LinkView {
    LinkView {
        ifindex: POD_LINK,
        name: "eni0d7763386da".into(),
        mac: Some(MacAddr([2, 0, 0, 0, 0, 1])),
        group: POD_GROUP + 2,
        alias: "eni1 1f c eth0 1 n".into(),
        up: true,
        mtu: 9001,
        kind: "veth".into(),
        inet: POD_INET,
    }
}

fn eni() -> LinkView {
    LinkView {
        ifindex: 3,
        name: "ens6".into(),
        group: ENI_GROUP + 2,
        inet: ENI_INET,
        alias: String::new(),
        ..pod()
    }
}

fn header(kind: u16, port: u32) -> Header {
    Header { kind, flags: 0, sequence: 0, port }
}

fn attribute(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    nfnl::put(bytes, kind, value);
}

fn del_link(ifindex: u32, family: u8) -> Vec<u8> {
    let mut body = vec![0; 16];
    body[0] = family;
    body[4..8].copy_from_slice(&ifindex.to_ne_bytes());
    body
}

fn route(protocol: u8, table: u32, link: u32) -> Vec<u8> {
    let mut body = vec![2, 32, 0, 0, 0, protocol, 0, 1, 0, 0, 0, 0];
    attribute(&mut body, 1, &[10, 0, 0, 9]);
    attribute(&mut body, 15, &table.to_ne_bytes());
    attribute(&mut body, 4, &link.to_ne_bytes());
    body
}

#[test]
fn what_an_add_and_a_del_do_to_a_link_tells_nothing() {
    let mut sift = Sift::default();
    let made = LinkView { alias: String::new(), up: false, inet: InetSettings::default(), ..pod() };
    assert!(!sift.link(&made));
    assert!(!sift.link(&LinkView { up: true, inet: POD_INET, ..made.clone() }));
    assert!(!sift.link(&pod()), "its alias");
    assert!(!sift.link(&pod()), "its carrier");
    assert!(!sift.link(&LinkView { group: DYING_GROUP, ..pod() }));
    let lowered = LinkView { group: DYING_GROUP, up: false, inet: InetSettings::default(), ..pod() };
    assert!(!sift.link(&lowered), "it is being deleted");
    assert_eq!(sift.route(header(RTM_DELLINK, 0), &del_link(POD_LINK, 0)), None);
    assert!(sift.links.is_empty(), "nothing is kept of it");
}

#[test]
fn what_others_do_to_a_link_is_told_once_and_its_repair_is_not() {
    let changes: [fn(&mut LinkView); 7] = [
        |l| l.group = 0,
        |l| l.group = 77,
        |l| l.alias = "x".into(),
        |l| l.mac = Some(MacAddr([2, 0, 0, 0, 0, 9])),
        |l| l.name = "renamed".into(),
        |l| l.up = false,
        |l| l.inet.rp_filter = 0,
    ];
    for (number, change) in changes.into_iter().enumerate() {
        for whole in [pod(), eni()] {
            if whole.ifindex == 3 && number == 2 {
                continue; // an ENI has no alias of ours
            }
            let mut sift = Sift::default();
            sift.begin(std::slice::from_ref(&whole));
            let mut broken = whole.clone();
            change(&mut broken);
            assert!(sift.link(&broken), "{number}: {broken:?}");
            let told_again = sift.link(&whole);
            assert!(!told_again || [3, 4].contains(&number), "{number}: its repair is told");
            assert!(!sift.link(&whole), "{number}: and again");
        }
    }
}

#[test]
fn a_link_that_goes_by_itself_is_told_and_others_links_are_not() {
    let mut sift = Sift::default();
    sift.begin(&[pod(), eni()]);
    assert_eq!(sift.route(header(RTM_DELLINK, 0), &del_link(POD_LINK, 7)), None, "it left a bridge");
    assert_eq!(sift.route(header(RTM_DELLINK, 0), &del_link(POD_LINK, 0)), Some(Trigger::Link));
    assert_eq!(sift.route(header(RTM_DELLINK, 0), &del_link(77, 0)), None);
    let docker = LinkView { ifindex: 9, name: "veth1".into(), group: 0, alias: String::new(), ..pod() };
    assert!(!sift.link(&docker) && !sift.link(&LinkView { up: false, ..docker }));
    assert!(
        sift.link(&LinkView { ifindex: 12, ..eni() }),
        "a link that becomes an ENI's is looked at once more"
    );
}

#[test]
fn routes_rules_and_addresses_are_told_by_who_changed_them() {
    let mut sift = Sift::default();
    sift.begin(&[pod(), eni()]);
    let own = route(PROTOCOL, PODS_TABLE, POD_LINK);
    assert_eq!(sift.route(header(RTM_DELROUTE, OURS), &own), None);
    assert_eq!(sift.route(header(RTM_DELROUTE, OTHERS), &own), Some(Trigger::Route));
    assert_eq!(sift.route(header(RTM_DELROUTE, OTHERS), &route(4, 254, 9)), None);
    assert_eq!(sift.route(header(RTM_NEWROUTE, OTHERS), &route(4, PODS_TABLE, 9)), Some(Trigger::Route));
    assert_eq!(sift.route(header(RTM_NEWROUTE, OTHERS), &route(2, 254, 3)), Some(Trigger::Route));
    assert_eq!(sift.route(header(RTM_NEWROUTE, OTHERS), &route(2, 254, 9)), None);
    for (kind, trigger) in [(RTM_NEWRULE, Trigger::Rule), (RTM_DELADDR, Trigger::Address)] {
        assert_eq!(sift.route(header(kind, OURS), &PODS_RULE_PRIORITY.to_ne_bytes()), None);
        assert_eq!(sift.route(header(kind, OTHERS), &[]), Some(trigger));
    }
}

#[test]
fn neighbours_and_settings_count_on_links_of_ours() {
    let mut sift = Sift::default();
    sift.begin(&[pod(), eni()]);
    let neighbour = |link: u32, family| {
        let mut body = vec![family, 0, 0, 0];
        body.extend_from_slice(&link.to_ne_bytes());
        body.extend_from_slice(&[0; 4]);
        body
    };
    assert_eq!(sift.route(header(RTM_DELNEIGH, 0), &neighbour(POD_LINK, 2)), Some(Trigger::Neighbour));
    assert_eq!(sift.route(header(RTM_DELNEIGH, 0), &neighbour(POD_LINK, 10)), None);
    let changed = |sift: &mut Sift, port| sift.route(header(RTM_NEWNEIGH, port), &neighbour(POD_LINK, 2));
    assert_eq!(changed(&mut sift, OTHERS), Some(Trigger::Neighbour));
    assert_eq!((changed(&mut sift, OURS), changed(&mut sift, 0)), (None, None));
    assert_eq!(sift.route(header(RTM_NEWNEIGH, OTHERS), &neighbour(9, 2)), None);
    assert_eq!(sift.route(header(RTM_DELNEIGH, 0), &neighbour(3, 2)), None, "the gateway's comes by itself");
    let settings = |link: u32| {
        let mut body = vec![2, 0, 0, 0];
        attribute(&mut body, 1, &link.to_ne_bytes());
        body
    };
    assert_eq!(sift.route(header(RTM_NEWNETCONF, 0), &settings(3)), Some(Trigger::Settings));
    assert_eq!(sift.route(header(RTM_NEWNETCONF, 0), &settings(u32::MAX)), Some(Trigger::Settings));
    assert_eq!(sift.route(header(RTM_NEWNETCONF, 0), &settings(9)), None);
}

#[test]
fn a_transaction_is_told_at_its_end_when_it_touched_what_matters() {
    let mut sift = Sift::default();
    let in_table = |name: &str, family| {
        let mut body = vec![family, 0, 0, 0];
        nfnl::put_text(&mut body, nft::NFTA_TABLE_NAME, name);
        body
    };
    let end = |generation: u32| {
        let mut body = vec![0, 0, 0, 0];
        attribute(&mut body, 1, &generation.to_be_bytes());
        body
    };
    let kind = |number| header(nfnl::kind(nft::SUBSYSTEM, number), OTHERS);
    let (rule, chain, generation) = (kind(6), kind(3), kind(15));
    assert_eq!(sift.nftables(rule, &in_table(NFT_TABLE, 10)), None);
    assert_eq!(sift.nftables(rule, &in_table("kube-proxy", nfnl::IPV4)), None);
    assert_eq!(sift.nftables(rule, &in_table(FILTER_TABLE, nfnl::IPV4)), None);
    assert_eq!(sift.nftables(generation, &end(6)), None, "not ours, and a rule more in filter");
    sift.nftables(rule, &in_table(NFT_TABLE, nfnl::IPV4));
    let ours = Transaction { generation: Some(7), table: true, filter: false };
    assert_eq!(sift.nftables(generation, &end(7)), Some(ours));
    sift.nftables(chain, &in_table(FILTER_TABLE, nfnl::IPV4));
    let filter = Transaction { generation: Some(8), table: false, filter: true };
    assert_eq!(sift.nftables(generation, &end(8)), Some(filter));
    assert_eq!(sift.nftables(generation, &end(9)), None);
}
