//! A running `embedded-vpc`, and a way to ask it and to run things in its namespaces.
//!
//! Owns the process, its socket's folder and the end of both.

use embedded_vpc::control::{Answer, Request, Topology};
use eni_proto::ids::EniId;
use ipamd_core::cloud::{EniAttachmentStatus, EniObservation, Mutated, Mutation};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

static NEXT: AtomicU32 = AtomicU32::new(1);
/// Between two looks; so many of them are longer than anything here takes on a busy machine.
const PAUSE: Duration = Duration::from_millis(5);
const LOOKS: u32 = 4_000;

/// Waits until something holds.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..LOOKS {
        if holds() {
            return;
        }
        thread::sleep(PAUSE);
    }
    panic!("waited in vain until {what}");
}

/// A running one.
pub(crate) struct Vpc {
    program: Child,
    prefix: String,
    folder: PathBuf,
    pub(crate) topology: Topology,
}

impl Vpc {
    pub(crate) fn new(options: &[&str]) -> Vpc {
        assert!(nix::unistd::geteuid().is_root(), "this needs root: network namespaces");
        let (own, number) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        // `./dev clean` finds by these names what a killed process of this number has left.
        let prefix = format!("en{own}-{number}");
        let folder = std::env::temp_dir().join(format!("eni-node-{own}-vpc-{number}"));
        std::fs::create_dir(&folder).expect("a folder");
        // It takes its network away when its maker is killed.
        let mut program = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", env!("CARGO_BIN_EXE_embedded-vpc"), "run", "--prefix", &prefix])
            .arg("--control")
            .arg(folder.join("control.sock"))
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("embedded-vpc starts");
        let mut line = String::new();
        let stdout = program.stdout.take().expect("it is piped");
        BufReader::new(stdout).read_line(&mut line).expect("embedded-vpc prints its topology");
        let topology = serde_json::from_str(&line).expect("embedded-vpc has said why it did not start");
        Vpc { program, prefix, folder, topology }
    }

    pub(crate) fn ask(&self, request: &Request) -> Answer {
        let mut stream = UnixStream::connect(self.folder.join("control.sock")).expect("it is reached");
        let mut line = serde_json::to_string(request).expect("a request is JSON");
        line.push('\n');
        stream.write_all(line.as_bytes()).expect("it reads");
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).expect("it answers");
        serde_json::from_str(&answer).expect("an answer")
    }

    pub(crate) fn mutated(&self, mutation: &Mutation) -> Mutated {
        match self.ask(&Request::Mutate(mutation.clone())) {
            Answer::Mutated(mutated) => mutated,
            other => panic!("{mutation:?}: {other:?}"),
        }
    }

    pub(crate) fn created(&self, secondary: u32) -> EniObservation {
        let create = Mutation::Create {
            subnet: self.enis()[0].subnet.clone(),
            security_groups: Vec::new(),
            secondary,
            prefixes: 0,
            tags: BTreeMap::new(),
            token: String::new(),
        };
        let Mutated::Created(eni) = self.mutated(&create) else { panic!("create answers an ENI") };
        eni
    }

    pub(crate) fn attach(&self, eni: &EniId, device_index: u32) -> Mutation {
        let primary = self.enis()[0].attachment.clone().expect("the primary is attached");
        Mutation::Attach { eni: eni.clone(), instance: primary.instance, device_index }
    }

    pub(crate) fn attached(&self, eni: &EniObservation, device_index: u32) {
        self.mutated(&self.attach(&eni.id, device_index));
        until("it is attached", || self.status(&eni.id) == Some(EniAttachmentStatus::Attached));
    }

    pub(crate) fn enis(&self) -> Vec<EniObservation> {
        let Answer::Enis(enis) = self.ask(&Request::Enis) else { panic!("enis answers ENIs") };
        enis
    }

    pub(crate) fn status(&self, eni: &EniId) -> Option<EniAttachmentStatus> {
        let seen = self.enis().into_iter().find(|e| e.id == *eni).expect("it is there");
        seen.attachment.map(|a| a.status)
    }

    pub(crate) fn drops(&self) -> BTreeMap<String, u64> {
        let Answer::Drops(drops) = self.ask(&Request::Drops) else { panic!("drops answers counts") };
        drops
    }

    /// Lines of `ip`, in the namespace of a role.
    pub(crate) fn ip(&self, role: &str, lines: &str) -> String {
        let mut printed = String::new();
        for line in lines.lines() {
            let output = self.inside(role, "ip").args(line.split(' ')).output().expect("ip runs");
            assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
            printed += &String::from_utf8_lossy(&output.stdout);
        }
        printed
    }

    pub(crate) fn has_link(&self, role: &str, link: &str) -> bool {
        self.ip(role, "-o link show\n").contains(&format!(": {link}@"))
    }

    /// One ping.
    pub(crate) fn pings(&self, role: &str, arguments: &[&str]) -> bool {
        let mut ping = self.inside(role, "ping");
        ping.args(["-n", "-q", "-c", "1", "-W", "1"]).args(arguments);
        ping.output().expect("ping runs").status.success()
    }

    pub(crate) fn inside(&self, role: &str, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}-{role}", self.prefix)).arg(program);
        command
    }
}

impl Drop for Vpc {
    fn drop(&mut self) {
        // The test may be failing because it has ended.
        if let Ok(pid) = i32::try_from(self.program.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let _ = self.program.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
