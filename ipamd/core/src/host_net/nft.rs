//! The text of our nft table: which ENI a packet leaves by, and what is masqueraded.
//!
//! Owns the whole table, from the ENIs' numbers and addresses and the VPC's CIDRs; the same data makes the same text.
//! The text replaces the table atomically (`add; delete; table`): a text that is refused leaves the old one. Does not
//! run nft, and knows no pod: a pod is in it by its link's group.
//!
//! A connection's mark is `0x40 | K` when ENI K carries both directions (1 is the primary, so the main table), and K
//! alone when only its answers go by ENI K. It is decided once, by its first packet, so that a CIDR that comes or goes
//! cuts nothing.

use crate::kernel::{
    BOTH_DIRECTIONS, DYING_GROUP, ENI_GROUP, MARK_MASK, MAX_ENI_NUMBER, NFT_MAPS, NFT_TABLE, NftView,
    POD_GROUP,
};
use ipnet::Ipv4Net;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::net::Ipv4Addr;

/// The instance metadata service (EC2 user guide, "Use IMDS to access instance metadata").
const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// The number of the primary ENI.
const PRIMARY: u32 = 1;
/// All bits of a mark that are others'.
const OTHERS: u32 = !MARK_MASK;
/// Room of a map: one without a size costs 20 to 40 ns more. It fits an element per link group of every ENI.
const SIZE: u32 = 64;
const _: () = assert!(SIZE > 2 * MAX_ENI_NUMBER);

/// What the table depends on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// The ENIs that packets leave by: number and own primary address. The primary ENI, number 1, is among them.
    pub enis: BTreeMap<u32, Ipv4Addr>,
    /// The CIDRs inside the VPC.
    pub vpc_cidrs: BTreeSet<Ipv4Net>,
    /// Whether what leaves the VPC goes by the primary ENI with its address. Otherwise a pod's own ENI carries it, with
    /// the pod's address.
    pub snat: bool,
    /// Drop what pods send to the instance metadata service.
    pub block_metadata: bool,
}

/// What `nft -f -` reads.
pub fn render(table: &Table) -> String {
    let secondary = table.enis.keys().copied().filter(|k| *k != PRIMARY).collect::<Vec<_>>();
    let mut text = Text::default();
    text.line(format!("add table ip {NFT_TABLE}"));
    text.line(format!("delete table ip {NFT_TABLE}"));
    text.line(format!("table ip {NFT_TABLE} {{"));
    sets(&mut text, table);
    // One chain per mark: nft 1.0.6 cannot OR a map's value into a mark, and to overwrite the mark breaks what others
    // (kube-proxy's hairpin) keep in its other bits.
    for k in &secondary {
        text.chain(&format!("to{k}"), &[format!("meta mark set meta mark & {OTHERS:#010x} | {k:#04x}")]);
    }
    verdicts(&mut text, table);
    for k in table.enis.keys() {
        eni_chain(&mut text, *k);
        pod_chain(&mut text, *k, table.snat);
    }
    by_group(&mut text, table);
    steer(&mut text);
    if !secondary.is_empty() {
        answers(&mut text);
    }
    if let Some(primary) = table.enis.get(&PRIMARY).filter(|_| table.snat) {
        masquerade(&mut text, *primary);
    }
    if table.block_metadata {
        block_metadata(&mut text, table);
    }
    text.line("}");
    text.0
}

/// What the kernel shows of the table once nft has read a text of [`render`].
pub fn contents(text: &str) -> NftView {
    let mut view = NftView::default();
    let mut chain = None;
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["chain", name, "{"] => {
                view.rules.insert(name.to_owned(), 0);
                chain = Some(name);
            }
            ["map", name, ..] if NFT_MAPS.contains(&name) => {
                view.maps.insert(name.to_owned(), elements(line));
            }
            // A base chain's own line is no rule.
            ["}" | "type", ..] | [] => {}
            _ if line.starts_with("  ") => {
                if let Some(count) = chain.and_then(|chain| view.rules.get_mut(chain)) {
                    *count += 1;
                }
            }
            _ => {}
        }
    }
    view
}

