//! Running a plugin as libcni does: environment, configuration on stdin, stdout and stderr read to their end.
//!
//! Owns what one run cost. CPU is what this process's children that were waited for have used (so the plugin's own
//! children count too); it is that of one run only while no other runs beside it. Peak RSS is not taken from here: at
//! exec, ru_maxrss takes over the spawner's.

use eni_proto::client::boottime;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Variables of a run.
pub(crate) type Environment = Vec<(String, String)>;

/// What a run cost.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cost {
    /// From before the spawn to after the wait.
    pub(crate) wall: Duration,
    /// CPU of all children that ended meanwhile.
    pub(crate) cpu: Duration,
}

impl std::ops::AddAssign for Cost {
    fn add_assign(&mut self, other: Cost) {
        self.wall += other.wall;
        self.cpu += other.cpu;
    }
}

/// The command of a run, its pipes not yet used.
pub(crate) fn command(program: &Path, environment: &Environment) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Gives a started run its configuration and waits for its end: what it printed, or what it said.
pub(crate) fn finish(mut child: Child, conf: &[u8]) -> Result<Vec<u8>, String> {
    let mut stdin = child.stdin.take().expect("it is piped");
    // Who does not read its configuration has its reasons, and says so.
    let _ = stdin.write_all(conf);
    drop(stdin);
    let (mut printed, mut said) = (Vec::new(), Vec::new());
    let failed = |error: std::io::Error| error.to_string();
    child.stdout.take().expect("it is piped").read_to_end(&mut printed).map_err(failed)?;
    child.stderr.take().expect("it is piped").read_to_end(&mut said).map_err(failed)?;
    let status = child.wait().map_err(failed)?;
    if status.success() {
        return Ok(printed);
    }
    Err(format!("{status}: {}{}", String::from_utf8_lossy(&printed), String::from_utf8_lossy(&said)))
}

/// Runs a program.
pub(crate) fn run(program: &Path, environment: &Environment, conf: &[u8]) -> Result<(Cost, Vec<u8>), String> {
    let (wall, cpu) = (boottime(), cpu_of_children());
    let child =
        command(program, environment).spawn().map_err(|error| format!("{}: {error}", program.display()))?;
    let printed = finish(child, conf)?;
    Ok((Cost { wall: boottime() - wall, cpu: cpu_of_children().saturating_sub(cpu) }, printed))
}

/// CPU of all children that this process has waited for.
pub(crate) fn cpu_of_children() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("a process may ask about its children");
    let microseconds = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Duration::from_micros(microseconds.cast_unsigned())
}
