//! What becomes of records and links at start.
//!
//! Owns the comparison of what was stored with what the kernel has, before the first ADD is served: a link without a
//! record is dying; `adding` with its alias or its route is live, otherwise it is undone; `live` without a link is
//! broken; a record whose link is in the dying group has its DEL finished. With an empty store every whole link of
//! ours is rebuilt into a record: nothing alive is forgotten because a file was deleted. Does not read the store or
//! the kernel: both are handed in.

use super::attachments::Attachments;
use super::commit::{Dirty, RecordId};
use super::del::LinkFate;
use super::event::{DyingReason, EffectKind, Note, Outcome};
use super::evidence::Evidence;
use super::grow::Growth;
use super::host::HostWatch;
use super::outside::{alias, result};
use super::pulse::Pulse;
use super::reaper::{ReapItem, Reaper};
use super::repair::Repair;
use super::start::Start;
use super::switches::Switched;
use super::sync::{Gate, Reconcilers};
use super::{Owner, OwnerConfig, Purpose, names};
use crate::kernel::{
    Alias, DYING_GROUP, ENI_GROUP, FIRST_IFINDEX, HostView, LinkView, POD_GROUP, PROTOCOL, RouteAction,
};
use crate::pool::Pool;
use crate::reconcile::driver::Driver;
use crate::record::{
    AddressRecord, AddressState, AttachmentId, AttachmentRecord, AttachmentState, NodeRecord, Stored, Write,
};
use crate::time::Timestamp;
use eni_proto::cni::AddResult;
use eni_proto::ids::{AttachmentKey, BootId, EniId};
use eni_proto::request::Mode;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

/// Why an owner cannot be made from what was stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// The records are of another boot: the store should have dropped them.
    #[error("the stored records are of boot {stored:?}, this is {now:?}")]
    OtherBoot {
        /// The stored boot.
        stored: BootId,
        /// This one.
        now: BootId,
    },
}

/// What a record's link looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LinkState {
    Gone,
    Dying,
    /// There; `whole` when it has its alias or its route: they are sent once the sandbox's side is acknowledged, and what
    /// others have taken away of the host's side since is laid again.
    There {
        whole: bool,
    },
}

impl Owner {
    /// An owner from what was stored and one look at the host, with the effects of the start.
    pub fn restore(
        config: OwnerConfig,
        stored: Stored,
        host: &HostView,
        boot: &BootId,
        now: Timestamp,
    ) -> Result<(Owner, Outcome), RestoreError> {
        let fresh = stored.node.is_none();
        let mut node = stored.node.unwrap_or_else(|| NodeRecord {
            boot: boot.clone(),
            next_ifindex: FIRST_IFINDEX,
            next_generation: 1,
            next_intent: 1,
            was_ready: false,
            instance: None,
        });
        if node.boot != *boot {
            return Err(RestoreError::OtherBoot { stored: node.boot, now: boot.clone() });
        }
        skip_used(&mut node, host, &stored.attachments);
        let left: BTreeSet<AttachmentId> = stored.attachments.iter().map(AttachmentRecord::id).collect();
        let strays = strays(&stored.addresses, &left);
        let pool = Pool::restore(stored.enis, stored.addresses, |holder| !left.contains(holder));
        let grace = config.status_grace;
        let mut owner = Owner {
            config,
            next_ifindex: node.next_ifindex,
            next_generation: node.next_generation,
            node,
            pool,
            attachments: Attachments::default(),
            ops: BTreeMap::new(),
            waiting: BTreeSet::new(),
            lanes: BTreeMap::new(),
            checks: BTreeMap::new(),
            sweeps: BTreeMap::new(),
            purposes: BTreeMap::new(),
            next_effect: 0,
            kills: BTreeMap::new(),
            reaper: Reaper::default(),
            dirty: Dirty::default(),
            gate: Gate::since(now),
            host: HostWatch::default(),
            evidence: Evidence::default(),
            driver: Driver::default(),
            reconcilers: Reconcilers { eni_sync: 0, host_net: 0, capacity: 0 },
            growth: Growth::restore(stored.intents, now),
            repair: Repair::default(),
            start: Start::default(),
            switched: Switched::default(),
            draining: false,
            store_trouble: None,
            no_reserve: None,
            pulse: Pulse::new(grace, now),
            steering_broken: None,
            out: Outcome::default(),
        };
        owner.host.see_peer(host);
        owner.register(now);
        owner.keep_out_what_was_given_back(now);
        owner.release_strays(strays, now);
        for record in stored.attachments {
            owner.restore_record(record, host, now);
        }
        owner.restore_links(host, fresh, now);
        owner.reserve_now();
        if fresh {
            // In one transaction: a store that has a node and lacks attachments would make orphans of their links.
            owner.mark_dirty(RecordId::All, now);
        }
        owner.commit(Purpose::Housekeeping, vec![Write::PutNode(owner.node.clone())], now);
        owner.write_dirty(now);
        owner.gate.committing =
            owner.out.effects.iter().filter(|e| is_commit(&e.kind)).map(|e| e.id).collect();
        owner.gate.orphans = owner.reaper.orphan_links().collect();
        owner.reaper.hurry(now);
        owner.gate.undoing = owner.kills.keys().cloned().collect();
        owner.gate_progress(now);
        owner.tick(now);
        let out = std::mem::take(&mut owner.out);
        Ok((owner, out))
    }

