//! Asking a running ipamd for its place.
//!
//! Owns the one request of `ipamd --take-over`. Does not wait for the first one's end: the lock does.

use eni_proto::client;
use eni_proto::request::{Call, HandOver, Request};
use std::path::Path;
use std::time::Duration;
use tracing::{info, warn};

/// How long the first one may take to answer.
const ANSWER: Duration = Duration::from_secs(2);

/// Asks; when nobody answers there is nothing to hand over, and the lock says the rest.
pub fn ask(socket: &Path) {
    let ask = HandOver { pid: std::process::id(), version: env!("CARGO_PKG_VERSION").to_owned() };
    match client::call(socket, &Request::new(Call::HandOver(ask)), None, client::boottime() + ANSWER) {
        Ok(_) => info!("the running ipamd hands over"),
        Err(error) => warn!(%error, "no running ipamd answered: nothing to take over"),
    }
}
