//! `deployfs prune`

use std::path::Path;

use super::Outcome;
use super::call::{call, unexpected};
use super::gc::{collect, tell};
use super::output::{json, line};
use crate::model::report::{Answer, PruneReport, PruneRequest, Request};
use crate::model::retention::parse_age;

/// Remove deploys that are not worth keeping, and give back their space.
///
/// Kept are those that any of the options keeps, and in every case the live one, pinned ones, those that a channel shows, and
/// those that were live recently. Without --keep and --keep-within the store's retention.toml decides. Prints the ids that go.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  deployfs prune --keep 20 --keep-within 30d --dry-run\n  \
                        deployfs prune                 # as STORE/retention.toml says"
)]
pub struct Args {
    /// Keep so many deploys, those sealed last
    #[arg(long, value_name = "N")]
    keep: Option<usize>,
    /// Keep those sealed within this time, such as 30d, 12h or 2w
    #[arg(long, value_name = "TIME", value_parser = parse_age)]
    keep_within: Option<u64>,
    /// Keep those that were live within this time [default: 1d]
    #[arg(long, value_name = "TIME", value_parser = parse_age)]
    keep_live_within: Option<u64>,
    /// Only say what would go
    #[arg(long)]
    dry_run: bool,
    /// Leave the space for a later 'gc'
    #[arg(long)]
    no_gc: bool,
    /// Why
    #[arg(short, long, default_value = "", hide_default_value = true)]
    message: String,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args, store: Option<&Path>) -> Outcome {
    let request = Request::Prune(PruneRequest {
        keep: args.keep,
        keep_within: args.keep_within,
        keep_live_within: args.keep_live_within,
        dry_run: args.dry_run,
        message: args.message.clone(),
    });
    let mut report = match call(store, &request)? {
        Answer::Pruned(report) => report,
        other => return Err(unexpected(&other)),
    };
    if !args.json {
        print(&report)?;
    }
    if !args.dry_run && !args.no_gc {
        report.gc = Some(collect(store, &Request::Gc { dry_run: false })?);
    }
    match &report.gc {
        _ if args.json => json(&report),
        Some(gc) => {
            tell(gc);
            Ok(())
        }
        None => Ok(()),
    }
}

fn print(report: &PruneReport) -> Outcome {
    for kept in &report.kept {
        note!("kept {}: {}", kept.deploy_id, kept.why);
    }
    note!(
        "{} {} of {} deploys",
        if report.dry_run {
            "would remove"
        } else {
            "removed"
        },
        report.removed.len(),
        report.removed.len() + report.kept.len()
    );
    let mut ids = report.removed.iter();
    ids.try_for_each(|id| line(id.to_string()))
}
