//! What every command that makes a deploy live shares: the conditions, the check of the sealed tree, how the outcome is printed.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::call::{call, unexpected};
use super::output::{json, line};
use super::{Error, Outcome, store_path};
use crate::model::DeployId;
use crate::model::report::{
    ActivateReport, ActivateRequest, Answer, Failure, FailureKind, Request,
};

/// What must hold for a deploy to become live.
#[derive(Debug, clap::Args)]
pub struct Conditions {
    /// Only if this deploy is live now ('none': no deploy is), else exit with code 3
    #[arg(long, value_name = "ID")]
    if_live: Option<String>,
    /// Pass over a lock; the history says so
    #[arg(long)]
    override_lock: bool,
    /// First run this shell command on the sealed tree, as you: its path is in $DEPLOYFS_ROOT, its id in $DEPLOYFS_ID. If it
    /// fails, or something else has become live meanwhile, nothing changes and the exit code is 3
    #[arg(long, value_name = "CMD")]
    check: Option<String>,
}

/// `activate` or `rollback`.
type Wrap = fn(ActivateRequest) -> Request;

impl Conditions {
    /// True where any is given.
    pub fn any(&self) -> bool {
        self.if_live.is_some() || self.override_lock || self.check.is_some()
    }

    /// Makes the target live if all conditions hold.
    pub fn make_live(
        &self,
        store: Option<&Path>,
        wrap: Wrap,
        target: Option<String>,
        message: &str,
    ) -> Result<ActivateReport, Error> {
        let mut request = ActivateRequest {
            target,
            if_live: self.if_live.clone(),
            override_lock: self.override_lock,
            dry_run: false,
            message: message.to_owned(),
        };
        if let Some(check) = &self.check {
            let before = ask(
                store,
                wrap,
                ActivateRequest {
                    dry_run: true,
                    ..request.clone()
                },
            )?;
            run_check(store, check, before.deploy_id)?;
            // What was checked goes live, and only over what was live then.
            request.target = Some(before.deploy_id.to_string());
            request.if_live = Some(before.before.map_or("none".into(), |id| id.to_string()));
        }
        ask(store, wrap, request)
    }
}

fn ask(
    store: Option<&Path>,
    wrap: Wrap,
    request: ActivateRequest,
) -> Result<ActivateReport, Error> {
    match call(store, &wrap(request))? {
        Answer::Activated(report) => Ok(report),
        other => Err(unexpected(&other)),
    }
}

fn run_check(store: Option<&Path>, check: &str, id: DeployId) -> Outcome {
    let root = sealed_tree(store, id)?;
    let failed = |what: String| {
        Error::Failure(Failure {
            kind: FailureKind::Precondition,
            message: format!("the check of {id} {what}: nothing was changed"),
        })
    };
    // Its output is no answer of ours.
    let out = io::stderr().as_fd().try_clone_to_owned();
    let status = Command::new("sh")
        .args(["-c", check])
        .env("DEPLOYFS_ROOT", &root)
        .env("DEPLOYFS_ID", id.to_string())
        .env("DEPLOYFS_STORE", store_path::find(store)?)
        .stdin(Stdio::null())
        .stdout(out.map_or_else(|_| Stdio::null(), Stdio::from))
        .status()
        .map_err(|error| failed(format!("cannot be started ({error})")))?;
    match status.success() {
        true => Ok(()),
        false => Err(failed(format!("failed ({status})"))),
    }
}

fn sealed_tree(store: Option<&Path>, id: DeployId) -> Result<PathBuf, Error> {
    let status = match call(store, &Request::Status)? {
        Answer::Status(status) => status,
        other => return Err(unexpected(&other)),
    };
    let mountpoint = status.mountpoint.ok_or_else(|| {
        Error::failed("--check needs the deploy's files: 'deployfs mount' the store first")
    })?;
    let root = mountpoint.join("deploys").join(id.to_string());
    match root.metadata() {
        Ok(_) => Ok(root),
        Err(error) => Err(Error::failed(format!(
            "--check needs the deploy's files, and you cannot reach '{}': {error}",
            root.display()
        ))),
    }
}

/// Prints the outcome: the id on stdout, what was live before on stderr.
pub fn print(report: &ActivateReport, as_json: bool) -> Outcome {
    if as_json {
        return json(report);
    }
    tell(report);
    for warning in &report.warnings {
        note!("warning: {warning}");
    }
    line(report.deploy_id.to_string())
}

/// Says on stderr what is live, and what was before.
pub fn tell(report: &ActivateReport) {
    let id = report.deploy_id;
    match (report.unchanged, report.before) {
        (true, _) => note!("{id} is live already"),
        (false, Some(before)) => note!("{id} is live (before: {before})"),
        (false, None) => note!("{id} is live (before: nothing)"),
    }
}
