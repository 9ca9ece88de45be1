//! The floor's plugin: see `eni_tests::bench::floor`.

fn main() -> std::process::ExitCode {
    eni_tests::bench::floor::plugin::main()
}
