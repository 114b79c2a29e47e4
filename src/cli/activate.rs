//! `deployfs activate`

use std::path::Path;

use super::Outcome;
use super::call::{call, unexpected};
use super::output::{json, line};
use crate::model::report::{ActivateReport, ActivateRequest, Answer, Request};

/// Make a deploy live.
///
/// When this returns 0, the change is on disk and no new request sees the deploy before. Requests under way finish with
/// the deploy they began with. Activating what is live already changes nothing and is recorded.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  deployfs activate 1f3870be\n  \
                        deployfs activate 1f3870be --if-live 9b2c11d0   # only if nobody was faster")]
pub struct Args {
    /// The deploy: an id, a unique prefix of one, or 'previous'
    id: String,
    #[command(flatten)]
    how: How,
}

/// What `activate` and `rollback` share.
#[derive(Debug, clap::Args)]
pub struct How {
    /// Only if this deploy is live now ('none': no deploy is), else exit with code 3
    #[arg(long, value_name = "ID")]
    if_live: Option<String>,
    /// Why
    #[arg(short, long, default_value = "", hide_default_value = true)]
    message: String,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

impl How {
    /// The request for this target.
    pub fn request(&self, target: Option<String>) -> ActivateRequest {
        ActivateRequest {
            target,
            if_live: self.if_live.clone(),
            message: self.message.clone(),
        }
    }

    /// Prints the outcome.
    pub fn print(&self, answer: Answer) -> Outcome {
        match answer {
            Answer::Activated(report) => print(&report, self.json),
            other => Err(unexpected(&other)),
        }
    }
}

pub fn run(args: &Args, store: Option<&Path>) -> Outcome {
    let request = Request::Activate(args.how.request(Some(args.id.clone())));
    args.how.print(call(store, &request)?)
}

fn print(report: &ActivateReport, as_json: bool) -> Outcome {
    if as_json {
        return json(report);
    }
    match (report.unchanged, report.before) {
        (true, _) => eprintln!("it was live already"),
        (false, Some(before)) => eprintln!("live now; before it: {before}"),
        (false, None) => eprintln!("live now; nothing was live before"),
    }
    line(report.deploy_id.to_string())
}
