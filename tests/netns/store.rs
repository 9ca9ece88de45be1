//! A store that cannot be used: ipamd ends with the reason, and the file stays as it is.

use eni_tests::cni::{Call, add};
use eni_tests::node::{Node, Options};
use eni_tests::sandbox::Sandbox;
use eni_tests::wait;
use std::fs::{self, File};
use std::io::Write;

/// Starts ipamd on a node whose store is as it is; the reason that it ends with.
fn reason(node: &mut Node) -> String {
    let before = fs::read(node.run_dir().join("ipamd.redb")).ok();
    node.start_ipamd();
    let mut code = None;
    wait::until("ipamd ends", || {
        code = node.ipamd_ended();
        code.is_some()
    });
    assert_eq!(code, Some(Some(1)), "it ends with its reason, not a crash");
    assert_eq!(fs::read(node.run_dir().join("ipamd.redb")).ok(), before, "the file is untouched");
    assert!(!node.run_dir().join("ipamd.redb.trial").exists(), "no copy stays");
    node.log()
}

#[test]
fn netns_damaged_locked_and_unreadable_stores_end_with_their_reason() {
    let mut node = Node::new(&Options { secondary: 5, ..Options::default() });
    let sandbox = Sandbox::new();
    add(&node, "c1", &sandbox);
    node.stop_ipamd();
    let path = node.run_dir().join("ipamd.redb");
    let sound = fs::read(&path).unwrap();
    for at in (0..sound.len()).step_by(997) {
        let mut damaged = sound.clone();
        damaged[at..(at + 64).min(sound.len())].fill(0xa5);
        fs::write(&path, &damaged).unwrap();
        if at % (997 * 16) == 0 {
            node.start_ipamd();
            wait::until("it serves or ends", || {
                node.ipamd_ended().is_some() || node.ipamctl(&["status"]).is_ok()
            });
            assert!(!node.log().contains("panicked at ipamd"), "{}", node.log());
            node.kill_ipamd();
        }
    }
    fs::write(&path, b"not a store at all, but long enough to be looked at".repeat(20)).unwrap();
    let log = reason(&mut node);
    assert!(log.contains("ipamd.redb"), "{log}");
    fs::write(&path, &sound).unwrap();
    let holder = File::open(&path).unwrap();
    holder.lock().unwrap();
    assert!(reason(&mut node).contains("open in another process"));
    drop(holder);
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    node.start_ipamd();
    wait::until("ipamd ends", || node.ipamd_ended().is_some());
    assert!(node.log().contains("not a regular file"));
    fs::remove_dir(&path).unwrap();
    fs::write(&path, &sound).unwrap();
    node.start_ipamd();
    node.wait_ready();
    assert_eq!(node.ask("attachments")[0]["state"], "live", "the sound file serves as before");
}

#[test]
fn netns_a_deleted_store_is_rebuilt_from_the_links() {
    let mut node = Node::new(&Options { secondary: 5, ..Options::default() });
    let sandbox = Sandbox::new();
    let address = add(&node, "c1", &sandbox);
    node.stop_ipamd();
    fs::remove_file(node.run_dir().join("ipamd.redb")).unwrap();
    node.start_ipamd();
    node.wait_ready();
    let rebuilt = node.ask("attachments");
    assert_eq!((&rebuilt[0]["container"], &rebuilt[0]["state"]), (&"c1".into(), &"live".into()), "{rebuilt}");
    assert_eq!(rebuilt[0]["addresses"][0], address.to_string());
    wait::until("its ENI is known", || node.ask("attachments")[0]["eni"] == "eni-0e1c0000000000001");
    assert!(eni_tests::traffic::ping(sandbox.name(), node.address("peer_address"), None));
    eni_tests::cni::del(&node, "c1", &sandbox.path());
    wait::until("it is gone", || sandbox.address("eth0").is_none());
}

#[test]
fn netns_a_store_of_a_newer_schema_is_left_as_it_is() {
    let mut node = Node::new(&Options { secondary: 5, ..Options::default() });
    let sandbox = Sandbox::new();
    add(&node, "c1", &sandbox);
    node.stop_ipamd();
    let path = node.run_dir().join("ipamd.redb");
    let sound = fs::read(&path).unwrap();
    let (known, newer) = (b"schema\0\0\0\x01", b"schema\0\0\0\x02");
    let mut changed = sound.clone();
    let places: Vec<usize> =
        (0..sound.len() - known.len()).filter(|at| sound[*at..].starts_with(known)).collect();
    assert!(!places.is_empty(), "the schema's number is found");
    for at in places {
        changed[at..at + newer.len()].copy_from_slice(newer);
    }
    fs::write(&path, &changed).unwrap();
    let log = reason(&mut node);
    assert!(log.contains("schema 2") && log.contains("start the newer ipamd again"), "{log}");
    assert!(!log.contains("damaged"), "{log}");
    fs::write(&path, &sound).unwrap();
    node.start_ipamd();
    node.wait_ready();
    assert_eq!(node.ask("attachments")[0]["state"], "live", "the older file serves as before");
}

/// Fills the node's tmpfs until commits fail, takes the store's file away, and makes room again.
fn take_the_file_away(node: &Node) {
    let filler = node.run_dir().join("filler");
    let mut file = File::create(&filler).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
    let sandbox = Sandbox::new();
    let mut n = 0;
    wait::until("commits fail", || {
        n += 1;
        let name = format!("full{n}");
        let failed = Call::new(node, "ADD").of(&name, &sandbox.path()).run().code != Some(0);
        Call::new(node, "DEL").of(&name, &sandbox.path()).run();
        failed && node.ask("status")["reasons"].to_string().contains("the store")
    });
    fs::remove_file(node.run_dir().join("ipamd.redb")).unwrap();
    fs::remove_file(filler).unwrap();
}

#[test]
fn netns_a_file_taken_away_while_the_disk_was_full_is_written_anew_whole() {
    let mut node = Node::new(&Options { secondary: 9, cooldown_ms: 0, ..Options::default() });
    let sandboxes: Vec<Sandbox> = (0..4).map(|_| Sandbox::new()).collect();
    for (n, sandbox) in sandboxes[..3].iter().enumerate() {
        add(&node, &format!("c{n}"), sandbox);
    }
    take_the_file_away(&node);
    wait::until("an ADD is recorded", || {
        Call::new(&node, "ADD").of("c3", &sandboxes[3].path()).run().code == Some(0)
    });
    node.kill_ipamd();
    node.start_ipamd();
    node.wait_ready();
    let live = node.ask("attachments").as_array().unwrap().iter().filter(|a| a["state"] == "live").count();
    assert_eq!(live, 4, "{}", node.ask("attachments"));
    for sandbox in &sandboxes {
        assert!(eni_tests::traffic::ping(sandbox.name(), node.address("peer_address"), None));
    }
    assert!(!node.log().contains("orphan"), "{}", node.log());
}
