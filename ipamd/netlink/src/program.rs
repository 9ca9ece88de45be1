//! Other programs that ipamd runs: nft and the two iptables.
//!
//! Owns finding them, a bound on how long they take, and what they print. Does not know what they are told.

use eni_proto::client::boottime;
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

/// How long one may take. nft takes 10 ms; on a node with many foreign tables, some seconds.
const PATIENCE: Duration = Duration::from_secs(30);
/// How much of what it prints is read.
const PRINTED_MAX: u64 = 64 * 1024;
/// How much of its errors is told.
const ERRORS_MAX: u64 = 4096;
/// Where one may lie beside PATH: daemons often lack sbin there.
const FOLDERS: [&str; 3] = ["", "/usr/sbin/", "/sbin/"];

/// Why a program did nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProgramError {
    /// There is none.
    #[error("the program {0} is missing: install it")]
    Missing(&'static str),
    /// It could not be run.
    #[error("{0} could not be run: {1}")]
    Run(&'static str, #[source] io::Error),
    /// It did not end.
    #[error("{program} did not end within {} s and was killed", PATIENCE.as_secs())]
    Late { program: &'static str },
}

/// How it ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    /// What it printed.
    pub(crate) output: String,
    /// Its errors, on one line.
    pub(crate) errors: String,
}

/// Runs a program with `input` as its standard input and waits.
pub(crate) fn run(program: &'static str, arguments: &[&str], input: &str) -> Result<Ended, ProgramError> {
    let failed = |error| ProgramError::Run(program, error);
    // Files in memory for all ends: a pipe could fill while nobody reads it.
    let (input, output, errors) =
        (scratch(input).map_err(failed)?, scratch("").map_err(failed)?, scratch("").map_err(failed)?);
    let mut child = spawn(program, arguments, [&input, &output, &errors])?;
    let status = wait(program, &mut child)?;
    let output = read(output, PRINTED_MAX).map_err(failed)?;
    let errors = read(errors, ERRORS_MAX).map_err(failed)?;
    Ok(Ended { status, output, errors: errors.split_whitespace().collect::<Vec<_>>().join(" ") })
}

fn scratch(text: &str) -> io::Result<File> {
    let mut file = File::from(memfd_create("program", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(text.as_bytes())?;
    file.rewind()?;
    Ok(file)
}

fn read(mut file: File, most: u64) -> io::Result<String> {
    file.rewind()?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn spawn(program: &'static str, arguments: &[&str], ends: [&File; 3]) -> Result<Child, ProgramError> {
    let failed = |error| ProgramError::Run(program, error);
    for folder in FOLDERS {
        let [input, output, errors] = ends.map(File::try_clone);
        let mut command = Command::new(format!("{folder}{program}"));
        command.args(arguments).stdin(input.map_err(failed)?);
        command.stdout(Stdio::from(output.map_err(failed)?)).stderr(Stdio::from(errors.map_err(failed)?));
        match command.spawn() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            child => return child.map_err(failed),
        }
    }
    Err(ProgramError::Missing(program))
}

fn wait(program: &'static str, child: &mut Child) -> Result<ExitStatus, ProgramError> {
    let failed = |error| ProgramError::Run(program, error);
    let until = boottime() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().map_err(failed)? {
            return Ok(status);
        }
        if boottime() >= until {
            child.kill().map_err(failed)?;
            child.wait().map_err(failed)?;
            return Err(ProgramError::Late { program });
        }
        thread::sleep(Duration::from_millis(2));
    }
}
