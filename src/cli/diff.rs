//! `deployfs diff`

use std::path::Path;

use super::Outcome;
use super::call::{call, unexpected};
use super::output::{json, line, size};
use crate::model::report::{Answer, Change, DiffEntry, Request};

/// Show what changed from one deploy to another.
///
/// One line a path: A added, D removed, M modified, P only permissions.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  deployfs diff                  # from the previous live deploy to the live one\n  \
                        deployfs diff live 1f3870be --stat"
)]
pub struct Args {
    /// The first deploy
    #[arg(default_value = "previous")]
    a: String,
    /// The second deploy
    #[arg(default_value = "live")]
    b: String,
    /// Only count
    #[arg(long)]
    stat: bool,
    /// Print the paths as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args, store: Option<&Path>) -> Outcome {
    match call(
        store,
        &Request::Diff {
            a: args.a.clone(),
            b: args.b.clone(),
        },
    )? {
        Answer::Diff(entries) if args.json => json(&entries),
        Answer::Diff(entries) if args.stat => stat(&entries),
        Answer::Diff(entries) => entries.iter().try_for_each(|entry| line(row(entry))),
        other => Err(unexpected(&other)),
    }
}

fn row(entry: &DiffEntry) -> String {
    let sizes = match (entry.old_size, entry.new_size) {
        (Some(old), Some(new)) if old != new => format!("  ({} → {})", size(old), size(new)),
        (None, Some(new)) => format!("  ({})", size(new)),
        _ => String::new(),
    };
    format!("{} {}{sizes}", letter(entry.change), entry.path)
}

fn letter(change: Change) -> char {
    match change {
        Change::Added => 'A',
        Change::Removed => 'D',
        Change::Modified => 'M',
        Change::Mode => 'P',
    }
}

fn stat(entries: &[DiffEntry]) -> Outcome {
    let count = |change| {
        entries
            .iter()
            .filter(|entry| entry.change == change)
            .count()
    };
    let bytes = |side: fn(&DiffEntry) -> Option<u64>| entries.iter().filter_map(side).sum::<u64>();
    line(format!(
        "{} added, {} removed, {} modified, {} with other permissions; {} → {}",
        count(Change::Added),
        count(Change::Removed),
        count(Change::Modified),
        count(Change::Mode),
        size(bytes(|entry| entry.old_size)),
        size(bytes(|entry| entry.new_size)),
    ))
}
