//! A client of the CRI: the calls with which a kubelet makes and takes away a pod's sandbox.
//!
//! Owns gRPC's framing over HTTP/2 on a Unix socket, one connection per call, so that callers may be many threads. Does
//! not judge the answers. It is by hand because tonic and a compiled api.proto cost a cold build more than all of this.

pub(crate) mod messages;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request, header};
use messages::{
    Empty, ListPodSandboxResponse, PodSandbox, PodSandboxConfig, PodSandboxId, PodSandboxStatusRequest,
    PodSandboxStatusResponse, RunPodSandboxRequest, RunPodSandboxResponse, VersionRequest, VersionResponse,
};
use prost::Message;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Far beyond what a call takes: it only bounds a failure. A kubelet gives RunPodSandbox four minutes.
const DEADLINE: Duration = Duration::from_secs(100);
/// A message's head: one byte that says whether it is compressed, four of its length.
const HEAD: usize = 5;

/// What a call was refused with.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Refused {
    /// gRPC's status; none when there was no answer of gRPC's.
    pub(crate) status: Option<u32>,
    /// What it says.
    pub(crate) message: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (gRPC status {:?})", self.message, self.status)
    }
}

impl<E: std::error::Error> From<E> for Refused {
    fn from(error: E) -> Refused {
        Refused { status: None, message: error.to_string() }
    }
}

/// A runtime's socket.
#[derive(Debug, Clone)]
pub(crate) struct Cri {
    socket: PathBuf,
}

impl Cri {
    pub(crate) fn at(socket: &Path) -> Cri {
        Cri { socket: socket.to_owned() }
    }

    pub(crate) fn version(&self) -> Result<VersionResponse, Refused> {
        self.call("Version", &VersionRequest { version: "v1".to_owned() })
    }

    /// Its id.
    pub(crate) fn run_pod_sandbox(&self, config: PodSandboxConfig) -> Result<String, Refused> {
        let answer: RunPodSandboxResponse =
            self.call("RunPodSandbox", &RunPodSandboxRequest { config: Some(config) })?;
        Ok(answer.pod_sandbox_id)
    }

    pub(crate) fn pod_sandbox_status(&self, id: &str) -> Result<PodSandboxStatusResponse, Refused> {
        self.call(
            "PodSandboxStatus",
            &PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: true },
        )
    }

    pub(crate) fn list_pod_sandbox(&self) -> Result<Vec<PodSandbox>, Refused> {
        Ok(self.call::<ListPodSandboxResponse>("ListPodSandbox", &Empty {})?.items)
    }

    pub(crate) fn stop_pod_sandbox(&self, id: &str) -> Result<(), Refused> {
        let Empty {} = self.call("StopPodSandbox", &PodSandboxId { pod_sandbox_id: id.to_owned() })?;
        Ok(())
    }

    pub(crate) fn remove_pod_sandbox(&self, id: &str) -> Result<(), Refused> {
        let Empty {} = self.call("RemovePodSandbox", &PodSandboxId { pod_sandbox_id: id.to_owned() })?;
        Ok(())
    }

    fn call<A: Message + Default>(&self, method: &str, message: &impl Message) -> Result<A, Refused> {
        let mut body = BytesMut::with_capacity(HEAD + message.encoded_len());
        body.put_u8(0);
        body.put_u32(u32::try_from(message.encoded_len())?);
        message.encode(&mut body)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let answer = runtime.block_on(async {
            let exchange = self.exchange(method, body.freeze());
            tokio::time::timeout(DEADLINE, exchange).await
        })??;
        // The length is what is left: one message, not compressed.
        let message =
            answer.get(HEAD..).ok_or_else(|| nothing(format!("{method}: an answer without a message")))?;
        Ok(A::decode(message)?)
    }

    async fn exchange(&self, method: &str, body: Bytes) -> Result<Bytes, Refused> {
        let stream = tokio::net::UnixStream::connect(&self.socket).await?;
        let (send, connection) = h2::client::handshake(stream).await?;
        let driver = tokio::spawn(connection);
        let request = Request::post(format!("http://localhost/runtime.v1.RuntimeService/{method}"))
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .body(())?;
        let (response, mut stream) = send.ready().await?.send_request(request, false)?;
        stream.send_data(body, true)?;
        let (head, mut body) = response.await?.into_parts();
        // A refusal may be all that there is: its status stands in the head then.
        judge(&head.headers, false)?;
        let mut answer = BytesMut::new();
        while let Some(part) = body.data().await {
            let part = part?;
            let _ = body.flow_control().release_capacity(part.len());
            answer.extend_from_slice(&part);
        }
        judge(&body.trailers().await?.unwrap_or_default(), true)?;
        driver.abort();
        Ok(answer.freeze())
    }
}

fn nothing(message: String) -> Refused {
    Refused { status: None, message }
}

/// What these headers say of the call's end; the last ones must say something.
fn judge(headers: &HeaderMap, last: bool) -> Result<(), Refused> {
    let text = |name| headers.get(name).and_then(|value: &http::HeaderValue| value.to_str().ok());
    let status = match text("grpc-status") {
        None if last => return Err(nothing("the answer has no status".to_owned())),
        None => return Ok(()),
        Some(status) => status.parse().ok(),
    };
    let message = text("grpc-message").unwrap_or_default();
    if status == Some(0) { Ok(()) } else { Err(Refused { status, message: unescaped(message) }) }
}

/// gRPC escapes what a header cannot carry as URLs do.
fn unescaped(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let code = after.get(..2).and_then(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok());
        match code.filter(|_| first == b'%') {
            Some(code) => (bytes.push(code), rest = &after[2..]),
            None => (bytes.push(first), rest = after),
        };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
