//! What is there before and after: of the machine, and of the node.
//!
//! Owns the looks and their comparison, line by line. Repairs nothing.

use crate::node::Node;
use crate::programs::run;
use std::collections::{BTreeMap, BTreeSet};

/// Lines by what was looked at.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Look {
    lines: BTreeMap<&'static str, BTreeSet<String>>,
}

impl Look {
    /// Takes what each command prints, line by line.
    fn of(asked: &[(&'static str, &str)], ask: impl Fn(&str) -> Result<String, String>) -> Look {
        let lines = asked.iter().map(|(what, line)| {
            let text = ask(line).unwrap_or_else(|error| format!("could not be read: {error}"));
            (*what, text.lines().map(|line| line.trim().to_owned()).collect())
        });
        Look { lines: lines.collect() }
    }

    /// How many lines there are of something.
    pub(super) fn count(&self, what: &str) -> usize {
        self.lines.get(what).map_or(0, BTreeSet::len)
    }

    /// What has come and what has gone since `before`.
    pub(super) fn differences(&self, before: &Look) -> Vec<String> {
        let mut found = Vec::new();
        for (what, now) in &self.lines {
            let then = &before.lines[what];
            found.extend(now.difference(then).map(|line| format!("left behind, {what}: {line}")));
            found.extend(then.difference(now).map(|line| format!("gone, {what}: {line}")));
        }
        found
    }
}

/// The machine: nothing of it may change.
pub(super) struct Machine;

impl Machine {
    pub(super) fn look() -> Look {
        // Others may run tests beside this: namespaces, mounts and folders are known by this process's number.
        let own = std::process::id();
        let namespaces = format!("ls /run/netns 2>/dev/null | grep -E '^e[ns]{own}-' || true");
        let mounts = format!("grep -E 'eni-node-{own}-|/e[ns]{own}-' /proc/self/mounts || true");
        let folders = format!("ls -d /tmp/eni-node-{own}-* 2>/dev/null || true");
        let asked = [
            ("namespaces", namespaces.as_str()),
            ("mounts", &mounts),
            ("folders", &folders),
            ("links", "ip -o link | sed 's/ mtu .*//'"),
            ("rules", "ip rule"),
            ("nft tables", "nft list tables"),
        ];
        Look::of(&asked, |line| run("sh", &["-c", line]))
    }
}

/// The node's network as ipamd keeps it.
pub(super) fn node(node: &Node) -> Look {
    let asked = [
        ("links", "ip -o link | sed 's/ mtu .* group / group /; s/ qlen .*//'"),
        ("routes", "ip route show table all | grep -v '^local\\|^broadcast\\|dev lo'"),
        ("rules", "ip rule"),
        ("neighbours", "ip neigh show nud permanent"),
        ("lines of nft", "nft -s list ruleset"),
    ];
    Look::of(&asked, |line| node.sh("node", line))
}
