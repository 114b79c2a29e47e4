//! `deployfs log`

use std::path::Path;
use std::time::Duration;

use super::call::{call, unexpected};
use super::output::{first_line, json, line, table, time};
use super::{Error, Outcome, store_path};
use crate::model::ChannelName;
use crate::model::report::{Answer, LogEntry, Request};

/// How often is looked for what is new.
const LOOK: Duration = Duration::from_millis(300);
/// Where following begins, unless told otherwise: so many entries back.
const FOLLOWED: usize = 10;

/// Show the history, newest first.
///
/// Every seal, activation, rollback, removal, lock and more, with who, when and why. Nothing is ever taken out of it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  deployfs log -n 20\n  \
                        deployfs log --follow\n  \
                        deployfs log --follow --json | jq --unbuffered .verb\n  \
                        deployfs log --channel preview")]
pub struct Args {
    /// Only this channel's; 'live' is one
    #[arg(long, value_name = "NAME")]
    channel: Option<ChannelName>,
    /// Only so many entries, the last ones
    #[arg(short = 'n', long, value_name = "COUNT")]
    lines: Option<usize>,
    /// Go on and print what comes, oldest first, also across restarts of the daemon [starts 10 entries back]
    #[arg(short, long)]
    follow: bool,
    /// Print it as JSON, oldest first; with --follow one object a line
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args, store: Option<&Path>) -> Outcome {
    // Where the working directory's mount goes away, following goes on.
    let store = store_path::find(store)?;
    let mut entries = ask(args, &store, 0)?;
    let seen = entries.last().map_or(0, |entry| entry.seq);
    let lines = args.lines.or(args.follow.then_some(FOLLOWED));
    let left_out = lines.map_or(0, |lines| entries.len().saturating_sub(lines));
    entries.drain(..left_out);
    if args.follow {
        return follow(args, &store, seen, entries);
    }
    if args.json {
        return json(&entries);
    }
    let rows: Vec<Vec<String>> = entries.iter().rev().map(row).collect();
    table(&rows)
}

fn ask(args: &Args, store: &Path, after: u64) -> Result<Vec<LogEntry>, Error> {
    let channel = args.channel.clone();
    match call(Some(store), &Request::Log { after, channel })? {
        Answer::Log(entries) => Ok(entries),
        other => Err(unexpected(&other)),
    }
}

fn follow(args: &Args, store: &Path, mut seen: u64, mut entries: Vec<LogEntry>) -> Outcome {
    loop {
        for entry in &entries {
            seen = seen.max(entry.seq);
            match args.json {
                true => line(
                    serde_json::to_string(entry)
                        .map_err(|error| Error::failed(error.to_string()))?,
                )?,
                false => line(row(entry).join("  ").trim_end())?,
            }
        }
        std::thread::sleep(LOOK);
        entries = match ask(args, store, seen) {
            Ok(entries) => entries,
            // A daemon may be ending or starting: what it records meanwhile comes with the next look.
            Err(error) if store.exists() => {
                log::debug!("no look at the history: {error}");
                Vec::new()
            }
            Err(error) => return Err(error),
        };
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
    let message = first_line(&entry.message);
    let parts = [
        channel.map(|channel| format!("@{channel}")),
        entry.overrides.map(|lock| format!("[over lock {lock}]")),
        entry.until.map(|until| format!("[until {}]", time(until))),
        (!message.is_empty()).then_some(message),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
}
