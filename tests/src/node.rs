//! A whole node: the embedded VPC, ipamd in the node's namespace with CAP_NET_ADMIN as its only capability, its store
//! on a tmpfs of its own.
//!
//! Owns these processes, the namespaces and the mount.

use crate::programs::{program, run, sh};
use crate::wait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use tempfile::TempDir;

static NEXT: AtomicU32 = AtomicU32::new(1);

/// What a node is made with.
#[derive(Debug, Clone)]
pub struct Options {
    /// The instance's type; empty: one that carries its primary ENI and no more, so that the pool does not grow.
    pub instance_type: &'static str,
    /// How many secondary addresses the primary ENI has at boot.
    pub secondary: u32,
    /// The cooldown.
    pub cooldown_ms: u64,
    /// The level of ipamd's log.
    pub log: &'static str,
    /// Where `/metrics` is served over TCP; empty: nowhere.
    pub metrics_listen: &'static str,
    /// The time between ipamd's looks at EC2 while something is on its way there.
    pub poll_ms: u64,
    /// The time between its looks otherwise.
    pub describe_ms: u64,
    /// The time between its looks at the host's network while nothing tells of a change.
    pub host_ms: u64,
    /// How long ipamd may be silent before STATUS fails.
    pub status_grace_ms: u64,
    /// Words that are added to the embedded VPC's command line.
    pub vpc_args: &'static [&'static str],
    /// Lines that are added to ipamd's configuration.
    pub config: String,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            instance_type: "",
            secondary: 29,
            cooldown_ms: 0,
            log: "debug",
            metrics_listen: "",
            poll_ms: 50,
            describe_ms: 30_000,
            host_ms: 60_000,
            status_grace_ms: 60_000,
            vpc_args: &[],
            config: String::new(),
        }
    }
}

/// A node.
pub struct Node {
    prefix: String,
    folder: TempDir,
    vpc: Child,
    ipamd: Option<Child>,
    topology: Value,
}

impl Node {
    /// A node that serves ADDs.
    pub fn new(options: &Options) -> Node {
        let mut node = Node::without_ipamd(options);
        node.start_ipamd();
        node.wait_ready();
        node
    }

    /// The embedded VPC alone, and ipamd's configuration.
    pub fn without_ipamd(options: &Options) -> Node {
        assert!(nix::unistd::geteuid().is_root(), "this needs root: network namespaces");
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // `./dev clean` finds by these names what a killed process of this number has left.
        let own = std::process::id();
        let prefix = format!("en{own}-{number}");
        let folder =
            tempfile::Builder::new().prefix(&format!("eni-node-{own}-")).tempdir().expect("a folder");
        let run_dir = folder.path().join("run");
        fs::create_dir(&run_dir).expect("a folder");
        sh(&format!("mount -t tmpfs -o size=64m,mode=0700 eni-test {}", run_dir.display()));
        let control = folder.path().join("control.sock");
        let instance_type = match options.instance_type {
            "" => format!("test.1x{}", options.secondary + 1),
            named => named.to_owned(),
        };
        // It takes its network away when its maker is killed.
        let mut vpc = Command::new("setpriv")
            .args(["--pdeathsig", "TERM"])
            .arg(program("embedded-vpc"))
            .args(["run", "--prefix", &prefix, "--instance-type", &instance_type])
            .args(["--secondary", &options.secondary.to_string()])
            .args(options.vpc_args)
            .arg("--control")
            .arg(&control)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("embedded-vpc starts");
        let mut line = String::new();
        let stdout = vpc.stdout.take().expect("it is piped");
        BufReader::new(stdout).read_line(&mut line).expect("embedded-vpc prints its topology");
        let topology =
            serde_json::from_str(&line).unwrap_or_else(|e| panic!("embedded-vpc did not start: {e}"));
        let config = format!(
            "[paths]\nrun_dir = \"{}\"\n[cloud]\ncontrol = \"{}\"\n[pool]\ncooldown_ms = {}\nstatus_when_full = \"ok\"\n\
             [metrics]\nlisten = \"{}\"\n[timing]\npoll_ms = {}\ndescribe_period_ms = {}\nhost_period_ms = {}\n\
             status_grace_ms = {}\n[log]\nlevel = \"{}\"\n{}",
            run_dir.display(),
            control.display(),
            options.cooldown_ms,
            options.metrics_listen,
            options.poll_ms,
            options.describe_ms,
            options.host_ms,
            options.status_grace_ms,
            options.log,
            options.config
        );
        fs::write(folder.path().join("ipamd.toml"), config).expect("the configuration is written");
        Node { prefix, folder, vpc, ipamd: None, topology }
    }

