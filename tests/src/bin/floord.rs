//! The floor's daemon: see `eni_tests::bench::floor`.

fn main() -> std::process::ExitCode {
    eni_tests::bench::floor::daemon::main()
}
