//! What happens to the store's file: damage, deletion, a full disk, at start and under live traffic.
//!
//! Owns what is done to the file. What is damaged is set aside and rebuilt; what is not (locked, no file, a newer schema)
//! ends ipamd with the reason, and the file stays as it is.

use crate::crowd::{Crowd, is_ready, records, sound};
use eni_tests::cni::{Call, add, del};
use eni_tests::node::{Node, Options};
use eni_tests::sandbox::Sandbox;
use eni_tests::wait;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

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
    node.log()
}

#[test]
fn crash_locked_and_unreadable_stores_end_with_their_reason() {
    let mut node = Node::new(&Options { secondary: 5, ..Options::default() });
    let sandbox = Sandbox::new();
    add(&node, "c1", &sandbox);
    node.stop_ipamd();
    let path = node.run_dir().join("ipamd.redb");
    let sound = fs::read(&path).unwrap();
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

/// Overwrites bytes in several places of every page but the first, as only a fault or another program would.
fn damage(path: &Path) {
    let file = File::options().write(true).open(path).unwrap();
    let length = file.metadata().unwrap().len();
    for page in (4096..length).step_by(4096) {
        for at in [0, 100, 1000, 3000] {
            file.write_all_at(&[0xa5; 16], page + at).unwrap();
        }
    }
}

/// A node that has filled its first ENI: containers on two.
fn on_two_enis() -> (Node, Crowd) {
    let config = "[capacity]\nwarm_enis = 0\n".to_owned();
    let options = Options { instance_type: "test.2x6", secondary: 5, config, ..Options::default() };
    let node = Node::new(&options);
    let crowd = Crowd::new(&node, 7);
    (node, crowd)
}

fn replaced(node: &Node, why: &str) -> f64 {
    node.metric("eni_ipamd_store_replaced_total", &format!("reason=\"{why}\""))
}

#[test]
fn crash_a_store_that_is_damaged_at_start_is_set_aside_and_rebuilt() {
    let (mut node, crowd) = on_two_enis();
    let path = node.run_dir().join("ipamd.redb");
    type Damage = fn(&Path);
    let ways: [Damage; 4] = [
        damage,
        |path| fs::write(path, b"not a store at all, but long enough to be looked at".repeat(20)).unwrap(),
        |path| File::options().write(true).open(path).unwrap().set_len(8192).unwrap(),
        |path| File::options().write(true).open(path).unwrap().write_all_at(&[0xa5; 4096], 0).unwrap(),
    ];
    for (round, way) in ways.iter().enumerate() {
        if round % 2 == 0 {
            node.stop_ipamd();
        } else {
            node.kill_ipamd();
        }
        way(&path);
        node.start_ipamd();
        wait::until("it serves", || is_ready(&node));
        assert_eq!(replaced(&node, "damaged"), 1.0, "round {round}: {}", node.log());
        assert!(node.log().contains("the store was damaged"), "{}", node.log());
        wait::until("their ENIs are known", || {
            !records(&node).iter().any(|r| r["eni"].as_str().unwrap().contains("unknown"))
        });
        crowd.recorded(&node, &format!("round {round}"));
        crowd.talks(&format!("round {round}"));
        sound(&node, 10, &format!("round {round}"));
        assert_eq!(node.ec2_enis().len(), 2, "no ENI was lost or made");
    }
    let kept = fs::read_dir(node.run_dir()).unwrap();
    let kept = kept.filter(|f| f.as_ref().unwrap().file_name().to_string_lossy().contains("damaged"));
    assert_eq!(kept.count(), 2, "the last two are kept");
    assert_eq!(node.drops("v1") + node.drops("v2"), 0);
}

#[test]
fn crash_a_store_that_is_damaged_under_traffic_is_written_anew_from_memory() {
    let (mut node, crowd) = on_two_enis();
    let path = node.run_dir().join("ipamd.redb");
    let sandbox = Sandbox::new();
    for round in 1..4 {
        damage(&path);
        let mut n = 0;
        wait::until("the damage is noticed", || {
            n += 1;
            let name = format!("t{round}-{n}");
            add(&node, &name, &sandbox);
            del(&node, &name, &sandbox.path());
            replaced(&node, "foreign") + replaced(&node, "damaged") >= f64::from(round)
        });
        crowd.talks("in a damaged store");
        crowd.recorded(&node, "in a damaged store");
    }
    sound(&node, 10, "after all damage");
    // What was written anew is whole: nothing has to be rebuilt.
    node.kill_ipamd();
    node.start_ipamd();
    wait::until("it serves", || is_ready(&node));
    assert_eq!(replaced(&node, "damaged"), 0.0);
    assert!(!node.log().contains("rebuilt from its link"), "{}", node.log());
    crowd.recorded(&node, "after a restart");
    crowd.talks("after a restart");
    sound(&node, 10, "after a restart");
}

#[test]
fn crash_a_file_that_is_deleted_while_all_is_well_is_written_anew() {
    let (mut node, crowd) = on_two_enis();
    let path = node.run_dir().join("ipamd.redb");
    fs::remove_file(&path).unwrap();
    let sandbox = Sandbox::new();
    wait::until("it is noticed", || {
        add(&node, "t", &sandbox);
        del(&node, "t", &sandbox.path());
        path.exists()
    });
    assert_eq!(replaced(&node, "taken_away"), 1.0);
    sound(&node, 10, "with a new file");
    node.kill_ipamd();
    node.start_ipamd();
    wait::until("it serves", || is_ready(&node));
    assert!(!node.log().contains("rebuilt from its link"), "{}", node.log());
    crowd.recorded(&node, "after a restart");
    crowd.talks("after a restart");
}

/// Somebody else's file, on the node's tmpfs, that takes whatever room there is.
struct Filler(PathBuf);

impl Filler {
    fn new(node: &Node) -> Filler {
        Filler(node.run_dir().join("filler"))
    }

    /// To the last byte.
    fn fill(&self) {
        let mut file = File::options().create(true).append(true).open(&self.0).unwrap();
        for size in [64 * 1024, 4096, 1] {
            while file.write_all(&vec![1; size]).is_ok() {}
        }
    }
}

#[test]
fn crash_a_full_disk_is_lived_through() {
    let node = Node::new(&Options { secondary: 40, ..Options::default() });
    let crowd = Crowd::new(&node, 3);
    let others: Vec<Sandbox> = (0..24).map(|_| Sandbox::new()).collect();
    let call = |verb: &str, n: usize| Call::new(&node, verb).of(&format!("o{n}"), &others[n].path()).run();
    for n in 0..16 {
        assert_eq!(call("ADD", n).code, Some(0));
    }
    let filler = Filler::new(&node);
    filler.fill();
    // ADDs go on until one finds no room: what room there is by then is the reserve's, and for DELs.
    let reserve = node.run_dir().join("ipamd.redb.reserve");
    let mut added = 16;
    let refused = (16..24).cycle().take(4000).find_map(|n| {
        if reserve.exists() {
            filler.fill();
        }
        let answer = call("ADD", n);
        if answer.code != Some(0) {
            return Some(answer);
        }
        added += 1;
        assert_eq!(call("DEL", n).code, Some(0));
        None
    });
    let refused = refused.unwrap_or_else(|| panic!("{added} ADDs found room on a full disk"));
    assert_eq!(refused.error(), 11, "{}", refused.stdout);
    assert!(refused.stdout.contains("the store's disk is full"), "{}", refused.stdout);
    assert_eq!(Call::new(&node, "STATUS").run().code, Some(1), "no ADD can be served now");
    crowd.talks("on a full disk");
    for n in 0..8 {
        assert_eq!(call("DEL", n).code, Some(0), "a DEL on a full disk: {}", node.log());
        let answer = call("ADD", n + 16);
        assert_eq!(answer.error(), 11, "{}", answer.stdout);
    }
    // Who is there already is answered as before: that needs no room.
    assert_eq!(call("ADD", 9).code, Some(0));
    fs::remove_file(&filler.0).unwrap();
    wait::until("ADDs work again", || call("ADD", 0).code == Some(0));
    Call::new(&node, "STATUS").ok();
    for n in 0..16 {
        assert_eq!(call("DEL", n).code, Some(0));
    }
    crowd.recorded(&node, "with room again");
    crowd.talks("with room again");
    sound(&node, 40, "with room again");
    assert!(reserve.exists(), "it is laid again");
    assert_eq!(node.log().matches("serving").count(), 1, "it is the same ipamd");
}

#[test]
fn crash_ipamd_started_on_a_full_disk_serves_dels() {
    let mut node = Node::new(&Options { secondary: 9, ..Options::default() });
    let crowd = Crowd::new(&node, 3);
    let sandbox = Sandbox::new();
    add(&node, "c1", &sandbox);
    let filler = Filler::new(&node);
    filler.fill();
    node.kill_ipamd();
    filler.fill();
    node.start_ipamd();
    wait::until("it serves", || is_ready(&node));
    del(&node, "c1", &sandbox.path());
    crowd.recorded(&node, "on a full disk");
    crowd.talks("on a full disk");
    fs::remove_file(&filler.0).unwrap();
    wait::until("ADDs work again", || {
        Call::new(&node, "ADD").of("c2", &sandbox.path()).run().code == Some(0)
    });
    sound(&node, 9, "with room again");
}

#[test]
fn crash_a_deleted_store_is_rebuilt_from_the_links() {
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
fn crash_a_store_that_is_deleted_while_ec2_is_away_does_not_take_the_node_out_of_service() {
    let mut node = Node::new(&Options { secondary: 5, ..Options::default() });
    let sandbox = Sandbox::new();
    add(&node, "c1", &sandbox);
    wait::until("the stamp is there", || node.run_dir().join("stamp.json").exists());
    node.stop_ipamd();
    fs::remove_file(node.run_dir().join("ipamd.redb")).unwrap();
    node.cloud_fault("InstanceIdentity", "InternalError", 1_000_000);
    node.start_ipamd();
    wait::until("it answers", || node.ipamctl(&["attachments"]).is_ok());
    // ipamctl tells a node that is not ready by its exit code, too.
    let (_, text) = node.http("GET", "/v1/status");
    let status: serde_json::Value = serde_json::from_str(&text).unwrap();
    let status = &status["data"];
    assert_eq!((&status["ready"], &status["cni_status"]), (&false.into(), &0.into()), "{status}");
    assert_eq!(node.ask("attachments")[0]["state"], "live");
}

#[test]
fn crash_a_store_of_a_newer_schema_is_left_as_it_is() {
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
