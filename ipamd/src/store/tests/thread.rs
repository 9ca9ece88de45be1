//! The store's thread: one transaction for all that waits, and what it does after an error.

use super::*;
use crate::completions::{Wake, completions};
use redb::StorageBackend;
use redb::backends::FileBackend;
use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

fn wake() -> Wake {
    completions().0.wake()
}

type Told = Box<dyn FnMut(Report) + Send>;

/// What the thread tells: of its batches, one report per transaction, and of its file.
struct Reports {
    ended: mpsc::Receiver<Vec<CommitDone>>,
    other: mpsc::Receiver<Report>,
}

impl Reports {
    fn recv(&self) -> Vec<CommitDone> {
        self.ended.recv().unwrap()
    }

    /// Why the file was replaced since the last time.
    fn replaced(&self) -> Vec<Replaced> {
        let why = |report| match report {
            Report::Replaced(why, _) => Some(why),
            _ => None,
        };
        self.other.try_iter().filter_map(why).collect()
    }
}

/// A store thread that is not running yet, and what it will report.
fn thread(store: Store, capacity: usize) -> (StoreHandle, StoreThread<Told>, Reports) {
    let (sender, ended) = mpsc::sync_channel(100);
    let (tell, other) = mpsc::sync_channel(100);
    let told: Told = Box::new(move |report| match report {
        Report::Ended(batches) => sender.send(batches).unwrap(),
        report => tell.send(report).unwrap(),
    });
    let reserve = Reserve::of(store.path());
    let (handle, thread) = StoreThread::prepare(store, reserve, boot(), capacity, told);
    (handle, thread, Reports { ended, other })
}

fn tickets(report: &[CommitDone]) -> Vec<u64> {
    report.iter().map(|done| done.ticket).collect()
}

#[test]
fn sixteen_batches_that_wait_are_one_transaction() {
    let (_folder, path) = folder();
    let (handle, thread, reports) = thread(open(&path).store, 16);
    handle.submit(0, vec![Write::PutNode(node())], wake()).unwrap();
    for n in 1..16 {
        let record = attachment(u8::try_from(n).unwrap(), n, AttachmentState::Adding);
        handle.submit(n, vec![put(record)], wake()).unwrap();
    }
    assert!(handle.submit(16, Vec::new(), wake()).is_err(), "the queue is bounded");
    let running = thread.spawn().unwrap();
    drop(handle);
    running.join().unwrap();
    let reports: Vec<Vec<CommitDone>> = reports.ended.iter().collect();
    assert_eq!(reports.len(), 1, "one transaction");
    assert_eq!(tickets(&reports[0]), (0..16).collect::<Vec<u64>>());
    assert!(reports[0].iter().all(|done| done.result.is_ok()));
    assert_eq!(open(&path).stored.attachments.len(), 15);
}

/// A file that fails when told to.
#[derive(Debug)]
struct Faulty {
    file: FileBackend,
    broken: Arc<AtomicBool>,
    error: io::ErrorKind,
}

impl Faulty {
    fn check(&self) -> io::Result<()> {
        let broken = self.broken.load(Ordering::Relaxed);
        if broken { Err(io::Error::from(self.error)) } else { Ok(()) }
    }
}

impl StorageBackend for Faulty {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check()?;
        self.file.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.check()?;
        self.file.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check()?;
        self.file.write(offset, data)
    }
    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
}

/// The store at `path`, and what breaks its disk.
fn faulty(path: &Path, error: io::ErrorKind) -> (Store, Arc<AtomicBool>) {
    let broken = Arc::new(AtomicBool::new(false));
    let file = File::options().read(true).write(true).open(path).unwrap();
    let backend = Faulty { file: FileBackend::new(file).unwrap(), broken: broken.clone(), error };
    let database = Database::builder().create_with_backend(backend).unwrap();
    (Store { path: path.to_owned(), database }, broken)
}

/// Everything, as the owner writes it to a new file.
fn everything() -> Vec<Write> {
    [Write::Clear].into_iter().chain(every_record()).collect()
}

