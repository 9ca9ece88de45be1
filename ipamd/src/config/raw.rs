//! The file's own form, its defaults and its rules.
//!
//! Owns names, units and ranges of keys; conf/ipamd.toml documents each. A key ends with its unit.

use super::capacity::RawCapacity;
use super::{
    Aws, Cloud, CloudKind, Config, DataPlane, Log, LogFormat, MetricsConfig, Paths, Pool, Sockets, Timing,
};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// The file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Raw {
    version: u32,
    paths: RawPaths,
    cloud: RawCloud,
    pool: RawPool,
    capacity: RawCapacity,
    data_plane: RawDataPlane,
    sockets: RawSockets,
    metrics: RawMetrics,
    timing: RawTiming,
    log: RawLog,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawPaths {
    run_dir: String,
    store: String,
    spool: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawCloud {
    kind: String,
    control: String,
    no_cloud: bool,
    region: String,
    ec2_endpoint: String,
    imds_endpoint: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawPool {
    cooldown_ms: u64,
    status_when_full: WhenFull,
}

/// What STATUS says while no address is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum WhenFull {
    Ok,
    Fail,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawDataPlane {
    mtu: u32,
    txqueuelen: u32,
    eni_mtu: u32,
    snat: bool,
    extra_vpc_cidrs: Vec<String>,
    adopt_links: bool,
    ignore_peer: bool,
    block_metadata: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawSockets {
    max_connections: usize,
    max_waiters: usize,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawMetrics {
    listen: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawTiming {
    describe_period_ms: u64,
    poll_ms: u64,
    host_period_ms: u64,
    drain_ms: u64,
    status_grace_ms: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawLog {
    level: String,
    format: LogFormat,
}

impl Default for Raw {
    fn default() -> Self {
        Raw {
            version: 1,
            paths: RawPaths::default(),
            cloud: RawCloud::default(),
            pool: RawPool::default(),
            capacity: RawCapacity::default(),
            data_plane: RawDataPlane::default(),
            sockets: RawSockets::default(),
            metrics: RawMetrics::default(),
            timing: RawTiming::default(),
            log: RawLog::default(),
        }
    }
}

impl Default for RawPaths {
    fn default() -> Self {
        RawPaths { run_dir: "/run/eni-cni".into(), store: String::new(), spool: String::new() }
    }
}

impl Default for RawCloud {
    fn default() -> Self {
        RawCloud {
            kind: "embedded".into(),
            control: "/run/embedded-vpc/control.sock".into(),
            no_cloud: false,
            region: String::new(),
            ec2_endpoint: String::new(),
            imds_endpoint: String::new(),
        }
    }
}

impl Default for RawPool {
    fn default() -> Self {
        RawPool { cooldown_ms: 30_000, status_when_full: WhenFull::Ok }
    }
}

impl Default for RawDataPlane {
    fn default() -> Self {
        RawDataPlane {
            mtu: 9001,
            txqueuelen: 1000,
            eni_mtu: 0,
            snat: true,
            extra_vpc_cidrs: Vec::new(),
            adopt_links: true,
            ignore_peer: false,
            block_metadata: false,
        }
    }
}

impl Default for RawSockets {
    fn default() -> Self {
        RawSockets { max_connections: 1024, max_waiters: 512 }
    }
}

impl Default for RawMetrics {
    fn default() -> Self {
        RawMetrics { listen: "127.0.0.1:61678".into() }
    }
}

impl Default for RawTiming {
    fn default() -> Self {
        RawTiming {
            describe_period_ms: 30_000,
            poll_ms: 2_000,
            host_period_ms: 60_000,
            drain_ms: 2_000,
            status_grace_ms: 60_000,
        }
    }
}

impl Default for RawLog {
    fn default() -> Self {
        RawLog { level: "info".into(), format: LogFormat::Text }
    }
}

/// A value that breaks its rule.
pub(super) struct Broken {
    pub(super) key: &'static str,
    pub(super) value: String,
    pub(super) rule: &'static str,
}

pub(super) fn broken(key: &'static str, value: &(impl ToString + ?Sized), rule: &'static str) -> Broken {
    Broken { key, value: value.to_string(), rule }
}

fn absolute(key: &'static str, text: &str) -> Result<PathBuf, Broken> {
    let path = PathBuf::from(text);
    if path.is_absolute() {
        Ok(path)
    } else {
        Err(broken(key, &format!("{text:?}"), "must be an absolute path"))
    }
}

pub(super) fn within<T: PartialOrd + ToString + Copy>(
    key: &'static str,
    value: T,
    low: T,
    high: T,
    rule: &'static str,
) -> Result<T, Broken> {
    if value >= low && value <= high { Ok(value) } else { Err(broken(key, &value, rule)) }
}

/// A URL of AWS's kind, or empty for none.
fn endpoint(key: &'static str, text: String) -> Result<Option<String>, Broken> {
    let rule = "must begin with http:// or https:// and name a host, or be empty";
    let host = text.strip_prefix("http://").or(text.strip_prefix("https://"));
    match host {
        _ if text.is_empty() => Ok(None),
        Some(host) if !host.is_empty() && !host.contains(char::is_whitespace) => Ok(Some(text)),
        _ => Err(broken(key, &format!("{text:?}"), rule)),
    }
}

impl RawCloud {
    fn validate(self) -> Result<Cloud, Broken> {
        let rule = "must be a Region's name as \"eu-central-1\", or empty";
        let of_a_region = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if !self.region.chars().all(of_a_region) {
            return Err(broken("cloud.region", &format!("{:?}", self.region), rule));
        }
        let kind = match self.kind.as_str() {
            "embedded" => CloudKind::Embedded,
            "ec2" => CloudKind::Ec2,
            other => {
                let rule = "must be \"embedded\" or \"ec2\"";
                return Err(broken("cloud.kind", &format!("{other:?}"), rule));
            }
        };
        Ok(Cloud {
            kind,
            control: absolute("cloud.control", &self.control)?,
            no_cloud: self.no_cloud,
            aws: Aws {
                region: Some(self.region).filter(|region| !region.is_empty()),
                ec2_endpoint: endpoint("cloud.ec2_endpoint", self.ec2_endpoint)?,
                imds_endpoint: endpoint("cloud.imds_endpoint", self.imds_endpoint)?,
            },
        })
    }
}

impl From<&Cloud> for RawCloud {
    fn from(cloud: &Cloud) -> RawCloud {
        let kind = match cloud.kind {
            CloudKind::Embedded => "embedded",
            CloudKind::Ec2 => "ec2",
        };
        RawCloud {
            kind: kind.into(),
            control: cloud.control.display().to_string(),
            no_cloud: cloud.no_cloud,
            region: cloud.aws.region.clone().unwrap_or_default(),
            ec2_endpoint: cloud.aws.ec2_endpoint.clone().unwrap_or_default(),
            imds_endpoint: cloud.aws.imds_endpoint.clone().unwrap_or_default(),
        }
    }
}

impl Raw {
    pub(super) fn validate(self) -> Result<Config, Broken> {
        within("version", self.version, 1, 1, "must be 1")?;
        let run_dir = absolute("paths.run_dir", &self.paths.run_dir)?;
        let store = match self.paths.store.as_str() {
            "" => run_dir.join("ipamd.redb"),
            text => absolute("paths.store", text)?,
        };
        let spool = match self.paths.spool.as_str() {
            "" => run_dir.join("spool"),
            text => absolute("paths.spool", text)?,
        };
        let cloud = self.cloud.validate()?;
        let cidrs = self.data_plane.extra_vpc_cidrs.iter().map(|text| {
            let rule = "must be IPv4 CIDRs without host bits, as \"10.2.0.0/16\"";
            let cidr: Option<Ipv4Net> = text.parse().ok();
            cidr.filter(|c| c.addr() == c.network())
                .ok_or_else(|| broken("data_plane.extra_vpc_cidrs", &format!("{text:?}"), rule))
        });
        let listen = match self.metrics.listen.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|_| {
                broken(
                    "metrics.listen",
                    &format!("{text:?}"),
                    "must be an address and a port, or empty for none",
                )
            })?),
        };
        let level = self.log.level;
        if level.parse::<tracing_subscriber::filter::Targets>().is_err() {
            return Err(broken(
                "log.level",
                &format!("{level:?}"),
                "must be a level or a filter as \"ipamd=debug,info\"",
            ));
        }
        let mtu = within("data_plane.mtu", self.data_plane.mtu, 576, 65_535, "must be 576 to 65535")?;
        let eni_mtu = match self.data_plane.eni_mtu {
            0 => None,
            mtu => Some(within("data_plane.eni_mtu", mtu, 576, 65_535, "must be 0 or 576 to 65535")?),
        };
        let queue =
            within("data_plane.txqueuelen", self.data_plane.txqueuelen, 0, 100_000, "must be 0 to 100000")?;
        let hour = 3_600_000;
        let cooldown = within("pool.cooldown_ms", self.pool.cooldown_ms, 0, hour, "must be 0 to 3600000")?;
        let period = self.timing.describe_period_ms;
        let period = within("timing.describe_period_ms", period, 1_000, hour, "must be 1000 to 3600000")?;
        let poll = within("timing.poll_ms", self.timing.poll_ms, 10, 60_000, "must be 10 to 60000")?;
        let host = self.timing.host_period_ms;
        let host = within("timing.host_period_ms", host, 1_000, hour, "must be 1000 to 3600000")?;
        let (capacity, placement) = self.capacity.validate()?;
        let drain = within("timing.drain_ms", self.timing.drain_ms, 0, 60_000, "must be 0 to 60000")?;
        let grace = self.timing.status_grace_ms;
        let grace = within("timing.status_grace_ms", grace, 1_000, hour, "must be 1000 to 3600000")?;
        let seats = self.sockets.max_connections;
        let seats = within("sockets.max_connections", seats, 8, 65_536, "must be 8 to 65536")?;
        let waiters =
            within("sockets.max_waiters", self.sockets.max_waiters, 1, 65_536, "must be 1 to 65536")?;
        Ok(Config {
            paths: Paths { run_dir, store, spool },
            cloud,
            pool: Pool {
                cooldown: Duration::from_millis(cooldown),
                fail_when_full: self.pool.status_when_full == WhenFull::Fail,
            },
            capacity,
            placement,
            data_plane: DataPlane {
                mtu,
                txqueuelen: queue,
                eni_mtu,
                snat: self.data_plane.snat,
                extra_vpc_cidrs: cidrs.collect::<Result<_, _>>()?,
                adopt_links: self.data_plane.adopt_links,
                ignore_peer: self.data_plane.ignore_peer,
                block_metadata: self.data_plane.block_metadata,
            },
            sockets: Sockets { max_connections: seats, max_waiters: waiters },
            metrics: MetricsConfig { listen },
            timing: Timing {
                describe_period: Duration::from_millis(period),
                poll: Duration::from_millis(poll),
                host_period: Duration::from_millis(host),
                drain: Duration::from_millis(drain),
                status_grace: Duration::from_millis(grace),
            },
            log: Log { level, format: self.log.format },
        })
    }
}

pub(super) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

impl From<&Config> for Raw {
    fn from(config: &Config) -> Raw {
        let cidrs = config.data_plane.extra_vpc_cidrs.iter().map(ToString::to_string).collect();
        Raw {
            version: 1,
            paths: RawPaths {
                run_dir: config.paths.run_dir.display().to_string(),
                store: config.paths.store.display().to_string(),
                spool: config.paths.spool.display().to_string(),
            },
            cloud: RawCloud::from(&config.cloud),
            pool: RawPool {
                cooldown_ms: millis(config.pool.cooldown),
                status_when_full: if config.pool.fail_when_full { WhenFull::Fail } else { WhenFull::Ok },
            },
            capacity: RawCapacity::from((&config.capacity, &config.placement)),
            data_plane: RawDataPlane {
                mtu: config.data_plane.mtu,
                txqueuelen: config.data_plane.txqueuelen,
                eni_mtu: config.data_plane.eni_mtu.unwrap_or(0),
                snat: config.data_plane.snat,
                extra_vpc_cidrs: cidrs,
                adopt_links: config.data_plane.adopt_links,
                ignore_peer: config.data_plane.ignore_peer,
                block_metadata: config.data_plane.block_metadata,
            },
            sockets: RawSockets {
                max_connections: config.sockets.max_connections,
                max_waiters: config.sockets.max_waiters,
            },
            metrics: RawMetrics { listen: config.metrics.listen.map(|l| l.to_string()).unwrap_or_default() },
            timing: RawTiming {
                describe_period_ms: millis(config.timing.describe_period),
                poll_ms: millis(config.timing.poll),
                host_period_ms: millis(config.timing.host_period),
                drain_ms: millis(config.timing.drain),
                status_grace_ms: millis(config.timing.status_grace),
            },
            log: RawLog { level: config.log.level.clone(), format: config.log.format },
        }
    }
}
