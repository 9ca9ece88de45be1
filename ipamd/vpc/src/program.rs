//! The program `embedded-vpc`.
//!
//! Owns its command line, its life (until SIGTERM, SIGINT or a request) and that its network goes with it.

use crate::control::{Answer, Request};
use crate::http::{self, Http};
use crate::model::{Ec2, Setup};
use crate::network::{self, Links, Network, Options};
use crate::served::Served;
use crate::server::{self, LaidNetwork, Server};
use clap::{Args, Parser, Subcommand};
use ipnet::Ipv4Net;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;

/// An embedded VPC: a strict EC2 and a network of namespaces.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Boots the instance and lays the network; prints one JSON line with its names and addresses when it is ready.
    Run(Run),
    /// Takes away the namespaces of a prefix.
    Clean {
        /// The prefix.
        #[arg(long, default_value = "eni")]
        prefix: String,
    },
    /// Prints what a running one answers: `enis`, `drops`, `journal`, `calls`, `topology`, or any request in JSON.
    Inspect {
        /// The control socket.
        #[arg(long, default_value = "/run/embedded-vpc/control.sock")]
        control: PathBuf,
        /// What.
        what: String,
    },
}

/// What the instance and its network are.
#[derive(Debug, Args)]
struct Run {
    /// The prefix of the namespaces' names.
    #[arg(long, default_value = "eni")]
    prefix: String,
    /// The control socket.
    #[arg(long, default_value = "/run/embedded-vpc/control.sock")]
    control: PathBuf,
    /// The instance's type; `bench.8x150` and `test.4x6` are of our own, named by what they carry.
    #[arg(long, default_value = "m5.4xlarge")]
    instance_type: String,
    /// How many secondary addresses its primary ENI has.
    #[arg(long, default_value_t = 29)]
    secondary: u32,
    /// The VPC's CIDR.
    #[arg(long, default_value = "10.0.0.0/16")]
    vpc_cidr: Ipv4Net,
    /// The node's subnet [default: 10.0.1.0/24, or 10.0.0.0/19 for types that carry more].
    #[arg(long)]
    subnet: Option<Ipv4Net>,
    /// A security group of the VPC, each given once; the primary ENI has all of them, the first is the default.
    #[arg(long, default_value = "sg-0e1c0000000000001")]
    security_group: Vec<String>,
    /// How long an ENI is `attaching`, in milliseconds.
    #[arg(long, default_value_t = 100)]
    attach_ms: u64,
    /// How long an ENI is `detaching`, in milliseconds.
    #[arg(long, default_value_t = 100)]
    detach_ms: u64,
    /// The MTU inside the VPC.
    #[arg(long, default_value_t = 9001)]
    mtu: u32,
    /// DefaultVCpus of the instance's type, as DescribeInstanceTypes tells it; it does not by default.
    #[arg(long)]
    vcpus: Option<u32>,
    /// Serves EC2's Query API and the metadata service by HTTP as well: here (port 0: any), and for the node at
    /// 169.254.169.254.
    #[arg(long)]
    http: Option<SocketAddr>,
    /// HttpPutResponseHopLimit: how many hops the metadata service's tokens reach from the node's side; 1 is EC2's
    /// default, with which no container behind a router of the node gets one.
    #[arg(long, default_value_t = 2)]
    hop_limit: u32,
}

impl Run {
    fn setup(&self) -> Setup {
        let usual = Setup::new(&self.instance_type, self.secondary);
        Setup {
            vpc_cidr: self.vpc_cidr,
            subnet: self.subnet.unwrap_or(usual.subnet),
            security_groups: self.security_group.clone(),
            attach_ms: self.attach_ms,
            detach_ms: self.detach_ms,
            vcpus: self.vcpus,
            ..usual
        }
    }
}

