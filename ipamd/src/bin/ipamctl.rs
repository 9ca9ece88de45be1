//! `ipamctl`: asks a running ipamd.

fn main() -> std::process::ExitCode {
    ipamd::ctl::main()
}
