//! The clocks: the one place that reads them.
//!
//! Owns CLOCK_BOOTTIME and the boot id. Wall time is not read here: logs have their own, for display.

use eni_proto::ids::BootId;
use ipamd_core::time::Timestamp;
use nix::time::{ClockId, clock_gettime};
use std::io;
use std::time::Duration;

/// CLOCK_BOOTTIME now.
pub fn now() -> Timestamp {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("CLOCK_BOOTTIME exists since Linux 2.6.39");
    Timestamp::from_nanos(u64::try_from(Duration::from(now).as_nanos()).unwrap_or(u64::MAX))
}

/// Which boot [`now`] belongs to.
pub fn boot_id() -> io::Result<BootId> {
    Ok(BootId::new(&std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?))
}
