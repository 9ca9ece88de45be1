//! The lock that says which ipamd owns this network namespace: an nft table with the owner flag.
//!
//! Owns the socket that holds it. One per network namespace, whatever the mounts; needs CAP_NET_ADMIN, so no local
//! user can keep us out; survives others' `flush ruleset`; the kernel frees it when the socket closes, however its
//! process ends. Kernels before 5.12 lack the flag, and the caller relies on its lock file alone. Does not wait.

use crate::answer::attributes;
use crate::nfnl;
use crate::nft;
use crate::socket::{CallError, Socket};
use crate::stats::{Counters, Family};
use ipamd_core::kernel::NFT_LOCK_TABLE;
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL};
use std::io;
use std::sync::Arc;

const NEW_TABLE: u16 = nfnl::kind(nft::SUBSYSTEM, 0);
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NFTA_TABLE_FLAGS: u16 = 2;
const NFTA_TABLE_OWNER: u16 = 7;
const NFT_TABLE_F_OWNER: u32 = 2;
/// How often a holder may end between our try and our question who it is.
const TRIES: usize = 3;

/// Why the lock is not ours.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds it.
    #[error("another process holds the nft table {NFT_LOCK_TABLE} of this network namespace")]
    Held,
    /// This kernel has no owner flag.
    #[error("this kernel's nft tables cannot be owned: 5.12 or later is needed")]
    OwnerFlagUnsupported,
    /// CAP_NET_ADMIN is missing.
    #[error("not permitted: CAP_NET_ADMIN is needed in this network namespace")]
    NotPermitted,
    /// The kernel refused for another reason.
    #[error("the nft table {NFT_LOCK_TABLE} could not be made: {text}")]
    Refused {
        /// Its words.
        text: String,
    },
    /// The netlink socket failed.
    #[error("the netlink socket of the lock failed")]
    Socket(#[from] io::Error),
}

/// The lock, held until it is dropped.
#[derive(Debug)]
pub struct NetfilterLock {
    _socket: Socket,
}

impl NetfilterLock {
    /// Takes the lock of the calling thread's network namespace, or says at once why not.
    pub fn acquire() -> Result<NetfilterLock, LockError> {
        for _ in 0..TRIES {
            let mut socket = Socket::open(Family::Netfilter, Arc::new(Counters::default()))?;
            match make(&mut socket)? {
                None => return Ok(NetfilterLock { _socket: socket }),
                Some(errno) => {
                    if let Some(error) = explain(&mut socket, errno)? {
                        return Err(error);
                    }
                }
            }
        }
        Err(LockError::Held)
    }
}

/// Makes the table; the errno of the refusal.
fn make(socket: &mut Socket) -> io::Result<Option<i32>> {
    let mut table = Vec::new();
    nfnl::put_text(&mut table, nft::NFTA_TABLE_NAME, NFT_LOCK_TABLE);
    nfnl::put(&mut table, NFTA_TABLE_FLAGS, &NFT_TABLE_F_OWNER.to_be_bytes());
    let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
    socket.transaction(&mut [
        nfnl::message(BATCH_BEGIN, 0, nfnl::UNSPEC, nft::SUBSYSTEM, &[]),
        nfnl::message(NEW_TABLE, flags, nfnl::IPV4, 0, &table),
        nfnl::message(BATCH_END, 0, nfnl::UNSPEC, nft::SUBSYSTEM, &[]),
    ])
}

/// What a refusal means; `None`: the holder is gone meanwhile.
fn explain(socket: &mut Socket, errno: i32) -> Result<Option<LockError>, LockError> {
    if matches!(errno, libc::EINVAL | libc::EOPNOTSUPP) {
        return Ok(Some(LockError::OwnerFlagUnsupported));
    }
    let other = |text: String| Ok(Some(LockError::Refused { text }));
    if !matches!(errno, libc::EPERM | libc::EEXIST | libc::EBUSY) {
        return other(crate::answer::errno_name(errno));
    }
    match nft::table(socket, NFT_LOCK_TABLE) {
        Ok(None) => Ok(None),
        Ok(Some(body)) => {
            let owned = attributes(nfnl::attributes_of(&body)).any(|(kind, _)| kind == NFTA_TABLE_OWNER);
            if owned {
                return Ok(Some(LockError::Held));
            }
            other(format!(
                "a table of this name is there without an owner: nft delete table ip {NFT_LOCK_TABLE}"
            ))
        }
        Err(error) if error.errno() == Some(libc::EPERM) => Ok(Some(LockError::NotPermitted)),
        Err(CallError::Io(error)) => Err(error.into()),
        Err(error) => other(error.to_string()),
    }
}
