//! `embedded-vpc`: a strict EC2 and a network of namespaces, for machines that are not at AWS.

fn main() -> std::process::ExitCode {
    embedded_vpc::program::main()
}
