//! `deployfs doctor`

use std::path::Path;

use super::call::{call, unexpected};
use super::output::{json, line};
use super::{Error, Outcome, store_path};
use crate::doctor::{Check, DoctorReport, Host, examine};
use crate::model::report::{Answer, Request};

/// Look for what would keep visitors from the right bytes.
///
/// Looks at the kernel, the FUSE device, SELinux, the store's disk, clock and index, dead mounts, binds of `live` and mounts below
/// it, whether the workers of web servers see and read the mount, and settings of nginx and Apache that hurt. Says of each
/// finding what is so, why it matters, and what mends it; changes nothing. Without a store it looks at the machine and all
/// mounts. As root it sees more.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  sudo deployfs --store /srv/store doctor\n\nExit codes: 0 nothing is wrong; 1 something is."
)]
pub struct Args {
    /// Print it as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args, store: Option<&Path>) -> Outcome {
    let status = match store_path::find(store) {
        Ok(store) => match call(Some(&store), &Request::Status)? {
            Answer::Status(status) => Some(status),
            other => return Err(unexpected(&other)),
        },
        Err(Error::Usage(_)) => None,
        Err(error) => return Err(error),
    };
    let report = examine(&Host::this(), status.as_deref());
    if args.json {
        json(&report)?;
    } else {
        print(&report)?;
    }
    if report.healthy {
        Ok(())
    } else {
        Err(Error::Told)
    }
}

fn print(report: &DoctorReport) -> Outcome {
    let width = report.checks.iter().map(|check| check.name.len()).max();
    let width = width.unwrap_or(0);
    for Check {
        name,
        seen,
        findings,
    } in &report.checks
    {
        if findings.is_empty() {
            line(format!("ok    {name:width$}  {seen}"))?;
        }
        for finding in findings {
            line(format!("WRONG {name:width$}  {}", finding.what))?;
            line(format!("      {:width$}  why:  {}", "", finding.why))?;
            line(format!("      {:width$}  mend: {}", "", finding.mend))?;
        }
    }
    Ok(())
}
