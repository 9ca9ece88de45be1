//! Which links may be deleted, and how a host step is named in an error: what the kernel and its fake share.
//!
//! Owns the rule that nobody else's link is deleted. Does not look a link up.

use ipamd_core::kernel::{Alias, DYING_GROUP, ENI_GROUP, EniRouteView, HostStep, LinkView, Mark, POD_GROUP};

/// Groups of one kind: K is at most 0x7f.
const GROUPS: u32 = 0x80;

fn of_an_eni(link: &LinkView) -> bool {
    (ENI_GROUP..ENI_GROUP + GROUPS).contains(&link.group)
}

/// A host end of ours by its group: it has it from the message that makes it, the alias comes later.
fn of_a_pod(link: &LinkView) -> bool {
    link.group == DYING_GROUP || (POD_GROUP..POD_GROUP + GROUPS).contains(&link.group)
}

/// `eni` and 11 hex digits, as the owner names every host end.
fn has_our_name(name: &str) -> bool {
    let digits = name.strip_prefix("eni").unwrap_or_default();
    digits.len() == 11 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether a link that is in a new sandbox's way may be deleted.
pub(crate) fn may_make_way(link: &LinkView) -> bool {
    let marked = of_a_pod(link) || Alias::parse(&link.alias).is_some();
    marked && !of_an_eni(link) && link.kind == "veth"
}

/// Whether a member of the dying group is a host end of ours: pair, name and alias say so.
pub(crate) fn is_dying(link: &LinkView) -> bool {
    link.kind == "veth" && has_our_name(&link.name) && Alias::parse(&link.alias).is_some()
}

/// Whose link it is that has the number of a dying one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Whose {
    /// The dying one's: it may be deleted.
    Ours,
    /// Somebody else's, or another attachment's: the dying one is gone.
    Anothers,
    /// It has marks of ours, but not all: it is left alone, and the dying one is not taken for gone.
    Unclear(String),
}

/// Whose link it is: the dying one's when its alias begins with `alias`, or when name and group say that it is a host end
/// of ours: its alias was never given, or is what somebody has made of it.
pub(crate) fn whose(link: &LinkView, alias: &str) -> Whose {
    let veth = link.kind == "veth";
    let named = !alias.is_empty() && link.alias.starts_with(alias);
    let (our_name, our_group) = (has_our_name(&link.name), of_a_pod(link));
    if named {
        return if veth && !of_an_eni(link) {
            Whose::Ours
        } else {
            Whose::Unclear(format!("{} is no host end of a pod", link.name))
        };
    }
    if !veth || Alias::parse(&link.alias).is_some() {
        return Whose::Anothers;
    }
    match (our_name, our_group) {
        (true, true) => Whose::Ours,
        (false, false) => Whose::Anothers,
        _ => Whose::Unclear(format!("{} has another alias: {:?}", link.name, link.alias)),
    }
}

/// A host step in words.
pub fn describe(step: &HostStep) -> String {
    match step {
        HostStep::AddRule { priority, table, mark } => format!("add {}", rule(*priority, *table, *mark)),
        HostStep::DeleteRule { priority, table, mark } => {
            format!("delete {}", rule(*priority, *table, *mark))
        }
        HostStep::AddRoute(route) => format!("lay the route {} metric {}", route.destination, route.metric),
        HostStep::DeleteRoute(route) => {
            format!("delete the route {} metric {}", route.destination, route.metric)
        }
        HostStep::SetLink { ifindex, group, .. } => format!("set link {ifindex} (group {group:#x})"),
        HostStep::SetAlias { ifindex, .. } => format!("give link {ifindex} its alias"),
        HostStep::SetMac { ifindex, mac } => format!("give link {ifindex} its MAC {mac}"),
        HostStep::SetName { ifindex, name } => format!("give link {ifindex} its name {name}"),
        HostStep::SetMtu { ifindex, mtu } => format!("set the MTU {mtu} of link {ifindex}"),
        HostStep::AddAddress(view) => format!("put the address {} on link {}", view.address, view.ifindex),
        HostStep::DeleteAddress(view) => {
            format!("take the address {} off link {}", view.address, view.ifindex)
        }
        HostStep::AddEniRoute(view) => format!("lay {}", eni_route(view)),
        HostStep::DeleteEniRoute(view) | HostStep::DeleteMainRoute(view) => {
            format!("delete {}", eni_route(view))
        }
        HostStep::SetNeighbour(view) => {
            format!("lay the neighbour {} of link {}", view.address, view.ifindex)
        }
        HostStep::ReplaceNft { .. } => "replace our nft table".to_owned(),
        HostStep::AcceptForward(chain) => format!("accept what pods forward in {}", chain.name()),
    }
}

