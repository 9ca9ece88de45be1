//! The daemon's netlink messages, from the bytes that it sent: how many, which, by whom.
//!
//! Owns reading messages and attributes as far as the guards need. The metrics' counts are held against them. That the
//! messages do what they should is the other tiers' to prove.

use crate::recording::{PODS, RECORDING};
use crate::strace::Call;
use std::collections::{BTreeMap, BTreeSet};

/// Messages per ADD: the pair; the host end raised; six in the sandbox; alias, neighbour and route on the host.
pub(crate) const ADD_MESSAGES_MOST: usize = 11;
/// Sends that carry them: one each.
const ADD_SENDS_MOST: usize = 4;
/// A link, an address, a neighbour and a route at the least.
const ADD_MESSAGES_LEAST: usize = 4;
/// Messages per DEL: the route goes, the link joins the dying group.
pub(crate) const DEL_MESSAGES_MOST: usize = 2;
/// In one send.
const DEL_SENDS: usize = 1;
/// Messages of the reaper per link: it looks at each, and deletes a group of them at once or one by itself.
const REAP_MESSAGES_MOST: usize = 2;

const NEWLINK: u16 = 16;
const DELLINK: u16 = 17;
const GETLINK: u16 = 18;
const SETLINK: u16 = 19;
const DELROUTE: u16 = 25;
/// Kinds of nfnetlink have their subsystem in the upper byte.
const ROUTE_KINDS: std::ops::Range<u16> = 16..256;
const NLM_F_CREATE: u16 = 0x400;

const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_GROUP: u16 = 27;
const IFLA_NET_NS_FD: u16 = 28;
/// IFLA_NET_NS_PID, IFLA_NET_NS_FD, IFLA_NEW_NETNSID, IFLA_TARGET_NETNSID: in a message to a link that is there, each
/// moves it or means one elsewhere.
const MOVES: [u16; 4] = [19, IFLA_NET_NS_FD, 45, 46];

/// A message of route netlink.
struct Message<'a> {
    kind: u16,
    flags: u16,
    body: &'a [u8],
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes(bytes[at..at + 2].try_into().unwrap())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
}

impl Message<'_> {
    /// The name that a link message tells, its final zero included.
    fn name(&self) -> Vec<u8> {
        let name = self.attributes().into_iter().find(|(kind, _)| *kind == IFLA_IFNAME);
        name.map(|(_, name)| name.to_vec()).expect("a link message with a name")
    }

    /// The link that a link message is about.
    fn ifindex(&self) -> u32 {
        u32_at(self.body, 4)
    }

    /// A link message's attributes: kind without flags, and value.
    fn attributes(&self) -> Vec<(u16, &[u8])> {
        attributes(&self.body[16..])
    }
}

fn attributes(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let length = usize::from(u16_at(bytes, 0));
        all.push((u16_at(bytes, 2) & 0x3fff, &bytes[4..length]));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    all
}

/// Whether a call sends netlink messages: these threads send nothing else.
fn is_send(call: &&Call) -> bool {
    let thread = call.thread.as_str();
    let netlinks = ["netlink-", "reaper-", "host-"].iter().any(|name| thread.starts_with(name));
    assert!(!(netlinks && call.name.starts_with("sendm")), "a send that is not read here: {call:?}");
    netlinks && call.name == "sendto"
}

/// The messages of a send; none of nfnetlink.
fn messages(send: &Call) -> Vec<Message<'_>> {
    let (mut rest, mut all) = (send.sent.as_slice(), Vec::new());
    assert_eq!(Some(rest.len()), send.result().map(|sent| sent as usize), "all of it was dumped: {send:?}");
    while !rest.is_empty() {
        let length = u32_at(rest, 0) as usize;
        all.push(Message { kind: u16_at(rest, 4), flags: u16_at(rest, 6), body: &rest[16..length] });
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    all.retain(|message| ROUTE_KINDS.contains(&message.kind));
    all
}

/// The sends of route netlink by threads of a name, with their messages.
fn sends<'a>(calls: &'a [Call], thread: &str) -> Vec<(&'a Call, Vec<Message<'a>>)> {
    let sends = calls.iter().filter(|call| is_send(call) && call.thread.starts_with(thread));
    sends.map(|call| (call, messages(call))).filter(|(_, messages)| !messages.is_empty()).collect()
}

/// Messages and sends of route netlink by threads of a name.
pub(crate) fn count(calls: &[Call], thread: &str) -> (usize, usize) {
    let sends = sends(calls, thread);
    (sends.iter().map(|(_, messages)| messages.len()).sum(), sends.len())
}

#[test]
fn guard_netlink_messages_per_add() {
    for window in &RECORDING.adds {
        let (messages, sends) = count(RECORDING.of(window), "netlink-");
        assert!((ADD_MESSAGES_LEAST..=ADD_MESSAGES_MOST).contains(&messages), "{messages} messages");
        assert!((1..=ADD_SENDS_MOST).contains(&sends), "{sends} sends");
    }
    let [adds, _] = RECORDING.phases();
    println!("ADDs: {:?} messages and sends for {PODS}", count(adds, ""));
    assert_eq!(count(adds, "reaper-"), (0, 0), "an ADD deletes nothing");
}

