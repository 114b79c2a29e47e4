//! `deployfs rollback`

use std::path::Path;

use super::Outcome;
use super::activating::{Conditions, print};
use crate::model::report::Request;

/// Make the deploy before the live one live again.
///
/// Like a browser's back button: a second rollback goes one further back. Nothing is deleted, and going forward again is an
/// activation like any other.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  deployfs rollback -m 'prices were wrong'\n  deployfs rollback --to 1f3870be"
)]
pub struct Args {
    /// Go back to this deploy instead: an id or a unique prefix of one
    #[arg(long, value_name = "ID")]
    to: Option<String>,
    #[command(flatten)]
    conditions: Conditions,
    /// Why
    #[arg(short, long, default_value = "", hide_default_value = true)]
    message: String,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args, store: Option<&Path>) -> Outcome {
    let target = args.to.clone();
    let report = args
        .conditions
        .make_live(store, Request::Rollback, target, &args.message)?;
    print(&report, args.json)
}
