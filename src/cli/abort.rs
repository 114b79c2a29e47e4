//! `deployfs abort`

use std::path::Path;

use super::Outcome;
use super::call::{call, unexpected};
use crate::model::StagingName;
use crate::model::report::{Answer, Request};

/// Throw a staging folder away.
///
/// Deletes the folder and all that is in it. Sealed deploys are not touched.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  deployfs abort v2")]
pub struct Args {
    /// The staging folder's name
    name: StagingName,
}

pub fn run(args: &Args, store: Option<&Path>) -> Outcome {
    match call(
        store,
        &Request::Abort {
            name: args.name.clone(),
        },
    )? {
        Answer::Done => Ok(()),
        other => Err(unexpected(&other)),
    }
}
