//! The composition root: what ipamd is made of, and in which order it starts and ends.
//!
//! Owns the start sequence (lock, store, one look at the host, owner, spool, threads, sockets), the runtimes and the way
//! out. Every step is timed for `ipamctl status`; those that need the cloud are the owner's (`owner::start`). Decides nothing about addresses.

use crate::completions::{CompletionSender, Finished, completions};
use crate::config::{CloudKind, Config};
use crate::debug::query::QueryClient;
use crate::executors::budget::Budgeted;
use crate::executors::cloud::{self, Cloud};
use crate::executors::netlink;
use crate::instance_lock::{self, InstanceLock};
use crate::main_loop::{self, Loop};
use crate::metrics::Metrics;
use crate::queries::About;
use crate::server::cni;
use crate::shell::{Executors, Shell};
use crate::spool::{SpoolError, SpoolThread};
use crate::store::{CommitDone, Opened, Replaced, Report, Reserve, Store, StoreThread};
use crate::take_over::TakeOver;
use crate::{clock, debug, limits, memory, metrics};
use eni_proto::debug::StartStep;
use eni_proto::ids::{BootId, MacAddr};
use ipamd_core::budget::{Budget, Part};
use ipamd_core::kernel::HostKernel;
use ipamd_core::owner::event::{Completion, EffectId};
use ipamd_core::owner::{Owner, OwnerConfig};
use ipamd_core::time::Timestamp;
use ipamd_netlink::host::Host;
use ipamd_netlink::monitor::Monitor;
use ipamd_netlink::stats::Counters;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::thread::JoinHandle;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};

