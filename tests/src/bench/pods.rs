//! Sandboxes for the bench: network namespaces pinned by a mount, nothing else.
//!
//! Owns the folder of their mounts. No descriptor of a namespace stays open: a spawner's open descriptors are copied and
//! closed at every spawn, and the plugin would pay for them. Loopback is raised here, because it is the runtime's work.

use crate::bench::netlink::{Batch, Socket};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use serde_json::Value;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

const OWN: &str = "/proc/thread-self/ns/net";

/// A pod: its container id, its sandbox, and what its ADD answered.
#[derive(Debug)]
pub(crate) struct Pod {
    /// The container id, 64 digits as containerd's.
    pub(crate) id: String,
    /// The pod's name.
    pub(crate) name: String,
    /// CNI_NETNS.
    pub(crate) netns: PathBuf,
    /// The result of its ADD, which DEL hands back.
    pub(crate) result: Option<Value>,
}

impl Pod {
    /// Takes what an ADD has printed.
    pub(crate) fn answered(&mut self, verb: &str, printed: &[u8]) -> Result<(), String> {
        if verb == "ADD" {
            let result = serde_json::from_slice(printed);
            let text = || String::from_utf8_lossy(printed);
            self.result = Some(result.map_err(|error| format!("{error}: {}", text()))?);
        }
        Ok(())
    }
}

/// Where the sandboxes of one contender are.
#[derive(Debug)]
pub(crate) struct Sandboxes {
    folder: PathBuf,
    next: AtomicU32,
}

impl Sandboxes {
    /// In this folder.
    pub(crate) fn new(folder: PathBuf) -> Sandboxes {
        fs::create_dir_all(&folder).expect("the folder is made");
        Sandboxes { folder, next: AtomicU32::new(1) }
    }

    /// New ones.
    pub(crate) fn make(&self, count: usize) -> Vec<Pod> {
        (0..count).map(|_| self.one()).collect()
    }

    fn one(&self) -> Pod {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let netns = self.folder.join(format!("n{number}"));
        make_netns(&netns);
        Pod { id: format!("{number:064x}"), name: format!("pod-{number}"), netns, result: None }
    }
}

impl Drop for Sandboxes {
    fn drop(&mut self) {
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            remove_netns(&entry.path());
        }
    }
}

/// Makes a namespace with its loopback up, and pins it.
pub(crate) fn make_netns(path: &Path) {
    File::create(path).expect("the mount's target is made");
    let target = path.to_owned();
    let made = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
        let socket = Socket::open().expect("a netlink socket");
        socket.call(Batch::default().up(1)).expect("loopback is raised");
        mount(Some(OWN), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .expect("the namespace is pinned");
    });
    made.join().expect("the namespace is made");
}

/// Unpins a namespace; it goes with its last user.
pub(crate) fn remove_netns(path: &Path) {
    // Gone already is what is wanted.
    let _ = umount2(path, MntFlags::MNT_DETACH);
    let _ = fs::remove_file(path);
}

/// Puts the calling thread into a namespace, for the rest of its life.
pub(crate) fn enter(path: &Path) {
    let netns = File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    setns(&netns, CloneFlags::CLONE_NEWNET).expect("the namespace is entered");
}

/// Runs something on a thread inside a namespace.
pub(crate) fn inside<T: Send>(path: &Path, run: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            enter(path);
            run()
        });
        thread.join().expect("the thread inside the namespace")
    })
}

/// Whether a sandbox has its interface and a route by it: an ADD that does less must not win.
pub(crate) fn is_wired(path: &Path) -> bool {
    inside(path, || {
        let read = |file: &str| fs::read_to_string(file).expect("the kernel tells");
        let link = read("/proc/thread-self/net/dev").contains("eth0:");
        let route = read("/proc/thread-self/net/route");
        link && route.lines().skip(1).any(|line| line.starts_with("eth0"))
    })
}
