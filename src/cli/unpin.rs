//! `deployfs unpin`

use std::path::Path;

use super::Outcome;
use super::call::call;
use super::pin::How;
use crate::model::report::Request;

/// No longer keep a deploy from removal.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  deployfs unpin 1f3870be")]
pub struct Args {
    /// The deploy: an id, a unique prefix of one, 'live' or 'previous'
    id: String,
    #[command(flatten)]
    how: How,
}

pub fn run(args: &Args, store: Option<&Path>) -> Outcome {
    let request = Request::Unpin {
        target: args.id.clone(),
        message: args.how.message.clone(),
    };
    args.how.print(call(store, &request)?)
}
