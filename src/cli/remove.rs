//! `deployfs rm`

use std::path::Path;

use super::Outcome;
use super::call::{call, unexpected};
use super::output::{json, line};
use crate::model::report::{Answer, Request};

/// Remove deploys.
///
/// They leave the list and 'deploys/' at once; files of theirs that are open go on reading. What is live, pinned or was
/// live recently is refused, and then nothing is removed. Sealing the same content again brings a deploy back.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  deployfs rm 1f3870be 9b2c11d0 -m 'leaked a draft'")]
pub struct Args {
    /// The deploys: ids or unique prefixes of them
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
    /// Why
    #[arg(short, long, default_value = "", hide_default_value = true)]
    message: String,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args, store: Option<&Path>) -> Outcome {
    let request = Request::Remove {
        targets: args.ids.clone(),
        message: args.message.clone(),
    };
    match call(store, &request)? {
        Answer::Removed(report) if args.json => json(&report),
        Answer::Removed(report) => {
            let mut ids = report.removed.iter();
            ids.try_for_each(|id| line(id.to_string()))
        }
        other => Err(unexpected(&other)),
    }
}
