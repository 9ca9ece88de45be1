//! A sandbox: a named network namespace, as a runtime makes it.
//!
//! Owns the namespace; it goes when dropped.

use crate::programs::{run, sh};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};

static NEXT: AtomicU32 = AtomicU32::new(1);

/// A sandbox.
#[derive(Debug)]
pub struct Sandbox {
    name: String,
}

impl Sandbox {
    /// A new one, with its loopback up.
    pub fn new() -> Sandbox {
        let name = format!("es{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        sh(&format!("ip netns add {name} && ip -n {name} link set lo up"));
        Sandbox { name }
    }

    /// The namespace's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// CNI_NETNS.
    pub fn path(&self) -> String {
        format!("/run/netns/{}", self.name)
    }

    /// Runs a line of shell inside; what it printed.
    pub fn sh(&self, line: &str) -> Result<String, String> {
        run("nsenter", &[&format!("--net={}", self.path()), "sh", "-ec", line])
    }

    /// The address of an interface inside.
    pub fn address(&self, ifname: &str) -> Option<Ipv4Addr> {
        let shown = self.sh(&format!("ip -4 -o addr show dev {ifname}")).ok()?;
        let after = shown.split("inet ").nth(1)?;
        after.split('/').next()?.parse().ok()
    }

    /// The sandbox dies by itself: its processes and links go with it.
    pub fn die(self) {}
}

impl Default for Sandbox {
    fn default() -> Self {
        Sandbox::new()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // Gone already is what is wanted.
        let _ = run("ip", &["netns", "del", &self.name]);
    }
}
