//! One ipamd per node: a second waits, serves nothing, names the first.

use crate::node;
use eni_tests::cni::{Call, add};
use eni_tests::node::{Node, Options};
use eni_tests::programs::{run, sh};
use eni_tests::sandbox::Sandbox;
use eni_tests::wait;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command};

struct Second {
    child: Child,
    log: PathBuf,
}

impl Second {
    fn start(node: &Node, more: &[&str]) -> Second {
        let mut command = node.ipamd_command();
        command.args(more);
        Second::spawn(command, node.run_dir().join("second.log"))
    }

    fn spawn(mut command: Command, log: PathBuf) -> Second {
        let file = File::create(&log).expect("a log");
        Second { child: command.stderr(file).spawn().expect("it starts"), log }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Second {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn netns_a_second_ipamd_waits_names_the_first_and_serves_after_it() {
    let mut node = node(5);
    let sandbox = Sandbox::new();
    let address = add(&node, "c1", &sandbox);
    let first = node.ipamd_pid();
    let second = Second::start(&node, &[]);
    wait::until("the second names the first", || second.log().contains(&format!("process id {first}")));
    assert_eq!(node.ask("status")["pid"], first, "the first serves");
    node.stop_ipamd();
    wait::until("the second serves", || node.ipamctl(&["status"]).is_ok());
    assert_eq!(node.ask("status")["pid"], second.child.id());
    assert_eq!(Call::new(&node, "ADD").of("c1", &sandbox.path()).pod("c1").ok().address(), address);
}

#[test]
fn netns_a_second_ipamd_serves_after_the_first_was_killed() {
    let mut node = node(5);
    let sandbox = Sandbox::new();
    let address = add(&node, "c1", &sandbox);
    let second = Second::start(&node, &[]);
    wait::until("the second waits", || second.log().contains("process id"));
    node.kill_ipamd();
    wait::until("the second serves", || node.ipamctl(&["status"]).is_ok());
    assert_eq!(node.ask("status")["pid"], second.child.id());
    assert_eq!(Call::new(&node, "ADD").of("c1", &sandbox.path()).pod("c1").ok().address(), address);
    let other = Sandbox::new();
    assert_ne!(add(&node, "c2", &other), address);
}

#[test]
fn netns_a_second_ipamd_takes_over_when_told_to() {
    let node = node(5);
    let sandbox = Sandbox::new();
    add(&node, "c1", &sandbox);
    let second = Second::start(&node, &["--take-over"]);
    wait::until("the second serves", || {
        node.ipamctl(&["--output", "json", "status"])
            .is_ok_and(|t| t.contains(&format!("\"pid\": {}", second.child.id())))
    });
    assert_eq!(node.ask("attachments").as_array().map(Vec::len), Some(1));
}

#[test]
fn netns_another_run_folder_does_not_make_another_place() {
    let node = node(5);
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("ipamd.toml");
    let run_dir = folder.path().join("run");
    std::fs::write(&config, format!("[paths]\nrun_dir = {run_dir:?}\n[metrics]\nlisten = \"\"\n")).unwrap();
    let second = Second::spawn(node.ipamd_with(&config), folder.path().join("log"));
    wait::until("it waits", || second.log().contains("another run folder"));
    assert!(!run_dir.join("cni.sock").exists(), "it serves nothing");
    Call::new(&node, "STATUS").ok();
}

#[test]
fn netns_an_unprivileged_user_keeps_nobody_out() {
    let mut node = Node::without_ipamd(&Options { secondary: 5, ..Options::default() });
    // What a local user can make: a folder of its own, an abstract socket, a lock on a file that it may read.
    let folder = tempfile::Builder::new().prefix("eni-foreign-").tempdir().unwrap();
    sh(&format!("chown 65534 {}", folder.path().display()));
    let config = folder.path().join("c.toml");
    std::fs::write(&config, format!("[paths]\nrun_dir = {:?}\n", folder.path())).unwrap();
    let refused = run(
        &eni_tests::programs::program("ipamd").display().to_string(),
        &["--config", &config.display().to_string()],
    )
    .unwrap_err();
    assert!(refused.contains("must be a folder of root's"), "{refused}");
    let tried = run(
        "nsenter",
        &[
            &format!("--net=/run/netns/{}", node.netns("node")),
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "--bounding-set=-all",
            "nft",
            "add table ip eni-cni-lock { flags owner; }",
        ],
    );
    assert!(tried.is_err(), "nft is refused to a user");
    node.start_ipamd();
    node.wait_ready();
}
