//! Which attachments may go although nobody asked for it.
//!
//! Owns two readings: what a runtime's list of valid attachments does not name, and whether a network namespace is
//! proven gone. The proof begins with the host link that we made: the kernel has removed it, told by its index and alias
//! in a look that was whole. A container may have deleted its own interface, so that the path by which the runtime named
//! it has to agree (`owner/evidence`). A runtime that does not name an attachment is no proof, for two of them may share a
//! network's name. Does not free anything: the owner does, by the transition that DEL uses.

use crate::kernel::{Alias, HostView};
use crate::owner::event::PathSight;
use crate::record::{AttachmentRecord, AttachmentState};
use eni_proto::ids::NetworkName;
use eni_proto::request::ValidAttachment;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

/// What an attachment's host link says of its network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Netns {
    /// The kernel has removed our link: with the namespace, or somebody has deleted it.
    Linkless,
    /// Its link is there.
    Lives,
    /// Something has the link's number and does not say whose it is.
    Unclear(String),
}

/// Why an attachment that is not named is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// Its network namespace lives: its link is there.
    Lives,
    /// An operation on it is under way.
    UnderWay,
    /// Its link cannot be told from another's.
    Unclear(String),
    /// Its link is gone, and what is at the path of its network namespace does not say that this is gone, too.
    Path(PathSight),
    /// The look at the host failed: what was not seen is not gone.
    NotSeen(String),
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kept::Lives => f.write_str("its network namespace lives: the kernel has not removed its link"),
            Kept::UnderWay => f.write_str("an operation on it is under way"),
            Kept::Unclear(why) => f.write_str(why),
            Kept::Path(PathSight::Namespace) => {
                f.write_str("its link was deleted: a network namespace is at the path that its runtime named")
            }
            Kept::Path(_) => f.write_str(
                "its link is gone, but whether its network namespace is cannot be told by the path that its runtime named",
            ),
            Kept::NotSeen(why) => write!(f, "whether its network namespace lives is not known: {why}"),
        }
    }
}

/// The attachments of a network that a list does not name; those that are dying need no naming.
pub fn unnamed<'a>(
    network: &NetworkName,
    valid: &BTreeSet<ValidAttachment>,
    records: impl Iterator<Item = &'a Arc<AttachmentRecord>>,
) -> Vec<Arc<AttachmentRecord>> {
    let named = |record: &AttachmentRecord| {
        let (container, ifname) = (record.key.container.clone(), record.key.ifname.clone());
        valid.contains(&ValidAttachment { container, ifname })
    };
    records
        .filter(|r| r.key.network == *network && r.state != AttachmentState::Dying && !named(r))
        .cloned()
        .collect()
}

/// What one look at the host says of the network namespace of an attachment that was wired before it. `alias` is its
/// link's.
pub fn netns(record: &AttachmentRecord, alias: &str, host: &HostView) -> Netns {
    match host.links.iter().find(|link| link.ifindex == record.host_ifindex) {
        None => Netns::Linkless,
        Some(link) if link.alias == alias => Netns::Lives,
        // A MAC of ours is of one attachment; an alias others may copy.
        Some(link) if link.kind == "veth" && link.mac == Some(record.host_mac) => Netns::Lives,
        // An index is given out once per boot: another attachment has it only when ours is gone.
        Some(link) if Alias::parse(&link.alias).is_some() => Netns::Linkless,
        Some(link) => {
            let (ifindex, name, alias) = (link.ifindex, &link.name, &link.alias);
            Netns::Unclear(format!("link {ifindex} ({name}) has another alias than ours: {alias:?}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{FIRST_IFINDEX, InetSettings, LinkView, POD_GROUP};
    use crate::time::Timestamp;
    use eni_proto::cni::AddResult;
    use eni_proto::ids::{AttachmentKey, BootId, MacAddr, NetnsCookie};
    use eni_proto::request::Mode;

    const ALIAS: &str = "eni1 7 a eth0 1 vpc";

    fn record(network: &str, container: &str) -> Arc<AttachmentRecord> {
        Arc::new(AttachmentRecord {
            key: AttachmentKey {
                network: network.parse().unwrap(),
                container: container.parse().unwrap(),
                ifname: "eth0".parse().unwrap(),
            },
            generation: 1,
            state: AttachmentState::Live,
            mode: Mode::Shared,
            addresses: BTreeSet::new(),
            eni: "eni-1".parse().unwrap(),
            netns_cookie: NetnsCookie(7),
            netns: String::new(),
            host_ifindex: FIRST_IFINDEX,
            host_link: "eni00000000001".parse().unwrap(),
            host_mac: MacAddr([2, 0, 0, 0, 0, 1]),
            sandbox_mac: MacAddr([2, 0, 0, 0, 0, 2]),
            mtu: 1500,
            pod: None,
            created: Timestamp::ZERO,
            boot: BootId::new("boot"),
            claimed_by: None,
            first_seen: None,
            netns_seen: false,
            result: AddResult::default(),
        })
    }

    fn host(alias: &str) -> HostView {
        let link = LinkView {
            ifindex: FIRST_IFINDEX,
            name: "eni00000000001".into(),
            mac: None,
            group: POD_GROUP + 1,
            alias: alias.into(),
            up: true,
            mtu: 1500,
            kind: "veth".into(),
            inet: InetSettings::default(),
        };
        HostView { links: vec![link], ..HostView::default() }
    }

    #[test]
    fn a_link_that_is_there_by_its_number_and_is_not_anothers_proves_nothing() {
        let record = record("vpc", "a");
        assert_eq!(netns(&record, ALIAS, &host(ALIAS)), Netns::Lives);
        assert_eq!(netns(&record, ALIAS, &HostView::default()), Netns::Linkless);
        let copied = "eni1 8 b eth0 2 vpc";
        assert_eq!(netns(&record, ALIAS, &host(copied)), Netns::Linkless, "another attachment's");
        let mut ours = host(copied);
        ours.links[0].mac = Some(record.host_mac);
        assert_eq!(
            netns(&record, ALIAS, &ours),
            Netns::Lives,
            "an alias can be copied, its MAC says whose it is"
        );
        for alias in ["", "uplink"] {
            assert!(matches!(netns(&record, ALIAS, &host(alias)), Netns::Unclear(_)), "{alias:?}");
        }
    }

    #[test]
    fn a_list_speaks_of_its_network_alone() {
        let mut dying = record("vpc", "d").as_ref().clone();
        dying.state = AttachmentState::Dying;
        let records = [record("vpc", "a"), record("vpc", "b"), record("other", "c"), Arc::new(dying)];
        let valid = |containers: &[&str]| {
            let attachment = |container: &&str| ValidAttachment {
                container: container.parse().unwrap(),
                ifname: "eth0".parse().unwrap(),
            };
            containers.iter().map(attachment).collect::<BTreeSet<_>>()
        };
        let unnamed = |containers: &[&str]| {
            let found = unnamed(&"vpc".parse().unwrap(), &valid(containers), records.iter());
            found.iter().map(|r| r.key.container.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(unnamed(&[]), ["a", "b"]);
        assert_eq!(unnamed(&["a"]), ["b"]);
        assert_eq!(unnamed(&["b", "a", "c", "unknown"]), Vec::<String>::new());
        let other_ifname = BTreeSet::from([ValidAttachment {
            ifname: "net1".parse().unwrap(),
            ..valid(&["a"]).pop_first().unwrap()
        }]);
        let found = super::unnamed(&"vpc".parse().unwrap(), &other_ifname, records.iter());
        assert_eq!(found.len(), 2, "the interface counts");
    }
}
