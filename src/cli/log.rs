//! `deployfs log`

use std::path::Path;

use super::Outcome;
use super::call::{call, unexpected};
use super::output::{json, table, time};
use crate::model::report::{Answer, LogEntry, Request};

/// Show the history, newest first.
///
/// Every seal, activation and rollback, with who, when and why. Nothing is ever taken out of it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  deployfs log | head")]
pub struct Args {
    /// Print it as JSON, oldest first
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args, store: Option<&Path>) -> Outcome {
    match call(store, &Request::Log)? {
        Answer::Log(entries) if args.json => json(&entries),
        Answer::Log(entries) => {
            let rows: Vec<Vec<String>> = entries.iter().rev().map(row).collect();
            table(&rows)
        }
        other => Err(unexpected(&other)),
    }
}

fn row(entry: &LogEntry) -> Vec<String> {
    vec![
        entry.seq.to_string(),
        time(entry.time),
        entry.actor.clone(),
        entry.verb.clone(),
        entry.deploy_id.map(|id| id.to_string()).unwrap_or_default(),
        note(entry),
    ]
}

/// The message's first line, after what else there is to say.
fn note(entry: &LogEntry) -> String {
    let channel = entry.channel.as_ref().filter(|channel| !channel.is_live());
    let parts = [
        channel.map(|channel| format!("@{channel}")),
        entry.overrides.map(|lock| format!("[over lock {lock}]")),
        entry.until.map(|until| format!("[until {}]", time(until))),
        entry.message.lines().next().map(str::to_owned),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
}
