//! `deployfs pin`

use std::path::Path;

use super::Outcome;
use super::call::{call, unexpected};
use super::output::{json, line};
use crate::model::report::{Answer, Request};

/// Keep a deploy from removal.
///
/// A pinned deploy is refused by 'rm' and kept by 'prune' until it is unpinned. 'show' and 'list' tell who pinned it and why;
/// pinning it again replaces the message.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  deployfs pin live -m 'before the relaunch'")]
pub struct Args {
    /// The deploy: an id, a unique prefix of one, 'live' or 'previous'
    id: String,
    #[command(flatten)]
    how: How,
}

/// What `pin` and `unpin` share.
#[derive(Debug, clap::Args)]
pub struct How {
    /// Why
    #[arg(short, long, default_value = "", hide_default_value = true)]
    pub message: String,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

impl How {
    /// Prints the outcome.
    pub fn print(&self, answer: Answer) -> Outcome {
        match answer {
            Answer::Pinned(report) if self.json => json(&report),
            Answer::Pinned(report) => {
                match (&report.pinned, report.unchanged) {
                    (Some(_), _) => note!("pinned"),
                    (None, false) => note!("no longer pinned"),
                    (None, true) => note!("it was not pinned"),
                }
                line(report.deploy_id.to_string())
            }
            other => Err(unexpected(&other)),
        }
    }
}

pub fn run(args: &Args, store: Option<&Path>) -> Outcome {
    let request = Request::Pin {
        target: args.id.clone(),
        message: args.how.message.clone(),
    };
    args.how.print(call(store, &request)?)
}
