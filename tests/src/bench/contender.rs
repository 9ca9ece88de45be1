//! Who is measured: ours, the floor pair, and Debian's ptp and bridge with host-local, each in a host namespace of its own.
//!
//! Owns how each is set up and called, its daemon, and the pods that are kept on it. All state lies on a tmpfs, the
//! peers' too. Kernel settings of the hosts are the defaults, with IPv6 on as nodes have it, and forwarding.

use crate::bench::exec::{self, Cost, Environment};
use crate::bench::floor;
use crate::bench::options::Plan;
use crate::bench::pods::{Pod, Sandboxes, inside, make_netns};
use crate::node::{Node, Options};
use crate::programs::{plugin, program};
use crate::wait;
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Where Debian's containernetworking-plugins are.
const DEBIAN: &str = "/usr/lib/cni";

/// The contenders, in the order of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// eni-cni and ipamd.
    Ours,
    /// The floor pair.
    Floor,
    /// ptp + host-local.
    Ptp,
    /// bridge + host-local.
    Bridge,
}

impl Kind {
    /// All of them.
    pub(crate) const ALL: [Kind; 4] = [Kind::Ours, Kind::Floor, Kind::Ptp, Kind::Bridge];

    /// As the report names it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Ours => "eni-cni",
            Kind::Floor => "floor",
            Kind::Ptp => "ptp + host-local",
            Kind::Bridge => "bridge + host-local",
        }
    }
}

enum Daemon {
    None,
    Ours(Box<Node>),
    Floor(Child),
}

/// A contender that can be called.
pub(crate) struct Contender {
    /// Which.
    pub(crate) kind: Kind,
    host: PathBuf,
    conf: Value,
    plugin: PathBuf,
    environment: Environment,
    sandboxes: Sandboxes,
    daemon: Daemon,
    kept: Vec<Pod>,
}

impl Contender {
    /// Sets one up below a folder on a tmpfs.
    pub(crate) fn start(kind: Kind, root: &Path, plan: &Plan) -> Contender {
        let folder = root.join(kind.name().replace(' ', ""));
        fs::create_dir_all(&folder).expect("the folder is made");
        let sandboxes = Sandboxes::new(folder.join("ns"));
        let host = folder.join("host");
        let base = json!({ "cniVersion": "1.0.0", "name": "bench" });
        let mut contender = Contender {
            kind,
            host,
            conf: base,
            plugin: PathBuf::new(),
            environment: Environment::new(),
            sandboxes,
            daemon: Daemon::None,
            kept: Vec::new(),
        };
        match kind {
            Kind::Ours => contender.start_ours(plan),
            Kind::Floor => contender.start_floor(&folder),
            Kind::Ptp => contender.start_debian("ptp", &folder, &json!({})),
            Kind::Bridge => {
                contender.start_debian("bridge", &folder, &json!({ "bridge": "cni0", "isGateway": true }));
            }
        }
        contender
    }

    fn start_ours(&mut self, plan: &Plan) {
        let most = plan.most_at_once();
        let options = Options {
            instance_type: plan.pool.instance_type,
            secondary: plan.pool.addresses,
            cooldown_ms: 0,
            log: "warn",
            config: plan.pool.ipamd_config(most),
            ..Options::default()
        };
        let mut node = Node::without_ipamd(&options);
        // The embedded VPC switches it off; the peers' hosts have it.
        node.sh("node", "sysctl -qw net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.default.disable_ipv6=0")
            .expect("IPv6 is switched on");
        node.start_ipamd();
        node.wait_ready();
        self.host = PathBuf::from(format!("/run/netns/{}", node.netns("node")));
        self.plugin = plugin();
        self.key("type", json!("eni-cni"));
        self.key("socket", json!(node.socket()));
        self.daemon = Daemon::Ours(Box::new(node));
        self.wait_free(most);
    }

    fn start_floor(&mut self, folder: &Path) {
        self.make_host();
        self.plugin = plugin().with_file_name("floor-plugin");
        self.key("type", json!("floor-plugin"));
        let socket = folder.join("floor.sock");
        self.environment.push((floor::SOCKET.to_owned(), socket.display().to_string()));
        let child = Command::new("nsenter")
            .arg(format!("--net={}", self.host.display()))
            .args([
                "setpriv",
                "--pdeathsig",
                "KILL",
                "--bounding-set=-all,+net_admin",
                "--inh-caps=-all,+net_admin",
            ])
            .arg(plugin().with_file_name("floord"))
            .args([&socket, &folder.join("floor.log")])
            .stdin(Stdio::null())
            .spawn()
            .expect("floord starts");
        self.daemon = Daemon::Floor(child);
        wait::until("floord listens", || socket.exists());
    }

    fn start_debian(&mut self, kind: &str, folder: &Path, keys: &Value) {
        self.make_host();
        self.plugin = Path::new(DEBIAN).join(kind);
        let ipam = json!({
            "type": "host-local", "dataDir": folder.join("ipam"),
            "ranges": [[{ "subnet": "10.30.0.0/16" }]], "routes": [{ "dst": "0.0.0.0/0" }],
        });
        self.key("type", json!(kind));
        self.key("mtu", json!(9001));
        self.key("ipam", ipam);
        for (key, value) in keys.as_object().into_iter().flatten() {
            self.key(key, value.clone());
        }
    }