/// The elements of a map's line: `elements = { KEY : VERDICT, … }`.
fn elements(line: &str) -> BTreeMap<u32, String> {
    let list = line.split_once("elements = { ").and_then(|(_, rest)| rest.split_once(" }"));
    let pairs = list.map(|(list, _)| list).into_iter().flat_map(|list| list.split(", "));
    let number = |key: &str| match key.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => key.parse().ok(),
    };
    let pairs = pairs.filter_map(|pair| pair.split_once(" : "));
    pairs.filter_map(|(key, verdict)| Some((number(key)?, verdict.to_owned()))).collect()
}

#[derive(Default)]
struct Text(String);

impl Text {
    fn line(&mut self, line: impl AsRef<str>) {
        self.0.push_str(line.as_ref());
        self.0.push('\n');
    }

    fn chain(&mut self, name: &str, rules: &[String]) {
        self.line(format!(" chain {name} {{"));
        for rule in rules {
            self.line(format!("  {rule}"));
        }
        self.line(" }");
    }

    fn set(&mut self, name: &str, form: &str, elements: impl IntoIterator<Item = impl Display>) {
        self.line(format!(" set {name} {{ {form}{} }}", listed(elements)));
    }

    fn map(&mut self, name: &str, key: &str, elements: impl IntoIterator<Item = impl Display>) {
        self.line(format!(" map {name} {{ type {key} : verdict; size {SIZE};{} }}", listed(elements)));
    }
}

/// `elements = …`; nothing at all when there are none, for nft takes no empty list.
fn listed(elements: impl IntoIterator<Item = impl Display>) -> String {
    let elements = elements.into_iter().map(|e| e.to_string()).collect::<Vec<_>>();
    if elements.is_empty() { String::new() } else { format!(" elements = {{ {} }};", elements.join(", ")) }
}

fn sets(text: &mut Text, table: &Table) {
    // The ENIs' own addresses: nobody outside may use one as source. rp_filter 2 stops that too; this holds without it.
    text.set("node", &format!("type ipv4_addr; size {SIZE};"), table.enis.values());
    // Read by first packets only.
    text.set("vpc", "type ipv4_addr; flags interval; auto-merge;", &table.vpc_cidrs);
}

/// The way by ENI K: the primary's is the main table, which needs no mark.
fn way(k: u32) -> String {
    if k == PRIMARY { "accept".to_owned() } else { format!("goto to{k}") }
}

fn verdicts(text: &mut Text, table: &Table) {
    let both = |k: u32| k | BOTH_DIRECTIONS;
    let ks = || table.enis.keys().copied();
    // Connections that one ENI carries whole.
    text.map("known", "mark", ks().map(|k| format!("{:#04x} : {}", both(k), way(k))));
    // Answers of connections whose other direction the main table carries. The primary is in it: without it a NodePort
    // by the primary to a pod on another ENI is answered by that ENI.
    text.map("back", "mark", ks().map(|k| format!("{k:#04x} : {}", way(k))));
    let secondary = || table.enis.iter().filter(|(k, _)| **k != PRIMARY);
    if secondary().next().is_none() {
        return;
    }
    // Answers of local processes. Without the primary: every answer of kubelet and sshd would be routed twice.
    let marks = secondary().flat_map(|(k, _)| [(*k, *k), (both(*k), *k)]);
    text.map("local_back", "mark", marks.map(|(mark, k)| format!("{mark:#04x} : {}", way(k))));
    // Sockets bound to an ENI's own address.
    text.map("own", "ipv4_addr", secondary().map(|(k, own)| format!("{own} : {}", way(*k))));
}

fn remember(mark: u32) -> String {
    format!("ct mark set ct mark & {OTHERS:#010x} | {mark:#04x}")
}

