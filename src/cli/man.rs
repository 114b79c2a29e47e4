//! `deployfs man`, which packages are built with: the manual pages, from the same words as `--help`.

use std::path::PathBuf;

use clap::CommandFactory;

use super::{Cli, Error, Outcome};

/// Write the manual pages, one for each command.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  deployfs man ~/.local/share/man/man1")]
pub struct Args {
    /// An existing folder
    dir: PathBuf,
}

pub fn run(args: &Args) -> Outcome {
    let command = Cli::command().disable_help_subcommand(true);
    clap_mangen::generate_to(command, &args.dir).map_err(|error| {
        Error::failed(format!("cannot write to '{}': {error}", args.dir.display()))
    })
}
