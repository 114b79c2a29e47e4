//! `deployfs create`

use std::path::Path;

use super::Outcome;
use super::call::{call, unexpected};
use super::output::{self, json};
use crate::model::StagingName;
use crate::model::report::{Answer, Request};

/// Make a staging folder and print its path.
///
/// A staging folder is a plain folder that belongs to you: copy, unpack or edit in it with any tool. Nobody sees it until
/// it is sealed and activated.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  cp -r build/. \"$(deployfs create v2)\"")]
pub struct Args {
    /// Its name [default: made from the time]
    name: Option<StagingName>,
    /// Print {"path": …}
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args, store: Option<&Path>) -> Outcome {
    match call(
        store,
        &Request::Create {
            name: args.name.clone(),
        },
    )? {
        Answer::Staging(path) if args.json => json(&serde_json::json!({ "path": path })),
        Answer::Staging(path) => output::path(&path),
        other => Err(unexpected(&other)),
    }
}
