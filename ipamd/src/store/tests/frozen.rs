//! Files that earlier versions wrote: one record and more of every table, frozen at each landing. They open for ever.
//!
//! Owns reading them. A file is kept as its pages in hexadecimal, without those that are empty: redb makes it large and
//! leaves it nearly so.

use super::*;
use std::fmt::Write as _;

const PAGE: usize = 4096;

/// A schema that has landed, and its file.
const FROZEN: &[(u32, &str)] = &[(1, include_str!("../../../tests/fixtures/store/schema-1.hex"))];

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
    for (schema, text) in FROZEN {
        let (_folder, path) = folder();
        fs::write(&path, from_text(text)).unwrap();
        let opened = open(&path);
        let mut wanted = Stored::default();
        wanted.apply(&every_record());
        assert_eq!(opened.stored, wanted, "schema {schema}");
        assert!(opened.store.schema().unwrap() >= Some(*schema));
        // And it goes on.
        commit(&opened.store, &[Write::DeleteAddress(ip(1))]);
    }
}

#[test]
fn every_schema_and_every_table_is_frozen() {
    let (_folder, path) = folder();
    commit(&open(&path).store, &every_record());
    let text = to_text(&fs::read(&path).unwrap());
    assert_eq!(from_text(&text), fs::read(&path).unwrap(), "the text is the file");
    let last = FROZEN.iter().find(|(schema, _)| *schema == SCHEMA);
    let tables = |path: &Path| {
        let store = open(path).store;
        let transaction = store.database.begin_read().unwrap();
        let tables = transaction.list_tables().unwrap();
        tables.map(|table| redb::TableHandle::name(&table).to_owned()).collect::<BTreeSet<_>>()
    };
    let frozen = last.map(|(_, text)| {
        let (_folder, path) = folder();
        fs::write(&path, from_text(text)).unwrap();
        tables(&path)
    });
    if frozen != Some(tables(&path)) {
        let new = std::env::temp_dir().join(format!("schema-{SCHEMA}.hex"));
        fs::write(&new, text).unwrap();
        panic!(
            "the current tables are not frozen: {} has them; move it into ipamd/tests/fixtures/store under a name \
             of its own and add it to FROZEN",
            new.display()
        );
    }
}
