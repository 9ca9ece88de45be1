//! Debian's containerd on a node, in the node's network namespace, and the pods that it is asked for.
//!
//! Owns its processes, its state on a tmpfs of its own, its control groups, and what it leaves in folders that all
//! containerds share: they go when it is dropped, also after a failure. `./dev clean` finds what a killed test left by
//! the process id in the folder's name.

use crate::cri::messages::{Linux, Metadata, PodSandboxConfig, PortMapping};
use crate::cri::{Cri, Refused};
use crate::image;
use eni_tests::node::Node;
use eni_tests::programs::{plugin, program, run, sh};
use eni_tests::wait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// Where the shims of every containerd listen.
const SHIMS: &str = "/run/containerd/s";
/// Where libcni caches results, for every runtime that does not say otherwise.
const RESULTS: &str = "/var/lib/cni/results";

/// A containerd.
pub(crate) struct Containerd {
    netns: String,
    folder: TempDir,
    process: Option<Child>,
}

/// A pod's sandbox, as CRI reports it.
#[derive(Debug, Clone)]
pub(crate) struct Pod {
    pub(crate) id: String,
    pub(crate) address: Ipv4Addr,
    /// Its network namespace's path.
    pub(crate) netns: String,
}

impl Containerd {
    /// One that answers, with our plugin alone in its list.
    pub(crate) fn start(node: &Node) -> Containerd {
        Containerd::with(node, &[])
    }

    /// The same with plugins that come after ours.
    pub(crate) fn with(node: &Node, chained: &[Value]) -> Containerd {
        // `./dev clean` knows this name.
        let prefix = format!("eni-node-{}-", std::process::id());
        let folder = tempfile::Builder::new().prefix(&prefix).tempdir().unwrap();
        let mut containerd = Containerd { netns: node.netns("node"), folder, process: None };
        let base = containerd.base();
        fs::create_dir(&base).unwrap();
        // Overlays need a file system that carries them, and one unmount takes all that is mounted in here.
        sh(&format!("mount -t tmpfs -o size=256m,mode=0700 eni-test {}", base.display()));
        for folder in ["bin", "net.d", "image", "opt"] {
            fs::create_dir(base.join(folder)).unwrap();
        }
        let debian = Path::new("/usr/lib/cni");
        for program in [plugin(), program("chained-plugin"), debian.join("loopback"), debian.join("portmap")]
        {
            symlink(&program, base.join("bin").join(program.file_name().unwrap())).unwrap();
        }
        let ours = json!({
            "type": "eni-cni", "socket": node.socket(),
            "capabilities": { "io.kubernetes.cri.pod-annotations": true },
        });
        let plugins: Vec<&Value> = [&ours].into_iter().chain(chained).collect();
        let list = json!({ "cniVersion": "1.0.0", "name": "vpc", "plugins": plugins });
        fs::write(base.join("net.d/05-eni-cni.conflist"), list.to_string()).unwrap();
        fs::write(base.join("config.toml"), configuration(&base)).unwrap();
        containerd.spawn();
        let archive = image::archive(&base.join("image"), &base.display().to_string());
        let (socket, archive) = (containerd.socket().display().to_string(), archive.display().to_string());
        run("ctr", &["-a", &socket, "-n", "k8s.io", "images", "import", &archive]).unwrap();
        containerd
    }

    fn base(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    /// Its socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.base().join("c.sock")
    }

    pub(crate) fn cri(&self) -> Cri {
        Cri::at(&self.socket())
    }

