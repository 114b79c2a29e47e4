//! `deployfs du`

use std::path::Path;

use super::Outcome;
use super::call::{call, unexpected};
use super::output::{json, size, table};
use crate::model::report::{Answer, DeployUsage, Request};

/// Show what deploys take, and what removing one would free.
///
/// SIZE is what its files hold, STORED what they take in the store, UNIQUE the part that no other deploy has. FREES is what
/// would go with it: less than UNIQUE where chunks of others are stored as differences from its own.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  deployfs du previous")]
pub struct Args {
    /// The deploys: ids or unique prefixes of them, 'live' or 'previous' [default: all]
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    /// Print bytes as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args, store: Option<&Path>) -> Outcome {
    let request = Request::Usage {
        targets: args.ids.clone(),
    };
    match call(store, &request)? {
        Answer::Usage(report) if args.json => json(&report),
        Answer::Usage(report) => {
            let titles = ["ID", "SIZE", "STORED", "UNIQUE", "FREES"].map(String::from);
            let rows = report.deploys.iter().map(row);
            table(
                &std::iter::once(titles.to_vec())
                    .chain(rows)
                    .collect::<Vec<_>>(),
            )?;
            note!("all packs: {}", size(report.pack_bytes));
            Ok(())
        }
        other => Err(unexpected(&other)),
    }
}

fn row(deploy: &DeployUsage) -> Vec<String> {
    let mut row = vec![deploy.deploy_id.to_string()];
    row.extend(
        [
            deploy.bytes,
            deploy.stored_bytes,
            deploy.unique_bytes,
            deploy.freed_bytes,
        ]
        .map(size),
    );
    row
}
