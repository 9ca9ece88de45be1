//! The store thread: drain the queue, one transaction, report all of it.
//!
//! Owns the one writer. Group commit is the only tuning that is needed: a transaction costs the same for one record as
//! for a hundred. Any error fails every batch of its transaction and ends redb's handle, so the file is opened again
//! before the next one. Memory is the truth: a file that is damaged, was taken away or was written by somebody else is
//! replaced by a new one, and into that nothing is written before a batch that holds everything, or a restart would take
//! what only the old one held for nobody's. On a full disk the reserve is given up, and the transaction tried again.
//! Does not decide what a failure means.

use super::mark::{Found, Mark};
use super::open::is_full;
use super::reserve::Reserve;
use super::{OpenError, Store, aside, is_whole};
use crate::clock;
use crate::completions::Wake;
use crate::panics::contained;
use crate::queue::{Receiver, Sender, bounded};
use eni_proto::ids::BootId;
use ipamd_core::record::Write;
use ipamd_core::time::Timestamp;
use ipamd_netlink::fail_point;
use std::io;
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::Duration;

/// The most batches of one transaction.
const GROUP: usize = 256;
/// How often it is tried to lay the reserve again.
const LAY: Duration = Duration::from_secs(1);

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

/// Why a file was replaced by a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Replaced {
    /// It is damaged.
    Damaged,
    /// It was deleted, or another one has its name.
    TakenAway,
    /// Somebody else has written into it.
    Foreign,
}

/// What the thread tells.
#[derive(Debug, Clone)]
pub enum Report {
    /// The batches of one transaction have ended.
    Ended(Vec<CommitDone>),
    /// The reserve is given up, or cannot be laid: why. None: it is laid again.
    Reserve(Option<String>),
    /// The file was replaced; what became of it in words.
    Replaced(Replaced, String),
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

/// Why a transaction failed.
enum Failure {
    /// The disk is full.
    Full(String),
    /// The file is damaged.
    Damaged(String),
    /// Anything else: it may go by itself.
    Other(String),
}

impl Failure {
    fn of(error: &redb::Error) -> Failure {
        let cause = error.to_string();
        match error {
            redb::Error::Io(source) if is_full(source) => Failure::Full(cause),
            redb::Error::Io(source) if source.kind() == io::ErrorKind::InvalidData => Failure::Damaged(cause),
            redb::Error::Corrupted(_)
            | redb::Error::TableTypeMismatch { .. }
            | redb::Error::TypeDefinitionChanged { .. } => Failure::Damaged(cause),
            _ => Failure::Other(cause),
        }
    }

    fn of_open(error: OpenError) -> Failure {
        let full = error.is_full();
        match error {
            OpenError::Damaged { cause, .. } => Failure::Damaged(cause),
            other if full => Failure::Full(text(&other)),
            other => Failure::Other(text(&other)),
        }
    }
}

/// An error of opening with its cause.
fn text(error: &OpenError) -> String {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
    format!("{error}{}", cause.unwrap_or_default())
}

/// The thread, before it runs.
pub struct StoreThread<F> {
    store: Option<Store>,
    /// The file is not the one that was written so far.
    pub(super) blank: bool,
    /// The file as it was left.
    mark: Option<Mark>,
    reserve: Reserve,
    tried_to_lay: Timestamp,
    path: PathBuf,
    boot: BootId,
    queue: Receiver<Job>,
    told: F,
}

impl<F: FnMut(Report) + Send + 'static> StoreThread<F> {
    /// A thread that is not running yet, and the queue to it.
    pub fn prepare(
        store: Store,
        reserve: Reserve,
        boot: BootId,
        capacity: usize,
        told: F,
    ) -> (StoreHandle, StoreThread<F>) {
        let (sender, receiver) = bounded(capacity);
        let path = store.path().to_owned();
        let thread = StoreThread {
            store: Some(store),
            blank: false,
            mark: Mark::of(&path).ok(),
            reserve,
            tried_to_lay: Timestamp::ZERO,
            path,
            boot,
            queue: receiver,
            told,
        };
        (StoreHandle { queue: sender }, thread)
    }

    /// Runs it on a thread of its own, until the last handle is dropped; the file is closed cleanly then.
    pub fn spawn(self) -> std::io::Result<JoinHandle<()>> {
        std::thread::Builder::new().name("store".to_owned()).spawn(move || self.run())
    }

    fn run(mut self) {
        // A reserve that cannot be laid is told at once: ADDs are not to be served from the last room.
        if let Err(error) = self.reserve.lay() {
            let text =
                format!("{}: its reserve for a full disk cannot be laid: {error}", self.path.display());
            (self.told)(Report::Reserve(Some(text)));
        }
        self.tried_to_lay = clock::now();
        loop {
            let jobs = if self.reserve.is_laid() {
                Some(self.queue.recv_many(GROUP))
            } else {
                self.queue.recv_many_within(GROUP, LAY)
            };
            if let Some(jobs) = jobs {
                if jobs.is_empty() {
                    return;
                }
                self.serve(jobs);
            }
            self.lay_again_when_due();
        }
    }

    fn serve(&mut self, jobs: Vec<Job>) {
        let begun = clock::now();
        let (refused, result) = self.commit(&jobs);
        let took = clock::now() - begun;
        let ended = jobs.into_iter().enumerate().map(|(n, job)| {
            let Job { ticket, wake, .. } = job;
            let result = if n < refused { Err(self.new_file()) } else { result.clone() };
            CommitDone { ticket, result, took, wake }
        });
        let ended = ended.collect();
        (self.told)(Report::Ended(ended));
    }

