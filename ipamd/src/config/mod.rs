//! The configuration: a file, its defaults and its rules.
//!
//! Owns every key: the raw form (unknown keys refused), the rules, and the typed form that is passed down. This is the
//! one place of ipamd that reads the environment: ENI_IPAMD_CONFIG names the file, ENI_IPAMD_LOG the log level.

mod capacity;
mod raw;

use eni_proto::ids::SubnetId;
use ipamd_core::capacity::Targets;
use ipnet::Ipv4Net;
use raw::Raw;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the file is looked for when nothing names one.
pub const DEFAULT_FILE: &str = "/etc/eni-cni/ipamd.toml";

/// The configuration that is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Files and folders.
    pub paths: Paths,
    /// The cloud.
    pub cloud: Cloud,
    /// The pool.
    pub pool: Pool,
    /// How many ENIs and addresses the node should have.
    pub capacity: Targets,
    /// Where new ENIs lie.
    pub placement: Placement,
    /// Links and packets.
    pub data_plane: DataPlane,
    /// The sockets' bounds.
    pub sockets: Sockets,
    /// `/metrics`.
    pub metrics: MetricsConfig,
    /// Periods and bounds.
    pub timing: Timing,
    /// Logs.
    pub log: Log,
}

/// Files and folders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// The run folder: sockets, lock.
    pub run_dir: PathBuf,
    /// The store's file.
    pub store: PathBuf,
    /// The folder of DELs that nobody answered.
    pub spool: PathBuf,
}

/// The cloud.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cloud {
    /// Which.
    pub kind: CloudKind,
    /// The embedded VPC's control socket.
    pub control: PathBuf,
    /// EC2 and the metadata service are neither asked nor changed.
    pub no_cloud: bool,
    /// Where AWS is.
    pub aws: Aws,
}

/// Where addresses come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloudKind {
    /// The embedded VPC.
    Embedded,
    /// AWS: EC2's API and the instance's metadata.
    Ec2,
}

/// Where AWS is, as far as it is said; what is not said is found as every AWS SDK finds it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Aws {
    /// The Region.
    pub region: Option<String>,
    /// EC2's URL.
    pub ec2_endpoint: Option<String>,
    /// The metadata service's URL.
    pub imds_endpoint: Option<String>,
}

/// The pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// The least time between a release and the next use.
    pub cooldown: Duration,
    /// STATUS fails while no address is free and none is coming.
    pub fail_when_full: bool,
}

/// Where new ENIs lie.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placement {
    /// The subnets, in the order of preference; empty: the primary ENI's.
    pub subnets: Vec<SubnetId>,
    /// The security groups; empty: the primary ENI's.
    pub security_groups: Vec<String>,
}

/// Links and packets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataPlane {
    /// MTU in bytes.
    pub mtu: u32,
    /// txqueuelen.
    pub txqueuelen: u32,
    /// MTU of the secondary ENIs' links in bytes; none leaves it as it is.
    pub eni_mtu: Option<u32>,
    /// Masquerade what leaves the VPC.
    pub snat: bool,
    /// CIDRs treated as inside the VPC.
    pub extra_vpc_cidrs: Vec<Ipv4Net>,
    /// Take off the secondary ENIs' links what others put there and what breaks ours.
    pub adopt_links: bool,
    /// Wire although amazon-vpc-cni is active on the node.
    pub ignore_peer: bool,
    /// Drop what pods send to the instance metadata service.
    pub block_metadata: bool,
}

/// The sockets' bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sockets {
    /// Connections to `cni.sock` at once.
    pub max_connections: usize,
    /// ADDs and DELs under way at once.
    pub max_waiters: usize,
}

/// `/metrics`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricsConfig {
    /// Where it is served; none: on `debug.sock` alone.
    pub listen: Option<SocketAddr>,
}

/// Periods and bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timing {
    /// The time between two looks at EC2.
    pub describe_period: Duration,
    /// The time between two looks while something at EC2 is on its way.
    pub poll: Duration,
    /// The time between two looks at the host's network while nothing tells of a change.
    pub host_period: Duration,
    /// How long an end may take.
    pub drain: Duration,
    /// How long ipamd may be silent before STATUS fails.
    pub status_grace: Duration,
}

/// Logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// A level, or a filter as `ipamd=debug,info`.
    pub level: String,
    /// The form of a line.
    pub format: LogFormat,
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("{path} could not be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is no TOML, or has a key that is unknown or of another type.
    #[error("{path} is not valid: {cause}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// The parser's words: line, key, what was expected.
        cause: String,
    },
    /// A value breaks a rule.
    #[error("{path}: {key} = {value} {rule}")]
    Rule {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What it must be.
        rule: &'static str,
    },
}

