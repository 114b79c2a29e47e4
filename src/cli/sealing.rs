//! What `seal` and `deploy` share: their options, the progress bar, how the outcome is printed.

use std::path::Path;

use clap::Args;

use super::activating::{self, Conditions};
use super::call::{More, call_more, unexpected};
use super::output::{changes, count, json, line, size};
use super::progress::Bar;
use super::{Error, Outcome};
use crate::model::report::{Answer, Meta, Request, SealOptions, SealReport};

/// Options of a seal.
#[derive(Debug, Args)]
pub struct SealArgs {
    /// Why this deploy is made
    #[arg(short, long, default_value = "", hide_default_value = true)]
    message: String,
    /// A fact to keep with it, such as git_sha=1a2b3c; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_meta)]
    meta: Vec<(String, String)>,
    /// Accept a folder with nothing in it
    #[arg(long)]
    allow_empty: bool,
    /// Accept symlinks that are absolute or lead out of the deploy (a web server may serve what they point to)
    #[arg(long)]
    allow_external_symlinks: bool,
}

impl SealArgs {
    /// As the request has them.
    pub fn options(&self) -> SealOptions {
        SealOptions {
            message: self.message.clone(),
            meta: self.meta.iter().cloned().collect::<Meta>(),
            allow_empty: self.allow_empty,
            allow_external_symlinks: self.allow_external_symlinks,
        }
    }
}

fn parse_meta(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        Some(_) | None => Err("give KEY=VALUE".into()),
    }
}

/// Whether it goes live at once, and on what conditions.
#[derive(Debug, Args)]
pub struct Going {
    /// Make it live at once; if that is refused, it is sealed all the same
    #[arg(long)]
    activate: bool,
    #[command(flatten)]
    conditions: Conditions,
}

impl Going {
    /// Refuses conditions of an activation that nobody asks for.
    pub fn check(&self) -> Outcome {
        match self.conditions.any() && !self.activate {
            true => Err(Error::Usage(
                "--if-live, --override-lock and --check are about an activation: add --activate"
                    .into(),
            )),
            false => Ok(()),
        }
    }
}

/// Carries out the request with a progress bar on a terminal, and prints warnings.
pub fn seal(store: Option<&Path>, request: &Request) -> Result<SealReport, Error> {
    seal_more(
        store,
        request,
        Bar::new("sealing", "files"),
        &More::default(),
    )
}

/// The same, with a bar of one's own, and with more.
pub fn seal_more(
    store: Option<&Path>,
    request: &Request,
    bar: Bar,
    more: &More<'_>,
) -> Result<SealReport, Error> {
    let answer = call_more(store, request, &|state| bar.show(state), more);
    bar.end();
    match answer? {
        Answer::Sealed(report) => {
            for warning in &report.warnings {
                note!("deployfs: {warning}");
            }
            Ok(report)
        }
        other => Err(unexpected(&other)),
    }
}

/// Makes what was sealed live, if that was asked for, and prints the outcome of both.
pub fn finish(
    store: Option<&Path>,
    mut report: SealReport,
    going: &Going,
    as_json: bool,
) -> Outcome {
    if !going.activate {
        return print(&report, as_json);
    }
    let target = Some(report.deploy_id.to_string());
    let live = going
        .conditions
        .make_live(store, Request::Activate, target, "");
    report.live = live.is_ok();
    // Sealed it is in any case.
    print(&report, as_json)?;
    let live = live?;
    if !as_json {
        activating::tell(&live);
    }
    Ok(())
}

/// Prints the outcome: the id on stdout, what it cost on stderr.
fn print(report: &SealReport, as_json: bool) -> Outcome {
    if as_json {
        return json(report);
    }
    let files = format!("{} ({})", count(report.files, "file"), size(report.bytes));
    let id = report.deploy_id;
    match (report.dry_run, report.existed) {
        (true, true) => note!("dry run: identical to deploy {id}"),
        (true, false) => note!(
            "dry run: would seal {files}, {} of it new",
            size(report.new_bytes)
        ),
        (false, true) => note!("identical to deploy {id}, sealed already: {files}"),
        (false, false) => note!(
            "sealed {files}; the store grew by {}",
            size(report.stored_bytes)
        ),
    }
    if let Some(against) = report.changes.against {
        note!("against {against}: {}", changes(&report.changes));
    }
    line(report.deploy_id.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meta_is_key_and_value() {
        assert_eq!(parse_meta("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(parse_meta("a="), Ok(("a".into(), String::new())));
        assert!(parse_meta("=b").is_err());
        assert!(parse_meta("a").is_err());
    }
}
