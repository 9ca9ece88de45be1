//! The executable that container runtimes run: see the library's `entry`.

use std::process::ExitCode;

fn main() -> ExitCode {
    eni_cni::run()
}