#[test]
fn an_io_error_fails_its_batches_and_the_next_commit_opens_the_file_again() {
    let (_folder, path) = folder();
    commit(&open(&path).store, &every_record());
    let (store, broken) = faulty(&path, io::ErrorKind::Other);
    let (handle, thread, reports) = thread(store, 16);
    let running = thread.spawn().unwrap();
    let end = |ticket, write| {
        handle.submit(ticket, vec![write], wake()).unwrap();
        let report = reports.recv();
        assert_eq!(tickets(&report), [ticket]);
        report[0].result.clone()
    };
    end(1, Write::DeleteAddress(ip(1))).unwrap();
    broken.store(true, Ordering::Relaxed);
    let before = fs::read(&path).unwrap();
    let error = end(2, Write::DeleteAddress(ip(2))).unwrap_err();
    assert_eq!(error.path, path.display().to_string());
    let reason = io::Error::from(io::ErrorKind::Other).to_string();
    assert!(error.cause.contains(&reason), "{error}");
    assert_eq!(fs::read(&path).unwrap(), before, "the file is untouched");
    end(3, Write::DeleteAddress(ip(3))).unwrap();
    drop(handle);
    running.join().unwrap();
    let left: Vec<Ipv4Addr> = open(&path).stored.addresses.iter().map(|a| a.address).collect();
    assert_eq!(left, [ip(2), ip(4)], "only what failed is missing");
}

#[test]
fn a_file_that_was_taken_away_meanwhile_takes_nothing_before_everything() {
    let (_folder, path) = folder();
    commit(&open(&path).store, &every_record());
    let (store, broken) = faulty(&path, io::ErrorKind::Other);
    let (handle, thread, reports) = thread(store, 16);
    let running = thread.spawn().unwrap();
    let end = |ticket, batch| {
        handle.submit(ticket, batch, wake()).unwrap();
        reports.recv().remove(0).result
    };
    broken.store(true, Ordering::Relaxed);
    assert!(!end(1, vec![Write::PutNode(node())]).unwrap_err().blank, "the disk is broken");
    fs::remove_file(&path).unwrap();
    for ticket in 2..4 {
        assert!(end(ticket, vec![Write::PutNode(node())]).unwrap_err().blank);
    }
    end(4, everything()).unwrap();
    end(5, vec![Write::DeleteAddress(ip(1))]).unwrap();
    drop(handle);
    running.join().unwrap();
    let mut wanted = Stored::default();
    wanted.apply(&every_record());
    wanted.apply(&[Write::DeleteAddress(ip(1))]);
    assert_eq!(open(&path).stored, wanted);
}

#[test]
fn of_batches_that_wait_for_a_new_file_those_before_everything_are_refused() {
    let (_folder, path) = folder();
    let opened = open(&path);
    commit(&opened.store, &[Write::PutAddress(address(9, AddressState::Free { since: Timestamp::ZERO }))]);
    let (handle, mut thread, reports) = thread(opened.store, 16);
    thread.blank = true;
    for (ticket, batch) in (0..).zip([every_record(), everything(), vec![Write::DeleteAddress(ip(1))]]) {
        handle.submit(ticket, batch, wake()).unwrap();
    }
    let running = thread.spawn().unwrap();
    drop(handle);
    running.join().unwrap();
    let ended = reports.recv();
    assert!(ended[0].result.as_ref().unwrap_err().blank);
    assert!(ended[1].result.is_ok() && ended[2].result.is_ok());
    let left: Vec<Ipv4Addr> = open(&path).stored.addresses.iter().map(|a| a.address).collect();
    assert_eq!(left, [ip(2), ip(3), ip(4)], "what was there before everything is gone, too");
}

/// A running thread on a store with every record whose disk breaks in one way, and its end.
struct Running {
    handle: Option<StoreHandle>,
    reports: Reports,
    thread: Option<std::thread::JoinHandle<()>>,
    ticket: u64,
}

impl Running {
    fn start(store: Store) -> Running {
        let (handle, thread, reports) = thread(store, 16);
        let thread = Some(thread.spawn().unwrap());
        Running { handle: Some(handle), reports, thread, ticket: 0 }
    }

