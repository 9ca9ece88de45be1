//! The store: round trips, group commit, and what is and is not damage.
//!
//! Owns one file per test, in a folder of its own. Does not kill a process in the middle of a commit: the tier `netns`
//! does.

mod frozen;
mod thread;

use super::*;
use eni_proto::cni::AddResult;
use eni_proto::ids::{AttachmentKey, BootId, MacAddr, NetnsCookie};
use eni_proto::request::Mode;
use ipamd_core::cloud::Mutation;
use ipamd_core::record::{
    AddressRecord, AddressState, AttachmentId, AttachmentRecord, AttachmentState, EniRecord, EniState,
    InstanceRecord, IntentRecord, NodeRecord,
};
use ipamd_core::time::Timestamp;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use tempfile::TempDir;

const BOOT: &str = "boot-1";

fn boot() -> BootId {
    BootId::new(BOOT)
}

fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ipamd.redb");
    (folder, path)
}

fn open(path: &Path) -> Opened {
    Store::open(path, &boot()).unwrap_or_else(|error| panic!("{error}"))
}

/// Why a file is refused; it must be the same afterwards, byte for byte, and no copy of it may stay.
fn refusal(path: &Path) -> OpenError {
    let before = fs::read(path).unwrap();
    let error = Store::open(path, &boot()).err().expect("it is refused");
    assert_eq!(fs::read(path).unwrap(), before, "the file is untouched: {error}");
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no copy stays");
    error
}

fn node() -> NodeRecord {
    NodeRecord {
        boot: boot(),
        next_ifindex: 0x1000_0400,
        next_generation: 1025,
        next_intent: 3,
        was_ready: true,
        instance: Some(InstanceRecord {
            id: "i-0abc".parse().unwrap(),
            instance_type: "m5.large".to_owned(),
            vpc_cidrs: vec!["10.0.0.0/16".parse().unwrap()],
        }),
    }
}

fn eni(number: u32) -> EniRecord {
    EniRecord {
        id: format!("eni-{number}").parse().unwrap(),
        mac: MacAddr([2, 0, 0, 0, 0, u8::try_from(number).unwrap()]),
        device_index: number,
        subnet: "subnet-1".parse().unwrap(),
        subnet_cidr: "10.0.1.0/24".parse().unwrap(),
        primary: Ipv4Addr::new(10, 0, 1, 10),
        state: EniState::InUse,
        prefixes: Vec::new(),
        attachment: None,
    }
}

fn id(number: u8, generation: u64) -> AttachmentId {
    let key = AttachmentKey {
        network: "vpc".parse().unwrap(),
        container: format!("c{number}").parse().unwrap(),
        ifname: "eth0".parse().unwrap(),
    };
    AttachmentId { key, generation }
}

fn ip(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 1, number)
}

fn address(number: u8, state: AddressState) -> AddressRecord {
    AddressRecord { address: ip(number), eni: eni(0).id, state, generation: 3 }
}

fn attachment(number: u8, generation: u64, state: AttachmentState) -> AttachmentRecord {
    AttachmentRecord {
        key: id(number, generation).key,
        generation,
        state,
        mode: Mode::Shared,
        addresses: BTreeSet::from([ip(number)]),
        eni: eni(0).id,
        netns_cookie: NetnsCookie(77),
        netns: "/run/netns/x".to_owned(),
        host_ifindex: 0x1000_0000 + u32::from(number),
        host_link: "eni0123456789a".parse().unwrap(),
        host_mac: MacAddr([2, 1, 1, 1, 1, number]),
        sandbox_mac: MacAddr([2, 2, 2, 2, 2, number]),
        mtu: 9001,
        pod: Some("default/web".to_owned()),
        created: Timestamp::from_millis(5),
        boot: boot(),
        claimed_by: Some("containerd".to_owned()),
        first_seen: Some(Timestamp::from_millis(6)),
        netns_seen: false,
        result: AddResult::default(),
    }
}

fn put(record: AttachmentRecord) -> Write {
    Write::PutAttachment(Arc::new(record))
}

