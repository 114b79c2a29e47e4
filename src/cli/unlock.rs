//! `deployfs unlock`

use std::path::Path;

use super::Outcome;
use super::call::{call, unexpected};
use super::output::{json, time};
use crate::model::report::{Answer, Request};

/// Take the lock back that 'deployfs lock' has made.
///
/// Anybody who may activate may do so; the history says who did.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  deployfs unlock -m 'measured'")]
pub struct Args {
    /// Why
    #[arg(short, long, default_value = "", hide_default_value = true)]
    message: String,
    /// Print the lock that was, as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args, store: Option<&Path>) -> Outcome {
    let request = Request::Unlock {
        message: args.message.clone(),
    };
    match call(store, &request)? {
        Answer::Lock(lock) if args.json => json(&lock),
        Answer::Lock(lock) => {
            note!(
                "unlocked; it was locked by {} since {}: {}",
                lock.by,
                time(lock.since),
                lock.reason
            );
            Ok(())
        }
        other => Err(unexpected(&other)),
    }
}
