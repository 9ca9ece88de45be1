//! How the outer runtime asks the main loop.
//!
//! Owns the bounded queue, the deadline and the snapshot. A main loop that does not answer is an error, never an empty
//! answer.

use eni_proto::debug::{LimitsView, StatusView, SwitchView};
use ipamd_core::owner::Switch;
use ipamd_core::record::{AddressRecord, AttachmentRecord, EniRecord};
use ipamd_core::time::Timestamp;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// The most questions that wait.
const CAPACITY: usize = 64;
/// How long the main loop may take.
const ANSWER: Duration = Duration::from_secs(2);

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// The status.
    Status,
    /// The addresses.
    Pool,
    /// The ENIs and the addresses.
    Enis,
    /// The attachments.
    Attachments,
    /// What the gauges are made of.
    Gauges,
    /// What the instance type carries.
    Limits,
    /// How the switches stand.
    Switches,
    /// The same after one of them was set. The only question that changes something.
    Switch {
        /// Which.
        switch: Switch,
        /// On or off.
        on: bool,
    },
}

/// A question and the way back.
#[derive(Debug)]
pub struct Query {
    /// What is asked.
    pub want: Want,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Snapshot>,
}

/// An answer: what was asked is filled, the rest is empty.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// When it was taken.
    pub now: Timestamp,
    /// The status.
    pub status: Option<StatusView>,
    /// How the switches stand.
    pub switches: Vec<SwitchView>,
    /// What the instance type carries, once known.
    pub limits: Option<LimitsView>,
    /// The addresses.
    pub addresses: Vec<AddressRecord>,
    /// The ENIs with their links' names.
    pub enis: Vec<(EniRecord, Option<String>)>,
    /// The attachments.
    pub attachments: Vec<Arc<AttachmentRecord>>,
    /// How many ADDs wait or run.
    pub adds_under_way: usize,
    /// How many attachments the last GC of their network did not name.
    pub unnamed_attachments: usize,
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// Too many questions wait.
    #[error("too many questions wait for the main loop")]
    Busy,
    /// The main loop did not answer in time, or has ended.
    #[error("the main loop did not answer within {} s: ipamd is stuck or ending", ANSWER.as_secs())]
    NoAnswer,
}

/// The asking end.
#[derive(Debug, Clone)]
pub struct QueryClient {
    queue: mpsc::Sender<Query>,
}

impl QueryClient {
    /// Both ends.
    pub fn channel() -> (QueryClient, mpsc::Receiver<Query>) {
        let (queue, receiver) = mpsc::channel(CAPACITY);
        (QueryClient { queue }, receiver)
    }

    /// Asks.
    pub async fn ask(&self, want: Want) -> Result<Snapshot, QueryError> {
        let (reply, answer) = oneshot::channel();
        self.queue.try_send(Query { want, reply }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => QueryError::Busy,
            mpsc::error::TrySendError::Closed(_) => QueryError::NoAnswer,
        })?;
        match timeout(ANSWER, answer).await {
            Ok(Ok(snapshot)) => Ok(snapshot),
            _ => Err(QueryError::NoAnswer),
        }
    }
}
