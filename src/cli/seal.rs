//! `deployfs seal`

use std::path::Path;

use super::Outcome;
use super::sealing::{Going, SealArgs, finish, seal};
use crate::model::StagingName;
use crate::model::report::Request;

/// Make a staging folder an immutable deploy and print its id.
///
/// The folder is checked, hashed and stored; what earlier deploys have already costs nothing. From then on the deploy is in
/// MOUNTPOINT/deploys/ID and never changes. The live site is not touched: 'deployfs activate ID' or --activate does that. If anything
/// cannot be sealed, everything is named and the folder stays as it is.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  deployfs seal v2 -m 'new prices' --meta git_sha=1a2b3c")]
pub struct Args {
    /// The staging folder's name
    name: StagingName,
    #[command(flatten)]
    going: Going,
    #[command(flatten)]
    seal: SealArgs,
    /// Print the whole outcome as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args, store: Option<&Path>) -> Outcome {
    args.going.check()?;
    let request = Request::Seal {
        name: args.name.clone(),
        options: args.seal.options(),
    };
    finish(store, seal(store, &request)?, &args.going, args.json)
}
