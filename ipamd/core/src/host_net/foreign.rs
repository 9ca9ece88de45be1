//! What others put on the host that breaks ours.
//!
//! Owns the reading of it: addresses of the pool on a host link and routes in the main table by a secondary ENI's link
//! (ec2-net-utils, networkd, cloud-init and NetworkManager do both to new ENIs), rules that catch pods, settings of the
//! whole namespace, pods' links of which nothing is left but the number, another CNI. The first two are taken away from the ENIs that ipamd made, unless the configuration
//! says not to; everything else is reported and left alone.

use super::eni::{Laid, laid};
use super::{LinkSight, Planned, Reason, Wanted, sight};
use crate::kernel::{ENI_RULE_PRIORITY, HostAddressView, HostStep, HostView, PROTOCOL, RuleView};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// What a report is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReportKind {
    /// An address of the pool on a host link.
    Address,
    /// A route in the main table by a secondary ENI's link.
    Route,
    /// A rule that catches pods' packets.
    Rule,
    /// A setting of the whole namespace.
    Setting,
    /// A pod's link that was changed in everything.
    Link,
    /// Another CNI.
    Cni,
    /// Something that is undone as often as it is repaired.
    Contested,
}

impl ReportKind {
    /// All of them.
    pub const ALL: [ReportKind; 7] = [
        ReportKind::Address,
        ReportKind::Route,
        ReportKind::Rule,
        ReportKind::Setting,
        ReportKind::Link,
        ReportKind::Cni,
        ReportKind::Contested,
    ];

    /// Its name, as the metrics show it.
    pub fn name(self) -> &'static str {
        match self {
            ReportKind::Address => "address",
            ReportKind::Route => "route",
            ReportKind::Rule => "rule",
            ReportKind::Setting => "setting",
            ReportKind::Link => "link",
            ReportKind::Cni => "cni",
            ReportKind::Contested => "contested",
        }
    }
}

/// Something that is not repaired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// What it is about.
    pub kind: ReportKind,
    /// What, and what to do.
    pub text: String,
}

/// The most rules that are named one by one.
const RULES_NAMED: usize = 8;
/// `RT_TABLE_LOCAL`: who moves the rule that looks it up (Cilium) harms nobody.
const TABLE_LOCAL: u32 = 255;

/// Whether a link is a secondary ENI's, and may be cleared.
fn may_clear(wanted: &Wanted, enis: &BTreeMap<u32, Laid<'_>>, ifindex: u32) -> bool {
    let is_it = |eni: &Laid<'_>| eni.link.is_some_and(|link| link.ifindex == ifindex);
    wanted.adopt_links && enis.iter().any(|(k, eni)| *k != 1 && is_it(eni))
}

/// Addresses of the pool that are on a host link: its packets would be the host's own.
fn misplaced<'a>(wanted: &'a Wanted, observed: &'a HostView) -> impl Iterator<Item = &'a HostAddressView> {
    observed.addresses.iter().filter(|a| wanted.addresses.contains(&a.address.addr()))
}

/// Takes away what may be taken away.
pub(super) fn remove(
    wanted: &Wanted,
    enis: &BTreeMap<u32, Laid<'_>>,
    observed: &HostView,
    plan: &mut Vec<Planned>,
) {
    let mut foreign = |step| plan.push(Planned { step, reason: Reason::Foreign });
    for address in misplaced(wanted, observed).filter(|a| may_clear(wanted, enis, a.ifindex)) {
        foreign(HostStep::DeleteAddress(*address));
    }
    // A route with a next hop is somebody's intention, and no answer of a pod's takes it: marked packets have a table.
    let connected = observed.main_routes.iter().filter(|r| r.gateway.is_none());
    for route in connected.filter(|r| may_clear(wanted, enis, r.ifindex)) {
        foreign(HostStep::DeleteMainRoute(*route));
    }
}

/// The addresses that are not to be given out because they are on a host link and stay there.
pub fn withheld(wanted: &Wanted, observed: &HostView) -> BTreeSet<Ipv4Addr> {
    let enis = laid(wanted, observed);
    let stay = misplaced(wanted, observed).filter(|a| !may_clear(wanted, &enis, a.ifindex));
    stay.map(|a| a.address.addr()).collect()
}

/// Rules of others that come before ours and do not select by a mark, as pods' packets have none of theirs.
pub fn catching(observed: &HostView) -> impl Iterator<Item = &RuleView> {
    observed.rules.iter().filter(|rule| {
        let before = (1..=ENI_RULE_PRIORITY).contains(&rule.priority);
        before && rule.protocol != PROTOCOL && rule.mark.is_none() && rule.table != TABLE_LOCAL
    })
}

/// Everything that is left alone and told.
pub fn reports(wanted: &Wanted, observed: &HostView) -> Vec<Report> {
    let mut reports = Vec::new();
    let mut tell = |kind, text| reports.push(Report { kind, text });
    let enis = laid(wanted, observed);
    let name = |ifindex: u32| {
        let link = observed.links.iter().find(|l| l.ifindex == ifindex);
        link.map_or_else(|| ifindex.to_string(), |l| l.name.clone())
    };
    for address in misplaced(wanted, observed).filter(|a| !may_clear(wanted, &enis, a.ifindex)) {
        let text = format!(
            "{} is an address of the pool and on link {}: it is not given out until it is taken off",
            address.address,
            name(address.ifindex)
        );
        tell(ReportKind::Address, text);
    }
    let kept = |r: &&crate::kernel::EniRouteView| !may_clear(wanted, &enis, r.ifindex);
    for route in observed.main_routes.iter().filter(|r| r.gateway.is_none()).filter(kept) {
        let text = format!("the main table has {} by link {}", route.destination, name(route.ifindex));
        tell(ReportKind::Route, format!("{text}, a secondary ENI's: data_plane.adopt_links is off"));
    }
    for (number, rule) in catching(observed).enumerate() {
        let text = match number {
            n if n > RULES_NAMED => String::new(),
            RULES_NAMED => "and more rules like these".to_owned(),
            _ => format!(
                "rule {} looks up table {} before ours do: packets of pods may take it",
                rule.priority, rule.table
            ),
        };
        tell(ReportKind::Rule, text);
    }
    if let Some(globals) = observed.globals {
        if !globals.forwarding {
            tell(ReportKind::Setting, super::requirement::FORWARDING_OFF.to_owned());
        }
        if globals.send_redirects {
            let text = "net.ipv4.conf.all.send_redirects is 1: pods are sent redirects; see conf/sysctl.d";
            tell(ReportKind::Setting, text.to_owned());
        }
        if globals.rp_filter > 1 {
            let text = "net.ipv4.conf.all.rp_filter is 2: a sandbox can send with another's address";
            tell(ReportKind::Setting, text.to_owned());
        }
    }
    for pod in &wanted.pods {
        let seen = sight(pod.ifindex, &pod.alias, pod.name.as_str(), pod.mac, observed);
        if seen == LinkSight::Unclear {
            let text = format!(
                "link {} has the number of {} and nothing else of it: whether somebody has changed all of that is not \
                 known, and so it is not repaired; give it its name back, or delete it",
                name(pod.ifindex),
                pod.name
            );
            tell(ReportKind::Link, text);
        }
    }
    for other in &observed.others {
        tell(ReportKind::Cni, other.clone());
    }
    reports
}
