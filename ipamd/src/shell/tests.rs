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

use ipamd_core::record::{Stored, Write};
use ipamd_netlink::stats::Counters;

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

#[test]
fn what_comes_after_a_commit_that_the_queue_does_not_take_is_not_started() {
    let folder = tempfile::tempdir().unwrap();
    let boot = BootId::new("boot-1");
    let (opened, reserve) = Store::open_at_start(&folder.path().join("ipamd.redb"), &boot).unwrap();
    // The thread does not run: its queue has room for the start's commit, and no other.
    let (store, _thread) = StoreThread::prepare(opened.store, reserve, boot.clone(), 1, |_| ());
    let (done, _completions) = completions();
    let queue = || netlink::start("test", Vec::new(), &done).unwrap().0;
    let unasked = Arc::new(Unasked);
    let (cloud, _task) = cloud::task(Cloud { enis: unasked.clone(), metadata: unasked }, done.clone());
    let metrics = Arc::new(Metrics::new(Arc::new(Counters::default())));
    let run_dir = folder.path();
    let spool =
        SpoolThread::prepare(&run_dir.join("spool"), run_dir, boot.clone(), done.clone(), metrics.clone());
    let (spool, _spool_thread) = spool.unwrap();
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
    let mut shell = Shell::new(owner, outcome, executors, metrics);

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
