//! The `deployfs` command.

fn main() -> std::process::ExitCode {
    deployfs::cli::run()
}
