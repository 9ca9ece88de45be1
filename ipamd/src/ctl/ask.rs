//! One request over `debug.sock`.
//!
//! Owns the connection, its deadline, and errors that say what to do.

use eni_proto::debug::Refusal;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(10);
/// The longest answer: tens of thousands of attachments.
const LONGEST: usize = 64 * 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    /// The socket was not reached.
    #[error("{path} was not reached: {cause}; {advice}")]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// Why.
        cause: io::Error,
        /// What to do.
        advice: &'static str,
    },
    /// ipamd refused.
    #[error("ipamd refused: {0}")]
    Refused(String),
    /// The answer is not understood.
    #[error("ipamd's answer is not understood: {0}")]
    Answer(String),
    /// The built-in table does not have the type.
    #[error("the built-in table does not have the instance type {0}")]
    UnknownType(String),
    /// It took too long.
    #[error("ipamd did not answer within {} s", ANSWER.as_secs())]
    Slow,
}

impl AskError {
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            AskError::Unreachable { .. } | AskError::Slow => 3,
            AskError::Refused(_) | AskError::Answer(_) | AskError::UnknownType(_) => 4,
        }
    }
}

/// Asks for a path; the body of the answer.
pub(super) fn ask(socket: &Path, method: Method, path: &str) -> Result<Vec<u8>, AskError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| AskError::Answer(error.to_string()))?;
    runtime.block_on(async {
        timeout(ANSWER, request(socket, method, path)).await.unwrap_or(Err(AskError::Slow))
    })
}

async fn request(socket: &Path, method: Method, path: &str) -> Result<Vec<u8>, AskError> {
    let stream = UnixStream::connect(socket).await.map_err(|cause| {
        let advice = match cause.kind() {
            io::ErrorKind::PermissionDenied => "ask as root or as a member of the group that ipamd runs with",
            _ => "is ipamd running? (its run folder is paths.run_dir)",
        };
        AskError::Unreachable { path: socket.to_owned(), cause, advice }
    })?;
    let answer = |error: String| AskError::Answer(error);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| answer(error.to_string()))?;
    tokio::spawn(connection);
    let request =
        Request::builder().method(method).uri(path).header("host", "ipamd").body(Empty::<Bytes>::new());
    let request = request.map_err(|error| answer(error.to_string()))?;
    let response = sender.send_request(request).await.map_err(|error| answer(error.to_string()))?;
    let status = response.status();
    let body = Limited::new(response.into_body(), LONGEST).collect().await;
    let body = body.map_err(|error| answer(error.to_string()))?.to_bytes().to_vec();
    if status.is_success() {
        return Ok(body);
    }
    let refusal = serde_json::from_slice::<Refusal>(&body).map(|r| r.error);
    Err(AskError::Refused(refusal.unwrap_or_else(|_| format!("HTTP status {status}"))))
}