    /// ADDs were served in this boot, though the store does not say so: it is a new one. What the run folder's stamp tells.
    pub fn was_ready_in_this_boot(&mut self, now: Timestamp) {
        if !self.node.was_ready {
            self.node.was_ready = true;
            self.mark_dirty(RecordId::Node, now);
        }
    }

    fn restore_record(&mut self, record: AttachmentRecord, host: &HostView, now: Timestamp) {
        let id = record.id();
        let link = link_state(&record, host);
        if record.state != AttachmentState::Dying {
            self.hold_addresses(&record, now);
        }
        let mut record = record;
        let (state, why) = match (record.state, link) {
            (AttachmentState::Dying, _) => (AttachmentState::Dying, None),
            (_, LinkState::Dying) => (AttachmentState::Live, Some(DyingReason::LinkDying)),
            (AttachmentState::Adding, LinkState::There { whole: true }) => (AttachmentState::Live, None),
            (AttachmentState::Adding, _) => (AttachmentState::Adding, Some(DyingReason::HalfMade)),
            (_, LinkState::There { .. }) => (AttachmentState::Live, None),
            (_, LinkState::Gone) => (AttachmentState::Broken, None),
        };
        let changed = record.state != state;
        record.state = state;
        let record = Arc::new(record);
        self.attachments.put(record.clone());
        if state == AttachmentState::Broken {
            self.evidence.suspect(id.clone());
        } else if state == AttachmentState::Live && !record.netns_seen && why.is_none() {
            // Of an older ipamd, or it ended before it had written down what it saw.
            self.evidence.look_at(id.clone());
        }
        if changed {
            self.mark_dirty(RecordId::Attachment(id.clone()), now);
        }
        if let Some(why) = why {
            self.note(Note::Restored { attachment: id.clone(), state: "undone" });
            let fate = if link == LinkState::Gone { LinkFate::Gone } else { LinkFate::There };
            self.end_attachment(&id, why, None, fate, now);
        } else if state == AttachmentState::Dying {
            // Its DEL was answered or not: finishing it is right either way.
            self.note(Note::Restored { attachment: id.clone(), state: state.name() });
            let fate = if link == LinkState::Gone { LinkFate::Gone } else { LinkFate::There };
            self.end_attachment(&id, DyingReason::Del, None, fate, now);
        } else {
            self.note(Note::Restored { attachment: id, state: state.name() });
        }
    }

