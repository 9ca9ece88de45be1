//! Logs: where tracing goes.
//!
//! Owns the subscriber and the thread that writes to stderr; the level is a filter as `info` or `ipamd=debug,info`.
//! Nobody waits for stderr: a line that finds the queue full, because nobody reads the other end, is dropped and
//! counted; a stderr that is closed takes nothing with it.

use crate::config::{Log, LogFormat};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::io::{self, IsTerminal, Write, stderr};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Lines that wait for stderr: a burst of all connections at once fits; a few hundred bytes each.
const LINES: usize = 2048;
/// How long the end waits for what is queued: a stderr that nobody reads must not keep ipamd.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The queue to the thread; one per process.
static QUEUE: OnceLock<Sender<Line>> = OnceLock::new();
static DROPPED: AtomicU64 = AtomicU64::new(0);

enum Line {
    Text(Vec<u8>),
    /// Answered when all lines before it are written.
    Flush(Sender<()>),
}

/// What tracing writes into: each write is a line.
struct Queue;

impl Write for Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let queued = QUEUE.get().is_some_and(|queue| queue.try_send(Line::Text(line.to_vec())).is_ok());
        if !queued {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Starts the thread and installs the subscriber; a second call changes nothing.
pub fn init(log: &Log) -> io::Result<()> {
    let (sender, receiver) = bounded(LINES);
    if QUEUE.set(sender).is_ok() {
        std::thread::Builder::new().name("log".to_owned()).spawn(move || write_lines(&receiver, stderr()))?;
    }
    // The configuration was validated: it parses.
    let filter: Targets =
        log.level.parse().unwrap_or_else(|_| Targets::new().with_default(LevelFilter::INFO));
    // Said on stderr, an error of its own would panic where stderr is closed.
    let builder = tracing_subscriber::fmt().with_max_level(LevelFilter::TRACE).log_internal_errors(false);
    let builder = builder.with_writer(|| Queue);
    // An error here means that one is installed already, which is what is wanted.
    let _ = match log.format {
        LogFormat::Json => builder.json().finish().with(filter).try_init(),
        LogFormat::Text => builder.with_ansi(stderr().is_terminal()).finish().with(filter).try_init(),
    };
    Ok(())
}

/// Waits until what was logged is written, within a bound.
pub fn flush() {
    let Some(queue) = QUEUE.get() else { return };
    let (done, written) = bounded(1);
    if queue.send_timeout(Line::Flush(done), LAST_WORDS).is_ok() {
        let _in_vain_when_nobody_reads = written.recv_timeout(LAST_WORDS);
    }
}

/// Lines that were dropped since the start.
pub fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// Writes lines until their queue is gone. What stderr refuses is lost: there is nobody to tell.
fn write_lines(lines: &Receiver<Line>, mut to: impl Write) {
    let mut told = 0;
    for line in lines {
        match line {
            Line::Text(text) => {
                let _ = to.write_all(&text);
            }
            Line::Flush(done) => {
                let _ = done.send(());
            }
        }
        let dropped = dropped();
        if dropped > told {
            let _ = writeln!(to, "{} log lines were dropped: stderr was not read in time", dropped - told);
            told = dropped;
        }
    }
}
