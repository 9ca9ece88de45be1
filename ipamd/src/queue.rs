//! Bounded queues between the main loop and the threads that carry effects out.
//!
//! Owns the waiting: a receiver that finds nothing sleeps at once, and is woken only when it sleeps, so that one item
//! costs two system calls. A channel that spins and yields before it sleeps costs three times as many, for nothing:
//! one at a time, the next item is always further away than any spin. An empty queue has no memory: channels that lay out
//! all of their room beforehand were a quarter of an idle daemon's. The lock is held for a move.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The room that an empty queue keeps.
const KEPT: usize = 64;

#[derive(Debug)]
struct State<T> {
    items: VecDeque<T>,
    senders: usize,
    receivers: usize,
    sleeping: usize,
    /// Senders that wait for room.
    blocked: usize,
}

#[derive(Debug)]
struct Shared<T> {
    capacity: usize,
    state: Mutex<State<T>>,
    arrived: Condvar,
    room: Condvar,
}

/// What [`Receiver::try_recv`] has found when there is no item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nothing {
    /// Nothing yet.
    Yet,
    /// Nothing any more: every sender is gone.
    More,
}

impl<T> Shared<T> {
    // Nothing that runs under the lock can leave the state half-changed.
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The end that items are put into.
#[derive(Debug)]
pub struct Sender<T>(Arc<Shared<T>>);

/// The end that items are taken from, by one thread or several.
#[derive(Debug)]
pub struct Receiver<T>(Arc<Shared<T>>);

/// A queue of at most `capacity` items.
pub fn bounded<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let state = State { items: VecDeque::new(), senders: 1, receivers: 1, sleeping: 0, blocked: 0 };
    let (arrived, room) = (Condvar::new(), Condvar::new());
    let shared = Arc::new(Shared { capacity, state: Mutex::new(state), arrived, room });
    (Sender(shared.clone()), Receiver(shared))
}

impl<T> Sender<T> {
    /// Puts an item in; hands it back when the queue is full or nobody is left to take it.
    pub fn try_send(&self, item: T) -> Result<(), T> {
        self.put(self.0.state(), item)
    }

    /// Puts an item in once there is room; hands it back when nobody is left to take it.
    pub fn send(&self, item: T) -> Result<(), T> {
        let mut state = self.0.state();
        while state.items.len() >= self.0.capacity && state.receivers > 0 {
            state.blocked += 1;
            state = self.0.room.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.blocked -= 1;
        }
        self.put(state, item)
    }

    fn put(&self, mut state: MutexGuard<'_, State<T>>, item: T) -> Result<(), T> {
        if state.items.len() >= self.0.capacity || state.receivers == 0 {
            return Err(item);
        }
        state.items.push_back(item);
        let wake = state.sleeping > 0;
        drop(state);
        if wake {
            self.0.arrived.notify_one();
        }
        Ok(())
    }
}

impl<T> Receiver<T> {
    /// Waits for an item; none when the queue is empty and every sender is gone.
    pub fn recv(&self) -> Option<T> {
        let mut state = self.0.state();
        while state.items.is_empty() {
            if state.senders == 0 {
                return None;
            }
            state.sleeping += 1;
            state = self.0.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.sleeping -= 1;
        }
        let item = state.items.pop_front();
        self.taken(state);
        item
    }

    /// Takes an item if there is one.
    pub fn try_recv(&self) -> Result<T, Nothing> {
        let mut state = self.0.state();
        match state.items.pop_front() {
            Some(item) => {
                self.taken(state);
                Ok(item)
            }
            None if state.senders == 0 => Err(Nothing::More),
            None => Err(Nothing::Yet),
        }
    }

    /// Something was taken: there is room for who waits for it, and what a burst took of memory is given back.
    fn taken(&self, mut state: MutexGuard<'_, State<T>>) {
        if state.items.is_empty() && state.items.capacity() > KEPT {
            state.items.shrink_to(KEPT);
        }
        let blocked = state.blocked > 0;
        drop(state);
        if blocked {
            self.0.room.notify_all();
        }
    }

    /// Waits as [`Receiver::recv`] does, then takes all that is there, at most `most`; nothing at the end.
    pub fn recv_many(&self, most: usize) -> Vec<T> {
        let mut taken: Vec<T> = self.recv().into_iter().collect();
        if !taken.is_empty() {
            let mut state = self.0.state();
            let more = state.items.len().min(most.saturating_sub(1));
            taken.extend(state.items.drain(..more));
            self.taken(state);
        }
        taken
    }

