//! `deployfs completions`

use clap::CommandFactory;

use super::{Cli, Outcome};

/// Print a completion script for a shell.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  deployfs completions bash > /etc/bash_completion.d/deployfs")]
pub struct Args {
    /// Which shell
    shell: clap_complete::Shell,
}

pub fn run(args: &Args) -> Outcome {
    clap_complete::generate(
        args.shell,
        &mut Cli::command(),
        "deployfs",
        &mut std::io::stdout(),
    );
    Ok(())
}
