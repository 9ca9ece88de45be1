//! What a panic does: it ends ipamd, loudly, on whichever thread or task it is.
//!
//! Owns the hook. A thread that is gone would take its job and every later one with it while ipamd says that it is
//! ready; a runtime's task the same. Its supervisor starts ipamd again, and a kill loses nothing. The one place that
//! outlives a panic is a trial of bytes that may be damaged: [`contained`].

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};

thread_local! {
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// Installs the hook.
pub fn install() {
    std::panic::set_hook(Box::new(end));
}

/// Runs what may panic on bad bytes; the panic is its error and nothing else.
pub fn contained<T>(run: impl FnOnce() -> T) -> std::thread::Result<T> {
    let before = CONTAINED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(run));
    CONTAINED.set(before);
    result
}

fn end(panic: &PanicHookInfo<'_>) {
    // A thread whose own values are gone already contains nothing.
    if CONTAINED.try_with(Cell::get).unwrap_or(false) {
        return;
    }
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("without a name");
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let cause = panic.payload_as_str().unwrap_or("no text");
    tracing::error!(thread, place, cause, "panicked: ipamd ends at once");
    crate::telemetry::flush();
    std::process::abort();
}
