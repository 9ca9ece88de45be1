//! The main loop: one thread, on which the owner is called.
//!
//! Owns the shell, the seats of connections, the timer, the way of completions into the owner and the way out. Only
//! the modules that the tidy test names run here; nothing here blocks. Does not start threads: `run` does.

use crate::clock;
use crate::completions::Completions;
use crate::debug::query::{Query, Want};
use crate::metrics::Metrics;
use crate::queries;
use crate::shell::Shell;
use eni_proto::error::WireError;
use eni_proto::ids::NetnsCookie;
use eni_proto::reply;
use ipamd_core::owner::event::{Event, OpId};
use ipamd_netlink::sandbox::SandboxSocket;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot, watch};

/// What the tasks of the main loop share.
pub struct Loop {
    shell: RefCell<Shell>,
    /// The cookie of the host's own network namespace: a descriptor of it is refused.
    pub host_cookie: NetnsCookie,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// What the start was made of, for `ipamctl status`.
    pub about: queries::About,
    seats: Cell<usize>,
    rearm: Notify,
    armed: Cell<Option<ipamd_core::time::Timestamp>>,
    stop: watch::Sender<bool>,
}

/// A connection's right to be served; given back when dropped.
pub struct Seat {
    of: Rc<Loop>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.of.seats.set(self.of.seats.get() + 1);
    }
}

impl Loop {
    /// A loop around a shell, with seats for `seats` connections.
    pub fn new(
        shell: Shell,
        host_cookie: NetnsCookie,
        metrics: Arc<Metrics>,
        about: queries::About,
        seats: usize,
    ) -> Rc<Self> {
        Rc::new(Loop {
            shell: RefCell::new(shell),
            host_cookie,
            metrics,
            about,
            seats: Cell::new(seats),
            rearm: Notify::new(),
            armed: Cell::new(None),
            stop: watch::channel(false).0,
        })
    }

    /// A seat, if one is left.
    pub fn take_seat(self: &Rc<Self>) -> Option<Seat> {
        let left = self.seats.get().checked_sub(1)?;
        self.seats.set(left);
        Some(Seat { of: self.clone() })
    }

    /// Begins an operation.
    pub fn begin(
        &self,
        sandbox: Option<SandboxSocket>,
        event: impl FnOnce(OpId) -> Event,
    ) -> (OpId, oneshot::Receiver<Option<reply::Outcome>>) {
        let begun = self.shell.borrow_mut().begin(sandbox, event);
        self.rearm();
        begun
    }

    /// Gives the owner an event.
    pub fn handle(&self, event: Event) {
        self.shell.borrow_mut().handle(event);
        self.rearm();
    }

    /// Takes in what the other threads have finished by now.
    pub fn take_in(&self, completions: &Completions) {
        while let Some(finished) = completions.take() {
            self.shell.borrow_mut().finished(finished);
        }
        self.rearm();
    }

    /// A step of the start is done.
    pub fn step(&self, step: &str) {
        let done = queries::step(&self.about, step, clock::now());
        tracing::info!(step, at_ms = done, "start");
    }

    /// What STATUS answers: whether this node can ever serve ADD now, not whether an address is free.
    pub fn status(&self) -> reply::Outcome {
        let health = self.shell.borrow_mut().owner().health();
        let Some(code) = health.code() else { return reply::Outcome::Done };
        let error = WireError::new(code, "ipamd cannot serve ADD").cause(health.reasons.join("; "));
        reply::Outcome::Failed(Box::new(error.advice("see `ipamctl status`")))
    }

    /// Begins the end: no new connection, what is under way is finished.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Ready once the end has begun.
    pub async fn stopping(&self) {
        // The sender lives as long as `self`.
        let _ = self.stop.subscribe().wait_for(|stop| *stop).await;
    }

    fn rearm(&self) {
        let Some(deadline) = self.shell.borrow().next_deadline() else { return };
        // A later one is left: waking too early once is cheaper than moving the timer with every ADD.
        if self.armed.get().is_none_or(|armed| deadline < armed) {
            self.armed.set(Some(deadline));
            self.rearm.notify_one();
        }
    }
}

/// Takes completions in for as long as the loop runs.
pub async fn take_completions(this: Rc<Loop>, completions: Completions) {
    loop {
        completions.ready().await;
        this.take_in(&completions);
    }
}

/// Wakes the owner at its deadlines.
pub async fn keep_time(this: Rc<Loop>) {
    loop {
        let deadline = this.armed.get();
        let wait = deadline.map(|at| at.since(clock::now()));
        tokio::select! {
            // Cancel safe: both only wait.
            () = sleep(wait) => {
                this.armed.set(None);
                this.handle(Event::Wake);
            }
            () = this.rearm.notified() => {}
        }
    }
}

async fn sleep(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}

/// Answers the outer runtime's queries.
pub async fn answer_queries(this: Rc<Loop>, mut queries: mpsc::Receiver<Query>) {
    while let Some(query) = queries.recv().await {
        if let Want::Switch { switch, on } = query.want {
            this.handle(Event::Switch { switch, on });
        }
        let snapshot = {
            let mut shell = this.shell.borrow_mut();
            queries::answer(shell.owner(), query.want, &this.about, clock::now())
        };
        // The asker may have given up.
        let _ = query.reply.send(snapshot);
    }
}

/// Ends what is under way, within a bound; true when everything was finished.
pub async fn drain(this: &Rc<Loop>, bound: Duration) -> bool {
    this.handle(Event::Drain);
    let finished = async {
        while !this.shell.borrow_mut().owner().is_idle() {
            // Every step of the rest comes by completions; this only looks whether it was the last.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(bound, finished).await.is_ok()
}
