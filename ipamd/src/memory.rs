//! What ipamd has freed goes back to the system.
//!
//! Owns when. The C library keeps freed memory for the next allocation, so a burst of ADDs or a sweep would stay in
//! ipamd's size for good. Nothing wakes up here while nothing is done. Does not own who allocates.

use ipamd_netlink::sys;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::Notify;

/// Arenas of the C library: the threads hand each other what they allocate, and few of them run at once.
const ARENAS: i32 = 2;
/// How long after work began: what a burst frees goes back a few times, not once for each ADD. It takes about a
/// millisecond.
const PAUSE: Duration = Duration::from_secs(2);

/// Bounds what the threads keep; before the first of them is started.
pub fn bound() {
    sys::bound_arenas(ARENAS);
}

/// Gives memory back on `outer`, a moment after what it returns was told of work.
pub fn keep(outer: &Runtime) -> Arc<Notify> {
    let worked = Arc::new(Notify::new());
    let told = worked.clone();
    outer.spawn(async move {
        loop {
            told.notified().await;
            tokio::time::sleep(PAUSE).await;
            sys::give_memory_back();
        }
    });
    worked
}
