//! `deployfs activate`

use std::path::Path;

use super::Outcome;
use super::activating::{Conditions, print};
use crate::model::report::Request;

/// Make a deploy live.
///
/// When this returns 0, the change is on disk and no new request sees the deploy before. Requests under way finish with
/// the deploy they began with. Activating what is live already changes nothing and is recorded. Where what is live is locked
/// ('deployfs lock'), this is refused with exit code 3. After the flip STORE/hooks/post-activate runs, if there is one.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  deployfs activate 1f3870be\n  \
                        deployfs activate 1f3870be --if-live 9b2c11d0   # only if nobody was faster\n  \
                        deployfs activate 1f3870be --check 'test -s \"$DEPLOYFS_ROOT/index.html\"'")]
pub struct Args {
    /// The deploy: an id, a unique prefix of one, 'previous', or '@CHANNEL' for what a channel shows
    id: String,
    #[command(flatten)]
    conditions: Conditions,
    /// Why
    #[arg(short, long, default_value = "", hide_default_value = true)]
    message: String,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args, store: Option<&Path>) -> Outcome {
    let target = Some(args.id.clone());
    let report = args
        .conditions
        .make_live(store, Request::Activate, target, &args.message)?;
    print(&report, args.json)
}
