//! `ipamd`: one per node; owns its VPC addresses and wires its sandboxes.

fn main() -> std::process::ExitCode {
    ipamd::entry::main()
}
