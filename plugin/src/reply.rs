//! What the runtime gets to read: the only place that writes to stdout.
//!
//! Owns that nothing but one JSON object, or nothing, is ever printed there. Does not own the object's layout.

use serde_json::Value;
use std::io::{self, Write};

/// Prints the answer, in one write.
pub(crate) fn print(answer: &Value) -> io::Result<()> {
    let mut text = answer.to_string();
    text.push('\n');
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}
