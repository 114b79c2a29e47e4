//! `deployfs show`

use std::path::Path;

use super::Outcome;
use super::call::{call, unexpected};
use super::diff::Form;
use super::output::{changes, first_line, json, line, size, time};
use crate::model::report::{Answer, DeployInfo, Request};

/// Show all that is known of one deploy.
///
/// Who sealed it, when and why, every time its content was sealed again, when it was live, and how much changed against the
/// deploy that was live when it was sealed first. With --stat, --name-only or -z only what changed, as 'deployfs diff' prints it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  deployfs show live\n  deployfs show @preview --name-only")]
pub struct Args {
    /// The deploy: an id, a unique prefix of one, 'live', 'previous' or '@CHANNEL'
    id: String,
    #[command(flatten)]
    form: Form,
    /// Print it as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args, store: Option<&Path>) -> Outcome {
    let target = args.id.clone();
    let deploy = match call(store, &Request::Show { target })? {
        Answer::Deploy(deploy) => deploy,
        other => return Err(unexpected(&other)),
    };
    if args.form.any() {
        let against = deploy.changes.and_then(|changes| changes.against);
        let against = against.map_or("none".into(), |id| id.to_string());
        return args
            .form
            .print(store, against, deploy.deploy_id.to_string(), args.json);
    }
    match args.json {
        true => json(&deploy),
        false => print(&deploy),
    }
}

fn print(deploy: &DeployInfo) -> Outcome {
    line(format!(
        "deploy     {}{}",
        deploy.deploy_id,
        if deploy.live { "  (live)" } else { "" }
    ))?;
    line(format!("content    {}", deploy.content_id))?;
    for channel in &deploy.channels {
        line(format!("channel    {channel}"))?;
    }
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
    if let Some(changed) = &deploy.changes {
        let against = changed
            .against
            .map_or("nothing".into(), |id| id.to_string());
        line(format!(
            "changed    against {against}: {}",
            changes(changed)
        ))?;
    }
    for seal in &deploy.seals {
        line(
            format!(
                "sealed     {} by {}  {}",
                time(seal.time),
                seal.actor,
                first_line(&seal.message)
            )
            .trim_end(),
        )?;
        for more in seal.message.lines().skip(1) {
            line(format!("             {}", first_line(more)))?;
        }
        for (key, value) in &seal.meta {
            line(format!(
                "             {}={}",
                first_line(key),
                first_line(value)
            ))?;
        }
    }
    if let Some(pin) = &deploy.pinned {
        let text = format!(
            "pinned     {} by {}  {}",
            time(pin.time),
            pin.actor,
            pin.message
        );
        line(text.trim_end())?;
    }
    for second in &deploy.activated_at {
        line(format!("activated  {}", time(*second)))?;
    }
    Ok(())
}
