//! `deployfs channel`

use std::path::Path;

use clap::Subcommand;

use super::Outcome;
use super::call::{call, unexpected};
use super::output::{first_line, json, line, moment, table, time};
use crate::model::ChannelName;
use crate::model::report::{Answer, ChannelInfo, Request};

/// Named pointers beside live: a deploy under a name of your choice, such as preview.
///
/// A channel is the folder MOUNTPOINT/channels/NAME. Setting it anew is the same step for all readers as an activation is, and
/// recorded alike. '@NAME' stands for what it shows wherever a deploy is named: 'deployfs activate @NAME' promotes it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  deployfs channel set preview 1f3870be\n  \
                        deployfs activate @preview\n  deployfs log --channel preview")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Set(SetArgs),
    List(ListArgs),
    #[command(visible_alias = "remove")]
    Rm(RmArgs),
}

/// Let a channel show a deploy; it is made where there is none of that name.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  deployfs channel set preview 1f3870be -m 'for the customer'\n  \
                        deployfs channel set pr-17 \"$(deployfs deploy ./public)\" --expires 7d"
)]
struct SetArgs {
    /// Its name: as for a file, and not 'live', 'previous', 'none' or a deploy's id
    name: ChannelName,
    /// The deploy: an id, a unique prefix of one, 'live', 'previous' or '@CHANNEL'
    id: String,
    /// When it ends by itself: a time span from now on, such as 7d, or a date as in RFC 3339 [default: never]
    #[arg(long, value_name = "WHEN", value_parser = moment)]
    expires: Option<u64>,
    /// Why
    #[arg(short, long, default_value = "", hide_default_value = true)]
    message: String,
    /// Print the channel as JSON
    #[arg(long)]
    json: bool,
}

/// List all channels but live.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  deployfs channel list")]
struct ListArgs {
    /// Print them as JSON
    #[arg(long)]
    json: bool,
}

/// Take a channel away; the deploy that it shows stays.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  deployfs channel rm pr-17 -m merged")]
struct RmArgs {
    /// Its name
    name: ChannelName,
    /// Why
    #[arg(short, long, default_value = "", hide_default_value = true)]
    message: String,
    /// Print the channel that was as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args, store: Option<&Path>) -> Outcome {
    match &args.command {
        Command::Set(args) => set(args, store),
        Command::List(args) => list(args, store),
        Command::Rm(args) => rm(args, store),
    }
}

fn set(args: &SetArgs, store: Option<&Path>) -> Outcome {
    let request = Request::SetChannel {
        name: args.name.clone(),
        target: args.id.clone(),
        until: args.expires,
        message: args.message.clone(),
    };
    match call(store, &request)? {
        Answer::Channel(channel) => {
            for warning in &channel.warnings {
                note!("deployfs: {warning}");
            }
            if args.json {
                return json(&channel);
            }
            let place = channel
                .path
                .as_ref()
                .map(|path| format!(" in {}", path.display()));
            let until = channel.until.map(|until| format!(" until {}", time(until)));
            note!(
                "'{}' shows it{}{}",
                channel.name,
                place.unwrap_or_default(),
                until.unwrap_or_default()
            );
            line(channel.deploy_id.to_string())
        }
        other => Err(unexpected(&other)),
    }
}

fn list(args: &ListArgs, store: Option<&Path>) -> Outcome {
    match call(store, &Request::Channels)? {
        Answer::Channels(channels) if args.json => json(&channels),
        Answer::Channels(channels) => {
            let titles = ["NAME", "ID", "SINCE", "BY", "UNTIL", "MESSAGE"].map(String::from);
            let rows = channels.iter().map(row);
            table(
                &std::iter::once(titles.to_vec())
                    .chain(rows)
                    .collect::<Vec<_>>(),
            )
        }
        other => Err(unexpected(&other)),
    }
}

fn row(channel: &ChannelInfo) -> Vec<String> {
    vec![
        channel.name.to_string(),
        channel.deploy_id.to_string(),
        time(channel.since),
        channel.by.clone(),
        channel.until.map(time).unwrap_or_default(),
        first_line(&channel.message),
    ]
}

fn rm(args: &RmArgs, store: Option<&Path>) -> Outcome {
    let request = Request::CloseChannel {
        name: args.name.clone(),
        message: args.message.clone(),
    };
    match call(store, &request)? {
        Answer::Channel(channel) if args.json => json(&channel),
        Answer::Channel(channel) => {
            note!(
                "'{}' is gone; it showed {}",
                channel.name,
                channel.deploy_id
            );
            Ok(())
        }
        other => Err(unexpected(&other)),
    }
}
