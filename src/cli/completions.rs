//! `deployfs completions`

use std::io::Write;

use clap::CommandFactory;

use super::{Cli, Error, Outcome};

/// Print a completion script for a shell.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  deployfs completions bash > /etc/bash_completion.d/deployfs")]
pub struct Args {
    /// Which shell
    shell: clap_complete::Shell,
}

pub fn run(args: &Args) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "deployfs", &mut script);
    std::io::stdout()
        .write_all(&script)
        .map_err(|error| Error::failed(format!("the script cannot be written: {error}")))
}
