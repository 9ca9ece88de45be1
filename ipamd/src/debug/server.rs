//! The server of `debug.sock`, and of `/metrics` wherever it is.
//!
//! Owns routes, the socket (0660, the group that ipamd runs with) and the bounds of a connection. GET, and for root POST
//! on the switches. Formats snapshots; asks the main loop for them.

use super::query::{QueryClient, QueryError, Snapshot, Want};
use crate::metrics::Metrics;
use eni_proto::debug::{AddressView, Answer, AttachmentView, EniView, PoolCounts, PoolView, Refusal};
use eni_proto::ids::EniId;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use ipamd_core::owner::Switch;
use ipamd_core::record::{AddressRecord, AddressState, AttachmentRecord, EniRecord};
use ipamd_core::time::Timestamp;
use serde::Serialize;
use std::convert::Infallible;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixListener;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// The most connections at once, to `debug.sock` and to the metrics' port each.
pub const CONNECTIONS: usize = 32;
/// A request's head must have come by then.
const HEAD: Duration = Duration::from_secs(5);
/// A connection is closed after that, whatever it does.
const LIFE: Duration = Duration::from_secs(60);
const ROUTES: &str = "/v1/status, /v1/pool, /v1/enis, /v1/attachments, /v1/limits, /v1/switches, /metrics";
/// Below it: the name of a switch, then `on` or `off`.
const SWITCHES: &str = "/v1/switches/";

/// Makes `debug.sock` under a name of its own and puts it in place.
pub fn bind(run_dir: &Path) -> io::Result<UnixListener> {
    let (path, new) = (run_dir.join("debug.sock"), run_dir.join("debug.sock.new"));
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&new)?;
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o660))?;
    std::fs::rename(&new, &path)?;
    Ok(listener)
}