    /// How many of the first were refused, and how the rest ended.
    fn commit(&mut self, jobs: &[Job]) -> (usize, Result<(), CommitError>) {
        let (mut refused, mut result) = match self.look() {
            Ok(()) => self.attempt(jobs),
            Err(failure) => (0, Err(failure)),
        };
        if let Err(Failure::Full(cause)) = &result {
            let cause = cause.clone();
            if self.make_room(&cause) {
                (refused, result) = self.attempt(jobs);
            }
        }
        if let Err(Failure::Damaged(cause)) = &result {
            let cause = cause.clone();
            match self.set_aside(Replaced::Damaged, &cause) {
                Ok(()) => (refused, result) = self.attempt(jobs),
                Err(failure) => result = Err(failure),
            }
        }
        let result = result.map_err(|failure| match failure {
            Failure::Full(cause) | Failure::Damaged(cause) | Failure::Other(cause) => self.error(cause),
        });
        (refused, result)
    }

    fn attempt(&mut self, jobs: &[Job]) -> (usize, Result<(), Failure>) {
        if let Err(failure) = self.open() {
            return (0, Err(failure));
        }
        let whole = jobs.iter().position(|job| is_whole(&job.batch));
        let refused = if self.blank { whole.unwrap_or(jobs.len()) } else { 0 };
        let taken = &jobs[refused..];
        let Some(store) = self.store.as_ref().filter(|_| !taken.is_empty()) else { return (refused, Ok(())) };
        fail_point::pass("commit.before");
        // redb may panic on pages that somebody else has changed.
        let committed = contained(|| store.commit(taken.iter().map(|job| job.batch.as_slice())));
        let failure = match committed {
            Ok(Ok(())) => {
                fail_point::pass("commit.after");
                self.blank = false;
                if let Some(mark) = &mut self.mark {
                    mark.renew(&self.path);
                }
                return (refused, Ok(()));
            }
            Ok(Err(error)) => Failure::of(&error),
            Err(_) => Failure::Damaged("writing to it panicked".to_owned()),
        };
        // redb refuses everything after an error until its file is opened again.
        self.close();
        (refused, Err(failure))
    }

    /// Opens the file again after an error, or a new one.
    fn open(&mut self) -> Result<(), Failure> {
        if self.store.is_none() {
            let opened = Store::open(&self.path, &self.boot).map_err(Failure::of_open)?;
            let mark = Mark::of(&self.path).ok();
            let known = matches!((&self.mark, &mark), (Some(known), Some(found)) if known.same_file(found));
            self.blank |= opened.stored.node.is_none() || !known;
            self.mark = mark;
            self.store = Some(opened.store);
        }
        Ok(())
    }

    fn close(&mut self) {
        if let Some(store) = self.store.take() {
            // Closing writes, too: what it meets was told already.
            let _ = contained(|| drop(store));
        }
    }

    /// Whether the file is still the one that was written, as it was written.
    fn look(&mut self) -> Result<(), Failure> {
        let Some(mark) = self.mark.filter(|_| self.store.is_some()) else { return Ok(()) };
        match mark.compare(&self.path) {
            Found::Same => Ok(()),
            Found::TakenAway => {
                self.close();
                self.mark = None;
                let cause = "it was deleted or replaced by another one".to_owned();
                (self.told)(Report::Replaced(Replaced::TakenAway, cause));
                Ok(())
            }
            Found::Changed => self.set_aside(Replaced::Foreign, "somebody else has written into it"),
        }
    }

    /// Moves the file out of the way of a new one.
    fn set_aside(&mut self, why: Replaced, cause: &str) -> Result<(), Failure> {
        self.close();
        let aside = match aside::set_aside(&self.path) {
            Ok(aside) => format!("it lies in {} now", aside.display()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => "it is gone".to_owned(),
            Err(error) => {
                return Err(Failure::Other(format!("{cause}, and it cannot be moved aside: {error}")));
            }
        };
        self.mark = None;
        (self.told)(Report::Replaced(why, format!("{cause}; {aside}")));
        Ok(())
    }

    /// Gives up what is there to be given up on a full disk; false when that is nothing.
    fn make_room(&mut self, cause: &str) -> bool {
        let had = self.reserve.is_laid();
        let made = self.reserve.give_up() | aside::delete_all(&self.path);
        if had {
            self.tried_to_lay = clock::now();
            let text = format!("{}: {cause}: its reserve is given up", self.path.display());
            (self.told)(Report::Reserve(Some(text)));
        }
        made
    }

    fn lay_again_when_due(&mut self) {
        let now = clock::now();
        if !self.reserve.is_laid() && now - self.tried_to_lay >= LAY {
            self.tried_to_lay = now;
            if self.reserve.lay().is_ok() {
                (self.told)(Report::Reserve(None));
            }
        }
    }

    fn error(&self, cause: String) -> CommitError {
        CommitError { path: self.path.display().to_string(), cause, blank: false }
    }

    fn new_file(&self) -> CommitError {
        let cause = "the file is a new one: everything is written to it first".to_owned();
        CommitError { blank: true, ..self.error(cause) }
    }
}
