//! `deployfs verify`

use std::path::Path;

use super::call::{call_shown, unexpected};
use super::output::{json, line, size};
use super::progress::Bar;
use super::{Error, Outcome};
use crate::model::report::{Answer, CheckReport, Request};

/// Read deploys to the last byte and check every hash.
///
/// Exits with 1 and names every problem if something is missing or damaged. Changes nothing.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  deployfs verify live")]
pub struct Args {
    /// Only this deploy: an id, a unique prefix of one, 'live', 'previous' or '@CHANNEL'
    id: Option<String>,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args, store: Option<&Path>) -> Outcome {
    print(
        call_shown(
            store,
            &Request::Verify {
                target: args.id.clone(),
            },
            Bar::new("verifying", "chunks"),
        )?,
        args.json,
    )
}

/// Prints the outcome of a check; bad news is exit code 1.
pub fn print(answer: Answer, as_json: bool) -> Outcome {
    let report = match answer {
        Answer::Check(report) => report,
        other => return Err(unexpected(&other)),
    };
    if as_json {
        json(&report)?;
    } else {
        print_lines(&report)?;
    }
    if report.problems.is_empty() {
        Ok(())
    } else {
        Err(Error::Told)
    }
}

fn print_lines(report: &CheckReport) -> Outcome {
    for problem in &report.problems {
        line(problem)?;
    }
    for note in &report.notes {
        note!("note: {note}");
    }
    note!(
        "{} deploys, {} trees and lists, {} chunks looked at, {} read: {}",
        report.deploys,
        report.objects,
        report.chunks,
        size(report.bytes_read),
        match report.problems.len() {
            0 => "all is well".to_owned(),
            count => format!("{count} problems"),
        }
    );
    Ok(())
}
