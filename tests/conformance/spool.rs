//! DELs that no ipamd answers: success by a tombstone, which is done once, and never to what is newer or another's.

use eni_proto::ids::{AttachmentKey, BootId, NetnsCookie};
use eni_proto::spool::{FILE_MAX, Tombstone, file_name};
use eni_tests::cni::{Call, add, del};
use eni_tests::node::Node;
use eni_tests::sandbox::Sandbox;
use eni_tests::wait;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;

fn spool(node: &Node) -> PathBuf {
    node.run_dir().join("spool")
}

fn key(container: &str) -> AttachmentKey {
    AttachmentKey {
        network: "vpc".parse().unwrap(),
        container: container.parse().unwrap(),
        ifname: "eth0".parse().unwrap(),
    }
}

/// A DEL that gives up on ipamd after a second instead of two.
fn delete(node: &Node, container: &str, netns: &str) -> Call {
    Call::new(node, "DEL").of(container, netns).conf("deadline_ms", json!(1000))
}

fn read(node: &Node, container: &str) -> Tombstone {
    let text = fs::read(spool(node).join(file_name(&key(container)))).expect("its tombstone is there");
    serde_json::from_slice(&text).unwrap()
}

fn bury(node: &Node, tombstone: &Tombstone) {
    let new = node.run_dir().join("tombstone");
    fs::write(&new, serde_json::to_vec(tombstone).unwrap()).unwrap();
    fs::rename(new, spool(node).join(file_name(&tombstone.key))).unwrap();
}

fn is_empty(node: &Node) -> bool {
    fs::read_dir(spool(node)).unwrap().next().is_none()
}

/// The containers that have a live attachment.
fn live(node: &Node) -> Vec<String> {
    let attachments = node.ask("attachments");
    let live = attachments.as_array().unwrap().iter().filter(|a| a["state"] == "live");
    let mut live: Vec<String> = live.map(|a| a["container"].as_str().unwrap().to_owned()).collect();
    live.sort();
    live
}

/// What does not belong into a spool, and more of it than one look takes.
fn fill_with_rubbish(node: &Node) {
    let spool = spool(node);
    for n in 0..5000 {
        fs::write(spool.join(format!("rubbish-{n}")), "x").unwrap();
    }
    for (container, text) in
        [("half", "{\"version\":1,\"key\"".to_owned()), ("huge", " ".repeat(FILE_MAX + 1))]
    {
        fs::write(spool.join(file_name(&key(container))), text).unwrap();
    }
    fs::write(spool.join(format!("{}.1.1.new", file_name(&key("never-finished")))), "{").unwrap();
    std::os::unix::fs::symlink("/dev/zero", spool.join(file_name(&key("link")))).unwrap();
    fs::create_dir(spool.join(file_name(&key("folder")))).unwrap();
}