    /// Addresses whose holder has no record: nobody would ever release them. They cool, and first of all their
    /// conntrack entries are deleted, by the reaper and under a number that no link has.
    fn release_strays(&mut self, strays: Vec<(Ipv4Addr, AttachmentId)>, now: Timestamp) {
        for (address, holder) in strays {
            if self.pool.release(address, &holder, now + self.config.cooldown).is_none() {
                continue;
            }
            self.pool.reaped(address, &holder);
            self.mark_dirty(RecordId::Address(address), now);
            let unused = self.take_ifindex();
            self.reaper.push(ReapItem::orphan(unused, String::new(), vec![address]), now);
        }
    }

    /// A record's addresses are its own, whatever theirs say; what another attachment holds stays that one's.
    fn hold_addresses(&mut self, record: &AttachmentRecord, now: Timestamp) {
        let id = record.id();
        for address in &record.addresses {
            let before = self.pool.address(*address).cloned();
            let claimed = self.pool.claim(*address, &record.eni, &id);
            if claimed.is_some() && claimed != before {
                self.mark_dirty(RecordId::Address(*address), now);
            }
        }
    }

    /// Links of ours that no record names.
    fn restore_links(&mut self, host: &HostView, fresh: bool, now: Timestamp) {
        let known: BTreeSet<u32> = self.attachments.all().map(|r| r.host_ifindex).collect();
        for link in host.links.iter().filter(|l| is_ours(l) && !known.contains(&l.ifindex)) {
            if fresh && let Some(record) = self.rebuild(link, host, now) {
                self.note(Note::Rebuilt { attachment: record.id() });
                let record = Arc::new(record);
                self.mark_dirty(RecordId::Attachment(record.id()), now);
                for address in &record.addresses {
                    if self.pool.claim(*address, &record.eni, &record.id()).is_some() {
                        self.mark_dirty(RecordId::Address(*address), now);
                    }
                }
                self.attachments.put(record);
                continue;
            }
            self.note(Note::OrphanLink { ifindex: link.ifindex, alias: link.alias.clone() });
            let addresses = addresses_of(link.ifindex, host).into_iter().collect();
            let item = ReapItem::orphan(link.ifindex, link.alias.clone(), addresses);
            self.reaper.push(item, now);
        }
    }

    /// A record from a whole link: its alias names the attachment, and so the sandbox's MAC; its route or its neighbour
    /// the address, its group the ENI. Nothing is invented: a link that nothing names an address of is not rebuilt.
    fn rebuild(&mut self, link: &LinkView, host: &HostView, now: Timestamp) -> Option<AttachmentRecord> {
        if link.group == DYING_GROUP {
            return None;
        }
        let told = Alias::parse(&link.alias)?;
        let key = AttachmentKey {
            network: told.network.parse().ok()?,
            container: told.container.parse().ok()?,
            ifname: told.ifname.parse().ok()?,
        };
        if self.attachments.current(&key).is_some() {
            return None;
        }
        let addresses = addresses_of(link.ifindex, host);
        let first = *addresses.first()?;
        let neighbour = host.neighbours.iter().find(|n| n.ifindex == link.ifindex && n.address == first);
        let sandbox_mac =
            neighbour.map_or_else(|| names::mac(&key, told.generation, "sandbox"), |neighbour| neighbour.mac);
        let eni = self.eni_by_number(link.group.checked_sub(POD_GROUP)?);
        let mut record = AttachmentRecord {
            key,
            generation: told.generation,
            state: AttachmentState::Live,
            mode: Mode::Shared,
            addresses,
            eni,
            netns_cookie: told.cookie,
            netns: String::new(),
            host_ifindex: link.ifindex,
            host_link: link.name.parse().ok()?,
            host_mac: link.mac?,
            sandbox_mac,
            mtu: link.mtu,
            pod: Some(told.pod).filter(|p| !p.is_empty()),
            created: now,
            boot: self.node.boot.clone(),
            claimed_by: None,
            first_seen: None,
            netns_seen: false,
            result: AddResult::default(),
        };
        record.result = result(&record);
        Some(record)
    }

