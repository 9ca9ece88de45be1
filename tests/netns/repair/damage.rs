//! The damage: one by one, all at once, and what is only reported.

use super::{ENI_TABLE, PODS_TABLE, Site, rows, text};
use eni_tests::wait;

impl Site {
    pub(super) fn one_by_one(&mut self) {
        let (eni, link) = (self.eni.clone(), self.pod().link.clone());
        let table = ENI_TABLE + self.number;
        self.harm("our rules", "ip rule flush protocol 236", "rule", "rule");
        self.harm("the pods table", &format!("ip route flush table {PODS_TABLE}"), "route", "route");
        self.harm("an ENI's table", &format!("ip route flush table {table}"), "route", "route");
        self.harm("nft flush ruleset", "nft flush ruleset", "nftables", "nftables");
        self.harm("nft flush table", "nft flush table ip eni-cni", "nftables", "nftables");
        self.harm("neighbours", "ip neigh flush nud permanent", "neighbour", "neighbour");
        let address = self.pod().address;
        let line = format!("ip neigh replace {address} lladdr 02:77:77:77:77:77 dev {link} nud permanent");
        self.harm("a pod's neighbour", &line, "neighbour", "neighbour");
        for (setting, value) in [("rp_filter", 0), ("forwarding", 0)] {
            for name in [&eni, &link] {
                let line = format!("echo {value} > /proc/sys/net/ipv4/conf/{name}/{setting}");
                self.harm(&format!("{setting} of {name}"), &line, "settings", "link");
            }
        }
    }

    pub(super) fn links_one_by_one(&mut self) {
        let (eni, link) = (self.eni.clone(), self.pod().link.clone());
        for (what, line, thing) in [
            ("an ENI's group", format!("ip link set {eni} group 0"), "link"),
            ("a pod's group", format!("ip link set {link} group 0"), "link"),
            ("a pod's group: an ENI's", format!("ip link set {link} group 247529730"), "link"),
            ("a pod's alias", format!("ip link set {link} alias theirs"), "alias"),
            ("a pod's MAC", format!("ip link set {link} address 02:77:77:77:77:77"), "mac"),
            ("an ENI's MAC", format!("ip link set {eni} address 02:77:77:77:77:78"), "mac"),
            ("a pod's name", format!("ip link set {link} name theirs0"), "name"),
            ("a pod's link down", format!("ip link set {link} down"), "link"),
            ("an ENI's link down", format!("ip link set {eni} down"), "link"),
        ] {
            self.harm(what, &line, "link", thing);
        }
        // An ENI is known by its MAC: its new name is taken over, not undone.
        self.sh(&format!("ip link set {eni} name theirs1"));
        wait::until("its new name is known", || {
            rows(&self.node, "enis").iter().any(|e| text(&e["link"]) == "theirs1")
        });
        assert!(self.all_ping(), "a renamed ENI carries packets");
        self.sh(&format!("ip link set theirs1 name {eni}"));
        self.wait_whole("an ENI's name");
    }

    pub(super) fn foreign_additions(&mut self) {
        let (eni, address) = (self.eni.clone(), self.pod().address);
        let line = format!("ip addr add {address}/20 dev {eni}");
        self.harm("a pool address on an ENI's link", &line, "address", "address");
        let line = format!("ip route add 10.0.0.0/17 dev {eni}");
        self.harm("a connected route in main", &line, "route", "route");
    }

    pub(super) fn many_at_once(&mut self) {
        let (eni, link) = (self.eni.clone(), self.pod().link.clone());
        let protocol = "ip rule flush protocol 236; ip -4 route flush table all proto 236";
        self.harm("all of our protocol", protocol, "route", "route");
        // The group alone tells that the link is the pod's.
        let line = format!("ip link set {link} name theirs2 alias theirs address 02:77:77:77:77:77");
        self.harm("a pod's alias, name and MAC", &line, "link", "name");
        let all = format!(
            "{protocol}; nft flush ruleset; ip neigh flush nud permanent; ip link set {link} group 0; \
             ip link set {eni} group 0; ip link set {link} alias theirs; \
             for name in {eni} {link}; do for setting in rp_filter forwarding send_redirects; do \
             echo $((1 - (0$(cat /proc/sys/net/ipv4/conf/$name/$setting) > 0))) > \
             /proc/sys/net/ipv4/conf/$name/$setting; done; done"
        );
        self.harm("all at once", &all, "rule", "rule");
    }

    /// Others' things that are told and left alone.
    pub(super) fn only_reported(&mut self) {
        let before = self.reports("rule");
        let rule = format!("from {} lookup 100 priority 100", self.pod().address);
        self.sh(&format!("ip rule add {rule}"));
        wait::until("the rule is counted", || self.reports("rule") > before);
        assert!(self.reasons().contains("rule 100 looks up table 100"), "{}", self.reasons());
        assert!(self.sh("ip rule").contains("lookup 100"), "it is left alone");
        self.sh(&format!("ip rule del {rule}"));
        wait::until("it is not told any more", || self.reports("rule") <= before);

        let before = self.reports("setting");
        self.harm("ip_forward", "echo 0 > /proc/sys/net/ipv4/ip_forward", "settings", "link");
        wait::until("the setting is counted", || self.reports("setting") > before);
        assert!(self.reasons().contains("ip_forward is 0"), "{}", self.reasons());
        self.sh("echo 1 > /proc/sys/net/ipv4/ip_forward");
        wait::until("it is not told any more", || self.reports("setting") <= before);

        self.sh(
            "nft 'add table ip nat; add chain ip nat AWS-SNAT-CHAIN-0'; ip rule add lookup 99 priority 99",
        );
        wait::until("the peer is told", || self.reasons().contains("amazon-vpc-cni"));
        self.sh("nft delete table ip nat; ip rule del lookup 99 priority 99");
        wait::until("nor that", || !self.reasons().contains("AWS-SNAT-CHAIN-0"));
        self.wait_whole("reports");
    }
}