    /// As [`Receiver::recv_many`], for so long; none when the time has passed.
    pub fn recv_many_within(&self, most: usize, wait: Duration) -> Option<Vec<T>> {
        let mut state = self.0.state();
        state.sleeping += 1;
        let nothing = |state: &mut State<T>| state.items.is_empty() && state.senders > 0;
        let waited = self.0.arrived.wait_timeout_while(state, wait, nothing);
        let (waited, timed_out) = waited.unwrap_or_else(PoisonError::into_inner);
        state = waited;
        state.sleeping -= 1;
        let more = state.items.len().min(most);
        let taken: Vec<T> = state.items.drain(..more).collect();
        self.taken(state);
        (!timed_out.timed_out()).then_some(taken)
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.state().senders += 1;
        Sender(self.0.clone())
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        self.0.state().receivers += 1;
        Receiver(self.0.clone())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.senders -= 1;
        if state.senders == 0 {
            drop(state);
            self.0.arrived.notify_all();
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.receivers -= 1;
        // What nobody will take is dropped now: it may hold a descriptor.
        let left = if state.receivers == 0 { std::mem::take(&mut state.items) } else { VecDeque::new() };
        drop(state);
        self.0.room.notify_all();
        drop(left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn items_come_in_their_order_and_the_end_after_the_last() {
        let (sender, receiver) = bounded(4);
        let other = sender.clone();
        for n in 0..3 {
            sender.try_send(n).unwrap();
        }
        drop(sender);
        other.try_send(3).unwrap();
        assert_eq!(other.try_send(4), Err(4), "it is full");
        drop(other);
        assert_eq!(receiver.recv_many(3), [0, 1, 2]);
        assert_eq!((receiver.recv(), receiver.recv()), (Some(3), None));
        assert!(receiver.recv_many(3).is_empty());
    }

    #[test]
    fn an_item_that_nobody_will_take_comes_back_or_is_dropped() {
        let (sender, receiver) = bounded(4);
        let held = Arc::new(());
        sender.try_send(held.clone()).unwrap();
        let other = receiver.clone();
        drop(receiver);
        sender.try_send(held.clone()).unwrap();
        drop(other);
        assert_eq!(Arc::strong_count(&held), 1, "what was left is dropped");
        assert!(sender.try_send(held).is_err());
    }

    #[test]
    fn a_sender_waits_for_room_and_not_for_nobody() {
        let (sender, receiver) = bounded(2);
        let other = sender.clone();
        let sending = thread::spawn(move || (0..100).try_for_each(|n| other.send(n)));
        let mut taken = Vec::new();
        while taken.len() < 100 {
            match receiver.try_recv() {
                Ok(item) => taken.push(item),
                Err(nothing) => {
                    assert_eq!(nothing, Nothing::Yet);
                    thread::yield_now();
                }
            }
        }
        sending.join().unwrap().unwrap();
        assert_eq!(taken, (0..100).collect::<Vec<_>>());
        sender.send(1).unwrap();
        sender.send(2).unwrap();
        let last = thread::spawn(move || sender.send(3));
        drop(receiver);
        assert_eq!(last.join().unwrap(), Err(3), "nobody is left");
        let (sender, receiver) = bounded::<u8>(1);
        drop(sender);
        assert_eq!(receiver.try_recv(), Err(Nothing::More));
    }

    #[test]
    fn what_a_burst_took_of_memory_is_given_back() {
        let (sender, receiver) = bounded(4096);
        for n in 0..4096 {
            sender.try_send(n).unwrap();
        }
        while receiver.try_recv().is_ok() {}
        assert!(receiver.0.state().items.capacity() <= KEPT);
    }

    #[test]
    fn a_wait_ends_with_items_with_the_last_sender_or_with_its_time() {
        let (sender, receiver) = bounded(4);
        let long = Duration::from_secs(60);
        assert_eq!(receiver.recv_many_within(4, Duration::from_millis(1)), None::<Vec<u8>>);
        let other = sender.clone();
        let sending = thread::spawn(move || other.try_send(1).unwrap());
        assert_eq!(receiver.recv_many_within(4, long), Some(vec![1]));
        sending.join().unwrap();
        for n in 2..5 {
            sender.try_send(n).unwrap();
        }
        assert_eq!(receiver.recv_many_within(2, long), Some(vec![2, 3]));
        drop(sender);
        assert_eq!(receiver.recv_many_within(2, long), Some(vec![4]));
        assert_eq!(receiver.recv_many_within(2, long), Some(vec![]), "the end");
    }

    #[test]
    fn every_item_is_taken_once_by_threads_that_sleep_in_between() {
        let (sender, receiver) = bounded(1000);
        let takers: Vec<_> = (0..3)
            .map(|_| {
                let receiver = receiver.clone();
                thread::spawn(move || std::iter::from_fn(|| receiver.recv()).collect::<Vec<u32>>())
            })
            .collect();
        drop(receiver);
        for n in 0..1000 {
            sender.try_send(n).unwrap();
            if n % 7 == 0 {
                thread::yield_now();
            }
        }
        drop(sender);
        let mut all: Vec<u32> = takers.into_iter().flat_map(|t| t.join().unwrap()).collect();
        all.sort_unstable();
        assert_eq!(all, (0..1000).collect::<Vec<u32>>());
    }
}
