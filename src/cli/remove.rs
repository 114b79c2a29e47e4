//! `deployfs rm`

use std::path::Path;

use super::Outcome;
use super::call::{call, unexpected};
use super::output::{json, line};
use crate::model::report::{Answer, RemoveReport, Request};
use crate::view::open_files::open_files;

/// Remove deploys.
///
/// They leave the list and 'deploys/' at once; files of theirs that are open go on reading. What is live, pinned or was
/// live recently is refused, and then nothing is removed. Sealing the same content again brings a deploy back.
///
/// With --now what was live recently is removed too, also what 'rollback' goes to: for the takedown of a deploy that nobody may
/// see any more. Who still has a file of it open is named, as far as that can be seen: run it as root.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  deployfs rm 1f3870be 9b2c11d0 \n  deployfs rm --now previous -m 'leaked a draft'"
)]
pub struct Args {
    /// The deploys: ids or unique prefixes of them
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
    /// Also what was live recently
    #[arg(long)]
    now: bool,
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
        now: args.now,
    };
    match call(store, &request)? {
        Answer::Removed(mut report) => {
            let seen = open_files(&report.removed);
            (report.open, report.unseen) = (seen.found, seen.unseen);
            match args.json {
                true => json(&report),
                false => print(&report, args.now),
            }
        }
        other => Err(unexpected(&other)),
    }
}

fn print(report: &RemoveReport, is_takedown: bool) -> Outcome {
    for open in &report.open {
        note!(
            "process {} ({}, of {}) has something of it open, and reads on until it closes that or ends",
            open.process,
            open.command,
            open.user
        );
    }
    if is_takedown && report.unseen > 0 {
        note!(
            "{} processes may not be looked at: as root, this command sees whether they have something of it open",
            report.unseen
        );
    }
    let mut ids = report.removed.iter();
    ids.try_for_each(|id| line(id.to_string()))
}