/// Decides what came in by ENI K.
fn eni_chain(text: &mut Text, k: u32) {
    let mut rules = vec![
        "ip saddr @node drop".to_owned(),
        // Answers to us go back where the connection came from (a map miss: to where its table says).
        format!("ct direction reply ct mark & {MARK_MASK:#x} vmap @back"),
        "ct direction reply return".to_owned(),
        // To an address off the VPC (a NodePort's endpoint, after DNAT): onward by the primary, only answers by K.
        format!("ip daddr != @vpc {} return", remember(k)),
        // Remembered for every destination: after DNAT no NodePort path is local any more.
        remember(k | BOTH_DIRECTIONS),
    ];
    if k != PRIMARY {
        rules.push(format!("goto to{k}"));
    }
    text.chain(&format!("eni{k}"), &rules);
}

/// Decides what a pod on ENI K sent.
fn pod_chain(text: &mut Text, k: u32, snat: bool) {
    if k == PRIMARY {
        let rules = [
            format!("ct direction reply ct mark & {MARK_MASK:#x} vmap @back"),
            format!("ct direction original {}", remember(PRIMARY | BOTH_DIRECTIONS)),
        ];
        return text.chain("pod1", &rules);
    }
    // Its answers go by the ENI the connection came in by; of one without a mark (older than this table), by its own.
    text.chain(
        &format!("answer{k}"),
        &[format!("ct mark & {MARK_MASK:#x} vmap @back"), format!("goto to{k}")],
    );
    let mut rules = vec![format!("ct direction reply goto answer{k}")];
    if snat {
        // Off the VPC by the primary, which has the address that the internet answers to. Without SNAT the source is
        // the pod's, and only its own ENI may send that.
        rules.push(format!("ip daddr != @vpc {} return", remember(PRIMARY | BOTH_DIRECTIONS)));
    }
    rules.extend([remember(k | BOTH_DIRECTIONS), format!("goto to{k}")]);
    text.chain(&format!("pod{k}"), &rules);
}

fn by_group(text: &mut Text, table: &Table) {
    // What a dying link begins is dropped: its address may be another's soon.
    let dying = std::iter::once(format!("{DYING_GROUP} : drop"));
    let enis = table.enis.keys().map(|k| format!("{} : goto eni{k}", ENI_GROUP + k));
    let pods = table.enis.keys().map(|k| format!("{} : goto pod{k}", POD_GROUP + k));
    text.map("from", "devgroup", dying.chain(enis).chain(pods));
}

fn steer(text: &mut Text) {
    text.chain("steer", &[
        // After DNAT (-100): before it, a pod's packet to a service's remote endpoint leaves by the wrong ENI.
        "type filter hook prerouting priority dstnat + 10;".to_owned(),
        // A known connection, nobody else's bits in the packet's mark: the common case in one rule.
        format!(
            "meta mark 0 ct mark & {BOTH_DIRECTIONS:#04x} == {BOTH_DIRECTIONS:#04x} meta mark set ct mark & {:#04x} accept",
            MARK_MASK & !BOTH_DIRECTIONS
        ),
        // The same with others' bits kept.
        format!("ct mark & {MARK_MASK:#x} vmap @known"),
        // First packets, connections without a mark, answers alone; drops what a dying link begins.
        "iifgroup vmap @from".to_owned(),
    ]);
}

/// What local processes send and a secondary ENI must carry.
fn answers(text: &mut Text) {
    text.chain("answers", &[
        "type route hook output priority -90;".to_owned(),
        // First, and only of what would leave by the primary: else kubelet's and sshd's answers cost × 1.35. No
        // `related`: "unreachable" errors would leave by the wrong ENI.
        format!(
            "oifgroup {} ct state established ct direction reply ct mark & {MARK_MASK:#x} vmap @local_back",
            ENI_GROUP + PRIMARY
        ),
        "ip saddr vmap @own".to_owned(),
    ]);
}

fn masquerade(text: &mut Text, primary: Ipv4Addr) {
    text.chain("masq_out", &[
        // After kube-proxy's own (100).
        "type nat hook postrouting priority srcnat + 10;".to_owned(),
        // Local sources are the node's own; another local address was bound on purpose.
        format!(
            "oifgroup {} ip daddr != @vpc ip saddr != {primary} fib saddr type != local snat to {primary} fully-random",
            ENI_GROUP + PRIMARY
        ),
    ]);
}

