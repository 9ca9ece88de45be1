//! The spool: DELs that were written down while no ipamd answered; and the stamp, which speaks for an ipamd that does
//! not answer.
//!
//! Owns the thread that watches the folder at all times, reads it, hands its tombstones to the main loop and unlinks
//! each once its DEL is committed; it answers an ADD that must know, and has the stamp renewed. It sleeps until there
//! is something to do. Does not decide what a tombstone means: the core does. Does not read what is not asked for: bounds and
//! rubbish are `folder`'s.

mod folder;
mod stamp;

use crate::clock;
use crate::completions::{CompletionSender, Finished, Wake};
use crate::metrics::{Metrics, TombstoneOutcome};
use crate::queue::{Nothing, Receiver, Sender, bounded};
use eni_proto::ids::{AttachmentKey, BootId};
use eni_proto::spool::Tombstone;
use folder::{Folder, Found};
use ipamd_core::owner::event::{Completion, EffectId};
use ipamd_core::time::Timestamp;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use stamp::StampFile;
pub use stamp::was_stamped;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tracing::warn;

/// The most jobs that wait: more than the connections that may have one each.
const CAPACITY: usize = 4096;
/// The most tombstones that the main loop has at once; the others wait where they are. More than a node has containers.
const OUT_MOST: usize = 1024;
/// A tombstone whose DEL could not be committed is handed over again after this long.
const RETRY: Duration = Duration::from_secs(5);
/// Between two looks without an event: for what could not be read.
const AGAIN: Duration = Duration::from_secs(60);
/// The same while the folder is not watched: the kernel's inotify instances are few, and others use them up.
const UNWATCHED: Duration = Duration::from_secs(1);

/// What the thread is asked.
#[derive(Debug)]
pub enum Job {
    /// Is there a tombstone of this key?
    Consult {
        /// The effect.
        effect: EffectId,
        /// Whose.
        key: AttachmentKey,
        /// The right to wake who waits for it.
        wake: Wake,
    },
    /// A tombstone that was handed over has been dealt with.
    Settled {
        /// Which.
        tombstone: Box<Tombstone>,
        /// Its DEL is committed, or there is none to do. Otherwise it stays and is handed over again.
        done: bool,
    },
    /// Renew the stamp.
    Stamp {
        /// When the round trip began that it tells of.
        renewed: Timestamp,
        /// How long ipamd may be silent after that.
        grace: Duration,
    },
}

/// The queue to the thread, which ends when this is dropped.
pub struct SpoolSender {
    queue: Option<Sender<Job>>,
    wake: Arc<EventFd>,
}

impl SpoolSender {
    /// Queues a job; hands it back when the queue is full.
    pub fn submit(&self, job: Job) -> Result<(), Box<Job>> {
        let queue = self.queue.as_ref().expect("it is there until the drop");
        queue.try_send(job).map_err(Box::new)?;
        self.wake();
        Ok(())
    }

    fn wake(&self) {
        // A counter that is full wakes, too.
        let _ = self.wake.write(1);
    }
}

impl Drop for SpoolSender {
    fn drop(&mut self) {
        self.queue = None;
        self.wake();
    }
}

/// Why the spool cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("{step} {path} failed")]
pub struct SpoolError {
    /// What was tried.
    pub step: &'static str,
    /// On what.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// The thread, before it runs.
pub struct SpoolThread {
    folder: Folder,
    /// None when the kernel has refused it, or the folder is gone.
    watch: Option<Inotify>,
    stamp: StampFile,
    jobs: Receiver<Job>,
    wake: Arc<EventFd>,
    done: CompletionSender,
    metrics: Arc<Metrics>,
    /// Handed over and not settled, by name.
    out: BTreeMap<String, Tombstone>,
    /// What is there has changed since the last look, or not all of it was seen.
    unseen: bool,
    next_look: Timestamp,
    /// When what is out and not settled is handed over again.
    forget: Timestamp,
}

impl SpoolThread {
    /// Makes the folder, watches it and then looks at it: what lies there is handed over before this returns. `socket` is
    /// where plugins call.
    pub fn prepare(
        spool: &Path,
        (run_dir, socket): (&Path, &Path),
        boot: BootId,
        done: CompletionSender,
        metrics: Arc<Metrics>,
    ) -> Result<(SpoolSender, SpoolThread), SpoolError> {
        let failed = |step| move |source| SpoolError { step, path: spool.to_owned(), source };
        let folder = Folder::ensure(spool).map_err(failed("making"))?;
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let wake = EventFd::from_flags(flags).map_err(io::Error::from).map_err(failed("waiting for"))?;
        let wake = Arc::new(wake);
        let (queue, jobs) = bounded(CAPACITY);
        let sender = SpoolSender { queue: Some(queue), wake: wake.clone() };
        let mut thread = SpoolThread {
            folder,
            watch: None,
            stamp: StampFile::new(run_dir, socket, boot),
            jobs,
            wake,
            done,
            metrics,
            out: BTreeMap::new(),
            unseen: true,
            next_look: clock::now(),
            forget: clock::now() + AGAIN,
        };
        thread.watch();
        // All of it, however much rubbish there is: it is before the first ADD. Each look but the last throws some out.
        while thread.unseen && thread.out.len() < OUT_MOST {
            thread.look();
        }
        Ok((sender, thread))
    }

    /// Runs it on a thread of its own, until its sender is dropped.
    pub fn spawn(self) -> io::Result<JoinHandle<()>> {
        std::thread::Builder::new().name("spool".to_owned()).spawn(move || self.run())
    }

