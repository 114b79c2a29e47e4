//! `deployfs log`

use std::path::Path;
use std::time::Duration;

use super::call::{call, unexpected};
use super::output::{first_line, json, line, part, table, time};
use super::terminal::escaped_json;
use super::{Error, Outcome, store_path};
use crate::model::ChannelName;
use crate::model::report::{Answer, LogEntry, LogRequest, Request};

/// How often is looked for what is new.
const LOOK: Duration = Duration::from_millis(300);
/// Where following begins, unless told otherwise: so many entries back.
const FOLLOWED: u64 = 10;
/// How many entries are asked for at once.
const PAGE: u64 = 2_000;

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
    lines: Option<u64>,
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
    if args.follow {
        return follow(args, &store);
    }
    let pages = Pages {
        args,
        store: &store,
        left: args.lines,
        edge: None,
    };
    match args.json {
        true => print_json(pages),
        false => print_newest_first(pages),
    }
}

/// The history in parts, however long it is: each is asked for when the one before it is printed.
struct Pages<'a> {
    args: &'a Args,
    store: &'a Path,
    /// So many entries at most are still wanted.
    left: Option<u64>,
    /// The entry that the last part ended with.
    edge: Option<u64>,
}

impl Pages<'_> {
    /// The next part towards the past, its oldest entry first. Empty at the end.
    fn older(&mut self) -> Result<Vec<LogEntry>, Error> {
        let wanted = LogRequest {
            before: self.edge,
            newest: Some(self.left.map_or(PAGE, |left| left.min(PAGE))),
            ..self.wanted()
        };
        let mut entries = ask(self.store, wanted)?;
        // A daemon of an earlier version gives all.
        entries.retain(|entry| self.edge.is_none_or(|edge| entry.seq < edge));
        if let Some(left) = &mut self.left {
            let surplus = (entries.len() as u64).saturating_sub(*left);
            entries.drain(..surplus as usize);
            *left -= entries.len() as u64;
        }
        self.edge = entries.first().map(|entry| entry.seq).or(self.edge);
        Ok(entries)
    }

    /// The next part towards the present, its oldest entry first. Empty at the end.
    fn newer(&mut self) -> Result<Vec<LogEntry>, Error> {
        let wanted = LogRequest {
            after: self.edge.unwrap_or(0),
            oldest: Some(PAGE),
            ..self.wanted()
        };
        let entries = ask(self.store, wanted)?;
        self.edge = entries.last().map(|entry| entry.seq).or(self.edge);
        Ok(entries)
    }

    fn wanted(&self) -> LogRequest {
        LogRequest {
            channel: self.args.channel.clone(),
            ..LogRequest::default()
        }
    }

    /// All that `-n` leaves, its oldest entry first.
    fn last(&mut self) -> Result<Vec<LogEntry>, Error> {
        let mut entries = Vec::new();
        while self.left != Some(0) {
            let mut older = self.older()?;
            if older.is_empty() {
                break;
            }
            older.append(&mut entries);
            entries = older;
        }
        Ok(entries)
    }
}

fn ask(store: &Path, wanted: LogRequest) -> Result<Vec<LogEntry>, Error> {
    match call(Some(store), &Request::Log(wanted))? {
        Answer::Log(entries) => Ok(entries),
        other => Err(unexpected(&other)),
    }
}

fn print_newest_first(mut pages: Pages<'_>) -> Outcome {
    while pages.left != Some(0) {
        let entries = pages.older()?;
        if entries.is_empty() {
            break;
        }
        let rows: Vec<Vec<String>> = entries.iter().rev().map(row).collect();
        table(&rows)?;
    }
    Ok(())
}

/// Prints one array, as [`json`] prints it.
fn print_json(mut pages: Pages<'_>) -> Outcome {
    if pages.left.is_some() {
        return json(&pages.last()?);
    }
    let mut printed = false;
    loop {
        let entries = pages.newer()?;
        if entries.is_empty() {
            break;
        }
        let text = serde_json::to_string_pretty(&entries)
            .map_err(|error| Error::failed(error.to_string()))?;
        let text = escaped_json(&text);
        let inner = text
            .strip_prefix("[\n")
            .and_then(|text| text.strip_suffix("\n]"));
        let start = if printed { ",\n" } else { "[\n" };
        part(format!("{start}{}", inner.unwrap_or(&text)))?;
        printed = true;
    }
    match printed {
        true => line("\n]"),
        false => line("[]"),
    }
}

fn follow(args: &Args, store: &Path) -> Outcome {
    let mut pages = Pages {
        args,
        store,
        left: Some(args.lines.unwrap_or(FOLLOWED)),
        edge: None,
    };
    let latest = latest(store)?;
    let mut entries = pages.last()?;
    // Where there is nothing to show, only what comes after the latest entry of all is new.
    pages.edge = entries.last().map(|entry| entry.seq).or(latest);
    loop {
        for entry in &entries {
            match args.json {
                true => line(escaped_json(
                    &serde_json::to_string(entry)
                        .map_err(|error| Error::failed(error.to_string()))?,
                ))?,
                false => line(row(entry).join("  ").trim_end())?,
            }
        }
        std::thread::sleep(LOOK);
        entries = match pages.newer() {
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

/// The number of the latest entry.
fn latest(store: &Path) -> Result<Option<u64>, Error> {
    let wanted = LogRequest {
        newest: Some(1),
        ..LogRequest::default()
    };
    Ok(ask(store, wanted)?.last().map(|entry| entry.seq))
}

fn row(entry: &LogEntry) -> Vec<String> {
    vec![
        entry.seq.to_string(),
        time(entry.time),
        entry.actor.clone(),
        verb(entry),
        entry.deploy_id.map(|id| id.to_string()).unwrap_or_default(),
        note(entry),
    ]
}

/// The command that does what the entry records: a channel's activation is its `channel set`.
fn verb(entry: &LogEntry) -> String {
    let channel = entry.channel.as_ref().filter(|channel| !channel.is_live());
    match (entry.verb.as_str(), channel) {
        ("activate", Some(channel)) => format!("channel set {channel}"),
        ("close", Some(channel)) => format!("channel rm {channel}"),
        (verb, Some(channel)) => format!("{verb} @{channel}"),
        (verb, None) => verb.to_owned(),
    }
}

/// The message's first line, after what else there is to say.
fn note(entry: &LogEntry) -> String {
    let message = first_line(&entry.message);
    let parts = [
        entry.overrides.map(|lock| format!("[over lock {lock}]")),
        entry.until.map(|until| format!("[until {}]", time(until))),
        (!message.is_empty()).then_some(message),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
}
