//! The demo: `./dev demo` builds and runs it.

fn main() -> std::process::ExitCode {
    eni_tests::demo::main()
}
