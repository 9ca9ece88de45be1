//! The lock in nft.

use crate::bench::Space;
use ipamd_netlink::lock::{LockError, NetfilterLock};
use std::thread::sleep;
use std::time::Duration;

fn acquire(space: &Space) -> Result<NetfilterLock, LockError> {
    space.0.run(NetfilterLock::acquire).unwrap()
}

/// Other tests start programs at the same time, which hold every descriptor for the moment before they exec.
fn soon<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    for _ in 0..500 {
        if let Some(answer) = ask() {
            return answer;
        }
        sleep(Duration::from_millis(10));
    }
    panic!("not within five seconds");
}

#[test]
fn it_is_held_once_per_namespace_and_freed_with_its_socket() {
    let (space, other) = (Space::new(), Space::new());
    let held = acquire(&space).unwrap();
    assert!(matches!(acquire(&space), Err(LockError::Held)));
    let beside = acquire(&other).unwrap();
    space.sh("nft flush ruleset");
    assert!(matches!(acquire(&space), Err(LockError::Held)), "a flush does not free it");
    drop(held);
    let again = soon(|| acquire(&space).ok());
    assert!(matches!(acquire(&space), Err(LockError::Held)));
    drop((again, beside));
    soon(|| space.sh("nft list ruleset").is_empty().then_some(()));
}

#[test]
fn a_table_without_owner_is_told() {
    let space = Space::new();
    space.sh("nft add table ip eni-cni-lock");
    let Err(LockError::Refused { text }) = acquire(&space) else { panic!("it is not ours") };
    assert!(text.contains("without an owner"), "{text}");
}
