//! The program `embedded-vpc`.
//!
//! Owns its command line, its life (until SIGTERM, SIGINT or a request) and that its network goes with it.

use crate::control::{Answer, Request};
use crate::model::{Ec2, Setup};
use crate::network::{self, Network, Options};
use crate::server::{self, Server};
use clap::{Args, Parser, Subcommand};
use ipnet::Ipv4Net;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader, Write};
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
    let (network, links) = Network::lay(&options, &ec2)?;
    let listener = match server::bind(control) {
        Ok(listener) => listener,
        Err(error) => {
            network.remove();
            return Err(format!("the control socket {}: {error}", control.display()).into());
        }
    };
    let topology = serde_json::to_string(network.topology())?;
    let server = Server::new(ec2, network.clone(), links);
    let ticked = server.clone();
    thread::spawn(move || server::tick(&ticked));
    thread::spawn(move || {
        server::serve(&server, &listener, || {
            // To the process, not the thread: the main thread takes it.
            let _ = kill(Pid::this(), Signal::SIGTERM);
        });
    });
    // Whoever started this may have closed stdout: that is no reason to end.
    let _ = writeln!(std::io::stdout(), "{topology}");
    ends.wait()?;
    network.remove();
    std::fs::remove_file(control)?;
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
