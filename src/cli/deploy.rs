//! `deployfs deploy`

use std::path::{Path, PathBuf};

use super::sealing::{Going, SealArgs, finish, seal};
use super::{Outcome, store_path};
use crate::model::report::{FolderRequest, Request};

/// Seal any folder, without a copy in staging, and print the deploy's id.
///
/// The folder is read with your rights and left as it is. With --from it is laid over an existing deploy: files in both
/// come from the folder, files only in the deploy are kept, --delete leaves paths out; so a one-file fix needs one file.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  deployfs deploy ./public -m 'release 7' --activate --if-live 9b2c11d0\n  \
                        deployfs deploy ./fix --from live --delete old/page.html"
)]
pub struct Args {
    /// The folder
    dir: PathBuf,
    #[command(flatten)]
    going: Going,
    /// Lay the folder over this deploy: an id, a unique prefix of one, 'live' or 'previous'
    #[arg(long, value_name = "ID")]
    from: Option<String>,
    /// Leave this path of that deploy out; may be given several times
    #[arg(long, value_name = "PATH", requires = "from")]
    delete: Vec<PathBuf>,
    /// Say what would be new, and store nothing
    #[arg(long, conflicts_with = "activate")]
    dry_run: bool,
    #[command(flatten)]
    seal: SealArgs,
    /// Print the whole outcome as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args, store: Option<&Path>) -> Outcome {
    args.going.check()?;
    let request = Request::Deploy(FolderRequest {
        dir: store_path::absolute(&args.dir)?,
        from: args.from.clone(),
        delete: args.delete.clone(),
        dry_run: args.dry_run,
        options: args.seal.options(),
    });
    finish(store, seal(store, &request)?, &args.going, args.json)
}