/// How many netlink threads wire and take off.
const NETLINK_THREADS: usize = 2;
/// Commits that wait for the store thread: more than the connections that may have one each.
const STORE_QUEUE: usize = 4096;
/// Why ipamd does not start, or does not go on.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The clock or the boot id could not be read.
    #[error("the boot id could not be read from /proc/sys/kernel/random/boot_id")]
    Boot(#[source] std::io::Error),
    /// There is no client of the configured cloud.
    #[error("the cloud cannot be used")]
    Cloud(#[from] cloud::NoCloud),
    /// The lock could not be taken.
    #[error("this node's ipamd lock could not be taken")]
    Lock(#[from] instance_lock::LockError),
    /// The store could not be opened, and it is not damage.
    #[error("the store could not be opened; the file is untouched")]
    Store(#[from] crate::store::OpenError),
    /// The spool could not be made or watched.
    #[error("the spool of DELs that nobody answers cannot be served")]
    Spool(#[from] SpoolError),
    /// The kernel refused a netlink socket.
    #[error("the host's netlink sockets could not be opened: is CAP_NET_ADMIN there?")]
    Netlink(#[source] ipamd_netlink::host::HostError),
    /// The host could not be looked at.
    #[error("the host's network could not be read")]
    Observe(#[source] ipamd_core::kernel::HostStepError),
    /// The records do not fit.
    #[error("the stored records cannot be used")]
    Restore(#[from] ipamd_core::owner::RestoreError),
    /// A thread or runtime could not be started.
    #[error("{what} could not be started")]
    Thread {
        /// What.
        what: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A part of the main loop ended by itself.
    #[error("the main loop's part for {task} has ended by itself ({cause}): ipamd cannot go on without it")]
    Ended {
        /// Which.
        task: &'static str,
        /// How.
        cause: String,
    },
    /// A socket could not be made.
    #[error("{path} could not be made: check that its folder is root's and writable")]
    Socket {
        /// Its path.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// The steps of the start, timed.
struct Steps {
    began: Timestamp,
    done: Vec<StartStep>,
}

impl Steps {
    fn done(&mut self, step: &str) {
        let at_ms = u64::try_from((clock::now() - self.began).as_millis()).unwrap_or(u64::MAX);
        info!(step, at_ms, "start");
        self.done.push(StartStep { step: step.to_owned(), at_ms });
    }
}

/// Runs until SIGTERM, SIGINT or a hand-over.
pub fn run(config: &Config, ask_for_place: bool) -> Result<(), StartError> {
    let mut steps = Steps { began: clock::now(), done: Vec::new() };
    let cloud = Cloud::connect(&config.cloud)?;
    let boot = clock::boot_id().map_err(StartError::Boot)?;
    let mut place = ask_for_place.then(TakeOver::default);
    // Before the lock is tried: the first one leaves within its drain, and is not waited for in vain.
    let mut ask = || place.iter_mut().for_each(|place| place.ask(&config.socket()));
    ask();
    let mut known = None;
    let lock = InstanceLock::acquire_blocking(&config.paths.run_dir, |holder| {
        if known.as_ref() != Some(holder) {
            warn!(%holder, "another ipamd owns this node: waiting for its end");
            known = Some(holder.clone());
        }
        ask();
    })?;
    steps.done("lock");
    let (Opened { store, stored, mut notes, damaged }, reserve) =
        Store::open_at_start(&config.paths.store, &boot)?;
    notes.extend(limits::raise_descriptors(&config.sockets));
    let counters = Arc::new(Counters::default());
    let metrics = Arc::new(Metrics::new(counters.clone()));
    if let Some(damaged) = damaged {
        error!("{damaged}");
        metrics.store_replaced(Replaced::Damaged);
        notes.push(damaged);
    }
    steps.done("store");
    let open = || Host::open(counters.clone()).map_err(StartError::Netlink);
    let mut host = open()?;
    // Before the first look: what changes after it is told.
    let monitor = Monitor::open(&host).inspect_err(|error| notes.push(unwatched(error))).ok();
    for note in &notes {
        warn!("{note}");
    }
    let view = host.observe().map_err(StartError::Observe)?;
    let (mut owner, outcome) = Owner::restore(owner_config(config), stored, &view, &boot, clock::now())?;
    if crate::spool::was_stamped(&config.paths.run_dir, &boot) {
        owner.was_ready_in_this_boot(clock::now());
    }
    steps.done("host observed, records restored");

    let (done, finished) = completions();
    let outer = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("outer")
        .enable_all()
        .build()
        .map_err(|source| StartError::Thread { what: "the outer runtime", source })?;
    let mut threads = Threads::default();
    let host_cookie = host.cookie();
    let wiring = (0..NETLINK_THREADS).map(|_| open()).collect::<Result<Vec<_>, _>>()?;
    let spool = threads.spool(config, &boot, &done, &metrics)?;
    steps.done("spool");
    let executors = Executors {
        spool,
        store: threads.store((store, reserve), boot, &done, &metrics, memory::keep(&outer))?,
        netlink: threads.netlink("netlink", wiring, &done)?,
        host: threads.netlink("host", vec![host], &done)?,
        reaper: threads.netlink("reaper", vec![open()?], &done)?,
        cloud: {
            let part = match config.cloud.kind {
                // An EC2 of one's own: it is asked as often as there is need, and listened to when it throttles.
                CloudKind::Embedded => Part::Alone,
                CloudKind::Ec2 => Part::OfAnAccount,
            };
            let enis = Arc::new(Budgeted::new(cloud.enis, Budget::new(part), metrics.clone()));
            let cloud = Cloud { enis, metadata: cloud.metadata };
            let (sender, task) = cloud::task(cloud, done.clone());
            outer.spawn(task);
            sender
        },
        links: watch_links(&outer, &done),
        done: done.clone(),
    };
    if let Some(monitor) = monitor {
        watch_host(monitor, done.clone())?;
    }
    let shell = Shell::new(owner, outcome, executors, metrics.clone());
    steps.done("threads");
    let about = About { began: steps.began, start: steps.done.into(), notes };
    let this = Loop::new(shell, host_cookie, metrics.clone(), about, config.sockets.max_connections);
    let main = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| StartError::Thread { what: "the main loop", source })?;
    let served = tokio::task::LocalSet::new().block_on(&main, serve(config, this.clone(), finished, &outer));
    // The order of the end: nobody asks the owner any more, the threads end with their queues, the lock goes last.
    drop(main);
    drop(this);
    threads.join();
    outer.shutdown_timeout(std::time::Duration::from_secs(1));
    drop(lock);
    served
}

fn owner_config(config: &Config) -> OwnerConfig {
    OwnerConfig {
        cooldown: config.pool.cooldown,
        mtu: config.data_plane.mtu,
        txqueuelen: config.data_plane.txqueuelen,
        eni_mtu: config.data_plane.eni_mtu,
        snat: config.data_plane.snat,
        extra_vpc_cidrs: config.data_plane.extra_vpc_cidrs.clone(),
        max_waiters: config.sockets.max_waiters,
        targets: config.capacity,
        subnets: config.placement.subnets.clone(),
        security_groups: config.placement.security_groups.clone(),
        poll: config.timing.poll,
        describe_period: config.timing.describe_period,
        host_period: config.timing.host_period,
        adopt_links: config.data_plane.adopt_links,
        status_grace: config.timing.status_grace,
        fail_when_full: config.pool.fail_when_full,
        no_cloud: config.cloud.no_cloud,
        ignore_peer: config.data_plane.ignore_peer,
        block_metadata: config.data_plane.block_metadata,
    }
}

async fn serve(
    config: &Config,
    this: Rc<Loop>,
    finished: crate::completions::Completions,
    outer: &tokio::runtime::Runtime,
) -> Result<(), StartError> {
    // The DELs of the time without an ipamd are in their keys' lanes before the first ADD is.
    this.take_in(&finished);
    this.step("spool read");
    let socket = config.socket();
    let listener = cni::bind(&socket).map_err(|source| socket_error(&socket, source))?;
    let (queries, received) = QueryClient::channel();
    serve_outside(config, &this, &queries, outer)?;
    let mut completions = tokio::task::spawn_local(main_loop::take_completions(this.clone(), finished));
    let mut time = tokio::task::spawn_local(main_loop::keep_time(this.clone()));
    let mut asked = tokio::task::spawn_local(main_loop::answer_queries(this.clone(), received));
    let mut accepting = tokio::task::spawn_local(cni::accept(this.clone(), listener));
    this.step("serving: DEL and STATUS, and ADD as far as it is recorded");
    tokio::select! {
        biased;
        // Cancel safe: it only waits.
        () = end_asked(&this) => {}
        // Cancel safe: a task that has not ended is asked again.
        task = first_end([
            ("completions", &mut completions),
            ("the timer", &mut time),
            ("debug.sock's questions", &mut asked),
            ("cni.sock", &mut accepting),
        ]) => return Err(task),
    }
    // New plugins find no socket and try again until the next ipamd has made its own. Its file goes at once: a rename
    // alone would leave one for each end that is cut short.
    if let Err(error) = std::fs::remove_file(&socket) {
        warn!(%error, "cni.sock could not be taken away");
    }
    this.stop();
    let _ = accepting.await;
    let whole = main_loop::drain(&this, config.timing.drain).await;
    info!(whole, "ended");
    for task in [time, asked] {
        task.abort();
        let _ = task.await;
    }
    completions.abort();
    let _ = completions.await;
    Ok(())
}

/// The task that waits for links on the outer runtime, and what tells it for which.
fn watch_links(
    outer: &tokio::runtime::Runtime,
    done: &CompletionSender,
) -> tokio::sync::watch::Sender<Vec<MacAddr>> {
    let (wanted, told) = tokio::sync::watch::channel(Vec::new());
    let done = done.clone();
    let seen = move || done.push(Finished::LinkSeen);
    // Without it an ENI's link is found by the next look.
    let failed = |cause| warn!(reason = %cause, "links cannot be waited for");
    outer.spawn(ipamd_netlink::watch::links(told, seen, failed));
    wanted
}

fn unwatched(error: &impl std::error::Error) -> String {
    let cause = error.source().map_or(String::new(), |source| format!(": {source}"));
    format!("what others change on the host is found by its period alone: {error}{cause}")
}

/// The thread that watches the host's network, for as long as the process lives: nothing waits for its end.
fn watch_host(mut monitor: Monitor, done: CompletionSender) -> Result<(), StartError> {
    let watch = move || loop {
        match monitor.wait_for_changes() {
            Ok(triggers) => done.push(Finished::HostChanged(triggers)),
            Err(error) => return warn!(reason = %unwatched(&error), "the host is not watched any more"),
        }
    };
    let thread = std::thread::Builder::new().name("watch".to_owned()).spawn(watch);
    thread.map(drop).map_err(|source| StartError::Thread { what: "the thread that watches the host", source })
}

/// Ready when one of the main loop's tasks has ended by itself, as none of them does: ipamd must not go on without it.
async fn first_end<const N: usize>(
    mut tasks: [(&'static str, &mut tokio::task::JoinHandle<()>); N],
) -> StartError {
    std::future::poll_fn(|context| {
        for (task, handle) in &mut tasks {
            if let Poll::Ready(end) = Pin::new(&mut **handle).poll(context) {
                let cause = end.err().map_or("it returned".to_owned(), |error| error.to_string());
                return Poll::Ready(StartError::Ended { task, cause });
            }
        }
        Poll::Pending
    })
    .await
}

/// Ready on SIGTERM, SIGINT, or when a request has stopped the loop.
async fn end_asked(this: &Rc<Loop>) {
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        warn!("signals cannot be handled: SIGTERM ends ipamd at once");
        return this.stopping().await;
    };
    tokio::select! {
        // Cancel safe: all three only wait.
        _ = term.recv() => info!("SIGTERM"),
        _ = int.recv() => info!("SIGINT"),
        () = this.stopping() => info!("handed over"),
    }
}

fn serve_outside(
    config: &Config,
    this: &Rc<Loop>,
    queries: &QueryClient,
    outer: &tokio::runtime::Runtime,
) -> Result<(), StartError> {
    let path = config.debug_socket();
    let _entered = outer.enter();
    let listener =
        debug::server::bind(&config.paths.run_dir).map_err(|source| socket_error(&path, source))?;
    outer.spawn(debug::server::serve(listener, queries.clone(), this.metrics.clone()));
    if let Some(listen) = config.metrics.listen {
        outer.spawn(metrics::expose::serve(listen, queries.clone(), this.metrics.clone()));
    }
    Ok(())
}

fn socket_error(path: &Path, source: std::io::Error) -> StartError {
    StartError::Socket { path: path.display().to_string(), source }
}

/// Tells the owner how batches of one transaction ended.
fn commits_ended(commits: Vec<CommitDone>, done: &CompletionSender, metrics: &Metrics) {
    if let Some(first) = commits.first() {
        metrics.commit(first.took, commits.len(), commits.iter().all(|c| c.result.is_ok()));
    }
    // All of it is put before the first may wake: a group wakes the loop once.
    let mut wakes = Vec::with_capacity(commits.len());
    for commit in commits {
        wakes.push(commit.wake.clone());
        let effect = EffectId(commit.ticket);
        let completion = match commit.result {
            Err(error) if error.blank => Completion::Blank(error.to_string()),
            result => Completion::Committed(result.map_err(|error| error.to_string())),
        };
        done.put(Finished::Effect { effect, completion }, commit.wake);
    }
}

/// The threads that are joined at the end.
#[derive(Default)]
struct Threads {
    running: Vec<JoinHandle<()>>,
}

impl Threads {
    fn store(
        &mut self,
        (store, reserve): (Store, Reserve),
        boot: BootId,
        done: &CompletionSender,
        metrics: &Arc<Metrics>,
        worked: Arc<tokio::sync::Notify>,
    ) -> Result<crate::store::StoreHandle, StartError> {
        let (done, metrics) = (done.clone(), metrics.clone());
        let told = move |report| match report {
            Report::Ended(commits) => {
                worked.notify_one();
                commits_ended(commits, &done, &metrics);
            }
            Report::Reserve(missing) => {
                match &missing {
                    Some(reason) => warn!(%reason, "the store's disk is full: ADD is refused, DEL is served"),
                    None => info!("the store's disk has room again: its reserve is laid"),
                }
                done.push(Finished::Reserve(missing));
            }
            Report::Replaced(why, reason) => {
                metrics.store_replaced(why);
                error!(?why, %reason, "the store's file is replaced: everything is written to a new one");
            }
        };
        let (handle, thread) = StoreThread::prepare(store, reserve, boot, STORE_QUEUE, told);
        let thread =
            thread.spawn().map_err(|source| StartError::Thread { what: "the store thread", source })?;
        self.running.push(thread);
        Ok(handle)
    }

    fn spool(
        &mut self,
        config: &Config,
        boot: &BootId,
        done: &CompletionSender,
        metrics: &Arc<Metrics>,
    ) -> Result<crate::spool::SpoolSender, StartError> {
        let (paths, done, metrics) = (&config.paths, done.clone(), metrics.clone());
        let socket = config.socket();
        let (sender, thread) =
            SpoolThread::prepare(&paths.spool, (&paths.run_dir, &socket), boot.clone(), done, metrics)?;
        let thread =
            thread.spawn().map_err(|source| StartError::Thread { what: "the spool's thread", source })?;
        self.running.push(thread);
        Ok(sender)
    }

    fn netlink(
        &mut self,
        name: &'static str,
        hosts: Vec<Host>,
        done: &CompletionSender,
    ) -> Result<netlink::JobSender, StartError> {
        let (sender, threads) =
            netlink::start(name, hosts, done).map_err(|source| StartError::Thread { what: name, source })?;
        self.running.extend(threads);
        Ok(sender)
    }

    fn join(self) {
        for thread in self.running {
            if thread.join().is_err() {
                warn!("a thread ended by a panic");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_that_ends_is_named_whether_it_returns_or_panics() {
        let mut stays = tokio::spawn(std::future::pending());
        let mut returns = tokio::spawn(async {});
        let ended = first_end([("one", &mut stays), ("two", &mut returns)]).await.to_string();
        assert!(ended.contains("for two") && ended.contains("returned"), "{ended}");
        let mut panics = tokio::spawn(async { panic!("broken") });
        let ended = first_end([("one", &mut stays), ("three", &mut panics)]).await.to_string();
        assert!(ended.contains("for three") && ended.contains("panic"), "{ended}");
    }
}