    fn run(mut self) {
        loop {
            self.sleep();
            loop {
                match self.jobs.try_recv() {
                    Ok(job) => self.carry_out(job),
                    Err(Nothing::Yet) => break,
                    Err(Nothing::More) => return,
                }
            }
            self.stamp.renew_when_due();
            let now = clock::now();
            if now >= self.forget {
                // That does no harm: what was done meanwhile finds no attachment.
                self.out.clear();
                self.forget = now + AGAIN;
                self.unseen = true;
            }
            if now >= self.next_look {
                self.unseen = true;
                if self.watch.is_none() {
                    self.watch();
                }
            }
            if self.unseen && self.out.len() < OUT_MOST {
                self.look();
            }
        }
    }

    /// Until a job or an event comes, or it is time for a look.
    fn sleep(&mut self) {
        let left = if self.unseen && self.out.len() < OUT_MOST {
            Duration::ZERO
        } else {
            // Rounded up: a timer that ends early would be set again and again.
            let next = self.stamp.due().into_iter().fold(self.next_look.min(self.forget), Timestamp::min);
            next.since(clock::now()) + Duration::from_millis(1)
        };
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let watch = self.watch.iter().map(|watch| watch.as_fd());
        let wanted = watch.chain([self.wake.as_fd()]).map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        let mut wanted: Vec<PollFd<'_>> = wanted.collect();
        if let Err(errno) = poll(&mut wanted, timeout)
            && errno != Errno::EINTR
        {
            warn!(error = %errno, "the spool cannot be waited for");
            std::thread::sleep(Duration::from_secs(1));
        }
        let _ = self.wake.read();
        self.take_events();
    }

    /// Events say that there is something to see, and whether the folder is still the one that is watched.
    fn take_events(&mut self) {
        while let Some(Ok(events)) = self.watch.as_ref().map(Inotify::read_events) {
            self.unseen |= !events.is_empty();
            if events.iter().any(|event| event.mask.contains(AddWatchFlags::IN_IGNORED)) {
                self.make_again();
            }
        }
    }

    fn watch(&mut self) {
        self.watch = match watch(&self.folder) {
            Ok(watch) => Some(watch),
            Err(error) => {
                let seconds = UNWATCHED.as_secs();
                warn!(%error, seconds, "the spool cannot be watched, and is looked at now and then instead");
                None
            }
        };
    }

    /// The folder was taken away: plugins need another one.
    fn make_again(&mut self) {
        warn!(path = %self.folder.path().display(), "the spool was taken away: it is made again");
        self.watch = None;
        match Folder::ensure(self.folder.path()) {
            Ok(folder) => {
                self.folder = folder;
                self.watch();
            }
            // DELs that nobody answers fail meanwhile, and their runtimes come again.
            Err(error) => warn!(%error, "the spool could not be made again"),
        }
    }

    fn look(&mut self) {
        let now = clock::now();
        self.next_look = now + if self.watch.is_some() { AGAIN } else { UNWATCHED };
        self.unseen = false;
        let look = match self.folder.look(now) {
            Ok(look) => look,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return self.make_again(),
            Err(error) => {
                return warn!(path = %self.folder.path().display(), %error, "the spool could not be read");
            }
        };
        self.unseen = look.more;
        self.rejected(look.rejected);
        for name in look.names {
            if self.out.contains_key(&name) {
                continue;
            }
            if self.out.len() >= OUT_MOST {
                self.unseen = true;
                break;
            }
            match self.folder.read(&name) {
                Ok(Found::Tombstone(tombstone)) => {
                    self.out.insert(name, tombstone.clone());
                    self.done.push(Finished::Tombstone(Box::new(tombstone)));
                }
                Ok(Found::Nothing { rejected }) => self.rejected(rejected),
                Err(error) => warn!(name, %error, "a tombstone could not be read: it is tried again"),
            }
        }
    }

    fn rejected(&self, count: usize) {
        for _ in 0..count {
            self.metrics.tombstone(TombstoneOutcome::Rejected);
        }
    }

    fn carry_out(&mut self, job: Job) {
        match job {
            Job::Consult { effect, key, wake } => {
                let found = self.folder.of(&key).map(|found| found.map(Into::into));
                let completion = Completion::Consulted(found.map_err(|error| error.to_string()));
                self.done.put(Finished::Effect { effect, completion }, wake);
            }
            Job::Settled { tombstone, done } => self.settled(&tombstone, done),
            Job::Stamp { renewed, grace } => self.stamp.ask(renewed, grace),
        }
    }

    fn settled(&mut self, tombstone: &Tombstone, done: bool) {
        let name = eni_proto::spool::file_name(&tombstone.key);
        if !done {
            self.forget = self.forget.min(clock::now() + RETRY);
            return;
        }
        self.out.remove(&name);
        match self.folder.settle(tombstone) {
            Ok(true) => {}
            Ok(false) => self.unseen = true,
            Err(error) => warn!(name, %error, "a tombstone could not be unlinked: it is judged again"),
        }
    }
}

fn watch(folder: &Folder) -> io::Result<Inotify> {
    let watch = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
    // A tombstone comes by rename. That the folder itself goes is told in any case (IN_IGNORED).
    watch.add_watch(folder.path(), AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_ONLYDIR)?;
    Ok(watch)
}

#[cfg(test)]
mod tests;
