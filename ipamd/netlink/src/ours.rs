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
pub(crate) fn may_make_way(link: &LinkView) -> Result<(), String> {
    if of_an_eni(link) || link.kind != "veth" {
        return Err(format!("{} is no host end of a pod", link.name));
    }
    if of_a_pod(link) || Alias::parse(&link.alias).is_some() {
        return Ok(());
    }
    Err(format!("{} has neither a group nor an alias of ours", link.name))
}

/// Whether the reaper may delete a link: its alias begins with `alias`, or it is a pair of ours that was not finished
/// and so never got one.
pub(crate) fn may_reap(link: &LinkView, alias: &str) -> Result<(), String> {
    if of_an_eni(link) || link.kind != "veth" {
        return Err(format!("{} is no host end of a pod", link.name));
    }
    let unfinished = link.alias.is_empty() && of_a_pod(link) && has_our_name(&link.name);
    if (!alias.is_empty() && link.alias.starts_with(alias)) || unfinished {
        return Ok(());
    }
    Err(format!("{} has another alias: {:?}", link.name, link.alias))
}

/// A host step in words.
pub(crate) fn describe(step: &HostStep) -> String {
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
        HostStep::SetMtu { ifindex, mtu } => format!("set the MTU {mtu} of link {ifindex}"),
        HostStep::AddAddress(view) => format!("put the address {} on link {}", view.address, view.ifindex),
        HostStep::DeleteAddress(view) => {
            format!("take the address {} off link {}", view.address, view.ifindex)
        }
        HostStep::AddEniRoute(view) => format!("lay {}", eni_route(view)),
        HostStep::DeleteEniRoute(view) => format!("delete {}", eni_route(view)),
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
        assert!(may_reap(&link(DYING_GROUP, alias, "veth"), alias).is_ok());
        assert!(may_reap(&link(POD_GROUP + 1, "eni1 1f c eth0 1 n ns/pod", "veth"), alias).is_ok());
        assert!(may_reap(&link(POD_GROUP + 1, "", "veth"), alias).is_ok());
        assert!(may_reap(&link(DYING_GROUP, "eni1 1f c eth0 2 n", "veth"), alias).is_err());
        assert!(may_reap(&link(DYING_GROUP, "uplink", "veth"), "").is_err());
        assert!(may_reap(&link(0, "", "veth"), alias).is_err());
        let foreign = LinkView { name: "veth0".into(), ..link(DYING_GROUP, "", "veth") };
        assert!(may_reap(&foreign, alias).is_err(), "no alias, and not a name of ours");
        assert!(may_reap(&link(ENI_GROUP + 1, alias, "veth"), alias).is_err());
        assert!(may_reap(&link(DYING_GROUP, alias, ""), alias).is_err());
    }

    #[test]
    fn only_ours_makes_way() {
        assert!(may_make_way(&link(DYING_GROUP, "", "veth")).is_ok());
        assert!(may_make_way(&link(0, "eni1 1f c eth0 1 n", "veth")).is_ok());
        assert!(may_make_way(&link(0, "uplink", "veth")).is_err());
        assert!(may_make_way(&link(ENI_GROUP + 1, "eni1 1f c eth0 1 n", "veth")).is_err());
        assert!(may_make_way(&link(DYING_GROUP, "", "")).is_err());
    }
}
