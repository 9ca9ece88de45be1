//! The thread on a folder of its own: what is handed over, when it is unlinked, what a folder that goes away means.

use super::*;
use crate::completions::{Completions, completions};
use eni_proto::spool::file_name;
use ipamd_netlink::stats::Counters;
use std::fs;

fn tombstone(container: &str) -> Tombstone {
    let key = AttachmentKey {
        network: "vpc".parse().unwrap(),
        container: container.parse().unwrap(),
        ifname: "eth0".parse().unwrap(),
    };
    Tombstone { version: 1, key, netns_cookie: None, asked_ns: 5, boot: BootId::new("boot-1") }
}

struct Bench {
    run: tempfile::TempDir,
    spool: PathBuf,
    sender: Option<SpoolSender>,
    thread: Option<JoinHandle<()>>,
    finished: Completions,
}

impl Bench {
    /// On a folder in which these lie already.
    fn new(there: &[Tombstone]) -> Bench {
        Bench::start(there, true)
    }

    fn start(there: &[Tombstone], watched: bool) -> Bench {
        let run = tempfile::tempdir().unwrap();
        let spool = run.path().join("spool");
        Folder::ensure(&spool).unwrap();
        let (done, finished) = completions();
        for one in there {
            bury(&spool, one);
        }
        let metrics = Arc::new(Metrics::new(Arc::new(Counters::default())));
        let prepared = SpoolThread::prepare(&spool, run.path(), BootId::new("boot-1"), done, metrics);
        let (sender, mut thread) = prepared.unwrap();
        if !watched {
            thread.watch = None;
            thread.next_look = clock::now();
        }
        let thread = thread.spawn().unwrap();
        Bench { run, spool, sender: Some(sender), thread: Some(thread), finished }
    }

    fn submit(&self, job: Job) {
        self.sender.as_ref().unwrap().submit(job).unwrap();
    }

    fn settled(&self, container: &str, done: bool) {
        self.submit(Job::Settled { tombstone: Box::new(tombstone(container)), done });
    }

    async fn handed_over(&self) -> Tombstone {
        loop {
            if let Some(finished) = self.finished.take() {
                let Finished::Tombstone(tombstone) = finished else { panic!("{finished:?}") };
                return *tombstone;
            }
            self.finished.ready().await;
        }
    }

    fn is_there(&self, container: &str) -> bool {
        self.spool.join(file_name(&tombstone(container).key)).exists()
    }

    /// What was asked before is done: the thread takes its jobs in order.
    async fn consulted(&self, container: &str) -> bool {
        let (done, finished) = completions();
        let wake = done.wake();
        self.submit(Job::Consult { effect: EffectId(1), key: tombstone(container).key, wake });
        finished.ready().await;
        match self.finished.take() {
            Some(Finished::Effect { completion: Completion::Consulted(found), .. }) => {
                found.unwrap().is_some()
            }
            other => panic!("{other:?}"),
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.sender = None;
        self.thread.take().unwrap().join().unwrap();
    }
}

fn bury(spool: &Path, tombstone: &Tombstone) {
    let name = file_name(&tombstone.key);
    let new = spool.join(format!("{name}.1.{}.new", clock::now().as_nanos()));
    fs::write(&new, serde_json::to_vec(tombstone).unwrap()).unwrap();
    fs::rename(&new, spool.join(name)).unwrap();
}

#[tokio::test]
async fn what_lies_there_at_the_start_is_handed_over_before_anything_else() {
    let bench = Bench::new(&[tombstone("c1"), tombstone("c2")]);
    let handed = [bench.finished.take().is_some(), bench.finished.take().is_some()];
    assert_eq!(handed, [true, true], "without waiting");
    assert!(bench.is_there("c1") && bench.is_there("c2"), "nothing is unlinked before its commit");
}

#[tokio::test]
async fn what_comes_later_is_handed_over_once_and_unlinked_when_it_is_done() {
    let bench = Bench::new(&[]);
    bury(&bench.spool, &tombstone("c1"));
    assert_eq!(bench.handed_over().await, tombstone("c1"));
    bury(&bench.spool, &tombstone("c2"));
    assert_eq!(bench.handed_over().await, tombstone("c2"), "the first is not handed over again");
    assert!(bench.consulted("c1").await);
    bench.settled("c1", true);
    bench.settled("c2", false);
    assert!(!bench.consulted("c1").await);
    assert!(!bench.is_there("c1") && bench.is_there("c2"), "what was not done stays");
}

#[tokio::test]
async fn a_folder_that_is_taken_away_is_made_and_watched_again() {
    let bench = Bench::new(&[]);
    fs::remove_dir(&bench.spool).unwrap();
    while !bench.spool.exists() {
        tokio::task::yield_now().await;
    }
    // It is watched once it is made; what comes in between is seen by the look that follows.
    bury(&bench.spool, &tombstone("c1"));
    assert_eq!(bench.handed_over().await, tombstone("c1"));
}

#[tokio::test]
async fn a_folder_that_is_not_watched_is_looked_at_and_watched_when_it_can_be() {
    let bench = Bench::start(&[], false);
    for container in ["c1", "c2"] {
        bury(&bench.spool, &tombstone(container));
        assert_eq!(bench.handed_over().await, tombstone(container));
    }
}

#[tokio::test]
async fn the_stamp_is_written_whole() {
    let bench = Bench::new(&[]);
    let renewed = Timestamp::from_millis(7);
    bench.submit(Job::Stamp { renewed, grace: Duration::from_secs(60) });
    bench.consulted("c1").await;
    let text = fs::read(bench.run.path().join("stamp.json")).unwrap();
    let stamp: eni_proto::stamp::Stamp = serde_json::from_slice(&text).unwrap();
    assert_eq!((stamp.renewed_ns, stamp.grace_ms), (7_000_000, 60_000));
    assert_eq!(stamp.boot, BootId::new("boot-1"));
}
