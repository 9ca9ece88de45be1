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

type Done = Box<dyn FnMut(Vec<CommitDone>) + Send>;
/// One report per transaction.
type Reports = mpsc::Receiver<Vec<CommitDone>>;

/// A store thread that is not running yet, and what it will report.
fn thread(store: Store, capacity: usize) -> (StoreHandle, StoreThread<Done>, Reports) {
    let (sender, reports) = mpsc::sync_channel(100);
    let done: Done = Box::new(move |ended| sender.send(ended).unwrap());
    let (handle, thread) = StoreThread::prepare(store, boot(), capacity, done);
    (handle, thread, reports)
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
    let reports: Vec<Vec<CommitDone>> = reports.iter().collect();
    assert_eq!(reports.len(), 1, "one transaction");
    assert_eq!(tickets(&reports[0]), (0..16).collect::<Vec<u64>>());
    assert!(reports[0].iter().all(|done| done.result.is_ok()));
    assert_eq!(open(&path).stored.attachments.len(), 15);
}

/// A file that fails when told to.
#[derive(Debug)]
struct Faulty {
    file: FileBackend,
    full: Arc<AtomicBool>,
}

impl Faulty {
    fn check(&self) -> io::Result<()> {
        let full = self.full.load(Ordering::Relaxed);
        if full { Err(io::Error::from(io::ErrorKind::StorageFull)) } else { Ok(()) }
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

/// The store at `path`, and what fills its disk.
fn faulty(path: &Path) -> (Store, Arc<AtomicBool>) {
    let full = Arc::new(AtomicBool::new(false));
    let file = File::options().read(true).write(true).open(path).unwrap();
    let backend = Faulty { file: FileBackend::new(file).unwrap(), full: full.clone() };
    let database = Database::builder().create_with_backend(backend).unwrap();
    (Store { path: path.to_owned(), database }, full)
}

#[test]
fn an_io_error_fails_its_batches_and_the_next_commit_opens_the_file_again() {
    let (_folder, path) = folder();
    commit(&open(&path).store, &every_record());
    let (store, full) = faulty(&path);
    let (handle, thread, reports) = thread(store, 16);
    let running = thread.spawn().unwrap();
    let end = |ticket, write| {
        handle.submit(ticket, vec![write], wake()).unwrap();
        let report = reports.recv().unwrap();
        assert_eq!(tickets(&report), [ticket]);
        report[0].result.clone()
    };
    end(1, Write::DeleteAddress(ip(1))).unwrap();
    full.store(true, Ordering::Relaxed);
    let before = fs::read(&path).unwrap();
    let error = end(2, Write::DeleteAddress(ip(2))).unwrap_err();
    assert_eq!(error.path, path.display().to_string());
    let reason = io::Error::from(io::ErrorKind::StorageFull).to_string();
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
    let (store, full) = faulty(&path);
    let (handle, thread, reports) = thread(store, 16);
    let running = thread.spawn().unwrap();
    let end = |ticket, batch| {
        handle.submit(ticket, batch, wake()).unwrap();
        reports.recv().unwrap().remove(0).result
    };
    full.store(true, Ordering::Relaxed);
    assert!(!end(1, vec![Write::PutNode(node())]).unwrap_err().blank, "the disk is full");
    fs::remove_file(&path).unwrap();
    for ticket in 2..4 {
        assert!(end(ticket, vec![Write::PutNode(node())]).unwrap_err().blank);
    }
    let everything: Vec<Write> = [Write::Clear].into_iter().chain(every_record()).collect();
    end(4, everything).unwrap();
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
    let everything: Vec<Write> = [Write::Clear].into_iter().chain(every_record()).collect();
    for (ticket, batch) in (0..).zip([every_record(), everything, vec![Write::DeleteAddress(ip(1))]]) {
        handle.submit(ticket, batch, wake()).unwrap();
    }
    let running = thread.spawn().unwrap();
    drop(handle);
    running.join().unwrap();
    let ended = reports.recv().unwrap();
    assert!(ended[0].result.as_ref().unwrap_err().blank);
    assert!(ended[1].result.is_ok() && ended[2].result.is_ok());
    let left: Vec<Ipv4Addr> = open(&path).stored.addresses.iter().map(|a| a.address).collect();
    assert_eq!(left, [ip(2), ip(3), ip(4)], "what was there before everything is gone, too");
}