impl Config {
    /// The file named, else ENI_IPAMD_CONFIG's, else the default one if it is there, else the defaults.
    pub fn load(path: Option<&Path>) -> Result<Config, ConfigError> {
        let named = path.map(Path::to_owned).or_else(|| environment("ENI_IPAMD_CONFIG").map(PathBuf::from));
        let file = match &named {
            Some(path) => path.clone(),
            None => PathBuf::from(DEFAULT_FILE),
        };
        let text = match std::fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if named.is_none() && error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(source) => return Err(ConfigError::Read { path: file, source }),
        };
        let mut config = Config::parse(&text, &file)?;
        if let Some(level) = environment("ENI_IPAMD_LOG") {
            config.log.level = level;
        }
        Ok(config)
    }

    /// The configuration of a text; `path` names it in errors.
    pub fn parse(text: &str, path: &Path) -> Result<Config, ConfigError> {
        let raw: Raw = toml::from_str(text).map_err(|error| ConfigError::Parse {
            path: path.to_owned(),
            cause: error.to_string().trim().replace('\n', " "),
        })?;
        raw.validate().map_err(|broken| ConfigError::Rule {
            path: path.to_owned(),
            key: broken.key,
            value: broken.value,
            rule: broken.rule,
        })
    }

    /// `cni.sock`.
    pub fn socket(&self) -> PathBuf {
        self.paths.run_dir.join("cni.sock")
    }

    /// `debug.sock`.
    pub fn debug_socket(&self) -> PathBuf {
        self.paths.run_dir.join("debug.sock")
    }

    /// The configuration in force, as a file that makes it.
    pub fn render(&self) -> String {
        toml::to_string(&Raw::from(self)).expect("the raw form has no key that TOML cannot write")
    }
}

#[allow(clippy::disallowed_methods)]
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(text, Path::new("test.toml"))
    }

    #[test]
    fn the_shipped_file_is_the_defaults() {
        let shipped = include_str!("../../../conf/ipamd.toml");
        assert_eq!(parse(shipped).unwrap(), parse("").unwrap());
    }

    #[test]
    fn what_is_printed_is_read_back() {
        let text = "[pool]\ncooldown_ms = 0\nstatus_when_full = \"fail\"\n[paths]\nrun_dir = \"/x\"\n\
                    [metrics]\nlisten = \"\"\n[timing]\nstatus_grace_ms = 3000\n";
        let config = parse(text).unwrap();
        assert_eq!(config.paths.store, PathBuf::from("/x/ipamd.redb"));
        assert_eq!(config.paths.spool, PathBuf::from("/x/spool"));
        assert_eq!(config.metrics.listen, None);
        assert_eq!((config.pool.fail_when_full, config.timing.status_grace), (true, Duration::from_secs(3)));
        assert_eq!(parse(&config.render()).unwrap(), config);
    }

    #[test]
    fn the_targets_are_read_and_what_is_unset_stays_unset() {
        let text = "[capacity]\nmode = \"prefixes\"\nwarm_ip = 0\nwarm_prefixes = 2\nmax_enis = 3\nmax_pods = 110\n\
                    subnets = [\"subnet-0a\", \"subnet-0b\"]\nsecurity_groups = [\"sg-0a\"]\n";
        let config = parse(text).unwrap();
        let wanted = Targets {
            mode: ipamd_core::capacity::PoolMode::Prefixes,
            warm_ip: Some(0),
            warm_prefixes: 2,
            max_enis: 3,
            max_pods: 110,
            ..Targets::default()
        };
        assert_eq!(config.capacity, wanted);
        assert_eq!((config.placement.subnets.len(), config.placement.security_groups.len()), (2, 1));
        assert_eq!(parse(&config.render()).unwrap(), config);
        assert_eq!(parse("").unwrap().capacity.warm_ip, None);
    }

    #[test]
    fn where_aws_is_is_read_and_printed() {
        assert_eq!(parse("").unwrap().cloud.aws, Aws::default());
        let text = "[cloud]\nkind = \"ec2\"\nregion = \"eu-central-1\"\nec2_endpoint = \"https://ec2.example\"\n\
                    imds_endpoint = \"http://127.0.0.1:1338\"\n";
        let config = parse(text).unwrap();
        assert_eq!(config.cloud.kind, CloudKind::Ec2);
        assert_eq!(config.cloud.aws.region.as_deref(), Some("eu-central-1"));
        assert_eq!(config.cloud.aws.ec2_endpoint.as_deref(), Some("https://ec2.example"));
        assert_eq!(config.cloud.aws.imds_endpoint.as_deref(), Some("http://127.0.0.1:1338"));
        assert_eq!(parse(&config.render()).unwrap(), config);
    }

    #[test]
    fn unknown_keys_and_broken_rules_are_named() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/config");
        let mut seen = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            let key = text.lines().next().unwrap().trim_start_matches("# bad key: ").to_owned();
            let error = parse(&text).expect_err(&path.display().to_string()).to_string();
            assert!(error.contains(&key), "{}: {error}", path.display());
            seen += 1;
        }
        assert!(seen >= 10, "{seen} fixtures");
    }
}
