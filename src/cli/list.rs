//! `deployfs list`

use std::path::Path;

use super::Outcome;
use super::call::{call, unexpected};
use super::output::{first_line, json, size, table, time};
use crate::model::report::{Answer, DeployInfo, Meta, Request};

/// List all deploys, newest first.
///
/// The live one is marked with '*', pinned ones with 'p'. With --meta only those that carry the fact, and a column for it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  deployfs list\n  \
                        deployfs list --meta branch=main --meta git_sha")]
pub struct Args {
    /// Only deploys whose latest seal has this fact; may be given several times, then all must hold
    #[arg(long, value_name = "KEY[=VALUE]", value_parser = parse_wanted)]
    meta: Vec<Wanted>,
    /// Print all that is known of each as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args, store: Option<&Path>) -> Outcome {
    let mut deploys = match call(store, &Request::List)? {
        Answer::Deploys(deploys) => deploys,
        other => return Err(unexpected(&other)),
    };
    deploys.retain(|deploy| args.meta.iter().all(|wanted| wanted.is_in(&deploy.meta)));
    if args.json {
        return json(&deploys);
    }
    let titles = ["", "ID", "SEALED", "BY", "FILES", "SIZE"]
        .map(String::from)
        .into_iter();
    let keys = args.meta.iter().map(|wanted| first_line(&wanted.key));
    let titles = titles.chain(keys).chain(["MESSAGE".into()]).collect();
    let rows = deploys.iter().map(|deploy| row(deploy, &args.meta));
    table(&std::iter::once(titles).chain(rows).collect::<Vec<_>>())
}

/// A fact that a deploy must carry.
#[derive(Debug, Clone)]
struct Wanted {
    key: String,
    value: Option<String>,
}

impl Wanted {
    fn is_in(&self, meta: &Meta) -> bool {
        let found = meta.get(&self.key);
        found.is_some() && (self.value.is_none() || found == self.value.as_ref())
    }
}

fn parse_wanted(text: &str) -> Result<Wanted, String> {
    let (key, value) = match text.split_once('=') {
        Some((key, value)) => (key, Some(value.to_owned())),
        None => (text, None),
    };
    match key {
        "" => Err("give KEY or KEY=VALUE".into()),
        _ => Ok(Wanted {
            key: key.into(),
            value,
        }),
    }
}

fn mark(deploy: &DeployInfo) -> String {
    let marks = [(deploy.live, '*'), (deploy.pinned.is_some(), 'p')];
    marks.iter().filter(|(is, _)| *is).map(|(_, m)| m).collect()
}

fn row(deploy: &DeployInfo, wanted: &[Wanted]) -> Vec<String> {
    let mut row = vec![
        mark(deploy),
        deploy.deploy_id.to_string(),
        time(deploy.sealed_at),
        deploy.sealed_by.clone(),
        deploy.files.to_string(),
        size(deploy.bytes),
    ];
    row.extend(
        wanted
            .iter()
            .filter_map(|wanted| deploy.meta.get(&wanted.key))
            .map(|value| first_line(value)),
    );
    row.push(match &deploy.problem {
        Some(problem) => problem.clone(),
        None => first_line(&deploy.message),
    });
    row
}
