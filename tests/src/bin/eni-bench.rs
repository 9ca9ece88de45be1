//! The bench: see `eni_tests::bench`.

fn main() -> std::process::ExitCode {
    eni_tests::bench::main()
}
