//! Our nft table: laid by the nft program, looked at by nfnetlink.
//!
//! Owns running `nft -f -`, and the memory of what was laid. The memory holds while the table has the
//! kernel's handle that it had then (a table that others removed and made anew has another), and until the monitor says
//! that a transaction of somebody else's has touched it. Does not write the text.

use crate::answer::attributes;
use crate::host::Host;
use crate::nfnl;
use crate::program::{self, Ended, ProgramError};
use crate::socket::{CallError, Socket};
use ipamd_core::kernel::{NFT_MAPS, NFT_TABLE, NftView};
use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP};
use std::collections::BTreeMap;
use std::process::ExitStatus;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};

pub(crate) const SUBSYSTEM: u16 = 10;
const NEW_TABLE: u16 = nfnl::kind(SUBSYSTEM, 0);
const GET_TABLE: u16 = nfnl::kind(SUBSYSTEM, 1);
pub(crate) const NEW_GENERATION: u16 = nfnl::kind(SUBSYSTEM, 15);
const GET_GENERATION: u16 = nfnl::kind(SUBSYSTEM, 16);
const NFTA_GEN_ID: u16 = 1;
const NEW_RULE: u16 = nfnl::kind(SUBSYSTEM, 6);
const GET_RULE: u16 = nfnl::kind(SUBSYSTEM, 7);
const NEW_SET_ELEMENT: u16 = nfnl::kind(SUBSYSTEM, 12);
const GET_SET_ELEMENT: u16 = nfnl::kind(SUBSYSTEM, 13);
pub(crate) const NFTA_TABLE_NAME: u16 = 1;
const NFTA_TABLE_HANDLE: u16 = 4;

/// Why the table was not laid.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NftError {
    /// The program did nothing.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// It refused.
    #[error("nft ended with {status}: {errors}")]
    Refused { status: ExitStatus, errors: String },
    /// It said yes, and the table is not there.
    #[error("nft laid the table, and it cannot be looked at: {0}")]
    Look(String),
}

/// What was laid last.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    laid: Option<Laid>,
}

#[derive(Debug)]
struct Laid {
    /// The kernel's handle of the table since.
    handle: u64,
    /// The generation of the ruleset that laying it made; none when somebody else's transaction came so close that ours
    /// cannot be told from it.
    generation: Option<u32>,
    text: String,
}

impl Memory {
    /// The text of the table that has this handle, if it is known.
    pub(crate) fn known(&self, handle: Option<u64>) -> Option<String> {
        let laid = self.laid.as_ref()?;
        (Some(laid.handle) == handle).then(|| laid.text.clone())
    }

    /// A transaction has touched our table: what is there is not known any more, unless it was ours. Without a generation
    /// nobody knows whose it was. True when it was not ours.
    pub(crate) fn touched(&mut self, generation: Option<u32>) -> bool {
        let own = |laid: &Laid| laid.generation.is_some() && laid.generation == generation;
        if self.laid.as_ref().is_some_and(own) {
            return false;
        }
        self.laid = None;
        true
    }
}

/// The memory; a thread that panicked left it whole, for it is written in one assignment.
pub(crate) fn locked(memory: &Mutex<Memory>) -> MutexGuard<'_, Memory> {
    memory.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Replaces the table by what `text` says, atomically, and remembers it.
pub(crate) fn replace(host: &mut Host, text: &str) -> Result<(), NftError> {
    let memory = host.nft.clone();
    let mut memory = locked(&memory);
    memory.laid = None;
    host.counters.nft_runs.fetch_add(1, Ordering::Relaxed);
    let look = |error: CallError| NftError::Look(error.to_string());
    let before = generation(&mut host.netfilter).map_err(look)?;
    run(text)?;
    let after = generation(&mut host.netfilter).map_err(look)?;
    let generation = (after == before.wrapping_add(1)).then_some(after);
    match table_handle(&mut host.netfilter) {
        Ok(Some(handle)) => memory.laid = Some(Laid { handle, generation, text: text.to_owned() }),
        Ok(None) => return Err(NftError::Look("it is not there".to_owned())),
        Err(error) => return Err(NftError::Look(error.to_string())),
    }
    Ok(())
}

/// The number of the ruleset's transactions.
fn generation(socket: &mut Socket) -> Result<u32, CallError> {
    let body = socket.get(nfnl::message(GET_GENERATION, NLM_F_ACK, nfnl::UNSPEC, 0, &[]), NEW_GENERATION)?;
    generation_of(&body).ok_or(CallError::Malformed("a generation without its number"))
}

/// The number in a message that tells the generation.
pub(crate) fn generation_of(body: &[u8]) -> Option<u32> {
    let (_, id) = attributes(nfnl::attributes_of(body)).find(|(kind, _)| *kind == NFTA_GEN_ID)?;
    Some(u32::from_be_bytes(id.try_into().ok()?))
}

/// The kernel's handle of our table; `None` when it is not there.
pub(crate) fn table_handle(socket: &mut Socket) -> Result<Option<u64>, CallError> {
    let Some(body) = table(socket, NFT_TABLE)? else { return Ok(None) };
    let handle = attributes(nfnl::attributes_of(&body)).find(|(kind, _)| *kind == NFTA_TABLE_HANDLE);
    let handle = handle.and_then(|(_, value)| Some(u64::from_be_bytes(value.try_into().ok()?)));
    handle.map(Some).ok_or(CallError::Malformed("an nft table without a handle"))
}

