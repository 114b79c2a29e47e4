//! `deployfs fsck`

use std::path::Path;

use super::Outcome;
use super::call::call_shown;
use super::progress::Bar;
use super::verify::print;
use crate::model::report::Request;

/// Check the store: history, deploy files, packs, every tree, that every chunk is there.
///
/// Exits with 1 and names every problem. Changes nothing.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  deployfs fsck --read-data")]
pub struct Args {
    /// Read and hash every chunk too
    #[arg(long)]
    read_data: bool,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args, store: Option<&Path>) -> Outcome {
    print(
        call_shown(
            store,
            &Request::Fsck {
                read_data: args.read_data,
            },
            Bar::new("checking", "chunks"),
        )?,
        args.json,
    )
}
