//! dockerd on the same node: it has the filter table's FORWARD drop what it did not allow, and every path still passes.
//!
//! Owns its process and its folder.

use crate::containerd::Containerd;
use crate::sandboxes::nothing_left;
use eni_tests::node::{Node, Options};
use eni_tests::programs::{run, sh};
use eni_tests::traffic::{Echo, ping, tcp, udp};
use eni_tests::wait;
use serde_json::json;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// A dockerd with its own iptables.
struct Dockerd {
    folder: TempDir,
    process: Child,
}

impl Dockerd {
    /// One that answers. It uses `containerd`, as Debian's does.
    fn start(node: &Node, containerd: &Containerd) -> Dockerd {
        let folder =
            tempfile::Builder::new().prefix(&format!("eni-node-{}-", std::process::id())).tempdir().unwrap();
        let base = folder.path().join("run");
        fs::create_dir(&base).unwrap();
        // It mounts its folders onto themselves: one unmount takes them all.
        sh(&format!("mount -t tmpfs -o size=64m,mode=0700 eni-test {}", base.display()));
        let at = |name: &str| base.join(name).display().to_string();
        // Its key would lie in /etc otherwise.
        let keys = json!({ "deprecated-key-path": at("key.json") });
        fs::write(at("daemon.json"), keys.to_string()).unwrap();
        let log = File::create(at("log")).unwrap();
        let process = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", node.netns("node")))
            .args(["setpriv", "--pdeathsig", "KILL", "dockerd", "--storage-driver", "vfs"])
            .args([
                "--config-file",
                &at("daemon.json"),
                "--data-root",
                &at("data"),
                "--exec-root",
                &at("exec"),
            ])
            .args(["--pidfile", &at("pid"), "-H", &format!("unix://{}", at("docker.sock"))])
            .args(["--containerd", &containerd.socket().display().to_string()])
            .args(["--userland-proxy=false", "--oom-score-adjust", "0"])
            .args(["--exec-opt", "native.cgroupdriver=cgroupfs"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let dockerd = Dockerd { folder, process };
        let socket = base.join("docker.sock");
        wait::until("dockerd answers", || pinged(&socket).is_some_and(|answer| answer.ends_with("OK")));
        dockerd
    }
}

/// What it answers to a ping of its API.
fn pinged(socket: &Path) -> Option<String> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.write_all(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

impl Drop for Dockerd {
    #[allow(clippy::print_stderr)] // What a failed test's reader needs.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.folder.path().join("run/log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!(
                "--- the last of dockerd's log ---\n{}",
                lines[lines.len().saturating_sub(20)..].join("\n")
            );
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
        // Its exec root has mounts while it runs containers: none of ours.
        let _ = run("umount", &["-l", &self.folder.path().join("run").display().to_string()]);
    }
}

fn forward_policy(node: &Node) -> String {
    node.sh("node", "iptables -S FORWARD").unwrap().lines().next().unwrap_or_default().to_owned()
}

#[test]
fn runtime_every_path_passes_beside_a_dockerd_that_drops_what_is_forwarded() {
    let mut node =
        Node::without_ipamd(&Options { instance_type: "test.2x3", secondary: 2, ..Options::default() });
    let containerd = Containerd::start(&node);
    // As a machine boots: only a dockerd that turns forwarding on sets the policy.
    node.sh("node", "sysctl -qw net.ipv4.ip_forward=0").unwrap();
    let dockerd = Dockerd::start(&node, &containerd);
    wait::until("dockerd has set its policy", || forward_policy(&node) == "-P FORWARD DROP");
    node.start_ipamd();
    node.wait_ready();
    // Three: the last is on the second ENI.
    let pods = ["one", "two", "three"].map(|name| containerd.run(name));
    assert_eq!(forward_policy(&node), "-P FORWARD DROP");
    let (peer, internet) = (node.address("peer_address"), node.address("internet_address"));
    let primary = node.address("node_address");
    let [at_peer, at_internet, at_node] =
        ["peer", "internet", "node"].map(|role| Echo::start(&node.netns(role)));
    let passes = |what: &str, from: &str, to: Ipv4Addr, port: u16, source: Ipv4Addr| {
        assert!(ping(from, to, None), "{what}: ping");
        assert_eq!(udp(from, to, port), Some(source), "{what}: UDP");
        assert_eq!(tcp(from, to, port, 100_000), Some(source), "{what}: TCP");
    };
    for pod in &pods {
        let own = Echo::start(&pod.netns);
        passes("pod to VPC", &pod.netns, peer, at_peer.port, pod.address);
        passes("pod to internet", &pod.netns, internet, at_internet.port, primary);
        passes("pod to node", &pod.netns, primary, at_node.port, pod.address);
        passes("VPC to pod", &node.netns("peer"), pod.address, own.port, peer);
        passes("node to pod", &node.netns("node"), pod.address, own.port, primary);
        for other in pods.iter().filter(|other| other.id != pod.id) {
            passes("pod to pod", &other.netns, pod.address, own.port, other.address);
        }
    }
    assert_eq!(node.all_drops().values().sum::<u64>(), 0, "{:?}", node.all_drops());
    containerd.remove_all();
    nothing_left(&node);
    drop(dockerd);
}
