//! One JSON line on stderr per call, when asked (`ENI_CNI_LOG=json`); silent otherwise.
//!
//! Owns the line's keys: `verb`, `key`, `outcome`, `code`, `ms`. Writes no file.

use serde_json::json;
use std::io::Write;
use std::time::Duration;

/// Writes the line. A stderr that nobody reads loses it, and that is all.
pub(crate) fn line(verb: &str, key: Option<&str>, code: Option<u32>, took: Duration) {
    let outcome = if code.is_some() { "failed" } else { "done" };
    let ms = took.as_micros() as f64 / 1000.0;
    let line = json!({ "verb": verb, "key": key, "outcome": outcome, "code": code, "ms": ms });
    let _ = writeln!(std::io::stderr(), "{line}");
}
