//! The thread on a folder of its own: what is handed over, when it is unlinked, what a folder that goes away means.

use super::*;
use crate::completions::{Completions, completions};
use eni_proto::frame;
use eni_proto::reply::{Outcome, Reply};
use eni_proto::spool::file_name;
use ipamd_netlink::stats::Counters;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;

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
        let boot = BootId::new("boot-1");
        let prepared =
            SpoolThread::prepare(&spool, (run.path(), &run.path().join("cni.sock")), boot, done, metrics);
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

/// Answers one call, as ipamd does.
fn answer_one(socket: &Path) -> JoinHandle<()> {
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        assert!(stream.read(&mut [0; 4096]).unwrap() > 0, "a request");
        let reply = frame::encode(&Reply::new(Outcome::Done)).unwrap();
        stream.write_all(&reply).unwrap();
    })
}

#[tokio::test]
async fn the_stamp_is_written_whole_once_plugins_are_answered() {
    let bench = Bench::new(&[]);
    let (path, socket) = (bench.run.path().join("stamp.json"), bench.run.path().join("cni.sock"));
    let (renewed, grace) = (clock::now(), Duration::from_secs(60));
    bench.submit(Job::Stamp { renewed, grace });
    for _ in 0..2 {
        // The second answer comes after the stamp's turn.
        bench.consulted("c1").await;
    }
    assert!(!path.exists(), "nobody listens");
    // One that listens and never answers is no better: its connections wait in its backlog.
    let deaf = UnixListener::bind(&socket).unwrap();
    let (_caller, _) = deaf.accept().unwrap();
    assert!(!path.exists(), "nobody answers");
    fs::remove_file(&socket).unwrap();
    let answered = answer_one(&socket);
    while !path.exists() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    answered.join().unwrap();
    let stamp: eni_proto::stamp::Stamp = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    assert_eq!((stamp.renewed_ns, stamp.grace_ms), (renewed.as_nanos(), 60_000));
    assert_eq!(stamp.boot, BootId::new("boot-1"));
    assert!(was_stamped(bench.run.path(), &BootId::new("boot-1")));
    assert!(!was_stamped(bench.run.path(), &BootId::new("boot-2")), "another boot's says nothing");
}
