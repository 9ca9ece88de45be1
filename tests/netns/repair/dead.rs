//! Attachments whose link is gone: broken, nothing freed; and what is done when their address or name is needed.

use super::Site;
use eni_tests::cni::{Call, add, del};
use eni_tests::sandbox::Sandbox;
use eni_tests::traffic::ping;
use eni_tests::wait;

impl Site {
    fn state(&self, name: &str) -> Option<String> {
        self.attachment(name).map(|row| super::text(&row["state"]))
    }

    fn allocated(&self) -> u64 {
        self.node.ask("status")["pool"]["allocated"].as_u64().unwrap()
    }

    /// Somebody deletes a live pod's link.
    pub(super) fn deleted_links(&mut self) {
        let (name, link) = (self.pod().name.clone(), self.pod().link.clone());
        let held = self.allocated();
        self.sh(&format!("ip link del {link}"));
        wait::until("it is broken", || self.state(&name).as_deref() == Some("broken"));
        assert_eq!(self.allocated(), held, "nothing is freed");
        assert!(self.node.metric("eni_ipamd_attachments_broken_total", "trigger=\"link\"") >= 1.0);
        assert!(self.node.ipamctl(&["attachments"]).unwrap().contains("broken"));
        // Its namespace is there: nobody gets its address, however dry the pool is.
        let rest: Vec<Sandbox> = (0..4).map(|_| Sandbox::new()).collect();
        for (n, sandbox) in rest.iter().enumerate() {
            add(&self.node, &format!("f{n}"), sandbox);
        }
        let one = Sandbox::new();
        let refused = Call::new(&self.node, "ADD").of("more", &one.path()).run();
        assert_eq!(refused.code, Some(1), "{}", refused.stdout);
        assert_eq!(self.state(&name).as_deref(), Some("broken"), "its sandbox lives");
        rest.iter().enumerate().for_each(|(n, s)| del(&self.node, &format!("f{n}"), &s.path()));
        let pod = self.pods.pop().unwrap();
        del(&self.node, &pod.name, &pod.sandbox.path());
        wait::until("its record is gone", || self.state(&name).is_none());
    }

    /// Sandboxes die without a DEL.
    pub(super) fn dead_holders(&mut self) {
        let peer = self.node.address("peer_address");
        let dead = Sandbox::new();
        Call::new(&self.node, "ADD").of("old", &dead.path()).pod("web-0").ok();
        let name = super::text(&self.attachment("old").unwrap()["host_link"]);
        dead.die();
        wait::until("it is broken", || self.state("old").as_deref() == Some("broken"));
        // The same pod again: the dead one makes way, and its name is taken over.
        let next = Sandbox::new();
        Call::new(&self.node, "ADD").of("new", &next.path()).pod("web-0").ok();
        assert_eq!(super::text(&self.attachment("new").unwrap()["host_link"]), name);
        wait::until("the old one is gone", || self.state("old").is_none());
        // A full pool: who is dead is undone for who comes.
        let mut live: Vec<(String, Sandbox)> = Vec::new();
        wait::until("nothing cools", || self.node.ask("status")["pool"]["cooling"] == 0);
        while self.node.ask("status")["pool"]["free"] != 0 {
            let (name, sandbox) = (format!("g{}", live.len()), Sandbox::new());
            add(&self.node, &name, &sandbox);
            live.push((name, sandbox));
        }
        let (name, sandbox) = live.pop().expect("one of them");
        sandbox.die();
        wait::until("it is broken", || self.state(&name).as_deref() == Some("broken"));
        let last = Sandbox::new();
        add(&self.node, "last", &last);
        wait::until("it talks", || ping(last.name(), peer, None));
        assert_eq!(self.state(&name), None, "its record is gone");
        assert!(live.iter().all(|(name, _)| self.state(name).as_deref() == Some("live")));
    }
}
