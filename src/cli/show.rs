//! `deployfs show`

use std::path::Path;

use super::Outcome;
use super::call::{call, unexpected};
use super::output::{json, line, size, time};
use crate::model::report::{Answer, DeployInfo, Request};

/// Show all that is known of one deploy.
///
/// Who sealed it, when and why, every time its content was sealed again, and when it was live.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  deployfs show live")]
pub struct Args {
    /// The deploy: an id, a unique prefix of one, 'live' or 'previous'
    id: String,
    /// Print it as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args, store: Option<&Path>) -> Outcome {
    match call(
        store,
        &Request::Show {
            target: args.id.clone(),
        },
    )? {
        Answer::Deploy(deploy) if args.json => json(&deploy),
        Answer::Deploy(deploy) => print(&deploy),
        other => Err(unexpected(&other)),
    }
}

fn print(deploy: &DeployInfo) -> Outcome {
    line(format!(
        "deploy     {}{}",
        deploy.deploy_id,
        if deploy.live { "  (live)" } else { "" }
    ))?;
    line(format!("content    {}", deploy.content_id))?;
    if let Some(problem) = &deploy.problem {
        line(format!("problem    {problem}"))?;
    }
    line(format!(
        "holds      {} files, {} directories, {} symlinks, {}",
        deploy.files,
        deploy.directories,
        deploy.symlinks,
        size(deploy.bytes)
    ))?;
    for seal in &deploy.seals {
        line(
            format!(
                "sealed     {} by {}  {}",
                time(seal.time),
                seal.actor,
                seal.message
            )
            .trim_end(),
        )?;
        for (key, value) in &seal.meta {
            line(format!("             {key}={value}"))?;
        }
    }
    for second in &deploy.activated_at {
        line(format!("activated  {}", time(*second)))?;
    }
    Ok(())
}