/// What the kernel says of an IPv4 table; `None` when it is not there, nor nf_tables at all.
pub(crate) fn table(socket: &mut Socket, name: &str) -> Result<Option<Vec<u8>>, CallError> {
    let mut named = Vec::new();
    nfnl::put_text(&mut named, NFTA_TABLE_NAME, name);
    match socket.get(nfnl::message(GET_TABLE, NLM_F_ACK, nfnl::IPV4, 0, &named), NEW_TABLE) {
        Ok(body) => Ok(Some(body)),
        Err(error) if matches!(error.errno(), Some(libc::ENOENT | libc::EINVAL)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What of our table is looked at; `None` when it is not there.
pub(crate) fn look(socket: &mut Socket) -> Result<Option<NftView>, CallError> {
    if table(socket, NFT_TABLE)?.is_none() {
        return Ok(None);
    }
    let mut view = NftView::default();
    for map in NFT_MAPS {
        // A map that somebody has deleted is not there: no reason not to look at the rest.
        match elements(socket, map) {
            Ok(elements) => drop(view.maps.insert(map.to_owned(), elements)),
            Err(error) if error.errno() == Some(libc::ENOENT) => {}
            Err(error) => return Err(error),
        }
    }
    let mut named = Vec::new();
    nfnl::put_text(&mut named, NFTA_TABLE_NAME, NFT_TABLE);
    let request = nfnl::message(GET_RULE, NLM_F_DUMP, nfnl::IPV4, 0, &named);
    for chain in socket.dump(&request, NEW_RULE, |body| chain_of(body).map(Some))? {
        *view.rules.entry(chain).or_default() += 1;
    }
    Ok(Some(view))
}

/// The chain that a rule is in.
fn chain_of(body: &[u8]) -> Option<String> {
    const NFTA_RULE_CHAIN: u16 = 2;
    let chain = attributes(nfnl::attributes_of(body)).find(|(kind, _)| *kind == NFTA_RULE_CHAIN);
    chain.map(|(_, name)| text_of(name))
}

/// The elements of a map of ours whose values are verdicts.
fn elements(socket: &mut Socket, map: &str) -> Result<BTreeMap<u32, String>, CallError> {
    const NFTA_SET_ELEM_LIST_SET: u16 = 2;
    let mut named = Vec::new();
    nfnl::put_text(&mut named, NFTA_TABLE_NAME, NFT_TABLE);
    nfnl::put_text(&mut named, NFTA_SET_ELEM_LIST_SET, map);
    let request = nfnl::message(GET_SET_ELEMENT, NLM_F_DUMP, nfnl::IPV4, 0, &named);
    Ok(socket
        .dump(&request, NEW_SET_ELEMENT, |body| elements_of(body).map(Some))?
        .into_iter()
        .flatten()
        .collect())
}

/// The elements in one message.
fn elements_of(body: &[u8]) -> Option<Vec<(u32, String)>> {
    const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
    let list = attributes(nfnl::attributes_of(body)).find(|(kind, _)| *kind == NFTA_SET_ELEM_LIST_ELEMENTS);
    let list = list.map(|(_, list)| list).unwrap_or_default();
    attributes(list).map(|(_, element)| element_of(element)).collect()
}

/// A key of the host's byte order and a verdict, in nft's words.
fn element_of(element: &[u8]) -> Option<(u32, String)> {
    const NFTA_SET_ELEM_KEY: u16 = 1;
    const NFTA_SET_ELEM_DATA: u16 = 2;
    const NFTA_DATA_VALUE: u16 = 1;
    const NFTA_DATA_VERDICT: u16 = 2;
    const NFTA_VERDICT_CODE: u16 = 1;
    const NFTA_VERDICT_CHAIN: u16 = 2;
    let find =
        |of: &[u8], wanted: u16| attributes(of).find(|(kind, _)| *kind == wanted).map(|(_, v)| v.to_vec());
    let key = find(&find(element, NFTA_SET_ELEM_KEY)?, NFTA_DATA_VALUE)?;
    let verdict = find(&find(element, NFTA_SET_ELEM_DATA)?, NFTA_DATA_VERDICT)?;
    let code = find(&verdict, NFTA_VERDICT_CODE)?;
    let chain = find(&verdict, NFTA_VERDICT_CHAIN).map(|name| text_of(&name)).unwrap_or_default();
    let verdict = match i32::from_be_bytes(code.try_into().ok()?) {
        0 => "drop".to_owned(),
        1 => "accept".to_owned(),
        -3 => format!("jump {chain}"),
        -4 => format!("goto {chain}"),
        -5 => "return".to_owned(),
        other => format!("verdict {other}"),
    };
    Some((u32::from_ne_bytes(key.try_into().ok()?), verdict))
}

fn text_of(value: &[u8]) -> String {
    String::from_utf8_lossy(value).trim_end_matches('\0').to_owned()
}

fn run(text: &str) -> Result<(), NftError> {
    let Ended { status, errors, .. } = program::run("nft", &["-f", "-"], text)?;
    if status.success() { Ok(()) } else { Err(NftError::Refused { status, errors }) }
}
