//! `deployfs lock`

use std::path::Path;

use super::Outcome;
use super::call::{call, unexpected};
use super::output::{json, moment, time};
use crate::model::report::{Answer, Request};

/// Ask that what is live stays so: activate and rollback are refused, with your reason.
///
/// Who activates all the same (--override-lock) is recorded. Sealing, channels and everything else go on. A lock ends with
/// 'deployfs unlock', or by itself with --until.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  deployfs lock -m 'measuring, please wait' --until 2h\n  \
                        deployfs lock -m 'sale' --until 2026-11-30T08:00:00Z"
)]
pub struct Args {
    /// Why: everybody who is refused reads it
    #[arg(short, long)]
    message: String,
    /// When it ends by itself: a time span from now on, such as 2h or 3d, or a date as in RFC 3339
    #[arg(long, value_name = "WHEN", value_parser = moment)]
    until: Option<u64>,
    /// Print the lock as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args, store: Option<&Path>) -> Outcome {
    let request = Request::Lock {
        reason: args.message.clone(),
        until: args.until,
    };
    match call(store, &request)? {
        Answer::Lock(lock) if args.json => json(&lock),
        Answer::Lock(lock) => {
            match lock.until {
                Some(until) => note!("locked until {}", time(until)),
                None => note!("locked until 'deployfs unlock'"),
            }
            Ok(())
        }
        other => Err(unexpected(&other)),
    }
}