/// Keeps pods from the instance's credentials. Where packets are forwarded: after DNAT, so that an agent on the node that
/// answers in the service's place is still reached, and for connections that are older than the switch, too. The node's
/// own way to the service is not forwarded.
fn block_metadata(text: &mut Text, table: &Table) {
    let pods = table.enis.keys().map(|k| (POD_GROUP + k).to_string()).collect::<Vec<_>>();
    if !pods.is_empty() {
        text.chain(
            "metadata",
            &[
                "type filter hook forward priority filter;".to_owned(),
                format!("ip daddr {METADATA} iifgroup {{ {} }} counter drop", pods.join(", ")),
            ],
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(enis: u32, snat: bool) -> Table {
        Table {
            enis: (1..=enis).map(|k| (k, Ipv4Addr::new(10, 0, 1, k as u8 * 10))).collect(),
            vpc_cidrs: BTreeSet::from(["10.2.0.0/16".parse().unwrap(), "10.0.0.0/16".parse().unwrap()]),
            snat,
            block_metadata: false,
        }
    }

    #[test]
    fn three_enis_make_the_whole_table() {
        assert_eq!(render(&table(3, true)), include_str!("three_enis.nft"));
    }

    #[test]
    fn one_eni_has_nothing_to_steer_and_still_marks_its_connections() {
        let text = render(&table(1, true));
        assert!(!text.contains("to1") && !text.contains("chain answers") && !text.contains("@own"));
        assert!(text.contains("map known { type mark : verdict; size 64; elements = { 0x41 : accept }; }"));
        assert!(text.contains("snat to 10.0.1.10 fully-random"));
    }

    #[test]
    fn without_snat_a_pods_own_eni_carries_all_of_it() {
        let (with, without) = (render(&table(2, true)), render(&table(2, false)));
        assert!(!without.contains("nat hook"));
        let pod = |text: &str| {
            text.split(" chain pod2 {\n").nth(1).unwrap().split(" }\n").next().unwrap().to_owned()
        };
        assert!(pod(&with).contains("!= @vpc") && !pod(&without).contains("@vpc"));
        assert!(
            without.contains("ip daddr != @vpc ct mark set ct mark & 0xffffff80 | 0x02 return"),
            "in by ENI 2"
        );
    }

    #[test]
    fn the_contents_of_a_text_are_its_maps_and_its_chains_rules() {
        let text = render(&table(2, true));
        let view = contents(&text);
        assert_eq!(view.maps.len(), NFT_MAPS.len());
        assert_eq!(view.maps["from"][&(POD_GROUP + 2)], "goto pod2");
        assert_eq!(view.maps["from"][&DYING_GROUP], "drop");
        assert_eq!(view.maps["known"], BTreeMap::from([(0x41, "accept".into()), (0x42, "goto to2".into())]));
        assert_eq!((view.rules["steer"], view.rules["pod2"], view.rules["masq_out"]), (3, 4, 1));
        assert_eq!(view.rules.len(), text.matches(" chain ").count());
    }

    #[test]
    fn metadata_is_blocked_for_pods_of_every_eni_and_only_when_asked_for() {
        let open = table(2, true);
        assert!(!render(&open).contains("169.254"));
        let text = render(&Table { block_metadata: true, ..open });
        let (one, two) = (POD_GROUP + 1, POD_GROUP + 2);
        let rule = format!("ip daddr 169.254.169.254 iifgroup {{ {one}, {two} }} counter drop");
        let chain = format!(" chain metadata {{\n  type filter hook forward priority filter;\n  {rule}\n }}");
        assert!(text.contains(&chain), "{text}");
        assert_eq!(contents(&text).rules["metadata"], 1);
    }

    #[test]
    fn no_list_is_empty() {
        for enis in 1..=3 {
            let text = render(&Table { vpc_cidrs: BTreeSet::new(), ..table(enis, false) });
            assert!(!text.contains("{  }"), "{text}");
        }
    }
}
