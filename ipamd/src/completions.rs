//! The way back: what the other threads have finished, to the main loop.
//!
//! Owns one bounded queue and one wake-up, which is the main loop's own eventfd (the runtime's). A burst wakes the loop
//! once, and so do two completions that are of use only together. Does not interpret what was finished.

use crate::queue::{Receiver, Sender, bounded};
use eni_proto::spool::Tombstone;
use ipamd_core::kernel::Trigger;
use ipamd_core::owner::event::{CloudTold, Completion, EffectId, OpId};
use ipamd_netlink::sandbox::SandboxSocket;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::Notify;

/// The most completions that wait for the main loop; a thread that has more blocks.
const CAPACITY: usize = 8192;

/// Something that another thread has finished.
#[derive(Debug)]
pub enum Finished {
    /// An effect.
    Effect {
        /// Which.
        effect: EffectId,
        /// How.
        completion: Completion,
    },
    /// A link that was waited for is there.
    LinkSeen,
    /// A part of a look at the cloud has come before the rest.
    CloudTold(CloudTold),
    /// Others have changed the host's network.
    HostChanged(BTreeSet<Trigger>),
    /// The store's reserve: why there is none, or that there is one again.
    Reserve(Option<String>),
    /// A DEL that nobody answered lies in the spool.
    Tombstone(Box<Tombstone>),
    /// A wiring or a look: with the sandbox's descriptor when the owner may want another. Otherwise it is closed
    /// already: a held one keeps a dead sandbox's links alive.
    InSandbox {
        /// The effect.
        effect: EffectId,
        /// The operation that the descriptor belongs to.
        op: OpId,
        /// How.
        completion: Completion,
        /// The descriptor.
        sandbox: Option<SandboxSocket>,
    },
}

/// The threads' end.
#[derive(Clone)]
pub struct CompletionSender {
    queue: Sender<Finished>,
    wake: Arc<Notify>,
}

/// The right to wake the main loop: the last of its clones to go does. What an operation commits and what it wires
/// share one, so that the first to end does not wake the loop for nothing. A job that is lost wakes it, too.
#[derive(Debug, Clone)]
pub struct Wake(#[allow(dead_code, reason = "it is there to be dropped")] Arc<WakeOnDrop>);

#[derive(Debug)]
struct WakeOnDrop(Arc<Notify>);

impl Drop for WakeOnDrop {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

/// The main loop's end.
pub struct Completions {
    queue: Receiver<Finished>,
    wake: Arc<Notify>,
}

/// A queue and its two ends.
pub fn completions() -> (CompletionSender, Completions) {
    let (sender, receiver) = bounded(CAPACITY);
    let wake = Arc::new(Notify::new());
    (CompletionSender { queue: sender, wake: wake.clone() }, Completions { queue: receiver, wake })
}

impl CompletionSender {
    /// Hands one over and wakes the main loop; after that has ended it is dropped.
    pub fn push(&self, finished: Finished) {
        let wake = self.wake();
        self.put(finished, wake);
    }

    /// Hands one over; the main loop is woken by the last clone of `wake`.
    pub fn put(&self, finished: Finished, wake: Wake) {
        // The loop has ended: nobody to tell.
        let _ = self.queue.send(finished);
        drop(wake);
    }

    /// A right to wake the main loop, to be shared by what is of use only together.
    pub fn wake(&self) -> Wake {
        Wake(Arc::new(WakeOnDrop(self.wake.clone())))
    }
}

impl Completions {
    /// Ready when something was pushed since the last time; cancel safe.
    pub async fn ready(&self) {
        self.wake.notified().await;
    }

    /// Takes one, if there is one.
    pub fn take(&self) -> Option<Finished> {
        self.queue.try_recv().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finished(number: u64) -> Finished {
        Finished::Effect { effect: EffectId(number), completion: Completion::Skipped }
    }

    #[tokio::test]
    async fn what_other_threads_push_arrives_whole() {
        let (sender, receiver) = completions();
        let pushing = std::thread::spawn(move || {
            for number in 0..1000 {
                sender.push(finished(number));
            }
        });
        let mut taken = 0;
        while taken < 1000 {
            receiver.ready().await;
            while receiver.take().is_some() {
                taken += 1;
            }
        }
        pushing.join().expect("the thread");
        assert!(receiver.take().is_none());
    }

    #[tokio::test]
    async fn the_later_of_two_wakes() {
        let (sender, receiver) = completions();
        let wake = sender.wake();
        let woken = || tokio::time::timeout(std::time::Duration::ZERO, receiver.ready());
        sender.put(finished(1), wake.clone());
        assert!(woken().await.is_err(), "the first alone is of no use");
        sender.put(finished(2), wake);
        woken().await.expect("the second wakes");
        assert!(receiver.take().is_some() && receiver.take().is_some());
    }
}
