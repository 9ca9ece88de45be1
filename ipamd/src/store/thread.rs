//! The store thread: drain the queue, one transaction, report all of it.
//!
//! Owns the one writer. Group commit is the only tuning that is needed: a transaction costs the same for one record as
//! for a hundred. Any error fails every batch of its transaction and ends redb's handle, so the file is opened again
//! before the next one. Does not decide what a failure means.

use super::{OpenError, Store};
use crate::clock;
use crate::completions::Wake;
use crate::queue::{Receiver, Sender, bounded};
use eni_proto::ids::BootId;
use ipamd_core::record::Write;
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::Duration;

/// The most batches of one transaction.
const GROUP: usize = 256;

/// The queue is full: the store thread is stuck or far behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the store's queue is full")]
pub struct QueueFull;

/// Why a batch is not durable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {cause}")]
pub struct CommitError {
    /// The file.
    pub path: String,
    /// Why.
    pub cause: String,
}

/// How one batch ended.
#[derive(Debug, Clone)]
pub struct CommitDone {
    /// The batch's ticket.
    pub ticket: u64,
    /// Durable, or why not.
    pub result: Result<(), CommitError>,
    /// How long its transaction took.
    pub took: Duration,
    /// The right to wake who waits for it.
    pub wake: Wake,
}

struct Job {
    ticket: u64,
    batch: Vec<Write>,
    wake: Wake,
}

/// The queue to the thread; the thread ends when every handle is dropped.
#[derive(Clone)]
pub struct StoreHandle {
    queue: Sender<Job>,
}

impl StoreHandle {
    /// Queues a batch, whose end uses `wake`.
    pub fn submit(&self, ticket: u64, batch: Vec<Write>, wake: Wake) -> Result<(), QueueFull> {
        self.queue.try_send(Job { ticket, batch, wake }).map_err(|_| QueueFull)
    }
}

/// The thread, before it runs.
pub struct StoreThread<F> {
    store: Option<Store>,
    path: PathBuf,
    boot: BootId,
    queue: Receiver<Job>,
    done: F,
}

impl<F: FnMut(Vec<CommitDone>) + Send + 'static> StoreThread<F> {
    /// A thread that is not running yet, and the queue to it.
    pub fn prepare(store: Store, boot: BootId, capacity: usize, done: F) -> (StoreHandle, StoreThread<F>) {
        let (sender, receiver) = bounded(capacity);
        let path = store.path().to_owned();
        (StoreHandle { queue: sender }, StoreThread { store: Some(store), path, boot, queue: receiver, done })
    }

    /// Runs it on a thread of its own, until the last handle is dropped; the file is closed cleanly then.
    pub fn spawn(self) -> std::io::Result<JoinHandle<()>> {
        std::thread::Builder::new().name("store".to_owned()).spawn(move || self.run())
    }

    fn run(mut self) {
        loop {
            let jobs = self.queue.recv_many(GROUP);
            if jobs.is_empty() {
                return;
            }
            let begun = clock::now();
            let result = self.commit(&jobs);
            let took = clock::now() - begun;
            let ended = jobs.into_iter().map(|job| {
                let Job { ticket, wake, .. } = job;
                CommitDone { ticket, result: result.clone(), took, wake }
            });
            (self.done)(ended.collect());
        }
    }

    fn commit(&mut self, jobs: &[Job]) -> Result<(), CommitError> {
        let error = |cause: String| CommitError { path: self.path.display().to_string(), cause };
        if self.store.is_none() {
            let opened = Store::open(&self.path, &self.boot).map_err(|e: OpenError| error(e.to_string()))?;
            self.store = Some(opened.store);
        }
        let store = self.store.as_ref().expect("it was opened above");
        let committed = store.commit(jobs.iter().map(|job| job.batch.as_slice()));
        committed.map_err(|failure| {
            let failure = error(failure.to_string());
            // redb refuses everything after an I/O error until its file is opened again.
            self.store = None;
            failure
        })
    }
}
