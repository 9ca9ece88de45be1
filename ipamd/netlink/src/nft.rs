//! Our nft table: laid by the nft program, looked at by nfnetlink.
//!
//! Owns running `nft -f -` within a bound, and the memory of what was laid. The memory holds while the table has the
//! kernel's handle that it had then: a table that others removed and made anew has another. Does not write the text.

use crate::answer::attributes;
use crate::host::Host;
use crate::nfnl;
use crate::socket::{CallError, Socket};
use eni_proto::client::boottime;
use ipamd_core::kernel::NFT_TABLE;
use netlink_packet_core::NLM_F_ACK;
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// How long nft may take. It takes 10 ms; a node with many foreign tables, some seconds.
const PATIENCE: Duration = Duration::from_secs(30);
/// How much of its errors is told.
const ERRORS_MAX: u64 = 4096;
/// Where it lies when it is not in PATH: daemons often lack sbin there.
const PROGRAMS: [&str; 3] = ["nft", "/usr/sbin/nft", "/sbin/nft"];

pub(crate) const SUBSYSTEM: u16 = 10;
const NEW_TABLE: u16 = nfnl::kind(SUBSYSTEM, 0);
const GET_TABLE: u16 = nfnl::kind(SUBSYSTEM, 1);
pub(crate) const NFTA_TABLE_NAME: u16 = 1;
const NFTA_TABLE_HANDLE: u16 = 4;

/// Why the table was not laid.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NftError {
    /// There is no nft program.
    #[error("the nft program is missing: install nftables")]
    Missing,
    /// It could not be run.
    #[error("nft could not be run: {0}")]
    Run(#[from] io::Error),
    /// It did not end.
    #[error("nft did not end within {} s and was killed", PATIENCE.as_secs())]
    Late,
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
    // Files in memory for both ends: a pipe could fill while nobody reads it.
    let mut input = scratch()?;
    input.write_all(text.as_bytes())?;
    input.rewind()?;
    let mut errors = scratch()?;
    let mut child = spawn(&input, &errors)?;
    let status = wait(&mut child)?;
    if status.success() {
        return Ok(());
    }
    errors.rewind()?;
    let mut told = Vec::new();
    errors.take(ERRORS_MAX).read_to_end(&mut told)?;
    let errors = String::from_utf8_lossy(&told).split_whitespace().collect::<Vec<_>>().join(" ");
    Err(NftError::Refused { status, errors })
}

fn scratch() -> io::Result<File> {
    Ok(memfd_create("nft", MFdFlags::MFD_CLOEXEC)?.into())
}

fn spawn(input: &File, errors: &File) -> Result<Child, NftError> {
    for program in PROGRAMS {
        let mut command = Command::new(program);
        command.args(["-f", "-"]).stdin(input.try_clone()?).stdout(Stdio::null()).stderr(errors.try_clone()?);
        match command.spawn() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            child => return Ok(child?),
        }
    }
    Err(NftError::Missing)
}

fn wait(child: &mut Child) -> Result<ExitStatus, NftError> {
    let until = boottime() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if boottime() >= until {
            child.kill()?;
            child.wait()?;
            return Err(NftError::Late);
        }
        thread::sleep(Duration::from_millis(2));
    }
}