    /// The ENI of a number; before EC2 has told it, a name that the first look at EC2 replaces.
    fn eni_by_number(&self, number: u32) -> EniId {
        let known = self.pool.enis().find(|e| e.record.number() == number && e.record.state.is_laid());
        known.map_or_else(
            || format!("eni-unknown-{number}").parse().expect("letters, digits and '-' are an ENI id"),
            |e| e.record.id.clone(),
        )
    }
}

/// The addresses that are held by an attachment without a record.
fn strays(addresses: &[AddressRecord], known: &BTreeSet<AttachmentId>) -> Vec<(Ipv4Addr, AttachmentId)> {
    let stray = |record: &AddressRecord| match &record.state {
        AddressState::Allocated { attachment }
        | AddressState::Quarantined { attachment: Some(attachment), .. }
            if !known.contains(attachment) =>
        {
            Some((record.address, attachment.clone()))
        }
        _ => None,
    };
    addresses.iter().filter_map(stray).collect()
}

fn is_commit(kind: &EffectKind) -> bool {
    matches!(kind, EffectKind::Commit(_))
}

/// Generations and ifindexes that records and links show are taken, whatever was reserved.
fn skip_used(node: &mut NodeRecord, host: &HostView, records: &[AttachmentRecord]) {
    for record in records {
        node.next_ifindex = node.next_ifindex.max(record.host_ifindex.saturating_add(1));
        node.next_generation = node.next_generation.max(record.generation.saturating_add(1));
    }
    for link in host.links.iter().filter(|l| is_ours(l)) {
        node.next_ifindex = node.next_ifindex.max(link.ifindex.saturating_add(1));
        if let Some(told) = Alias::parse(&link.alias) {
            node.next_generation = node.next_generation.max(told.generation.saturating_add(1));
        }
    }
}

fn is_ours(link: &LinkView) -> bool {
    let group = link.group == DYING_GROUP || (POD_GROUP..POD_GROUP + 0x80).contains(&link.group);
    let eni = (ENI_GROUP..ENI_GROUP + 0x80).contains(&link.group);
    let told = Alias::parse(&link.alias).is_some();
    // Whatever its alias: before ours is sent, others may give it one.
    let unfinished = group && names::is_host_link(&link.name);
    link.kind == "veth" && link.ifindex >= FIRST_IFINDEX && !eni && (told || unfinished)
}

fn routed_by(ifindex: u32, host: &HostView) -> Vec<Ipv4Addr> {
    let by_link = host.pods_routes.iter().filter(|r| r.protocol == PROTOCOL && r.metric == 0);
    let by_link = by_link.filter(|r| r.action == RouteAction::Device { ifindex });
    by_link.map(|r| r.destination.addr()).collect()
}

/// What a link's routes and permanent neighbours say of its addresses: either may have been taken away.
fn addresses_of(ifindex: u32, host: &HostView) -> BTreeSet<Ipv4Addr> {
    let by_link = host.neighbours.iter().filter(|n| n.ifindex == ifindex && n.permanent);
    by_link.map(|n| n.address).chain(routed_by(ifindex, host)).collect()
}

fn link_state(record: &AttachmentRecord, host: &HostView) -> LinkState {
    let wanted = alias(record).render();
    let link = host.links.iter().find(|l| {
        let same_alias = l.alias == wanted;
        let nameless = l.name == record.host_link.as_str() && Alias::parse(&l.alias).is_none();
        // Its MAC is of this attachment alone, whatever others have called it.
        let same_mac = l.kind == "veth" && l.mac == Some(record.host_mac);
        l.ifindex == record.host_ifindex && (same_alias || nameless || same_mac)
    });
    match link {
        None => LinkState::Gone,
        Some(link) if link.group == DYING_GROUP => LinkState::Dying,
        Some(link) => {
            let routed = routed_by(link.ifindex, host);
            let whole = link.alias == wanted || record.addresses.iter().all(|a| routed.contains(a));
            LinkState::There { whole }
        }
    }
}
