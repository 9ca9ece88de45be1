//! The programs under test, and running others.
//!
//! Owns where they are: `./dev` says so in ENI_BIN_DIR and ENI_PLUGIN; without it, in the folder that cargo builds into,
//! beside the running test. Builds nothing.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// The environment is read here and nowhere else in this crate.
#[allow(clippy::disallowed_methods)]
fn told(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// The folder of `ipamd`, `ipamctl` and `embedded-vpc`.
fn folder() -> PathBuf {
    told("ENI_BIN_DIR").unwrap_or_else(|| {
        let exe = std::env::current_exe().expect("a running program has a path");
        let mut folder = exe.parent().expect("a program lies in a folder").to_owned();
        if folder.ends_with("deps") {
            folder.pop();
        }
        folder
    })
}

/// A program of the workspace.
pub fn program(name: &str) -> PathBuf {
    let path = folder().join(name);
    assert!(path.exists(), "{} is not built: run ./dev build", path.display());
    path
}

/// The plugin, in its own profile: static.
pub fn plugin() -> PathBuf {
    if let Some(path) = told("ENI_PLUGIN") {
        assert!(path.exists(), "ENI_PLUGIN names {}, which is not there", path.display());
        return path;
    }
    let target = folder().parent().expect("the profile's folder lies in target").to_owned();
    let triples =
        ["unknown-linux-musl", "unknown-linux-gnu"].map(|t| format!("{}-{t}", std::env::consts::ARCH));
    let mut paths = triples.iter().map(|t| target.join(t).join("plugin/eni-cni"));
    paths
        .find(|p| p.exists())
        .unwrap_or_else(|| panic!("the plugin is not built in {}: run ./dev build", target.display()))
}

/// The Python of the tier `aws`, with what `tests/aws/requirements.txt` names.
pub fn aws_python() -> PathBuf {
    let target = folder().parent().expect("the profile's folder lies in target").to_owned();
    let path = target.join("aws-venv/bin/python");
    assert!(path.exists(), "{} is not made: run ./dev test aws", path.display());
    path
}

/// Runs a program; what it printed, or its error.
pub fn run(program: &str, args: &[&str]) -> Result<String, String> {
    let output: Output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(format!("{program} {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
    }
}

/// Runs a line of shell that must succeed.
pub fn sh(line: &str) -> String {
    run("sh", &["-ec", line]).unwrap_or_else(|error| panic!("{error}"))
}