fn rule(priority: u32, table: u32, mark: Option<Mark>) -> String {
    let mark = mark.map(|mark| format!("fwmark {:#x}/{:#x} ", mark.value, mark.mask)).unwrap_or_default();
    format!("the rule {priority} {mark}lookup {table:#x}")
}

fn eni_route(view: &EniRouteView) -> String {
    let via = view.gateway.map(|gateway| format!("via {gateway} ")).unwrap_or_default();
    format!("the route {} {via}by link {} in table {:#x}", view.destination, view.ifindex, view.table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipamd_core::kernel::InetSettings;

    fn link(group: u32, alias: &str, kind: &str) -> LinkView {
        LinkView {
            ifindex: 7,
            name: "eni0d7763386da".into(),
            mac: None,
            group,
            alias: alias.into(),
            up: true,
            mtu: 1500,
            kind: kind.into(),
            inet: InetSettings::default(),
        }
    }

    #[test]
    fn the_reaper_takes_its_alias_and_unfinished_pairs_alone() {
        let alias = "eni1 1f c eth0 1 n";
        assert_eq!(whose(&link(DYING_GROUP, alias, "veth"), alias), Whose::Ours);
        assert_eq!(whose(&link(POD_GROUP + 1, "eni1 1f c eth0 1 n ns/pod", "veth"), alias), Whose::Ours);
        assert_eq!(whose(&link(POD_GROUP + 1, "", "veth"), alias), Whose::Ours);
        let unclear = |link, alias| matches!(whose(&link, alias), Whose::Unclear(_));
        assert_eq!(whose(&link(DYING_GROUP, "uplink", "veth"), ""), Whose::Ours);
        assert_eq!(whose(&link(POD_GROUP + 1, "uplink", "veth"), alias), Whose::Ours);
        assert!(unclear(link(7, "uplink", "veth"), alias));
        let foreign = LinkView { name: "veth0".into(), ..link(DYING_GROUP, "", "veth") };
        assert!(unclear(foreign, alias), "a group of ours, no alias, and not a name of ours");
        assert!(unclear(link(0, "uplink", "veth"), alias), "our name alone");
        assert!(unclear(link(ENI_GROUP + 1, alias, "veth"), alias));
        assert!(unclear(link(DYING_GROUP, alias, ""), alias));
    }

    #[test]
    fn a_number_that_somebody_else_has_says_that_ours_is_gone() {
        let alias = "eni1 1f c eth0 1 n";
        for (group, told, kind) in [
            (DYING_GROUP, "eni1 1f c eth0 2 n", "veth"),
            (0, "", "veth"),
            (0, "uplink", "veth"),
            (DYING_GROUP, "", "dummy"),
            (ENI_GROUP + 1, "", ""),
        ] {
            let foreign = LinkView { name: "veth0".into(), ..link(group, told, kind) };
            assert_eq!(whose(&foreign, alias), Whose::Anothers, "{group:x} {told} {kind}");
        }
    }

    #[test]
    fn only_ours_makes_way() {
        assert!(may_make_way(&link(DYING_GROUP, "", "veth")));
        assert!(may_make_way(&link(0, "eni1 1f c eth0 1 n", "veth")));
        assert!(!may_make_way(&link(0, "uplink", "veth")));
        assert!(!may_make_way(&link(ENI_GROUP + 1, "eni1 1f c eth0 1 n", "veth")));
        assert!(!may_make_way(&link(DYING_GROUP, "", "")));
    }
}
