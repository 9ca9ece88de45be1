//! When what EC2 refused is tried again.
//!
//! Owns the cases of time alone: histories of whole owners are the simulation's.

use super::*;

fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

#[test]
fn what_a_refusal_held_back_is_planned_anew_when_it_ends() {
    let refused = Some((at(1000), "InsufficientFreeAddressesInSubnet".to_owned()));
    let held = BTreeMap::from([("eni-1".parse().unwrap(), (at(1000), "no".to_owned()))]);
    for mut growth in [
        Growth { held, ..Growth::default() },
        Growth { create_refused: refused.clone(), ..Growth::default() },
        Growth { assign_refused: refused, ..Growth::default() },
    ] {
        growth.planned = Some((1, 0));
        assert_eq!(growth.deadline(), Some(at(1000)), "somebody wakes it");
        growth.expire(at(999));
        assert_eq!(growth.planned, Some((1, 0)));
        growth.expire(at(1000));
        assert_eq!((growth.planned, growth.deadline()), (None, None));
    }
}