#[test]
fn guard_netlink_messages_per_del() {
    for window in &RECORDING.dels {
        let calls = RECORDING.of(window);
        let (messages, count) = count(calls, "netlink-");
        assert!((1..=DEL_MESSAGES_MOST).contains(&messages), "{messages} messages");
        assert_eq!(count, DEL_SENDS);
        let sends = sends(calls, "netlink-");
        let kinds: Vec<u16> = sends[0].1.iter().map(|message| message.kind).collect();
        assert_eq!(kinds, [DELROUTE, SETLINK]);
    }
}

#[test]
fn guard_netlink_messages_of_the_reaper() {
    let (messages, _) = count(&RECORDING.calls, "reaper-");
    println!("reaper: {messages} messages for {PODS} links");
    assert!((PODS..=PODS * REAP_MESSAGES_MOST).contains(&messages), "{messages} messages for {PODS} links");
}

#[test]
fn guard_the_metrics_count_the_messages() {
    let [before, between, after] = RECORDING.counters;
    let [adds, _] = RECORDING.phases();
    let rest = &RECORDING.calls[RECORDING.dels[0].start..];
    assert_eq!((between.messages - before.messages, between.sends - before.sends), count(adds, ""));
    assert_eq!((after.messages - between.messages, after.sends - between.sends), count(rest, ""));
}

#[test]
fn guard_no_link_is_ever_moved() {
    let mut born = 0;
    for (send, messages) in sends(&RECORDING.calls, "") {
        for link in messages.iter().filter(|m| [NEWLINK, SETLINK].contains(&m.kind)) {
            let attributes = link.attributes();
            let moves = attributes.iter().any(|(kind, _)| MOVES.contains(kind));
            assert!(!moves, "a link is moved: {send:?}");
            let makes = link.kind == NEWLINK && link.flags & NLM_F_CREATE != 0;
            born += usize::from(makes && is_born_elsewhere(&attributes));
        }
    }
    assert_eq!(born, PODS, "each pair's other end is born in its sandbox");
}

/// Whether the peer of a new pair names a network namespace: LINKINFO, its data, the peer, whose attributes follow a
/// link's header.
fn is_born_elsewhere(link: &[(u16, &[u8])]) -> bool {
    const INFO_DATA: u16 = 2;
    const VETH_PEER: u16 = 1;
    fn nested<'a>(all: &[(u16, &'a [u8])], wanted: u16) -> &'a [u8] {
        all.iter().find(|(kind, _)| *kind == wanted).map(|(_, value)| *value).unwrap_or_default()
    }
    let info = attributes(nested(link, IFLA_LINKINFO));
    let data = attributes(nested(&info, INFO_DATA));
    let peer = attributes(nested(&data, VETH_PEER).get(16..).unwrap_or_default());
    peer.iter().any(|(kind, _)| *kind == IFLA_NET_NS_FD)
}

#[test]
fn guard_a_del_deletes_no_link_and_the_reaper_comes_after_its_answer() {
    // DEL names the link, the reaper its number: ADD has told both.
    let mut numbers = BTreeMap::new();
    for (_, messages) in sends(&RECORDING.calls, "netlink-") {
        for made in messages.iter().filter(|m| m.kind == NEWLINK && m.flags & NLM_F_CREATE != 0) {
            numbers.insert(made.name(), made.ifindex());
        }
    }
    // By link: the line at which its DEL was answered.
    let mut answered: BTreeMap<u32, usize> = BTreeMap::new();
    for window in &RECORDING.dels {
        let sends = sends(RECORDING.of(window), "netlink-");
        let dying = sends[0].1.iter().find(|message| message.kind == SETLINK).unwrap();
        assert!(dying.attributes().iter().any(|(kind, _)| *kind == IFLA_GROUP), "it joins a group");
        answered.insert(numbers[&dying.name()], RECORDING.answered(window));
    }
    assert_eq!(answered.len(), PODS, "each DEL has a link of its own");
    let (mut looked, mut deletes) = (BTreeSet::new(), 0);
    for (send, messages) in sends(&RECORDING.calls, "") {
        for message in messages {
            match message.kind {
                // Not a list of all.
                GETLINK if send.thread.starts_with("reaper-") && message.ifindex() != 0 => {
                    looked.insert(message.ifindex());
                }
                DELLINK => {
                    assert!(send.thread.starts_with("reaper-"), "deleted by {}: {send:?}", send.thread);
                    let early =
                        looked.iter().find(|link| answered.get(link).is_none_or(|at| *at > send.began));
                    assert_eq!(early, None, "deleted before its DEL was answered");
                    assert!(!looked.is_empty(), "it looks before it deletes");
                    looked.clear();
                    deletes += 1;
                }
                _ => {}
            }
        }
    }
    assert!((1..=PODS).contains(&deletes), "{deletes} deletes for {PODS} links");
}
