//! The shell's order of effects: what comes after a commit that the store's queue did not take is not started.

use super::*;
use crate::completions::completions;
use crate::executors::cloud::{self, Cloud};
use crate::executors::netlink;
use crate::spool::SpoolThread;
use crate::store::{Store, StoreThread};
use eni_proto::ids::BootId;
use ipamd_core::cloud::{
    Answer, EniApi, EniObservation, EniScope, InstanceIdentity, InstanceLimits, InstanceMetadata,
    MetadataEni, Mutated, Mutation,
};
use ipamd_core::kernel::HostView;

use eni_proto::ids::NetnsCookie;
use ipamd_core::record::{Stored, Write};
use ipamd_netlink::sandbox::own_cookie;
use ipamd_netlink::stats::Counters;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use std::path::Path;

/// A cloud that nobody asks.
struct Unasked;

impl EniApi for Unasked {
    fn describe_enis(&self, _: &EniScope) -> Answer<'_, Vec<EniObservation>> {
        Box::pin(std::future::pending())
    }
    fn describe_limits(&self, _: &str) -> Answer<'_, InstanceLimits> {
        Box::pin(std::future::pending())
    }
    fn mutate(&self, _: &Mutation) -> Answer<'_, Mutated> {
        Box::pin(std::future::pending())
    }
}

impl InstanceMetadata for Unasked {
    fn identity(&self) -> Answer<'_, InstanceIdentity> {
        Box::pin(std::future::pending())
    }

    fn interfaces(&self) -> Answer<'_, Vec<MetadataEni>> {
        Box::pin(std::future::pending())
    }
}

fn effect(id: u64, after: &[u64], kind: EffectKind) -> Effect {
    Effect { id: EffectId(id), op: None, after: after.iter().copied().map(EffectId).collect(), kind }
}

/// A shell whose threads do not run: what is queued stays there.
fn idle(folder: &Path) -> (Shell, impl Sized) {
    let boot = BootId::new("boot-1");
    let (opened, reserve) = Store::open_at_start(&folder.join("ipamd.redb"), &boot).unwrap();
    // The thread does not run: its queue has room for the start's commit, and no other.
    let (store, thread) = StoreThread::prepare(opened.store, reserve, boot.clone(), 1, |_| ());
    let (done, completions) = completions();
    let queue = || netlink::start("test", Vec::new(), &done).unwrap().0;
    let unasked = Arc::new(Unasked);
    let (cloud, task) = cloud::task(Cloud { enis: unasked.clone(), metadata: unasked }, done.clone());
    let metrics = Arc::new(Metrics::new(Arc::new(Counters::default())));
    let run_dir = folder;
    let spool = SpoolThread::prepare(
        &run_dir.join("spool"),
        (run_dir, &run_dir.join("cni.sock")),
        boot.clone(),
        done.clone(),
        metrics.clone(),
    );
    let (spool, spool_thread) = spool.unwrap();
    let executors = Executors {
        spool,
        store,
        netlink: queue(),
        host: queue(),
        reaper: queue(),
        cloud,
        links: watch::channel(Vec::new()).0,
        done,
    };
    let (owner, outcome) = Owner::restore(
        ipamd_core::owner::OwnerConfig::default(),
        Stored::default(),
        &HostView::default(),
        &boot,
        clock::now(),
    )
    .unwrap();
    (Shell::new(owner, outcome, executors, metrics), (thread, completions, task, spool_thread))
}

#[test]
fn a_sandbox_that_comes_back_for_an_operation_that_has_ended_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    let (mut shell, _threads) = idle(folder.path());
    let sandbox = || {
        let protocol = SockProtocol::NetlinkRoute;
        let made = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol).unwrap();
        SandboxSocket::check(made, NetnsCookie(own_cookie().unwrap().0 + 1)).unwrap()
    };
    let back = |op| {
        let error = HostStepError { index: None, step: "look".into(), cause: "late".into(), gone: false };
        let completion = Completion::Looked(Err(error));
        Finished::InSandbox { effect: EffectId(1_000_001), op, completion, sandbox: Some(sandbox()) }
    };
    shell.waiting.insert(OpId(7), oneshot::channel().0);
    shell.finished(back(OpId(7)));
    assert!(shell.sandboxes.contains_key(&OpId(7)), "it may look again");
    shell.finished(back(OpId(8)));
    assert!(!shell.sandboxes.contains_key(&OpId(8)), "nobody would ever close it");
}

#[test]
fn what_comes_after_a_commit_that_the_queue_does_not_take_is_not_started() {
    let folder = tempfile::tempdir().unwrap();
    let (mut shell, _threads) = idle(folder.path());
    let [commit, next, last] = [1_000_001, 1_000_002, 1_000_003];
    let delete = EffectKind::Commit(vec![Write::DeleteIntent(1)]);
    let effects = vec![
        effect(commit, &[], delete),
        effect(next, &[commit], EffectKind::ObserveCloud { tagged: false }),
        effect(last, &[next], EffectKind::ObserveCloud { tagged: false }),
    ];
    shell.dispatch(Outcome { effects, ..Outcome::default() });
    for id in [commit, next, last].map(EffectId) {
        assert!(!shell.flying.contains(&id), "{id:?} was started");
        assert!(!shell.held.contains_key(&id), "{id:?} waits for ever");
    }
}
