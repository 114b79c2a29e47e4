//! `deployfs gc`

use std::path::Path;

use super::call::{call_shown, unexpected};
use super::output::{json, size};
use super::progress::Bar;
use super::{Error, Outcome};
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
    let report = collect(store, &request)?;
    if args.json {
        return json(&report);
    }
    tell(&report);
    Ok(())
}

/// Carries it out, with a progress bar.
pub fn collect(store: Option<&Path>, request: &Request) -> Result<GcReport, Error> {
    match call_shown(store, request, Bar::new("looking for space", "packs"))? {
        Answer::Gc(report) => Ok(report),
        other => Err(unexpected(&other)),
    }
}

/// Says on stderr what a gc has done.
pub fn tell(report: &GcReport) {
    note!(
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
