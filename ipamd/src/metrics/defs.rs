//! The table of metrics: name, kind, unit, labels, help.
//!
//! Owns the names; docs/metrics.md has the same table, and a test compares them. All are prefixed `eni_ipamd_`;
//! counters end with `_total` where they are shown. Labels are closed sets, never an id.

/// A metric's definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Def {
    /// The name, without prefix and `_total`.
    pub name: &'static str,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// The labels with their values.
    pub labels: &'static str,
    /// What it says, and its unit.
    pub help: &'static str,
}

macro_rules! defs {
    ($($id:ident = $name:literal, $kind:literal, $labels:literal, $help:literal;)*) => {
        $(#[doc = $help] pub const $id: Def = Def { name: $name, kind: $kind, labels: $labels, help: $help };)*
        /// All of them, in the order of the docs.
        pub const ALL: &[Def] = &[$($id),*];
    };
}

defs! {
    READY = "ready", "gauge", "", "1 when ADD is served";
    POOL_ADDRESSES = "pool_addresses", "gauge", "state: free, allocated, cooling, quarantined", "Addresses of the pool by state";
    ATTACHMENTS = "attachments", "gauge", "state: adding, live, broken, dying", "Attachments by state";
    UNNAMED_ATTACHMENTS = "unnamed_attachments", "gauge", "", "Attachments that the last GC of their network did not name";
    ENIS = "enis", "gauge", "state: attaching, in_use, draining, detaching, deleting, lost", "ENIs by state";
    ADDS_UNDER_WAY = "adds_under_way", "gauge", "", "ADDs that wait or run";
    OPERATIONS = "operations", "counter", "verb: add, del, check, gc; outcome: ok, refused, failed, cancelled", "ADDs, DELs, CHECKs and GCs that have ended; a CHECK that found a difference has failed";
    OPERATION_SECONDS = "operation_seconds", "histogram", "verb: add, del, check, gc; phase: queue, commit, wire, total; outcome: ok, refused, failed, cancelled", "Seconds of each phase of ADDs, DELs, CHECKs and GCs; commit and wire run side by side, and wire is the look of a CHECK";
    COMMITS = "store_commits", "counter", "outcome: ok, failed", "Transactions of the store";
    COMMIT_SECONDS = "store_commit_seconds", "histogram", "", "Seconds of a transaction";
    COMMIT_BATCH = "store_commit_batches", "histogram", "", "Batches that one transaction carried";
    STORE_REPLACED = "store_replaced", "counter", "reason: damaged, taken_away, foreign", "Times that the store's file was replaced by a new one";
    NETLINK_MESSAGES = "netlink_messages", "counter", "", "Route netlink messages sent";
    NETLINK_SENDS = "netlink_sends", "counter", "", "Send calls that carried them";
    NETLINK_ERRORS = "netlink_errors", "counter", "", "Messages that the kernel refused, those included whose refusal is fine";
    NETFILTER_ERRORS = "netfilter_errors", "counter", "", "Messages of conntrack and nft that the kernel refused, those included whose refusal is fine";
    NFT_RUNS = "nft_runs", "counter", "", "Runs of nft: one at the start, one per change of the ENIs or of the VPC's CIDRs";
    IPTABLES_RUNS = "iptables_runs", "counter", "", "Runs of iptables";
    GC_UNNAMED = "gc_unnamed", "counter", "outcome: freed, kept", "Attachments that a GC did not name, each time: freed because their network namespaces are gone, or kept";
    REAPED_LINKS = "reaped_links", "counter", "", "Dying links that are gone";
    KEPT_LINKS = "kept_links", "counter", "", "Dying links that could not be deleted, each time they were tried";
    REAP_SECONDS = "reap_seconds", "histogram", "", "Seconds of one batch of the reaper";
    TOMBSTONES = "tombstones", "counter", "outcome: done, dropped, rejected", "DELs that were written down while ipamd did not answer: done, dropped because nothing has to be done, or no tombstones at all";
    HOST_STEPS = "host_steps", "counter", "outcome: ok, failed", "Steps taken on the host's own network";
    HOST_REPAIRS = "host_repairs", "counter", "trigger: link, address, route, rule, neighbour, settings, nftables, overrun, period, pool; thing: rule, route, link, alias, mac, name, address, neighbour, nftables, forward; reason: missing, differs, unneeded, foreign", "Steps that mended what others changed on the host, by what told of it";
    BROKEN = "attachments_broken", "counter", "trigger: as of host_repairs", "Attachments whose host link went away while nobody asked for that";
    HOST_REPORTS = "host_reports", "gauge", "kind: address, route, rule, setting, link, cni, contested", "Things on the host that are not as they should be and are left alone";
    SWITCHES = "switches", "gauge", "switch: no-release, no-cloud", "1 when it is on, by the configuration or by debug.sock";
    CLOUD_AGE_SECONDS = "cloud_age_seconds", "gauge", "", "Seconds since the last look at EC2 began that was compared; 0 before the first";
    RECONCILER_PASSES = "reconciler_passes", "counter", "reconciler: eni_sync, host_net, capacity; outcome: ok, failed", "Passes of each reconciler";
    LOG_LINES_DROPPED = "log_lines_dropped", "counter", "", "Log lines that were dropped because stderr was not read in time";
    EC2_CHANGES = "ec2_changes", "counter", "call: the seven calls that change an ENI, as EC2 names them; outcome: ok, failed", "Changes asked of EC2";
    EC2_WAITS = "ec2_waits", "counter", "call: as EC2 names it", "Calls to EC2 that waited for their turn in ipamd's own budget";
    EC2_WAIT_SECONDS = "ec2_wait_seconds", "counter", "call: as EC2 names it", "Seconds that they waited";
    EC2_THROTTLED = "ec2_throttled", "counter", "call: as EC2 names it", "Calls that EC2 throttled";
    REFUSED = "refused_requests", "counter", "reason: too_many, not_root, slow, bad_frame, bad_request", "Connections and requests of cni.sock that were refused";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_docs_have_the_same_table() {
        let docs = include_str!("../../../docs/metrics.md");
        let rows = ALL.iter().map(|d| {
            let shown = if d.kind == "counter" { format!("{}_total", d.name) } else { d.name.to_owned() };
            let labels = if d.labels.is_empty() { "–" } else { d.labels };
            format!("| `eni_ipamd_{shown}` | {} | {labels} | {} |", d.kind, d.help)
        });
        let wanted: Vec<String> = rows.collect();
        let written: Vec<&str> = docs.lines().filter(|line| line.starts_with("| `eni_ipamd_")).collect();
        assert_eq!(written, wanted, "docs/metrics.md must have:\n{}", wanted.join("\n"));
    }
}
