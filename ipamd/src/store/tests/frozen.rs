//! Files that earlier versions wrote: one record and more of every table, frozen at each landing. They open for ever.
//!
//! Owns reading them. A file is kept as its pages in hexadecimal, without those that are empty: redb makes it large and
//! leaves it nearly so.

use super::*;
use eni_proto::cni::{Dns, Interface, IpConfig, Route};
use std::collections::BTreeMap;
use std::fmt::Write as _;

const PAGE: usize = 4096;
/// EC2's id of an attachment.
const ATTACHED: &str = "eni-attach-0123456789abcdef0";

/// A landing: its schema, its file, what that holds.
type Landing = (u32, &'static str, fn() -> Vec<Write>);

/// What has landed. The last is the current form.
const FROZEN: &[Landing] = &[
    (1, include_str!("../../../tests/fixtures/store/schema-1.hex"), every_record),
    (1, include_str!("../../../tests/fixtures/store/schema-1-landing-2.hex"), second_landing),
    (1, include_str!("../../../tests/fixtures/store/schema-1-landing-3.hex"), every_form),
];

/// What follows each value of an enumeration, from none to none: a new one does not compile until it has its place here.
fn next_state(last: Option<EniState>) -> Option<EniState> {
    match last {
        None => Some(EniState::Attaching),
        Some(EniState::Attaching) => Some(EniState::InUse),
        Some(EniState::InUse) => Some(EniState::Draining),
        Some(EniState::Draining) => Some(EniState::Detaching),
        Some(EniState::Detaching) => Some(EniState::Deleting),
        Some(EniState::Deleting) => Some(EniState::Lost),
        Some(EniState::Lost) => None,
    }
}

fn next_address(last: Option<&AddressState>) -> Option<AddressState> {
    let (at, attachment) = (Timestamp::from_millis(9), id(2, 7));
    match last {
        None => Some(AddressState::Free { since: at }),
        Some(AddressState::Free { .. }) => Some(AddressState::Allocated { attachment }),
        Some(AddressState::Allocated { .. }) => Some(AddressState::Cooling { attachment, until: at }),
        Some(AddressState::Cooling { .. }) => Some(AddressState::Quarantined {
            reason: "on a host link".to_owned(),
            attachment: Some(attachment),
        }),
        Some(AddressState::Quarantined { .. }) => None,
    }
}

fn next_attachment(last: Option<AttachmentState>) -> Option<AttachmentState> {
    match last {
        None => Some(AttachmentState::Adding),
        Some(AttachmentState::Adding) => Some(AttachmentState::Live),
        Some(AttachmentState::Live) => Some(AttachmentState::Broken),
        Some(AttachmentState::Broken) => Some(AttachmentState::Dying),
        Some(AttachmentState::Dying) => None,
    }
}

fn next_mutation(last: Option<&Mutation>) -> Option<Mutation> {
    let eni = eni(0).id;
    match last {
        None => Some(Mutation::Create {
            subnet: "subnet-1".parse().unwrap(),
            security_groups: vec!["sg-1".to_owned(), "sg-2".to_owned()],
            secondary: 0,
            prefixes: 3,
            tags: BTreeMap::from([("node.eni-cni/instance".to_owned(), "i-0abc".to_owned())]),
            token: "0123456789abcdef".to_owned(),
        }),
        Some(Mutation::Create { .. }) => {
            Some(Mutation::Attach { eni, instance: "i-0abc".parse().unwrap(), device_index: 2 })
        }
        Some(Mutation::Attach { .. }) => Some(Mutation::Assign { eni, count: 0, prefixes: 2 }),
        Some(Mutation::Assign { .. }) => {
            let prefixes = vec!["10.0.2.16/28".parse().unwrap()];
            Some(Mutation::Unassign { eni, addresses: vec![ip(8), ip(9)], prefixes })
        }
        Some(Mutation::Unassign { .. }) => Some(Mutation::Detach { eni, attachment: Some(ATTACHED.into()) }),
        Some(Mutation::Detach { .. }) => Some(Mutation::Delete { eni }),
        Some(Mutation::Delete { .. }) => {
            Some(Mutation::SetSecurityGroups { eni, security_groups: vec!["sg-1".to_owned()] })
        }
        Some(Mutation::SetSecurityGroups { .. }) => {
            Some(Mutation::SetDeleteOnTermination { eni, attachment: ATTACHED.into() })
        }
        Some(Mutation::SetDeleteOnTermination { .. }) => None,
    }
}

/// What ADD answers, with every optional field filled.
fn result() -> AddResult {
    AddResult {
        interfaces: vec![
            Interface {
                name: "eni0123456789a".to_owned(),
                mac: MacAddr([2, 1, 1, 1, 1, 1]),
                mtu: Some(9001),
                sandbox: String::new(),
            },
            Interface {
                name: "eth0".to_owned(),
                mac: MacAddr([2, 2, 2, 2, 2, 1]),
                mtu: Some(9001),
                sandbox: "/run/netns/x".to_owned(),
            },
        ],
        ips: vec![IpConfig {
            address: "10.0.1.1/32".to_owned(),
            gateway: Some(Ipv4Addr::new(169, 254, 1, 1)),
            interface: Some(1),
        }],
        routes: vec![Route {
            dst: "0.0.0.0/0".to_owned(),
            gw: Some(Ipv4Addr::new(169, 254, 1, 1)),
            scope: Some(253),
        }],
        dns: Dns { nameservers: vec!["10.0.0.2".to_owned()] },
    }
}

/// Every kind of record, in every state and with every call, in the order of their keys; optional fields filled, and once
/// each left out. What is added to a record or to one of these enumerations belongs here, and then a new file.
fn every_form() -> Vec<Write> {
    let mut writes = vec![Write::PutNode(node())];
    let states = std::iter::successors(next_state(None), |last| next_state(Some(*last)));
    for (n, state) in (0..).zip(states) {
        let prefixes = if n == 0 { Vec::new() } else { vec!["10.0.2.16/28".parse().unwrap()] };
        let attachment = (n != 0).then(|| ATTACHED.to_owned());
        writes.push(Write::PutEni(EniRecord { state, prefixes, attachment, ..eni(n) }));
    }
    let states = std::iter::successors(next_address(None), |last| next_address(Some(last)));
    writes.extend((1..).zip(states).map(|(n, state)| Write::PutAddress(address(n, state))));
    let nobody = AddressState::Quarantined { reason: "on a host link".to_owned(), attachment: None };
    writes.push(Write::PutAddress(address(200, nobody)));
    let states = std::iter::successors(next_attachment(None), |last| next_attachment(Some(*last)));
    for (number, state) in (1..).zip(states) {
        let filled = AttachmentRecord { result: result(), ..attachment(number, 7, state) };
        let bare = AttachmentRecord {
            pod: None,
            claimed_by: None,
            first_seen: None,
            ..attachment(number, 7, state)
        };
        writes.push(put(if number == 1 { bare } else { filled }));
    }
    // Of one key a dying one and the next.
    writes.push(put(attachment(4, 300, AttachmentState::Live)));
    let calls = std::iter::successors(next_mutation(None), |last| next_mutation(Some(last)));
    writes.extend((1..).zip(calls).map(|(n, call)| Write::PutIntent(intent(n, call))));
    writes
}

/// What the second landing knew of that: no prefixes, no attachment's id, no attributes.
fn second_landing() -> Vec<Write> {
    let known = |write| match write {
        Write::PutEni(eni) => {
            Some(Write::PutEni(EniRecord { prefixes: Vec::new(), attachment: None, ..eni }))
        }
        Write::PutIntent(intent) => {
            let mutation = match intent.mutation {
                Mutation::Create { subnet, security_groups, tags, token, .. } => {
                    Mutation::Create { subnet, security_groups, secondary: 14, prefixes: 0, tags, token }
                }
                Mutation::Assign { eni, .. } => Mutation::Assign { eni, count: 3, prefixes: 0 },
                Mutation::Unassign { eni, addresses, .. } => {
                    Mutation::Unassign { eni, addresses, prefixes: Vec::new() }
                }
                Mutation::Detach { eni, .. } => Mutation::Detach { eni, attachment: None },
                Mutation::SetSecurityGroups { .. } | Mutation::SetDeleteOnTermination { .. } => return None,
                other => other,
            };
            Some(Write::PutIntent(IntentRecord { mutation, ..intent }))
        }
        other => Some(other),
    };
    every_form().into_iter().filter_map(known).collect()
}

/// A file's length, then a line for each page that is not empty.
fn to_text(file: &[u8]) -> String {
    let mut text = format!("{}\n", file.len());
    for (number, page) in file.chunks(PAGE).enumerate() {
        let used = page.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        if used > 0 {
            write!(text, "{number} ").unwrap();
            page[..used].iter().for_each(|byte| write!(text, "{byte:02x}").unwrap());
            text.push('\n');
        }
    }
    text
}

fn from_text(text: &str) -> Vec<u8> {
    let mut lines = text.lines();
    let mut file = vec![0; lines.next().unwrap().parse().unwrap()];
    for line in lines {
        let (number, digits) = line.split_once(' ').unwrap();
        let at = number.parse::<usize>().unwrap() * PAGE;
        for (n, digit) in digits.as_bytes().chunks(2).enumerate() {
            file[at + n] = u8::from_str_radix(std::str::from_utf8(digit).unwrap(), 16).unwrap();
        }
    }
    file
}

#[test]
fn the_files_of_all_landings_open_with_all_that_they_held() {
    for (number, (schema, text, records)) in FROZEN.iter().enumerate() {
        let (_folder, path) = folder();
        fs::write(&path, from_text(text)).unwrap();
        let opened = open(&path);
        let mut wanted = Stored::default();
        wanted.apply(&records());
        assert_eq!(opened.stored, wanted, "landing {}", number + 1);
        assert!(opened.store.schema().unwrap() >= Some(*schema));
        // And it goes on.
        commit(&opened.store, &[Write::DeleteAddress(ip(1))]);
    }
}

/// Every table's keys and values, as bytes.
type Bytes = BTreeMap<String, BTreeMap<Vec<u8>, String>>;

fn bytes(path: &Path) -> Bytes {
    let store = open(path).store;
    let transaction = store.database.begin_read().unwrap();
    let mut tables = Bytes::new();
    for table in [META, NODE, ENIS, ADDRESSES, ATTACHMENTS, INTENTS] {
        let records = tables.entry(redb::TableHandle::name(&table).to_owned()).or_default();
        for entry in transaction.open_table(table).unwrap().range::<&[u8]>(..).unwrap() {
            let (key, value) = entry.unwrap();
            records.insert(key.value().to_vec(), String::from_utf8_lossy(value.value()).into_owned());
        }
    }
    assert_eq!(transaction.list_tables().unwrap().count(), tables.len(), "every table is looked at");
    tables
}

/// The bytes of every record, not the tables' names alone: a field that is renamed, left out or written in another way
/// would be lost on the nodes that have it.
#[test]
fn every_schema_every_table_and_the_form_of_every_record_are_frozen() {
    let (_folder, path) = folder();
    commit(&open(&path).store, &every_form());
    let text = to_text(&fs::read(&path).unwrap());
    assert_eq!(from_text(&text), fs::read(&path).unwrap(), "the text is the file");
    let (schema, last, _) = FROZEN.last().unwrap();
    let (_other, frozen) = folder();
    fs::write(&frozen, from_text(last)).unwrap();
    let (now, then) = (bytes(&path), bytes(&frozen));
    if *schema != SCHEMA || now != then {
        let new = std::env::temp_dir().join(format!("schema-{SCHEMA}.hex"));
        fs::write(&new, text).unwrap();
        let changed = now.iter().flat_map(|(table, records)| records.iter().map(move |r| (table, r)));
        let changed: Vec<_> = changed
            .filter(|(table, (key, value))| then.get(*table).and_then(|t| t.get(*key)) != Some(value))
            .collect();
        panic!(
            "the current records are not frozen: {} has them; move it into ipamd/tests/fixtures/store under a name \
             of its own and add it to FROZEN, with what the file before it held; the first: {:?}",
            new.display(),
            changed.first()
        );
    }
}