#[test]
fn cni_dels_without_a_daemon_succeed_and_are_done_by_the_next_one() {
    let mut node = crate::node(9);
    let sandboxes: Vec<Sandbox> = (0..6).map(|_| Sandbox::new()).collect();
    for (n, sandbox) in sandboxes.iter().enumerate() {
        add(&node, &format!("c{n}"), sandbox);
    }
    let path = |n: usize| sandboxes[n].path();
    node.kill_ipamd();
    // Three times, as kubelet does, with and without its sandbox; of one that never was; and where nothing of ours is.
    let own = node.run_dir().join("not-a-folder");
    fs::write(&own, "").unwrap();
    let succeed = [
        delete(&node, "c0", &path(0)).start(),
        delete(&node, "c0", &path(0)).start(),
        delete(&node, "c0", &path(0)).start(),
        delete(&node, "c1", "").start(),
        delete(&node, "c1", "/run/netns/gone").start(),
        delete(&node, "never-added", "").start(),
        delete(&node, "c2", &path(2)).conf("socket", json!("/run/eni-none/cni.sock")).start(),
    ];
    let unwritable = delete(&node, "c2", &path(2)).conf("spool", json!(own)).start();
    for call in succeed {
        let answer = call.end();
        assert_eq!((answer.code, answer.stdout.as_str()), (Some(0), ""), "{}", answer.stderr);
    }
    let answer = unwritable.end();
    assert_eq!(answer.error(), 11, "a DEL that is written down nowhere is no success");
    assert!(
        answer.stdout.contains("not-a-folder") && answer.stdout.contains("systemctl"),
        "{}",
        answer.stdout
    );

    let first = read(&node, "c0");
    assert!(first.netns_cookie.is_some() && read(&node, "c1").netns_cookie.is_none());
    assert_eq!(fs::read_dir(spool(&node)).unwrap().count(), 3, "one file per key, none half-made");
    // Tombstones that mean something else than what is there now.
    let of = |container: &str| Tombstone { key: key(container), netns_cookie: None, ..first.clone() };
    let other = NetnsCookie(first.netns_cookie.unwrap().0 + 1_000_000);
    bury(&node, &Tombstone { netns_cookie: Some(other), ..of("c3") });
    bury(&node, &Tombstone { boot: BootId::new("another"), ..of("c4") });
    bury(&node, &Tombstone { asked_ns: 1, ..of("c5") });
    fill_with_rubbish(&node);
    node.start_ipamd();
    // An ADD of what was deleted meanwhile waits for nothing and is not taken by the tombstone of before.
    let again = Call::new(&node, "ADD").of("c0", &path(0)).pod("c0").ok().address();
    wait::until("the spool is empty", || is_empty(&node));
    wait::until("what was deleted is gone", || live(&node) == ["c0", "c2", "c3", "c4", "c5"]);
    assert_eq!(sandboxes[0].address("eth0"), Some(again));
    wait::until("c1's sandbox has lost its link", || sandboxes[1].address("eth0").is_none());
    let counted = |outcome: &str| node.metric("eni_ipamd_tombstones_total", outcome);
    assert_eq!((counted("done"), counted("dropped")), (2.0, 4.0));
    assert!(counted("rejected") >= 5000.0);
    let log = node.log();
    for words in ["another sandbox", "of another boot", "older than the attachment", "no such attachment"] {
        assert!(log.contains(words), "{words}");
    }
    for n in [0, 2, 3, 4, 5] {
        del(&node, &format!("c{n}"), &path(n));
    }
}

#[test]
fn cni_a_del_whose_answer_is_late_is_done_when_ipamd_goes_on() {
    let mut node = crate::node(5);
    let (one, two) = (Sandbox::new(), Sandbox::new());
    add(&node, "c1", &one);
    add(&node, "c2", &two);
    node.signal_ipamd(Signal::SIGSTOP);
    // An ADD that nobody waits for any more lies in the backlog, too.
    let third = Sandbox::new();
    let given_up = Call::new(&node, "ADD").of("c3", &third.path()).conf("deadline_ms", json!(1000)).start();
    let answer = delete(&node, "c1", &one.path()).run();
    assert_eq!((answer.code, answer.stdout.as_str()), (Some(0), ""));
    assert_eq!(given_up.end().error(), 11);
    let late = read(&node, "c1");
    node.signal_ipamd(Signal::SIGCONT);
    wait::until("it is done", || live(&node) == ["c2"] && is_empty(&node));
    wait::until("by its tombstone alone", || {
        let log = node.log();
        ["ADD", "DEL"]
            .iter()
            .all(|verb| log.contains(&format!("{verb} whose plugin is gone already is not begun")))
    });
    // The same id, a moment later; then what is left of the old DEL comes again.
    let address = add(&node, "c1", &one);
    bury(&node, &late);
    wait::until("it is dropped", || is_empty(&node));
    assert_eq!((live(&node), one.address("eth0")), (vec!["c1".to_owned(), "c2".to_owned()], Some(address)));
    // One that comes while ipamd runs is done at once.
    let asked_ns = u64::try_from(eni_proto::client::boottime().as_nanos()).unwrap();
    bury(&node, &Tombstone { asked_ns, ..late });
    wait::until("it is done", || live(&node) == ["c2"] && is_empty(&node));
    // Somebody tidied up.
    fs::remove_dir_all(spool(&node)).unwrap();
    wait::until("the spool is made again", || spool(&node).is_dir());
    node.kill_ipamd();
    assert_eq!(delete(&node, "c2", "").run().code, Some(0));
    node.start_ipamd();
    node.wait_ready();
    wait::until("it is done", || node.ask("attachments") == Value::Array(Vec::new()));
}