    fn key(&mut self, key: &str, value: Value) {
        self.conf[key] = value;
    }

    fn make_host(&self) {
        make_netns(&self.host);
        inside(&self.host, || {
            let set = |file: &str, value: &str| fs::write(Path::new("/proc/sys/net").join(file), value);
            set("ipv4/ip_forward", "1").expect("forwarding is switched on");
        });
    }

    /// The host's namespace.
    pub(crate) fn host(&self) -> &Path {
        &self.host
    }

    /// The plugin's executable.
    pub(crate) fn plugin(&self) -> &Path {
        &self.plugin
    }

    /// New sandboxes.
    pub(crate) fn pods(&self, count: usize) -> Vec<Pod> {
        self.sandboxes.make(count)
    }

    /// The variables of a call, as libcni sets them.
    pub(crate) fn environment(&self, verb: &str, pod: &Pod) -> Environment {
        let arguments = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={}",
            pod.name, pod.id
        );
        let folder = self.plugin.parent().expect("a program lies in a folder").display().to_string();
        let netns = pod.netns.display().to_string();
        let own = [
            ("CNI_COMMAND", verb),
            ("CNI_CONTAINERID", &pod.id),
            ("CNI_NETNS", &netns),
            ("CNI_IFNAME", "eth0"),
            ("CNI_ARGS", &arguments),
            ("CNI_PATH", &folder),
        ];
        let own = own.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
        own.chain(self.environment.iter().cloned()).collect()
    }

    /// The configuration of a call: DEL gets what ADD answered.
    pub(crate) fn conf(&self, verb: &str, pod: &Pod) -> Vec<u8> {
        let mut conf = self.conf.clone();
        if let (Some(result), "DEL") = (&pod.result, verb) {
            conf["prevResult"] = result.clone();
        }
        conf.to_string().into_bytes()
    }

    /// Runs a verb on a pod, from a thread in the host's namespace.
    pub(crate) fn call(&self, verb: &str, pod: &mut Pod) -> Result<Cost, String> {
        let failed = |error: String| format!("{} {verb}: {error}", self.kind.name());
        let ran = exec::run(&self.plugin, &self.environment(verb, pod), &self.conf(verb, pod));
        let (cost, printed) = ran.map_err(failed)?;
        pod.answered(verb, &printed).map_err(failed)?;
        Ok(cost)
    }

    /// Its daemon's process.
    pub(crate) fn daemon(&self) -> Option<Pid> {
        let pid = match &self.daemon {
            Daemon::None => return None,
            Daemon::Ours(node) => node.ipamd_pid(),
            Daemon::Floor(child) => child.id(),
        };
        Some(Pid::from_raw(pid.cast_signed()))
    }

    /// CPU of its daemon since that began: of all threads, also those that have ended.
    pub(crate) fn daemon_cpu(&self) -> Duration {
        let Some(pid) = self.daemon() else { return Duration::ZERO };
        let clock = clock_getcpuclockid(pid).expect("the daemon runs");
        Duration::from(clock_gettime(clock).expect("the daemon's clock is read"))
    }

    /// Our node.
    pub(crate) fn node(&self) -> Option<&Node> {
        match &self.daemon {
            Daemon::Ours(node) => Some(node),
            _ => None,
        }
    }

    /// Our node, to be changed.
    pub(crate) fn node_mut(&mut self) -> Option<&mut Node> {
        match &mut self.daemon {
            Daemon::Ours(node) => Some(node),
            _ => None,
        }
    }

    /// Pods that are kept while others are measured.
    pub(crate) fn kept(&mut self) -> &mut Vec<Pod> {
        &mut self.kept
    }

    /// Waits, untimed, until `count` ADDs can be served from what is free.
    pub(crate) fn wait_free(&self, count: usize) {
        let Some(node) = self.node() else { return };
        let enough = || {
            let free = node.ask("status")["pool"]["free"].as_u64().unwrap_or(0);
            usize::try_from(free).is_ok_and(|free| free >= count)
        };
        assert!(wait::holds_within(Duration::from_secs(120), enough), "never {count} free addresses");
    }
}

impl Drop for Contender {
    fn drop(&mut self) {
        if let Daemon::Floor(child) = &mut self.daemon {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What is needed and not there, as `./dev bench` installs it.
pub(crate) fn missing() -> Vec<String> {
    let programs = [
        program("ipamd"),
        program("embedded-vpc"),
        plugin(),
        plugin().with_file_name("floor-plugin"),
        plugin().with_file_name("floord"),
        PathBuf::from(DEBIAN).join("ptp"),
        PathBuf::from(DEBIAN).join("host-local"),
    ];
    programs.iter().filter(|path| !path.exists()).map(|path| path.display().to_string()).collect()
}
