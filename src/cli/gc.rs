//! `deployfs gc`

use std::path::Path;

use super::Outcome;
use super::call::{call, unexpected};
use super::output::{json, size};
use crate::model::report::{Answer, GcReport, Request};

/// Give back the space of removed deploys.
///
/// Looks through all deploys for what they need, removes packs in which nothing is needed, and rewrites those with much that is
/// not. Visitors and seals go on meanwhile; interrupted, it leaves nothing behind. If anything that a deploy needs cannot be
/// read, it stops and says which deploy.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  deployfs gc --dry-run")]
pub struct Args {
    /// Only say what would go
    #[arg(long)]
    dry_run: bool,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args, store: Option<&Path>) -> Outcome {
    let request = Request::Gc {
        dry_run: args.dry_run,
    };
    match call(store, &request)? {
        Answer::Gc(report) if args.json => json(&report),
        Answer::Gc(report) => {
            tell(&report);
            Ok(())
        }
        other => Err(unexpected(&other)),
    }
}

/// Says on stderr what a gc has done.
pub fn tell(report: &GcReport) {
    eprintln!(
        "{} {} ({} packs removed, {} rewritten); {} deploys need {}",
        if report.dry_run {
            "would free"
        } else {
            "freed"
        },
        size(report.freed_bytes),
        report.packs_dropped,
        report.packs_rewritten,
        report.deploys,
        size(report.kept_bytes)
    );
}
