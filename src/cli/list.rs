//! `deployfs list`

use std::path::Path;

use super::Outcome;
use super::call::{call, unexpected};
use super::output::{json, size, table, time};
use crate::model::report::{Answer, DeployInfo, Request};

/// List all deploys, newest first.
///
/// The live one is marked with '*'.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  deployfs list")]
pub struct Args {
    /// Print all that is known of each as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args, store: Option<&Path>) -> Outcome {
    match call(store, &Request::List)? {
        Answer::Deploys(deploys) if args.json => json(&deploys),
        Answer::Deploys(deploys) => {
            let titles = ["", "ID", "SEALED", "BY", "FILES", "SIZE", "MESSAGE"].map(String::from);
            let rows: Vec<Vec<String>> = std::iter::once(titles.to_vec())
                .chain(deploys.iter().map(row))
                .collect();
            table(&rows)
        }
        other => Err(unexpected(&other)),
    }
}

fn row(deploy: &DeployInfo) -> Vec<String> {
    vec![
        if deploy.live {
            "*".into()
        } else {
            String::new()
        },
        deploy.deploy_id.to_string(),
        time(deploy.sealed_at),
        deploy.sealed_by.clone(),
        deploy.files.to_string(),
        size(deploy.bytes),
        match &deploy.problem {
            Some(problem) => problem.clone(),
            None => deploy.message.lines().next().unwrap_or_default().to_owned(),
        },
    ]
}
