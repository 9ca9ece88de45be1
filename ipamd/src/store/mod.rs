//! The store: what must survive the process, on redb.
//!
//! Owns the file, its tables and how damage is told from everything else (`open`); the thread that commits is in
//! `thread`, the bytes of records in `codec`. redb is the log: everything is in memory, and read once, at start. Does
//! not decide what is written.
//!
//! In every error of opening the file stays untouched: what may be damaged is tried in memory first. A damaged one is set
//! aside (`aside`), a full disk is met with a `reserve`, and what others do to the file is seen by its `mark`.

mod aside;
mod codec;
mod mark;
mod open;
mod reserve;
mod thread;

pub use open::{OpenError, Opened};
pub use reserve::Reserve;
pub use thread::{CommitDone, CommitError, QueueFull, Replaced, Report, StoreHandle, StoreThread};

use ipamd_core::record::{Stored, Write};
use ipamd_netlink::fail_point;
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use std::path::{Path, PathBuf};

/// The schema's number: a store of a newer one is refused.
pub const SCHEMA: u32 = 1;

type Table = TableDefinition<'static, &'static [u8], &'static [u8]>;

/// One record: the node.
const NODE: Table = TableDefinition::new("node");
/// ENIs by id.
const ENIS: Table = TableDefinition::new("enis");
/// Addresses by their four bytes.
const ADDRESSES: Table = TableDefinition::new("addresses");
/// Attachments by network, container, ifname and generation.
const ATTACHMENTS: Table = TableDefinition::new("attachments");
/// Intents by number.
const INTENTS: Table = TableDefinition::new("intents");
/// The schema's number.
const META: Table = TableDefinition::new("meta");

const NODE_KEY: &[u8] = b"node";
const SCHEMA_KEY: &[u8] = b"schema";

/// An open store.
pub struct Store {
    path: PathBuf,
    database: Database,
}

type OpenTable<'t> = redb::Table<'t, &'static [u8], &'static [u8]>;

/// A table of a transaction, opened at its first use.
fn opened<'s, 't>(
    slot: &'s mut Option<OpenTable<'t>>,
    transaction: &'t WriteTransaction,
    table: Table,
) -> Result<&'s mut OpenTable<'t>, redb::TableError> {
    match slot {
        Some(open) => Ok(open),
        None => Ok(slot.insert(transaction.open_table(table)?)),
    }
}

/// Whether a batch holds everything.
fn is_whole(batch: &[Write]) -> bool {
    batch.first() == Some(&Write::Clear)
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({})", self.path.display())
    }
}

impl Store {
    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Commits batches in one transaction, durably, in their order.
    fn commit<'a>(&self, batches: impl Iterator<Item = &'a [Write]>) -> Result<(), redb::Error> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(Durability::Immediate).map_err(redb::Error::from)?;
        let batches: Vec<&[Write]> = batches.collect();
        // What an earlier batch wrote is in the one that begins with everything.
        let whole = batches.iter().rposition(|batch| is_whole(batch));
        if whole.is_some() {
            for table in [NODE, ENIS, ADDRESSES, ATTACHMENTS, INTENTS] {
                transaction.delete_table(table)?;
                drop(transaction.open_table(table)?);
            }
        }
        {
            // Opened when they are written to: most batches need two, and an open table costs a little at the commit.
            let (mut node, mut enis, mut addresses, mut attachments, mut intents) =
                (None, None, None, None, None);
            for write in batches[whole.unwrap_or(0)..].iter().copied().flatten() {
                match write {
                    Write::Clear => {}
                    Write::PutNode(record) => {
                        opened(&mut node, &transaction, NODE)?
                            .insert(NODE_KEY, codec::encode(record).as_slice())?;
                    }
                    Write::PutEni(record) => {
                        opened(&mut enis, &transaction, ENIS)?
                            .insert(record.id.as_str().as_bytes(), codec::encode(record).as_slice())?;
                    }
                    Write::DeleteEni(id) => {
                        opened(&mut enis, &transaction, ENIS)?.remove(id.as_str().as_bytes())?;
                    }
                    Write::PutAddress(record) => {
                        opened(&mut addresses, &transaction, ADDRESSES)?
                            .insert(record.address.octets().as_slice(), codec::encode(record).as_slice())?;
                    }
                    Write::DeleteAddress(address) => {
                        opened(&mut addresses, &transaction, ADDRESSES)?
                            .remove(address.octets().as_slice())?;
                    }
                    Write::PutAttachment(record) => {
                        let key = codec::attachment_key(&record.key, record.generation);
                        opened(&mut attachments, &transaction, ATTACHMENTS)?
                            .insert(key.as_slice(), codec::encode(record.as_ref()).as_slice())?;
                    }
                    Write::DeleteAttachment(id) => {
                        opened(&mut attachments, &transaction, ATTACHMENTS)?
                            .remove(codec::attachment_key(&id.key, id.generation).as_slice())?;
                    }
                    Write::PutIntent(record) => {
                        opened(&mut intents, &transaction, INTENTS)?
                            .insert(record.id.to_be_bytes().as_slice(), codec::encode(record).as_slice())?;
                    }
                    Write::DeleteIntent(id) => {
                        opened(&mut intents, &transaction, INTENTS)?.remove(id.to_be_bytes().as_slice())?;
                    }
                }
            }
        }
        fail_point::pass("commit.middle");
        transaction.commit()?;
        Ok(())
    }

    /// Everything, decoded. A record that cannot be decoded is damage.
    fn load(&self) -> Result<Stored, open::LoadError> {
        let transaction = self.database.begin_read()?;
        let mut stored = Stored::default();
        for entry in transaction.open_table(NODE)?.iter()? {
            let (_, value) = entry?;
            stored.node = Some(codec::decode("node", value.value())?);
        }
        for entry in transaction.open_table(ENIS)?.iter()? {
            stored.enis.push(codec::decode("enis", entry?.1.value())?);
        }
        for entry in transaction.open_table(ADDRESSES)?.iter()? {
            stored.addresses.push(codec::decode("addresses", entry?.1.value())?);
        }
        for entry in transaction.open_table(ATTACHMENTS)?.iter()? {
            stored.attachments.push(codec::decode("attachments", entry?.1.value())?);
        }
        for entry in transaction.open_table(INTENTS)?.iter()? {
            stored.intents.push(codec::decode("intents", entry?.1.value())?);
        }
        Ok(stored)
    }
}

#[cfg(test)]
mod tests;
