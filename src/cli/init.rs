//! `deployfs init`

use std::path::PathBuf;

use super::Outcome;
use crate::deploy::Deployfs;
use crate::users::this_process;

/// Make a new, empty store.
///
/// A store holds all deploys of one site: their bytes, the history, and the staging folders. Put it on a local disk with
/// space for a few versions of the site; unchanged files are stored once.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  deployfs init /srv/store")]
pub struct Args {
    /// A folder that does not exist yet, or is empty
    store: PathBuf,
}

pub fn run(args: &Args) -> Outcome {
    Deployfs::init(&args.store, &this_process())?;
    note!(
        "made a store; next: deployfs mount {} MOUNTPOINT",
        args.store.display()
    );
    Ok(())
}