    /// Changes ipamd's configuration, from its next start on.
    pub fn configure(&self, from: &str, to: &str) {
        let path = self.folder.path().join("ipamd.toml");
        let text = fs::read_to_string(&path).expect("the configuration is there");
        assert!(text.contains(from), "{from} is not in {text}");
        fs::write(path, text.replace(from, to)).expect("the configuration is written");
    }

    /// A command that runs ipamd in the node's namespace, with CAP_NET_ADMIN alone.
    pub fn ipamd_command(&self) -> Command {
        self.ipamd_with(&self.folder.path().join("ipamd.toml"))
    }

    /// The same with another configuration.
    pub fn ipamd_with(&self, config: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{}", self.netns("node")))
            .args([
                "setpriv",
                "--pdeathsig",
                "KILL",
                "--bounding-set=-all,+net_admin",
                "--inh-caps=-all,+net_admin",
            ])
            .arg(program("ipamd"))
            .arg("--config")
            .arg(config)
            .stdin(Stdio::null());
        command
    }

    /// Starts ipamd; it is not waited for.
    pub fn start_ipamd(&mut self) {
        self.start_ipamd_by(&[]);
    }

    /// Starts ipamd by another program: `prlimit …`.
    pub fn start_ipamd_by(&mut self, wrapper: &[&str]) {
        let log = File::options().create(true).append(true).open(self.log_path()).expect("the log opens");
        let ipamd = self.ipamd_command();
        let words = wrapper.iter().map(AsRef::as_ref).chain([ipamd.get_program()]).chain(ipamd.get_args());
        let words: Vec<_> = words.collect();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).stdin(Stdio::null()).stderr(log);
        self.ipamd = Some(command.spawn().expect("ipamd starts"));
    }

    /// Starts another ipamd, with these words more: from now on it is the node's. The one before, if it was not waited for.
    pub fn start_another(&mut self, more: &[&str]) -> Option<Child> {
        let before = self.ipamd.take();
        let log = File::options().create(true).append(true).open(self.log_path()).expect("the log opens");
        let mut command = self.ipamd_command();
        self.ipamd = Some(command.args(more).stderr(log).spawn().expect("ipamd starts"));
        before
    }

    /// Starts ipamd with another stderr.
    pub fn start_ipamd_saying(&mut self, stderr: impl Into<Stdio>) {
        self.ipamd = Some(self.ipamd_command().stderr(stderr).spawn().expect("ipamd starts"));
    }

    /// A signal to ipamd; it is not waited for.
    pub fn signal_ipamd(&self, signal: Signal) {
        kill(pid(self.ipamd.as_ref().expect("ipamd runs")), signal).expect("it is sent");
    }

    /// SIGTERM, and the code that it ends with.
    pub fn terminate_ipamd(&mut self) -> Option<i32> {
        self.signal_ipamd(Signal::SIGTERM);
        self.ipamd.take().and_then(|mut ipamd| ipamd.wait().expect("it was started").code())
    }

    /// Waits until ADDs are served.
    pub fn wait_ready(&self) {
        wait::until("ipamd is ready", || self.ipamctl(&["status"]).is_ok());
    }

    /// kill -9.
    pub fn kill_ipamd(&mut self) {
        self.end_ipamd(Signal::SIGKILL);
    }

    /// SIGTERM, and its end.
    pub fn stop_ipamd(&mut self) {
        self.end_ipamd(Signal::SIGTERM);
    }

    fn end_ipamd(&mut self, signal: Signal) {
        if let Some(mut ipamd) = self.ipamd.take() {
            let _ = kill(pid(&ipamd), signal);
            let _ = ipamd.wait();
        }
    }

    /// kill -9 and a new one that is ready.
    pub fn restart_ipamd(&mut self) {
        self.kill_ipamd();
        self.start_ipamd();
        self.wait_ready();
    }

    /// SIGTERM, and a new one that is ready.
    pub fn renew_ipamd(&mut self) {
        self.stop_ipamd();
        self.start_ipamd();
        self.wait_ready();
    }

    /// Another ipamd takes over from the one that runs, which ends by itself; its code.
    pub fn take_over(&mut self) -> Option<i32> {
        let mut first = self.ipamd.take().expect("ipamd runs");
        let log = File::options().create(true).append(true).open(self.log_path()).expect("the log opens");
        let second = self.ipamd_command().arg("--take-over").stderr(log).spawn().expect("ipamd starts");
        self.ipamd = Some(second);
        wait::until("the first has ended", || first.try_wait().is_ok_and(|status| status.is_some()));
        self.wait_ready();
        first.wait().expect("it was started").code()
    }

    /// What ipamd keeps is gone, as after a reboot.
    pub fn forget(&mut self) {
        self.kill_ipamd();
        sh(&format!("rm -rf {}/*", self.run_dir().display()));
    }

    /// EC2 goes away, or comes back: nobody finds the embedded VPC's control socket.
    pub fn hide_cloud(&self, hidden: bool) {
        let (there, away) =
            (self.folder.path().join("control.sock"), self.folder.path().join("control.away"));
        let (from, to) = if hidden { (&there, &away) } else { (&away, &there) };
        fs::rename(from, to).expect("the control socket is there");
    }

    /// ipamd's process id.
    pub fn ipamd_pid(&self) -> u32 {
        self.ipamd.as_ref().expect("ipamd runs").id()
    }

    /// Whether ipamd has ended by itself, with its code.
    pub fn ipamd_ended(&mut self) -> Option<Option<i32>> {
        self.ipamd.as_mut()?.try_wait().ok()?.map(|status| status.code())
    }

    /// The name of one of the VPC's namespaces: node, router, peer, internet.
    pub fn netns(&self, role: &str) -> String {
        format!("{}-{role}", self.prefix)
    }

    /// Runs a line of shell in one of the VPC's namespaces.
    pub fn sh(&self, role: &str, line: &str) -> Result<String, String> {
        run("nsenter", &[&format!("--net=/run/netns/{}", self.netns(role)), "sh", "-ec", line])
    }

    /// An address of the topology: `node_address`, `peer_address`, `internet_address`, `gateway`.
    pub fn address(&self, which: &str) -> Ipv4Addr {
        let text = self.topology[which].as_str().unwrap_or_else(|| panic!("no {which}"));
        text.parse().expect("an address")
    }

    /// ipamd's run folder.
    pub fn run_dir(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    /// `cni.sock`.
    pub fn socket(&self) -> String {
        self.run_dir().join("cni.sock").display().to_string()
    }

    /// The embedded VPC's control socket.
    pub fn control(&self) -> String {
        self.folder.path().join("control.sock").display().to_string()
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("ipamd.log")
    }

    /// What ipamd has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Runs ipamctl; its error is what it said, with its exit code.
    pub fn ipamctl(&self, args: &[&str]) -> Result<String, (Option<i32>, String)> {
        let output = Command::new(program("ipamctl"))
            .arg("--socket")
            .arg(self.run_dir().join("debug.sock"))
            .args(args)
            .output()
            .expect("ipamctl starts");
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err((output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()))
        }
    }

    /// What ipamctl answers, as JSON; `what` is status, pool, attachments or enis.
    pub fn ask(&self, what: &str) -> Value {
        let text =
            self.ipamctl(&["--output", "json", what]).unwrap_or_else(|e| panic!("ipamctl {what}: {e:?}"));
        let answer: Value = serde_json::from_str(&text).expect("ipamctl prints JSON");
        answer["data"].clone()
    }

    /// Asks `debug.sock`: the status and the body.
    pub fn http(&self, method: &str, path: &str) -> (u16, String) {
        let request = format!("{method} {path} HTTP/1.1\r\nHost: ipamd\r\nConnection: close\r\n\r\n");
        let answer = self.debug_bytes(request.as_bytes(), false);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        (status.unwrap_or_else(|| panic!("no HTTP: {answer:?}")), body.to_owned())
    }

    /// Sends these bytes to `debug.sock`, with an end after them when they are `all`; what comes back.
    pub fn debug_bytes(&self, bytes: &[u8], all: bool) -> String {
        let mut stream = UnixStream::connect(self.run_dir().join("debug.sock")).expect("debug.sock is there");
        // A server that closes at once has its reasons.
        let _ = stream.write_all(bytes);
        if all {
            let _ = stream.shutdown(std::net::Shutdown::Write);
        }
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// A metric's value: the sum over its labels that contain `label`.
    pub fn metric(&self, name: &str, label: &str) -> f64 {
        let (status, text) = self.http("GET", "/metrics");
        assert_eq!(status, 200, "{text}");
        let lines = text.lines().filter(|l| l.strip_prefix(name).is_some_and(|r| r.starts_with(['{', ' '])));
        lines.filter(|l| l.contains(label)).filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("a process id"))
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln_log(&self.log());
        }
        self.end_ipamd(Signal::SIGKILL);
        let _ = kill(pid(&self.vpc), Signal::SIGTERM);
        let _ = self.vpc.wait();
        // What its end did not take away, whatever the reason.
        let _ = run(&program("embedded-vpc").display().to_string(), &["clean", "--prefix", &self.prefix]);
        let _ = run("umount", &[&self.run_dir().display().to_string()]);
    }
}

#[allow(clippy::print_stderr)]
fn eprintln_log(log: &str) {
    let lines: Vec<&str> = log.lines().collect();
    eprintln!("--- the last of ipamd's log ---");
    for line in lines.iter().skip(lines.len().saturating_sub(40)) {
        eprintln!("{line}");
    }
}
