//! Named network namespaces, as `ip netns` keeps them: made, entered on a thread of their own, deleted.
//!
//! Owns the files under /run/netns. Needs CAP_SYS_ADMIN, so ipamd never calls it: it is for the embedded VPC and for
//! tests. Does not set anything up inside.

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread;

/// Where `ip netns` looks.
const FOLDER: &str = "/run/netns";

/// A step on a named network namespace that failed.
#[derive(Debug, thiserror::Error)]
#[error("network namespace {name}: {step} failed")]
pub struct NetnsError {
    /// The namespace's name.
    pub name: String,
    /// The step, in words.
    pub step: &'static str,
    /// The kernel's error.
    pub source: io::Error,
}

/// A named network namespace. Dropping the handle leaves it there; [`Netns::delete`] removes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes a new one with its loopback down; refuses a name that is taken.
    pub fn create(name: &str) -> Result<Netns, NetnsError> {
        let netns = Netns { name: name.to_owned() };
        share_folder().map_err(|source| netns.error("preparing /run/netns", source))?;
        let made = OpenOptions::new().write(true).create_new(true).open(netns.path());
        made.map_err(|source| netns.error("creating its file", source))?;
        let path = netns.path();
        let on_thread = thread::scope(|scope| {
            let born = scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET)?;
                bind(Path::new("/proc/thread-self/ns/net"), &path, MsFlags::MS_BIND)
            });
            born.join().unwrap_or_else(|panic| resume_unwind(panic))
        });
        on_thread.map_err(|source| {
            // What failed before the mount leaves the file alone.
            let _ = fs::remove_file(netns.path());
            netns.error("making it", source)
        })?;
        Ok(netns)
    }

    /// One that is there already.
    pub fn open(name: &str) -> Result<Netns, NetnsError> {
        let netns = Netns { name: name.to_owned() };
        netns.descriptor()?;
        Ok(netns)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its file, as CNI_NETNS has it.
    pub fn path(&self) -> PathBuf {
        Path::new(FOLDER).join(&self.name)
    }

    /// A descriptor of it.
    pub fn descriptor(&self) -> Result<OwnedFd, NetnsError> {
        let file = File::open(self.path()).map_err(|source| self.error("opening it", source))?;
        Ok(file.into())
    }

    /// Runs `inside` on a new thread in it and waits; a panic goes on in the caller.
    pub fn run<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
        let netns = self.descriptor()?;
        let done = thread::scope(|scope| {
            let entered = scope.spawn(|| setns(netns, CloneFlags::CLONE_NEWNET).map(|()| inside()));
            entered.join().unwrap_or_else(|panic| resume_unwind(panic))
        });
        done.map_err(|errno| self.error("entering it", errno.into()))
    }

    /// A NETLINK_ROUTE socket inside it: what a plugin hands over.
    pub fn route_socket(&self) -> Result<OwnedFd, NetnsError> {
        let made = self.run(|| {
            socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)
        })?;
        made.map_err(|errno| self.error("opening a socket inside it", errno.into()))
    }

    /// Removes its name; the kernel takes it apart once nobody uses it. Gone already is fine.
    pub fn delete(&self) -> Result<(), NetnsError> {
        let path = self.path();
        match umount2(&path, MntFlags::MNT_DETACH) {
            Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
            Err(errno) => return Err(self.error("unmounting it", errno.into())),
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(self.error("removing its file", error))
            }
            _ => Ok(()),
        }
    }

    fn error(&self, step: &'static str, source: io::Error) -> NetnsError {
        NetnsError { name: self.name.clone(), step, source }
    }
}

/// The folder is a shared mount, as `ip netns` makes it: names made here are seen in other mount namespaces.
fn share_folder() -> io::Result<()> {
    let folder = Path::new(FOLDER);
    fs::create_dir_all(folder)?;
    let share =
        || mount(None::<&str>, folder, None::<&str>, MsFlags::MS_SHARED | MsFlags::MS_REC, None::<&str>);
    match share() {
        // No mount point yet.
        Err(nix::Error::EINVAL) => {
            bind(folder, folder, MsFlags::MS_BIND | MsFlags::MS_REC)?;
            Ok(share()?)
        }
        done => Ok(done?),
    }
}

fn bind(from: &Path, to: &Path, flags: MsFlags) -> io::Result<()> {
    Ok(mount(Some(from), to, None::<&str>, flags, None::<&str>)?)
}
