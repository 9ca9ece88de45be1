//! The store thread: drain the queue, one transaction, report all of it.
//!
//! Owns the one writer. Group commit is the only tuning that is needed: a transaction costs the same for one record as
//! for a hundred. Any error fails every batch of its transaction and ends redb's handle, so the file is opened again
//! before the next one. The file that is there then may be another one, if somebody took the old one away: into one
//! that lacks the node's record nothing is written before a batch that holds everything, or a restart would take what
//! only the old one held for nobody's. Does not decide what a failure means.

use super::{OpenError, Store, is_whole};
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
    /// The file is a new one: it takes nothing but everything.
    pub blank: bool,
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
    /// The file is not the one that was written so far.
    pub(super) blank: bool,
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
        let store = Some(store);
        (
            StoreHandle { queue: sender },
            StoreThread { store, blank: false, path, boot, queue: receiver, done },
        )
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
            let (refused, result) = self.commit(&jobs);
            let took = clock::now() - begun;
            let ended = jobs.into_iter().enumerate().map(|(n, job)| {
                let Job { ticket, wake, .. } = job;
                let result = if n < refused { Err(self.new_file()) } else { result.clone() };
                CommitDone { ticket, result, took, wake }
            });
            let ended = ended.collect();
            (self.done)(ended);
        }
    }

    /// How many of the first were refused, and how the rest ended.
    fn commit(&mut self, jobs: &[Job]) -> (usize, Result<(), CommitError>) {
        if let Err(error) = self.open() {
            return (0, Err(error));
        }
        let whole = jobs.iter().position(|job| is_whole(&job.batch));
        let refused = if self.blank { whole.unwrap_or(jobs.len()) } else { 0 };
        let taken = &jobs[refused..];
        let Some(store) = self.store.as_ref().filter(|_| !taken.is_empty()) else { return (refused, Ok(())) };
        match store.commit(taken.iter().map(|job| job.batch.as_slice())) {
            Ok(()) => {
                self.blank = false;
                (refused, Ok(()))
            }
            Err(failure) => {
                // redb refuses everything after an I/O error until its file is opened again.
                self.store = None;
                (refused, Err(self.error(failure.to_string())))
            }
        }
    }

    /// Opens the file again after an error.
    fn open(&mut self) -> Result<(), CommitError> {
        if self.store.is_none() {
            let opened = Store::open(&self.path, &self.boot);
            let opened = opened.map_err(|error: OpenError| self.error(error.to_string()))?;
            self.blank = opened.stored.node.is_none();
            self.store = Some(opened.store);
        }
        Ok(())
    }

    fn error(&self, cause: String) -> CommitError {
        CommitError { path: self.path.display().to_string(), cause, blank: false }
    }

    fn new_file(&self) -> CommitError {
        let cause = "the file was taken away: everything is written to a new one first".to_owned();
        CommitError { blank: true, ..self.error(cause) }
    }
}
