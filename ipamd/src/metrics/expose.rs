//! `/metrics` over TCP.
//!
//! Owns the listener: a port that is taken is reported and tried again, never fatal; connections beyond a bound wait in
//! the backlog.

use super::Metrics;
use crate::debug::query::QueryClient;
use crate::debug::server::{CONNECTIONS, Caller, serve_stream};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tracing::{info, warn};

/// The first wait for a taken port; doubled up to [`LONGEST`].
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);

/// Serves for ever.
pub async fn serve(listen: SocketAddr, queries: QueryClient, metrics: Arc<Metrics>) {
    let mut wait = FIRST;
    let listener = loop {
        match TcpListener::bind(listen).await {
            Ok(listener) => break listener,
            Err(error) => {
                warn!(%listen, %error, again_in_s = wait.as_secs(), "/metrics cannot be served");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(LONGEST);
            }
        }
    };
    info!(%listen, "serving /metrics");
    let seats = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(seat) = seats.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let served = serve_stream(stream, queries.clone(), metrics.clone(), Caller::Anybody);
                tokio::spawn(async move {
                    served.await;
                    drop(seat);
                });
            }
            Err(error) => {
                warn!(%error, "accepting on the metrics port failed");
                tokio::time::sleep(FIRST).await;
            }
        }
    }
}
