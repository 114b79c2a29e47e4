//! `deployfs diff`

use std::path::Path;

use super::call::{call, unexpected};
use super::output::{changes, json, line, names, quoted, size};
use super::{Error, Outcome};
use crate::model::report::{Answer, Change, DiffEntry, DiffReport, Request};

/// Show what changed from one deploy to another.
///
/// One line a path: A added, D removed, M modified, P only permissions. A path with control characters, quotes, or bytes that are
/// no text stands in quotes, with escapes as in C.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  deployfs diff                  # from the previous live deploy to the live one\n  \
                        deployfs diff live @preview --stat\n  \
                        deployfs diff none 1f3870be    # everything in it\n  \
                        deployfs diff --name-only -z | xargs -0 -n 1 echo"
)]
pub struct Args {
    /// The first deploy; 'none': everything in the second is new
    #[arg(default_value = "previous")]
    a: String,
    /// The second deploy
    #[arg(default_value = "live")]
    b: String,
    #[command(flatten)]
    form: Form,
    /// Print the paths as JSON; with --stat, the counts
    #[arg(long)]
    json: bool,
}

/// How differences are printed.
#[derive(Debug, clap::Args)]
pub struct Form {
    /// Only count
    #[arg(long, conflicts_with = "name_only")]
    stat: bool,
    /// Only the paths
    #[arg(long, conflicts_with = "json")]
    name_only: bool,
    /// Only the paths, unquoted and each ended by a NUL byte
    #[arg(short = 'z', long = "null", conflicts_with_all = ["json", "stat"])]
    null: bool,
}

impl Form {
    /// True where any is asked for.
    pub fn any(&self) -> bool {
        self.stat || self.name_only || self.null
    }

    /// Prints in this form what changed from `a` to `b`.
    pub fn print(&self, store: Option<&Path>, a: String, b: String, as_json: bool) -> Outcome {
        let report = ask(store, a, b)?;
        let mut entries = report.entries.iter();
        match (as_json, self) {
            (true, Form { stat: true, .. }) => json(&report.changes),
            (true, _) => json(&report.entries),
            (false, Form { stat: true, .. }) => line(changes(&report.changes)),
            (false, Form { null: true, .. }) => names(entries.map(DiffEntry::raw_path)),
            (
                false,
                Form {
                    name_only: true, ..
                },
            ) => entries.try_for_each(|entry| line(quoted(&entry.raw_path()))),
            (false, _) => entries.try_for_each(|entry| line(row(entry))),
        }
    }
}

fn ask(store: Option<&Path>, a: String, b: String) -> Result<DiffReport, Error> {
    match call(store, &Request::Diff { a, b })? {
        Answer::Diff(report) => Ok(report),
        other => Err(unexpected(&other)),
    }
}

pub fn run(args: &Args, store: Option<&Path>) -> Outcome {
    args.form
        .print(store, args.a.clone(), args.b.clone(), args.json)
}

fn row(entry: &DiffEntry) -> String {
    let sizes = match (entry.old_size, entry.new_size) {
        (Some(old), Some(new)) if old != new => format!("  ({} → {})", size(old), size(new)),
        (None, Some(new)) => format!("  ({})", size(new)),
        _ => String::new(),
    };
    format!(
        "{} {}{sizes}",
        letter(entry.change),
        quoted(&entry.raw_path())
    )
}

fn letter(change: Change) -> char {
    match change {
        Change::Added => 'A',
        Change::Removed => 'D',
        Change::Modified => 'M',
        Change::Mode => 'P',
    }
}
