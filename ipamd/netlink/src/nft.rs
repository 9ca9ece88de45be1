//! Our nft table: laid by the nft program, looked at by nfnetlink.
//!
//! Owns running `nft -f -`, and the memory of what was laid. The memory holds while the table has the
//! kernel's handle that it had then: a table that others removed and made anew has another. Does not write the text.

use crate::answer::attributes;
use crate::host::Host;
use crate::nfnl;
use crate::program::{self, Ended, ProgramError};
use crate::socket::{CallError, Socket};
use ipamd_core::kernel::NFT_TABLE;
use netlink_packet_core::NLM_F_ACK;
use std::process::ExitStatus;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};

pub(crate) const SUBSYSTEM: u16 = 10;
const NEW_TABLE: u16 = nfnl::kind(SUBSYSTEM, 0);
const GET_TABLE: u16 = nfnl::kind(SUBSYSTEM, 1);
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

/// What was laid last, and the kernel's handle of the table since.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    laid: Option<(u64, String)>,
}

impl Memory {
    /// The text of the table that has this handle, if it is known.
    pub(crate) fn known(&self, handle: Option<u64>) -> Option<String> {
        let (laid, text) = self.laid.as_ref()?;
        (Some(*laid) == handle).then(|| text.clone())
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
    run(text)?;
    match table_handle(&mut host.netfilter) {
        Ok(Some(handle)) => memory.laid = Some((handle, text.to_owned())),
        Ok(None) => return Err(NftError::Look("it is not there".to_owned())),
        Err(error) => return Err(NftError::Look(error.to_string())),
    }
    Ok(())
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

fn run(text: &str) -> Result<(), NftError> {
    let Ended { status, errors, .. } = program::run("nft", &["-f", "-"], text)?;
    if status.success() { Ok(()) } else { Err(NftError::Refused { status, errors }) }
}
