//! `deployfs doctor`

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;

use super::call::{call, unexpected};
use super::output::{json, line};
use super::{Error, Outcome, store_path};
use crate::doctor::{Check, DoctorReport, Host, Stores, examine, named_stores};
use crate::model::report::{Answer, Request, StatusReport};

/// Look for what would keep visitors from the right bytes.
///
/// Looks at the kernel, the FUSE device, SELinux, the store's disk, clock and index, dead mounts, binds of `live` and mounts below
/// it, whether the workers of web servers see and read the mount, settings of nginx and Apache that hurt, and daemons that are older
/// than this program. Says of each finding what is so, why it matters, and what mends it; changes nothing. Without a store it
/// checks all stores that the machine's mounts, /etc/fstab and /etc/deployfs/*.conf name. A line with '?' names what this user may
/// not see, and the command that sees it: root sees most.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sudo deployfs doctor\n  sudo deployfs --store /srv/store doctor\n\nExit codes: 0 nothing is wrong, as far as could be seen; 1 something is."
)]
pub struct Args {
    /// Print it as JSON
    #[arg(long)]
    json: bool,
}

/// The time in which all stores that the machine names must answer.
const ANSWER_WAIT: Duration = Duration::from_secs(20);

pub fn run(args: &Args, store: Option<&Path>) -> Outcome {
    let host = Host::this();
    let stores = match store_path::find(store) {
        Ok(store) => Stores::of(status_of(&store)?),
        Err(Error::Usage(_)) => stores_of_machine(&host),
        Err(error) => return Err(error),
    };
    let report = examine(&host, &stores);
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

fn status_of(store: &Path) -> Result<StatusReport, Error> {
    match call(Some(store), &Request::Status)? {
        Answer::Status(status) => Ok(*status),
        other => Err(unexpected(&other)),
    }
}

/// All at once, each on a thread of its own: one that does not answer keeps no other back, and ends with this process.
fn stores_of_machine(host: &Host) -> Stores {
    let until = Instant::now() + ANSWER_WAIT;
    let asked: Vec<_> = named_stores(host)
        .into_iter()
        .map(|named| {
            let (tell, told) = bounded(1);
            let store: PathBuf = named.store.clone();
            match named.is_doubtful {
                true => drop(tell),
                false => drop(std::thread::spawn(move || {
                    let status = status_of(&store).map_err(|error| error.to_string());
                    tell.send(status).ok();
                })),
            }
            (named, told)
        })
        .collect();
    let mut stores = Stores::default();
    for (named, told) in asked {
        match told.recv_deadline(until) {
            Ok(Ok(status)) => stores.status.push(status),
            Ok(Err(why)) => stores.failed.push((named, why)),
            Err(_) => {
                let why = format!("no answer within {} s", ANSWER_WAIT.as_secs());
                stores.failed.push((named, why));
            }
        }
    }
    stores
}

fn print(report: &DoctorReport) -> Outcome {
    let width = report.checks.iter().map(|check| check.name.len()).max();
    let width = width.unwrap_or(0);
    for check in &report.checks {
        // Of a store that the caller names, each line is.
        let store = check.store.as_ref().filter(|_| report.store.is_none());
        let store = store.map_or_else(String::new, |store| format!("'{}': ", store.display()));
        print_check(check, &store, width)?;
    }
    Ok(())
}

fn print_check(check: &Check, store: &str, width: usize) -> Outcome {
    let Check { name, seen, .. } = check;
    for finding in &check.findings {
        line(format!("WRONG {name:width$}  {store}{}", finding.what))?;
        line(format!("      {:width$}  why:  {}", "", finding.why))?;
        line(format!("      {:width$}  mend: {}", "", finding.mend))?;
    }
    match &check.unchecked {
        Some(unchecked) => line(format!(
            "?     {name:width$}  {store}{seen}; not checked: {unchecked}"
        )),
        None if check.findings.is_empty() => line(format!("ok    {name:width$}  {store}{seen}")),
        None => Ok(()),
    }
}
