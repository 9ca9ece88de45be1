//! A plugin that stands behind ours in a list, built on the crate `cni-plugin` as many are.
//!
//! Owns the keys of its configuration: `journal`, a file to which it adds a line per call (verb, container, netns), and
//! `fail_while`, a file: while that is there, ADD and DEL fail. Otherwise it passes on what came before it.

use cni_plugin::error::CniError;
use cni_plugin::reply::{ReplyPayload, reply};
use cni_plugin::{Cni, Inputs};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fs::File;
use std::io::Write;
use std::path::Path;

/// What came before it, as it came: the crate's own type of a result wants a `sandbox` of the host's interface, which
/// libcni leaves out.
#[derive(Debug, Serialize, Deserialize)]
#[serde(transparent)]
struct Passed(Value);

impl ReplyPayload<'_> for Passed {}

fn answer(inputs: &Inputs) -> Result<Passed, CniError> {
    let told = |key: &str| inputs.config.specific.get(key).and_then(Value::as_str);
    if let Some(journal) = told("journal") {
        let netns = inputs.netns.clone().unwrap_or_default();
        let line = format!("{} {} {}\n", inputs.command.as_ref(), inputs.container_id, netns.display());
        File::options().create(true).append(true).open(journal)?.write_all(line.as_bytes())?;
    }
    if told("fail_while").is_some_and(|file| Path::new(file).exists()) {
        return Err(CniError::Generic("it fails as it was told to".to_owned()));
    }
    Ok(Passed(inputs.config.prev_result.clone().unwrap_or_default()))
}

fn main() {
    // Only VERSION has no inputs, and `load` has answered it.
    let Some(inputs) = Cni::load().into_inputs() else { return };
    match answer(&inputs) {
        Ok(result) => reply(result),
        Err(error) => reply(error.into_reply(inputs.config.cni_version)),
    }
}
