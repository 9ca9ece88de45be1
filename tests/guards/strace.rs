//! System calls, as strace writes them down.
//!
//! Owns running strace and reading its file: calls that were interrupted are put together, the bytes that a call sent
//! are taken from the dump under it. Judges nothing.

use eni_tests::wait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// Descriptors up to here have what is sent on them dumped: an idle ipamd has thirty.
const DUMPED: u32 = 128;

/// A system call that has ended.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// The name of the thread that made it.
    pub(crate) thread: String,
    pub(crate) name: String,
    /// Its arguments and its result, as strace shows them.
    pub(crate) text: String,
    /// The lines that it began and ended at: what orders calls of several threads.
    pub(crate) began: usize,
    pub(crate) ended: usize,
    /// What it sent.
    pub(crate) sent: Vec<u8>,
}

impl Call {
    /// Its result, when that is a number that is not negative.
    pub(crate) fn result(&self) -> Option<u32> {
        let (_, result) = self.text.rsplit_once(" = ")?;
        result.split(' ').next()?.split('<').next()?.parse().ok()
    }

    /// Its first argument, when that is a descriptor.
    pub(crate) fn descriptor(&self) -> Option<u32> {
        self.text.trim_start_matches('(').split([',', ')']).next()?.trim().parse().ok()
    }
}

/// The words that make another command run under strace, its calls written to `file`.
pub(crate) fn wrapper(file: &str) -> [&str; 5] {
    ["strace", "-f", "-Y", "-o", file]
}

/// strace on a process that runs, all its threads.
pub(crate) struct Strace {
    child: Child,
    folder: TempDir,
}

impl Strace {
    /// Attaches to a process; every thread of it is traced when this returns.
    pub(crate) fn attach(pid: u32) -> Strace {
        let folder = tempfile::tempdir().expect("a folder");
        // Not what goes to files: a store writes pages.
        let open_on = |fd: &u32| fs::read_link(format!("/proc/{pid}/fd/{fd}"));
        let dumped = |fd: &u32| open_on(fd).map_or(true, |to| to.to_string_lossy().starts_with("socket:"));
        let dumped: Vec<String> = (3..DUMPED).filter(dumped).map(|fd| fd.to_string()).collect();
        let said = folder.path().join("said");
        let child = Command::new("strace")
            .args(["-f", "-Y", "-e", &format!("write={}", dumped.join(",")), "-o"])
            .arg(folder.path().join("calls"))
            .args(["-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stderr(File::create(&said).expect("a file"))
            .spawn()
            .expect("strace starts");
        let strace = Strace { child, folder };
        wait::until("strace is attached", || {
            fs::read_to_string(&said).is_ok_and(|text| text.contains("attached"))
        });
        strace
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("calls")
    }

    /// Detaches; what was called meanwhile.
    pub(crate) fn end(mut self) -> Vec<Call> {
        let pid = i32::try_from(self.child.id()).expect("a process id");
        kill(Pid::from_raw(pid), Signal::SIGINT).expect("strace runs");
        self.child.wait().expect("strace ends");
        read(&fs::read_to_string(self.file()).expect("strace has written its file"))
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        // Ended already, unless a test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads what strace has written.
pub(crate) fn read(text: &str) -> Vec<Call> {
    let mut calls: Vec<Call> = Vec::new();
    let mut begun: BTreeMap<String, (usize, String)> = BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        if let Some(dump) = line.strip_prefix(" | ") {
            calls.last_mut().expect("a dump follows its call").sent.extend(dumped(dump));
            continue;
        }
        let Some((who, what)) = line.split_once(' ') else { continue };
        let what = what.trim_start();
        if let Some(first) = what.strip_suffix(" <unfinished ...>") {
            begun.insert(who.to_owned(), (number, first.to_owned()));
            continue;
        }
        let (began, whole) = match what.strip_prefix("<... ").and_then(|rest| rest.split_once(" resumed>")) {
            // Begun before strace was there.
            Some((name, rest)) => {
                let (began, first) = begun.remove(who).unwrap_or((number, format!("{name}(")));
                (began, first + rest)
            }
            None => (number, what.to_owned()),
        };
        // What is no call: a signal, the end.
        let Some((name, _)) = whole.split_once('(').filter(|_| !whole.starts_with(['-', '+'])) else {
            continue;
        };
        let thread = who.split_once('<').map_or(who, |(_, name)| name.trim_end_matches('>'));
        calls.push(Call {
            thread: thread.to_owned(),
            name: name.to_owned(),
            text: whole[name.len()..].to_owned(),
            began,
            ended: number,
            sent: Vec::new(),
        });
    }
    calls
}

/// The bytes of one line of a dump: an offset, sixteen bytes in hexadecimal, the same as text.
fn dumped(line: &str) -> Vec<u8> {
    const BYTES: usize = 16 * 3 + 1;
    let Some((_, rest)) = line.split_once("  ") else { return Vec::new() };
    let hexadecimal = rest.get(..BYTES).unwrap_or(rest).split_whitespace();
    hexadecimal.map(|byte| u8::from_str_radix(byte, 16).expect("a byte")).collect()
}

#[test]
fn guard_interrupted_calls_and_dumps_are_put_together() {
    let text = "\
7<store> read(3, <unfinished ...>
8<netlink-0> sendto(17, \"x\", 20, 0, NULL, 0 <unfinished ...>
7<store> <... read resumed>\"\", 5) = 0
8<netlink-0> <... sendto resumed>) = 20
 | 00000  14 00 00 00 10 00 05 06  04 00 00 00 00 00 00 00  ................ |
 | 00010  00 ff 02 ee                                       .... |
8<netlink-0> <... futex resumed>) = 0
9 close(3)     = -1 EBADF (Bad file descriptor)
9 --- SIGCHLD {si_signo=SIGCHLD} ---
9 +++ exited with 0 +++
";
    let calls = read(text);
    let shown: Vec<(&str, &str, usize, usize)> =
        calls.iter().map(|c| (c.thread.as_str(), c.name.as_str(), c.began, c.ended)).collect();
    let wanted = [
        ("store", "read", 0, 2),
        ("netlink-0", "sendto", 1, 3),
        ("netlink-0", "futex", 6, 6),
        ("9", "close", 7, 7),
    ];
    assert_eq!(shown, wanted);
    assert_eq!((calls[1].descriptor(), calls[1].result()), (Some(17), Some(20)));
    assert_eq!(calls[3].result(), None);
    assert_eq!(calls[1].sent.len(), 20);
    assert_eq!(&calls[1].sent[16..], [0, 0xff, 2, 0xee]);
}