/// Serves for ever.
pub async fn serve(listener: UnixListener, queries: QueryClient, metrics: Arc<Metrics>) {
    let seats = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(seat) = seats.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let root = stream.peer_cred().is_ok_and(|peer| peer.uid() == 0);
                let caller = if root { Caller::Root } else { Caller::Group };
                let served = serve_stream(stream, queries.clone(), metrics.clone(), caller);
                tokio::spawn(async move {
                    served.await;
                    drop(seat);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accepting on debug.sock failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// Root, over `debug.sock`.
    Root,
    /// A member of the socket's group.
    Group,
    /// Anybody who reaches the metrics' port: nothing but /metrics.
    Anybody,
}

/// Serves one connection.
pub async fn serve_stream(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    queries: QueryClient,
    metrics: Arc<Metrics>,
    caller: Caller,
) {
    let service = service_fn(|request: Request<Incoming>| {
        let (queries, metrics) = (queries.clone(), metrics.clone());
        async move { Ok::<_, Infallible>(answer(&request, &queries, &metrics, caller).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .serve_connection(TokioIo::new(stream), service);
    // A connection that breaks off concerns its caller alone.
    let _ = timeout(LIFE, connection).await;
}

type Body = Response<Full<Bytes>>;

async fn answer(
    request: &Request<Incoming>,
    queries: &QueryClient,
    metrics: &Metrics,
    caller: Caller,
) -> Body {
    let metrics_only = caller == Caller::Anybody;
    if request.method() == Method::POST
        && !metrics_only
        && let Some(named) = request.uri().path().strip_prefix(SWITCHES)
    {
        return set_switch(named, request.uri().query(), queries, caller).await;
    }
    if request.method() != Method::GET {
        return refuse(StatusCode::METHOD_NOT_ALLOWED, "only GET is served here".to_owned());
    }
    let path = request.uri().path();
    let want = match path {
        "/metrics" => Want::Gauges,
        "/v1/status" if !metrics_only => Want::Status,
        "/v1/pool" if !metrics_only => Want::Pool,
        "/v1/enis" if !metrics_only => Want::Enis,
        "/v1/attachments" if !metrics_only => Want::Attachments,
        "/v1/limits" if !metrics_only => Want::Limits,
        "/v1/switches" if !metrics_only => Want::Switches,
        _ => {
            let routes = if metrics_only { "/metrics" } else { ROUTES };
            return refuse(StatusCode::NOT_FOUND, format!("{path} is not served; served are {routes}"));
        }
    };
    let snapshot = match queries.ask(want).await {
        Ok(snapshot) => snapshot,
        Err(error @ (QueryError::Busy | QueryError::NoAnswer)) => {
            return refuse(StatusCode::SERVICE_UNAVAILABLE, error.to_string());
        }
    };
    match want {
        Want::Gauges => {
            let text = metrics.render(&snapshot);
            body(
                StatusCode::OK,
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
                text.into_bytes(),
            )
        }
        Want::Status => json(&snapshot.status),
        Want::Pool => json(&pool(&snapshot)),
        Want::Enis => json(&enis(&snapshot)),
        Want::Limits => match &snapshot.limits {
            Some(limits) => json(limits),
            None => refuse(StatusCode::SERVICE_UNAVAILABLE, limits_unknown(&snapshot)),
        },
        Want::Switches | Want::Switch { .. } => json(&snapshot.switches),
        Want::Attachments => {
            json(&snapshot.attachments.iter().map(|r| attachment(r, snapshot.now)).collect::<Vec<_>>())
        }
    }
}

fn limits_unknown(snapshot: &Snapshot) -> String {
    let reasons = snapshot.status.as_ref().map(|status| status.reasons.join("; ")).unwrap_or_default();
    format!(
        "what this instance carries is not known yet; `ipamctl limits --instance-type` asks the built-in table: {reasons}"
    )
}

/// Sets a switch, or says what would be. Root's alone: with no-cloud on a node does not grow any more.
async fn set_switch(named: &str, query: Option<&str>, queries: &QueryClient, caller: Caller) -> Body {
    if caller != Caller::Root {
        return refuse(StatusCode::FORBIDDEN, "switches are root's".to_owned());
    }
    let (name, wanted) = named.split_once('/').unwrap_or((named, ""));
    let on = match wanted {
        "on" => true,
        "off" => false,
        _ => return refuse(StatusCode::BAD_REQUEST, format!("{wanted:?} is neither \"on\" nor \"off\"")),
    };
    let Some(switch) = Switch::named(name) else {
        let names = Switch::ALL.map(Switch::name).join(", ");
        return refuse(StatusCode::NOT_FOUND, format!("{name:?} is no switch; there are {names}"));
    };
    let dry_run = query.is_some_and(|query| query.split('&').any(|part| part == "dry_run=true"));
    let want = if dry_run { Want::Switches } else { Want::Switch { switch, on } };
    match queries.ask(want).await {
        Ok(mut snapshot) => {
            let of_it = snapshot.switches.iter_mut().filter(|view| dry_run && view.name == name);
            for view in of_it {
                view.on = on;
            }
            json(&snapshot.switches)
        }
        Err(error) => refuse(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    }
}

fn body(status: StatusCode, kind: &'static str, bytes: Vec<u8>) -> Body {
    let mut response = Response::new(Full::new(Bytes::from(bytes)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn json<T: Serialize>(data: &T) -> Body {
    let answer = Answer { source: "stored".to_owned(), age_ms: 0, data };
    match serde_json::to_vec(&answer) {
        Ok(bytes) => body(StatusCode::OK, "application/json", bytes),
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

fn refuse(status: StatusCode, error: String) -> Body {
    let bytes = serde_json::to_vec(&Refusal { error }).unwrap_or_default();
    body(status, "application/json", bytes)
}

fn count(counts: &mut PoolCounts, state: &AddressState) {
    match state {
        AddressState::Free { .. } => counts.free += 1,
        AddressState::Allocated { .. } => counts.allocated += 1,
        AddressState::Cooling { .. } => counts.cooling += 1,
        AddressState::Quarantined { .. } => counts.quarantined += 1,
    }
}

fn pool(snapshot: &Snapshot) -> PoolView {
    let mut counts = PoolCounts::default();
    for record in &snapshot.addresses {
        count(&mut counts, &record.state);
    }
    PoolView { counts, addresses: snapshot.addresses.iter().map(|r| address(r, snapshot.now)).collect() }
}

fn address(record: &AddressRecord, now: Timestamp) -> AddressView {
    let (holder, cooling, reason) = match &record.state {
        AddressState::Free { .. } => (None, None, None),
        AddressState::Allocated { attachment } => (Some(attachment), None, None),
        AddressState::Cooling { attachment, until } => (Some(attachment), Some(*until), None),
        AddressState::Quarantined { reason, attachment } => (attachment.as_ref(), None, Some(reason.clone())),
    };
    AddressView {
        address: record.address,
        eni: record.eni.clone(),
        state: record.state.name().to_owned(),
        attachment: holder.map(|h| h.key.clone()),
        cooling_ms: cooling.map(|until| millis(until.since(now))),
        reason,
        generation: record.generation,
    }
}

fn enis(snapshot: &Snapshot) -> Vec<EniView> {
    let counts = |id: &EniId| {
        let mut counts = PoolCounts::default();
        for record in snapshot.addresses.iter().filter(|r| r.eni == *id) {
            count(&mut counts, &record.state);
        }
        counts
    };
    let view = |(record, link): &(EniRecord, Option<String>)| EniView {
        id: record.id.clone(),
        mac: record.mac,
        device_index: record.device_index,
        primary: record.primary,
        state: record.state.name().to_owned(),
        link: link.clone(),
        counts: counts(&record.id),
    };
    snapshot.enis.iter().map(view).collect()
}

fn attachment(record: &AttachmentRecord, now: Timestamp) -> AttachmentView {
    AttachmentView {
        key: record.key.clone(),
        state: record.state.name().to_owned(),
        mode: "shared".to_owned(),
        addresses: record.addresses.iter().copied().collect(),
        eni: record.eni.clone(),
        pod: record.pod.clone(),
        netns: record.netns.clone(),
        netns_cookie: record.netns_cookie,
        host_link: record.host_link.to_string(),
        host_ifindex: record.host_ifindex,
        generation: record.generation,
        age_ms: millis(now.since(record.created)),
        claimed_by: record.claimed_by.clone(),
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