    fn commit(&mut self, batch: Vec<Write>) -> Result<(), CommitError> {
        self.ticket += 1;
        self.handle.as_ref().unwrap().submit(self.ticket, batch, wake()).unwrap();
        self.reports.recv().remove(0).result
    }

    fn end(mut self) {
        self.handle = None;
        self.thread.take().unwrap().join().unwrap();
    }
}

fn beside(path: &Path, end: &str) -> PathBuf {
    PathBuf::from(format!("{}{end}", path.display()))
}

#[test]
fn a_full_disk_is_met_with_the_reserve_and_nobody_notices() {
    let (_folder, path) = folder();
    commit(&open(&path).store, &every_record());
    let (store, broken) = faulty(&path, io::ErrorKind::StorageFull);
    let mut running = Running::start(store);
    running.commit(vec![Write::DeleteAddress(ip(1))]).unwrap();
    let reserve = beside(&path, ".reserve");
    assert!(reserve.exists());
    broken.store(true, Ordering::Relaxed);
    running.commit(vec![Write::DeleteAddress(ip(2))]).unwrap();
    let Report::Reserve(Some(why)) = running.reports.other.recv().unwrap() else {
        panic!("no reserve is told")
    };
    assert!(why.contains("its reserve is given up"), "{why}");
    // Without anything to do, the thread lays it again.
    assert!(matches!(running.reports.other.recv().unwrap(), Report::Reserve(None)));
    assert!(reserve.exists());
    running.commit(vec![Write::DeleteAddress(ip(3))]).unwrap();
    assert!(running.reports.replaced().is_empty(), "it is the same file");
    running.end();
    let left: Vec<Ipv4Addr> = open(&path).stored.addresses.iter().map(|a| a.address).collect();
    assert_eq!(left, [ip(4)]);
}

#[test]
fn a_file_that_is_found_damaged_in_a_commit_is_set_aside_and_written_anew() {
    let (_folder, path) = folder();
    commit(&open(&path).store, &every_record());
    let (store, broken) = faulty(&path, io::ErrorKind::InvalidData);
    let mut running = Running::start(store);
    broken.store(true, Ordering::Relaxed);
    assert!(running.commit(vec![Write::DeleteAddress(ip(1))]).unwrap_err().blank);
    assert_eq!(running.reports.replaced(), [Replaced::Damaged]);
    assert!(beside(&path, ".damaged-1").exists());
    running.commit(everything()).unwrap();
    running.commit(vec![Write::DeleteAddress(ip(1))]).unwrap();
    running.end();
    let left: Vec<Ipv4Addr> = open(&path).stored.addresses.iter().map(|a| a.address).collect();
    assert_eq!(left, [ip(2), ip(3), ip(4)]);
}

#[test]
fn a_file_that_was_deleted_or_replaced_or_written_by_others_is_noticed_at_a_commit() {
    let damage = |path: &Path| {
        let mut bytes = fs::read(path).unwrap();
        bytes[4096..].fill(0xa5);
        fs::write(path, bytes).unwrap();
    };
    let replace = |path: &Path| {
        let older = beside(path, ".older");
        commit(&open(&older).store, &[Write::PutNode(node()), Write::PutAddress(address(9, free()))]);
        fs::rename(older, path).unwrap();
    };
    let delete = |path: &Path| fs::remove_file(path).unwrap();
    type Change<'a> = &'a dyn Fn(&Path);
    let cases: [(Change<'_>, Replaced); 3] =
        [(&delete, Replaced::TakenAway), (&replace, Replaced::TakenAway), (&damage, Replaced::Foreign)];
    for (change, why) in cases {
        let (_folder, path) = folder();
        let opened = open(&path);
        commit(&opened.store, &every_record());
        let mut running = Running::start(opened.store);
        change(&path);
        assert!(running.commit(vec![Write::DeleteAddress(ip(1))]).unwrap_err().blank, "{why:?}");
        assert_eq!(running.reports.replaced(), [why]);
        running.commit(everything()).unwrap();
        running.end();
        let mut wanted = Stored::default();
        wanted.apply(&every_record());
        assert_eq!(open(&path).stored, wanted, "{why:?}");
    }
}

fn free() -> AddressState {
    AddressState::Free { since: Timestamp::ZERO }
}
