//! A thread of another process that does not run: a store that is stuck, while everything else goes on.
//!
//! Owns the hold, which ends when it is dropped or when this process does.

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use std::fs;

/// A thread that is held.
#[derive(Debug)]
pub struct Held(Pid);

impl Held {
    /// Holds the thread of that name.
    pub fn thread(process: u32, name: &str) -> Held {
        let tasks = fs::read_dir(format!("/proc/{process}/task")).expect("the process runs").flatten();
        let named = |task: &fs::DirEntry| {
            fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim() == name)
        };
        let task = tasks.into_iter().find(named).expect("a thread of that name");
        let id = task.file_name().to_string_lossy().parse().expect("a thread id");
        let thread = Pid::from_raw(id);
        ptrace::seize(thread, ptrace::Options::empty()).expect("root may trace");
        ptrace::interrupt(thread).expect("it is traced");
        waitpid(thread, Some(WaitPidFlag::__WALL)).expect("it stops");
        Held(thread)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Gone with its process when a test failed.
        let _ = ptrace::detach(self.0, None);
    }
}
