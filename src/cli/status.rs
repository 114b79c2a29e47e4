//! `deployfs status`

use std::path::Path;

use super::Outcome;
use super::call::{call, unexpected};
use super::output::{json, line, size, time};
use crate::model::report::{Answer, Request, StatusReport, StuckNotice};
use crate::view::device_of_mount;
use crate::view::lock_holders::lock_holders;

/// Show the state of store and mount.
///
/// What is live since when, where it is mounted, and how often the kernel has asked the daemon: a warm site asks nothing.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  deployfs status --json | jq .upcalls.total")]
pub struct Args {
    /// Print it as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args, store: Option<&Path>) -> Outcome {
    match call(store, &Request::Status)? {
        Answer::Status(status) if args.json => json(&status),
        Answer::Status(status) => print(&status),
        other => Err(unexpected(&other)),
    }
}

fn print(status: &StatusReport) -> Outcome {
    let live = match (status.live, status.live_since, &status.live_by) {
        (Some(id), Some(since), Some(by)) => format!("{id}  since {} by {by}", time(since)),
        _ => "nothing yet".into(),
    };
    let mount = match (&status.mountpoint, status.daemon_pid) {
        (Some(path), Some(pid)) => {
            let since = status
                .mounted_since
                .map(|since| format!(" since {}", time(since)));
            let since = since.unwrap_or_default();
            format!("{}  (process {pid}{since})", path.display())
        }
        _ => "not mounted".into(),
    };
    line(format!("store     {}", status.store.display()))?;
    line(format!("mount     {mount}"))?;
    if status.mount_read_only == Some(false) {
        line(
            "          WARNING: it has been remounted read-write; mount it again to get back every promise",
        )?;
    }
    if status.mount_visible == Some(false) {
        line(
            "          WARNING: it is in a mount namespace of its own: web servers outside see an empty folder; 'deployfs doctor' says more",
        )?;
    }
    if let Some(stuck) = &status.stuck {
        print_stuck(status, stuck)?;
    }
    line(format!("live      {live}"))?;
    if let (Some(files), Some(bytes)) = (status.live_files, status.live_bytes) {
        line(format!("          {files} files, {}", size(bytes)))?;
    }
    for unreadable in &status.unreadable {
        line(format!("          WRONG: {}", unreadable.sentence()))?;
    }
    if let Some(previous) = status.previous {
        line(format!("previous  {previous}"))?;
    }
    for channel in &status.channels {
        let until = channel.until.map(|until| format!(" until {}", time(until)));
        line(format!(
            "channel   {}: {}{}",
            channel.name,
            channel.deploy_id,
            until.unwrap_or_default()
        ))?;
    }
    if let Some(lock) = &status.lock {
        let until = lock.until.map(|until| format!(" until {}", time(until)));
        let until = until.unwrap_or_default();
        line(format!(
            "locked    by {} since {}{until}: {}",
            lock.by,
            time(lock.since),
            lock.reason
        ))?;
    }
    line(format!(
        "deploys   {}, with {} files, {}",
        status.deploys,
        status.files,
        size(status.logical_bytes)
    ))?;
    let free = status
        .disk_free_bytes
        .map(|free| format!("; free {}", size(free)));
    line(format!(
        "packs     {} for {} of different chunks{}",
        size(status.pack_bytes),
        size(status.unique_bytes),
        free.unwrap_or_default()
    ))?;
    if !status.pinned.is_empty() {
        let ids: Vec<String> = status.pinned.iter().map(ToString::to_string).collect();
        line(format!("pinned    {}", ids.join(", ")))?;
    }
    if !status.staging.is_empty() {
        line(format!("staging   {}", status.staging.join(", ")))?;
    }
    line(format!("index     {}", status.index))?;
    if let (Some(total), Some(flips)) = (status.upcalls.get("total"), status.upcalls.get("flips")) {
        line(format!(
            "upcalls   {total} since the mount began; flips {flips}"
        ))?;
    }
    for suspect in &status.suspects {
        line(format!(
            "suspect   chunk {} since {}: {}",
            suspect.chunk,
            time(suspect.since),
            suspect.what
        ))?;
    }
    if let Some(scrub) = &status.scrub {
        let ended = match scrub.ended {
            None => "runs".to_owned(),
            Some(second) if scrub.complete => format!("ended {}", time(second)),
            Some(second) => format!("interrupted {}", time(second)),
        };
        line(format!(
            "scrub     began {}, {ended}: {} read, {} problems",
            time(scrub.began),
            size(scrub.bytes),
            scrub.problems.len()
        ))?;
    }
    if let Some(caches) = caches(status) {
        line(format!("caches    {caches}"))?;
    }
    if let Some((hook, problem)) = status
        .hook
        .as_ref()
        .and_then(|hook| Some((hook, hook.problem.as_ref()?)))
    {
        line(format!(
            "hook      failed {} after the activation of {}: {problem}",
            time(hook.time),
            hook.deploy_id
        ))?;
    }
    if status.errors_total > 0 {
        line(format!(
            "errors    {} since the mount began; the last:",
            status.errors_total
        ))?;
    }
    status
        .errors
        .iter()
        .try_for_each(|error| line(format!("error     {error}")))
}

/// The daemon may lack the rights to look; this command may have them.
fn print_stuck(status: &StatusReport, stuck: &StuckNotice) -> Outcome {
    line(format!(
        "          WAITING: {} is recorded; the mount has waited since {} for the lock of a folder",
        stuck.what,
        time(stuck.since)
    ))?;
    let device = status.mountpoint.as_deref().and_then(device_of_mount);
    let own = device.map(|device| lock_holders(&device));
    let (holders, unseen) = match own {
        Some(own) if own.unseen < stuck.unseen => (own.found, own.unseen),
        Some(_) | None => (stuck.holders.clone(), stuck.unseen),
    };
    for holder in &holders {
        line(format!("          {}", holder.sentence()))?;
        line(format!("          as root: {}", holder.remedy()))?;
    }
    match holders.is_empty() {
        true if unseen > 0 => line(format!(
            "          {unseen} processes may not be looked at: 'sudo deployfs status' shows which one holds it"
        )),
        true => line("          no process is seen to hold it"),
        false => Ok(()),
    }
}

/// How often each cache had what was asked of it, and what the kernel holds by itself.
fn caches(status: &StatusReport) -> Option<String> {
    let count = |name: &str| status.caches.get(name).copied().unwrap_or(0);
    let one = |cache: &str| {
        let (hits, misses) = (
            count(&format!("{cache}_hits")),
            count(&format!("{cache}_misses")),
        );
        format!("{cache} {hits} of {}", hits + misses)
    };
    let known = status.caches.get("nodes")?;
    Some(format!(
        "{}, {}, {} from memory; {known} names held by the kernel",
        one("trees"),
        one("lists"),
        one("chunks")
    ))
}