/// The program.
#[allow(clippy::print_stdout, clippy::print_stderr)]
pub fn main() -> ExitCode {
    let result = match Cli::parse().verb {
        Verb::Run(options) => run(&options),
        Verb::Clean { prefix } => {
            network::remove(&prefix);
            Ok(())
        }
        Verb::Inspect { control, what } => inspect(&control, &what),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("embedded-vpc: {error}");
            ExitCode::FAILURE
        }
    }
}

type Failure = Box<dyn std::error::Error>;

#[allow(clippy::print_stdout)]
fn run(run: &Run) -> Result<(), Failure> {
    let control = &run.control;
    let mut ends = SigSet::empty();
    ends.add(Signal::SIGTERM);
    ends.add(Signal::SIGINT);
    // Blocked in every thread from here on: the main thread waits for them.
    ends.thread_block()?;
    let ec2 = Ec2::boot(run.setup())?;
    let options =
        Options { prefix: run.prefix.clone(), control: control.display().to_string(), mtu: run.mtu };
    let (mut network, links) = Network::lay(&options, &ec2)?;
    if let Err(error) = serve(run, ec2, &mut network, links) {
        network.remove();
        return Err(error);
    }
    let topology = serde_json::to_string(network.topology())?;
    // Whoever started this may have closed stdout: that is no reason to end.
    let _ = writeln!(std::io::stdout(), "{topology}");
    ends.wait()?;
    network.remove();
    std::fs::remove_file(control)?;
    Ok(())
}

/// Starts what serves: the control socket, and HTTP where it is asked for.
fn serve(run: &Run, ec2: Ec2, network: &mut Network, links: Links) -> Result<(), Failure> {
    let control = run.control.display();
    let listener =
        server::bind(&run.control).map_err(|error| format!("the control socket {control}: {error}"))?;
    let mut web = Vec::new();
    if let Some(address) = run.http {
        let here = TcpListener::bind(address).map_err(|error| format!("HTTP at {address}: {error}"))?;
        network.tell_endpoints(here.local_addr()?);
        web.push((here, None));
        let there = network.listen().map_err(|error| format!("HTTP on the router: {error}"))?;
        web.push((there, Some(run.hop_limit)));
    }
    let served = Served::new(ec2, Box::new(LaidNetwork::new(network.clone(), links)));
    let http = Http::new(served.clone());
    for (listener, hop_limit) in web {
        let http = http.clone();
        thread::spawn(move || http::serve(&http, &listener, hop_limit));
    }
    let server = Server::new(served.clone(), network.clone(), http);
    thread::spawn(move || served.tick());
    thread::spawn(move || {
        server::serve(&server, &listener, || {
            // To the process, not the thread: the main thread takes it.
            let _ = kill(Pid::this(), Signal::SIGTERM);
        });
    });
    Ok(())
}

#[allow(clippy::print_stdout)]
fn inspect(control: &Path, what: &str) -> Result<(), Failure> {
    let request = match what {
        "enis" => Request::Enis,
        "drops" => Request::Drops,
        "calls" => Request::Calls,
        "journal" => Request::Journal,
        "topology" => Request::Topology,
        "shutdown" => Request::Shutdown,
        other => serde_json::from_str(other)?,
    };
    let mut stream = UnixStream::connect(control).map_err(|error| {
        format!("{} was not reached: {error}; is `embedded-vpc run` there?", control.display())
    })?;
    let mut line = serde_json::to_string(&request)?;
    line.push('\n');
    stream.write_all(line.as_bytes())?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    let value = match serde_json::from_str(&answer)? {
        Answer::Enis(enis) => serde_json::to_value(enis)?,
        Answer::Drops(counts) | Answer::Calls(counts) => serde_json::to_value(counts)?,
        Answer::Journal(entries) => serde_json::to_value(entries)?,
        Answer::Topology(topology) => serde_json::to_value(topology)?,
        Answer::Failed(error) => return Err(error.into()),
        other => serde_json::to_value(other)?,
    };
    println!("{}", serde_json::to_string_pretty(&value)?);
    Ok(())
}
