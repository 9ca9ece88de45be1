//! The model behind HTTP on a port of the loopback, and nothing else: for tests of clients, which need no network of
//! namespaces and no root.
//!
//! Owns its threads until it is dropped. What happens in it happens at the clock's time.

use crate::http::{self, Http};
use crate::model::{Ec2, Setup, SetupError};
use crate::served::{NoNetwork, Served, now};
use ipamd_core::time::Timestamp;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// A running one.
pub struct Standalone {
    http: Arc<Http>,
    served: Arc<Served>,
    address: SocketAddr,
    threads: Vec<JoinHandle<()>>,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum StandaloneError {
    /// What was asked for cannot be.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// No port of the loopback, or no thread.
    #[error("serving on the loopback: {0}")]
    Serve(#[from] io::Error),
}

impl Standalone {
    /// Boots an instance and serves it.
    pub fn start(setup: Setup) -> Result<Standalone, StandaloneError> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let served = Served::new(Ec2::boot(setup)?, Box::new(NoNetwork));
        let http = Http::new(served.clone());
        let (ticked, shared) = (served.clone(), http.clone());
        let mut started = Standalone { http, served, address, threads: Vec::new() };
        let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
            thread::Builder::new().name(name.to_owned()).spawn(run)
        };
        started.threads.push(spawn("ticker", Box::new(move || ticked.tick()))?);
        started.threads.push(spawn("http", Box::new(move || http::serve(&shared, &listener, None)))?);
        Ok(started)
    }

    /// `http://127.0.0.1:PORT`: the endpoint of EC2 and of the metadata service.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The model itself, at this time: what a test sets up and looks at without a call.
    pub fn with<T>(&self, look: impl FnOnce(&mut Ec2, Timestamp) -> T) -> T {
        let result = look(&mut self.served.ec2(), now());
        // Something may have been scheduled.
        self.served.wake();
        result
    }

    /// How long credentials of the role that are asked for from now on last.
    pub fn set_credential_lifetime(&self, lifetime: Duration) {
        self.http.set_credential_lifetime(lifetime);
    }
}

impl Drop for Standalone {
    fn drop(&mut self) {
        self.served.end();
        // Its listener looks whether it is the end when somebody comes.
        let _ = TcpStream::connect(self.address);
        for thread in self.threads.drain(..) {
            // One that panicked has said so.
            let _ = thread.join();
        }
    }
}