/// Every kind of record, in the order of their keys: what the first landing has frozen.
fn every_record() -> Vec<Write> {
    let (at, holder) = (Timestamp::from_millis(9), id(2, 7));
    let states = [
        AddressState::Free { since: at },
        AddressState::Allocated { attachment: holder.clone() },
        AddressState::Cooling { attachment: holder.clone(), until: at },
        AddressState::Quarantined { reason: "on a host link".to_owned(), attachment: Some(holder) },
    ];
    let mut writes = vec![Write::PutNode(node()), Write::PutEni(eni(0)), Write::PutEni(eni(1))];
    writes.extend((1..).zip(states).map(|(n, state)| Write::PutAddress(address(n, state))));
    let states = [AttachmentState::Adding, AttachmentState::Live, AttachmentState::Broken];
    writes.extend((1..).zip(states).map(|(n, state)| put(attachment(n, 7, state))));
    // Of one key a dying one and the next.
    writes.push(put(attachment(4, 7, AttachmentState::Dying)));
    writes.push(put(attachment(4, 300, AttachmentState::Live)));
    let detach = Mutation::Detach { eni: eni(1).id, attachment: None };
    let assign = Mutation::Assign { eni: eni(0).id, count: 3, prefixes: 0 };
    writes.extend((1..).zip([detach, assign]).map(|(n, change)| Write::PutIntent(intent(n, change))));
    writes
}

fn intent(id: u64, mutation: Mutation) -> IntentRecord {
    IntentRecord { id, mutation, made: Timestamp::from_millis(10) }
}

fn commit(store: &Store, batch: &[Write]) {
    store.commit([batch].into_iter()).unwrap();
}

/// Puts bytes into a table, as only a fault or another version would.
fn put_bytes(store: &Store, table: Table, key: &[u8], bytes: &[u8]) {
    let transaction = store.database.begin_write().unwrap();
    transaction.open_table(table).unwrap().insert(key, bytes).unwrap();
    transaction.commit().unwrap();
}

#[test]
fn every_record_comes_back_after_it_was_closed_and_goes_when_it_is_deleted() {
    let (_folder, path) = folder();
    let mut wanted = Stored::default();
    wanted.apply(&every_record());
    let opened = open(&path);
    assert_eq!(opened.stored, Stored::default(), "a new one is empty");
    commit(&opened.store, &every_record());
    drop(opened);

    let opened = open(&path);
    assert_eq!(opened.stored, wanted);
    let gone = [
        Write::DeleteEni(eni(1).id),
        Write::DeleteAddress(ip(2)),
        Write::DeleteAttachment(id(4, 7)),
        Write::DeleteIntent(1),
        put(attachment(1, 7, AttachmentState::Live)),
    ];
    wanted.enis.retain(|e| e.id != eni(1).id);
    wanted.addresses.retain(|a| a.address != ip(2));
    wanted.attachments.retain(|a| a.id() != id(4, 7));
    wanted.intents.retain(|i| i.id != 1);
    wanted.attachments[0].state = AttachmentState::Live;
    commit(&opened.store, &gone);
    drop(opened);
    assert_eq!(open(&path).stored, wanted);
}

#[test]
fn a_newer_schema_is_refused_and_a_file_from_before_it_was_written_is_read() {
    let (_folder, path) = folder();
    let opened = open(&path);
    commit(&opened.store, &every_record());
    let transaction = opened.store.database.begin_write().unwrap();
    transaction.delete_table(META).unwrap();
    transaction.commit().unwrap();
    drop(opened);
    let opened = open(&path);
    assert_eq!(opened.stored.attachments.len(), 5);
    assert_eq!(opened.store.schema().unwrap(), Some(SCHEMA), "now it says what it is");
    put_bytes(&opened.store, META, SCHEMA_KEY, &(SCHEMA + 1).to_be_bytes());
    drop(opened);
    let error = refusal(&path);
    assert!(matches!(error, OpenError::NewerSchema { found, .. } if found == SCHEMA + 1), "{error}");
}

#[test]
fn a_field_of_a_later_version_is_passed_over() {
    let (_folder, path) = folder();
    let opened = open(&path);
    let mut later = serde_json::to_value(eni(0)).unwrap();
    later["colour"] = "blue".into();
    put_bytes(&opened.store, ENIS, eni(0).id.as_str().as_bytes(), &codec::encode(&later));
    drop(opened);
    assert_eq!(open(&path).stored.enis, [eni(0)]);
}