    /// Starts its process, and waits until it answers.
    pub(crate) fn spawn(&mut self) {
        let log = File::options().create(true).append(true).open(self.folder.path().join("log")).unwrap();
        let child = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", self.netns))
            .args(["setpriv", "--pdeathsig", "KILL", "containerd", "--config"])
            .arg(self.base().join("config.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        self.process = Some(child.unwrap());
        let cri = self.cri();
        wait::until("containerd answers", || cri.version().is_ok());
    }

    /// kill -9: its shims and what runs in them live on.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// The machine's reboot: every process, mount and network namespace is gone, and what lies in /run; the disk is as it
    /// was.
    pub(crate) fn reboot(&mut self) {
        self.kill();
        self.end_processes();
        for socket in self.shims_sockets() {
            let _ = fs::remove_file(socket);
        }
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let state = self.base().join("state").display().to_string();
        let below =
            mounts.lines().filter_map(|line| line.split(' ').nth(1)).filter(|at| at.starts_with(&state));
        for mount in below {
            // One that lay below another is gone with it.
            let _ = run("umount", &["-l", mount]);
        }
        sh(&format!("rm -rf --one-file-system {state} {}/runc", self.base().display()));
        self.spawn();
    }

    fn end_processes(&self) {
        let mark = self.folder.path().display().to_string();
        wait::until("shims and sandboxes end", || {
            let left = processes(&mark);
            for pid in &left {
                let _ = kill(*pid, Signal::SIGKILL);
            }
            left.is_empty()
        });
    }

    /// The mounts that keep the network namespaces of its sandboxes.
    fn kept_namespaces(&self) -> Vec<String> {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let base = self.base().display().to_string();
        let kept = mounts.lines().filter(|line| line.contains(" nsfs "));
        kept.filter_map(|line| line.split(' ').nth(1))
            .filter(|at| at.starts_with(&base))
            .map(str::to_owned)
            .collect()
    }

    /// How many network namespaces of sandboxes there are.
    pub(crate) fn namespaces(&self) -> usize {
        self.kept_namespaces().len()
    }

    /// Takes the network namespaces of its sandboxes away, behind its back.
    pub(crate) fn lose_namespaces(&self) {
        for path in self.kept_namespaces() {
            run("umount", &["-l", &path]).unwrap();
            fs::remove_file(&path).unwrap();
        }
    }

    /// The list's plugin that notes its calls.
    pub(crate) fn noting(journal: &Path) -> Value {
        json!({ "type": "chained-plugin", "journal": journal })
    }

    /// What a kubelet asks for.
    pub(crate) fn config(&self, name: &str, attempt: u32) -> PodSandboxConfig {
        PodSandboxConfig {
            metadata: Some(Metadata {
                name: name.to_owned(),
                uid: format!("{name}-uid"),
                namespace: "default".to_owned(),
                attempt,
            }),
            hostname: name.to_owned(),
            port_mappings: Vec::new(),
            annotations: [("kubernetes.io/config.source".to_owned(), "api".to_owned())].into(),
            linux: Some(Linux { cgroup_parent: format!("/{}", self.name()) }),
        }
    }

    fn name(&self) -> String {
        self.folder.path().file_name().unwrap().to_string_lossy().into_owned()
    }

    /// RunPodSandbox.
    pub(crate) fn try_run(&self, name: &str, attempt: u32) -> Result<Pod, Refused> {
        let id = self.cri().run_pod_sandbox(self.config(name, attempt))?;
        Ok(self.pod(&id))
    }

    /// RunPodSandbox; it must succeed.
    pub(crate) fn run(&self, name: &str) -> Pod {
        self.try_run(name, 0).unwrap_or_else(|refused| panic!("{name}: {refused}"))
    }

    /// The same with a port of the node that leads to one of the pod.
    pub(crate) fn run_with_port(&self, name: &str, host_port: u16, container_port: u16) -> Pod {
        let mut config = self.config(name, 0);
        let (host_port, container_port) = (host_port.into(), container_port.into());
        config.port_mappings.push(PortMapping { protocol: 0, container_port, host_port });
        let id = self.cri().run_pod_sandbox(config).unwrap_or_else(|refused| panic!("{name}: {refused}"));
        self.pod(&id)
    }

    /// What CRI reports of a sandbox that is ready.
    pub(crate) fn pod(&self, id: &str) -> Pod {
        let answer = self.cri().pod_sandbox_status(id).unwrap_or_else(|refused| panic!("{id}: {refused}"));
        let status = answer.status.unwrap();
        assert_eq!((status.id.as_str(), status.state), (id, 0), "it is ready");
        let info: Value = serde_json::from_str(&answer.info["info"]).unwrap();
        let spaces = info["runtimeSpec"]["linux"]["namespaces"].as_array().unwrap();
        let network = spaces.iter().find(|space| space["type"] == "network").unwrap();
        Pod {
            id: id.to_owned(),
            address: status.network.unwrap().ip.parse().unwrap(),
            netns: network["path"].as_str().unwrap().to_owned(),
        }
    }

    /// Stop and remove; both must succeed.
    pub(crate) fn remove(&self, id: &str) {
        self.cri().stop_pod_sandbox(id).unwrap_or_else(|refused| panic!("stop {id}: {refused}"));
        self.cri().remove_pod_sandbox(id).unwrap_or_else(|refused| panic!("remove {id}: {refused}"));
    }

    /// Stop and remove of all that it lists; then it lists none.
    pub(crate) fn remove_all(&self) {
        for sandbox in self.cri().list_pod_sandbox().unwrap() {
            self.remove(&sandbox.id);
        }
        assert_eq!(self.cri().list_pod_sandbox().unwrap(), []);
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// The files of folders that all containerds share: the shims' sockets, and what libcni has cached.
    fn shared_files(&self) -> Vec<PathBuf> {
        let mark = self.folder.path().display().to_string();
        let entries = |folder: &str| fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path());
        let cached =
            entries(RESULTS).filter(|path| fs::read_to_string(path).is_ok_and(|text| text.contains(&mark)));
        cached.chain(self.shims_sockets()).collect()
    }

    fn shims_sockets(&self) -> Vec<PathBuf> {
        let tasks = fs::read_dir(self.base().join("state/io.containerd.runtime.v2.task/k8s.io"));
        let addresses = tasks
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|t| fs::read_to_string(t.path().join("address")).ok());
        let paths = addresses.filter_map(|a| a.trim().strip_prefix("unix://").map(PathBuf::from));
        paths.filter(|path| path.starts_with(SHIMS)).collect()
    }
}

/// As runtimes' documentation has it, but for the paths, and what a machine without CAP_SYS_RESOURCE cannot.
fn configuration(base: &Path) -> String {
    let base = base.display();
    let disabled =
        ["snapshotter.v1.aufs", "snapshotter.v1.btrfs", "snapshotter.v1.devmapper", "snapshotter.v1.zfs"]
            .iter()
            .chain(&["tracing.processor.v1.otlp", "internal.v1.tracing"])
            .map(|plugin| format!("\"io.containerd.{plugin}\""))
            .collect::<Vec<_>>()
            .join(", ");
    let cri = "plugins.\"io.containerd.grpc.v1.cri\"";
    let image = image::NAME;
    format!(
        "version = 2\nroot = \"{base}/root\"\nstate = \"{base}/state\"\ndisabled_plugins = [{disabled}]\n\
         [grpc]\naddress = \"{base}/c.sock\"\n[ttrpc]\naddress = \"{base}/c.sock.ttrpc\"\n\
         [plugins.\"io.containerd.internal.v1.opt\"]\npath = \"{base}/opt\"\n\
         [{cri}]\nsandbox_image = \"{image}\"\nrestrict_oom_score_adj = true\n\
         stream_server_address = \"127.0.0.1\"\nnetns_mounts_under_state_dir = true\n\
         [{cri}.cni]\nbin_dir = \"{base}/bin\"\nconf_dir = \"{base}/net.d\"\n\
         [{cri}.containerd]\nsnapshotter = \"overlayfs\"\n\
         [{cri}.containerd.runtimes.runc]\nruntime_type = \"io.containerd.runc.v2\"\n\
         [{cri}.containerd.runtimes.runc.options]\nSystemdCgroup = false\nRoot = \"{base}/runc\"\n"
    )
}

/// The processes whose command line names the folder: shims, and what waits in sandboxes.
fn processes(mark: &str) -> Vec<Pid> {
    let numbers =
        fs::read_dir("/proc").unwrap().flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
    let own = Pid::this();
    let named = |pid: &Pid| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        *pid != own && String::from_utf8_lossy(&words).contains(mark)
    };
    numbers.map(Pid::from_raw).filter(named).collect()
}

impl Drop for Containerd {
    #[allow(clippy::print_stderr)] // What a failed test's reader needs.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().filter(|line| !line.contains("level=info")).collect();
            eprintln!(
                "--- the last of containerd's log ---\n{}",
                lines[lines.len().saturating_sub(20)..].join("\n")
            );
        }
        self.kill();
        let shared = self.shared_files();
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.end_processes()));
        let _ = run("umount", &["-l", &self.base().display().to_string()]);
        for file in shared {
            let _ = fs::remove_file(file);
        }
        // The groups of both versions, from the leaves up.
        let name = self.name();
        let groups = format!("/sys/fs/cgroup/{name} /sys/fs/cgroup/*/{name}");
        let _ = run("sh", &["-c", &format!("find {groups} -depth -type d -exec rmdir {{}} + 2>/dev/null")]);
        if let Err(panic) = ended
            && !std::thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}
