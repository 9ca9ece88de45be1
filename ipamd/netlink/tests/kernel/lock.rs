//! The lock in nft.

use crate::bench::Space;
use ipamd_netlink::lock::{LockError, NetfilterLock};

fn acquire(space: &Space) -> Result<NetfilterLock, LockError> {
    space.0.run(NetfilterLock::acquire).unwrap()
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
    let again = acquire(&space).unwrap();
    assert!(matches!(acquire(&space), Err(LockError::Held)));
    drop((again, beside));
    assert_eq!(space.sh("nft list ruleset"), "");
}

#[test]
fn a_table_without_owner_is_told() {
    let space = Space::new();
    space.sh("nft add table ip eni-cni-lock");
    let Err(LockError::Refused { text }) = acquire(&space) else { panic!("it is not ours") };
    assert!(text.contains("without an owner"), "{text}");
}