#[test]
fn a_wrong_checksum_is_damage_and_names_its_table() {
    for (table, key) in [
        (NODE, NODE_KEY),
        (ENIS, b"eni-9".as_slice()),
        (ADDRESSES, &[10, 0, 1, 9]),
        (ATTACHMENTS, b"vpc\0c9\0eth0\0\0\0\0\0\0\0\0\x01"),
    ] {
        let (_folder, path) = folder();
        let opened = open(&path);
        commit(&opened.store, &every_record());
        let mut bytes = codec::encode(&node());
        *bytes.last_mut().unwrap() ^= 1;
        put_bytes(&opened.store, table, key, &bytes);
        drop(opened);
        let error = refusal(&path);
        assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
        let name = redb::TableHandle::name(&table);
        assert!(error.to_string().contains(name), "{name}: {error}");
    }
}

#[test]
fn what_is_no_store_is_refused() {
    let (_folder, path) = folder();
    fs::write(&path, b"not a store at all, but long enough to be looked at".repeat(100)).unwrap();
    let error = refusal(&path);
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
    fs::remove_file(&path).unwrap();
    commit(&open(&path).store, &every_record());
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let error = refusal(&path);
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    let error = Store::open(&path, &boot()).err().expect("it is refused");
    assert!(matches!(error, OpenError::Io { step: "opening", .. }), "{error}");
}

#[test]
fn a_file_that_was_cut_anywhere_is_damage() {
    let (_folder, path) = folder();
    commit(&open(&path).store, &every_record());
    let whole = fs::read(&path).unwrap();
    for length in [1, 8, 9, 100, 319, 320, 4095, 4096, 8192, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        let error = refusal(&path);
        assert!(matches!(error, OpenError::Damaged { .. }), "cut to {length}: {error:?}");
        let (opened, _) = Store::open_at_start(&path, &boot()).unwrap();
        assert!(opened.damaged.is_some(), "cut to {length}");
        for entry in fs::read_dir(path.parent().unwrap()).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
    }
}

#[test]
fn a_damaged_store_is_set_aside_at_start_and_every_other_refusal_leaves_it() {
    let (_folder, path) = folder();
    commit(&open(&path).store, &every_record());
    let sound = fs::read(&path).unwrap();
    for at in (0..sound.len()).step_by(4096) {
        let mut damaged = sound.clone();
        damaged[at..at + 64].fill(0xa5);
        fs::write(&path, &damaged).unwrap();
        let (opened, _) = Store::open_at_start(&path, &boot()).unwrap();
        let Some(why) = &opened.damaged else {
            // Nothing that is in use: it loads as it was.
            assert_eq!(opened.stored.attachments.len(), 5, "at {at}");
            continue;
        };
        assert!(why.contains("damaged-1"), "{why}");
        assert_eq!(opened.stored, Stored::default());
        assert_eq!(fs::read(path.with_extension("redb.damaged-1")).unwrap(), damaged);
    }
    assert!(path.with_extension("redb.damaged-2").exists(), "most of these were damage");
    fs::write(&path, &sound).unwrap();
    let opened = open(&path);
    put_bytes(&opened.store, META, SCHEMA_KEY, &(SCHEMA + 1).to_be_bytes());
    let error = Store::open_at_start(&path, &boot()).err().expect("it is locked");
    assert!(matches!(error, OpenError::Locked { .. }), "{error}");
    drop(opened);
    let before = fs::read(&path).unwrap();
    let error = Store::open_at_start(&path, &boot()).err().expect("it is newer");
    assert!(matches!(error, OpenError::NewerSchema { .. }), "{error}");
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn records_of_another_boot_are_dropped() {
    let (_folder, path) = folder();
    commit(&open(&path).store, &every_record());
    let opened = Store::open(&path, &BootId::new("boot-2")).unwrap();
    assert_eq!(opened.stored, Stored::default());
    assert!(opened.notes.iter().any(|note| note.starts_with("5 attachments of an earlier boot")));
    drop(opened);
    assert_eq!(open(&path).stored, Stored::default(), "for good");
}

#[test]
fn a_file_that_is_open_elsewhere_is_locked_not_damaged() {
    let (_folder, path) = folder();
    let opened = open(&path);
    commit(&opened.store, &every_record());
    let error = refusal(&path);
    assert!(matches!(error, OpenError::Locked { .. }), "{error}");
    drop(opened);
    assert_eq!(open(&path).stored.attachments.len(), 5);
}
