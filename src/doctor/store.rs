//! The store: who owns and controls it, the space it has, the clock it is dated by, its index.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use super::host::quoted;
use super::unchecked::Unchecked;
use super::{Check, Finding};
use crate::model::report::{StatusReport, UNREADABLE_REMEDY};
use crate::users::{group_name, name_of};

/// Below this, the next deploy may not fit.
const SPACE_MIN: u64 = 256 << 20;
/// Below this, the next staging folder may not fit.
const INODES_MIN: u64 = 10_000;
/// What a clock may be behind without being wrong.
const CLOCK_MAX: u64 = 60;

/// The user and the control group have names, and staging can be reached.
pub fn owner(status: &StatusReport) -> Check {
    let store = &status.store;
    let Ok(meta) = fs::metadata(store) else {
        let mut unchecked = Unchecked::default();
        unchecked.add(format!("'{}'", store.display()));
        return Check::new("owner", "the store cannot be looked at", Vec::new())
            .of(status)
            .lacking(&unchecked);
    };
    let user = name_of(meta.uid());
    let mut findings = Vec::new();
    if user == meta.uid().to_string() {
        findings.push(Finding::new(
            format!("'{}' belongs to user {user}, who has no name here", store.display()),
            "the user was removed, or the store comes from another machine: its daemon may not write to it",
            format!("chown -R deployfs:deployfs {}", quoted(store)),
        ));
    }
    let mut seen = format!("user {user}");
    if let Ok(socket) = fs::metadata(store.join("control.sock")) {
        let group = group_name(socket.gid());
        seen = format!(
            "user {user}, control group {}",
            group.as_deref().unwrap_or("without a name")
        );
        if group.is_none() {
            findings.push(Finding::new(
                format!("the control group {} has no name here", socket.gid()),
                "nobody can be made a member of it, so only root and the daemon's user may deploy",
                "groupadd deploy; and mount again with --control-group deploy",
            ));
        }
    }
    let mode = |folder: &Path| fs::metadata(folder).map_or(0o710, |meta| meta.mode());
    if mode(store) & 0o001 == 0 {
        findings.push(Finding::new(
            format!("'{}' has mode {:04o}", store.display(), mode(store) & 0o777),
            "the members of the control group cannot reach their staging folders below it",
            format!("chmod 711 {}", quoted(store)),
        ));
    }
    let staging = store.join("staging");
    if mode(&staging) & 0o007 != 0 {
        findings.push(Finding::new(
            format!(
                "'{}' has mode {:04o}",
                staging.display(),
                mode(&staging) & 0o777
            ),
            "users outside the control group can reach drafts in it",
            format!("chmod o= {}", quoted(&staging)),
        ));
    }
    Check::new("owner", seen, findings).of(status)
}

/// Bytes and inodes for the next deploy.
pub fn space(status: &StatusReport) -> Check {
    let store = status.store.as_path();
    let Ok(disk) = rustix::fs::statvfs(store) else {
        let mut unchecked = Unchecked::default();
        unchecked.add(format!("the disk of '{}'", store.display()));
        return Check::new("space", "cannot be looked at", Vec::new())
            .of(status)
            .lacking(&unchecked);
    };
    let free = disk.f_bavail * disk.f_frsize;
    let mut findings = Vec::new();
    let place = store.display();
    if free < SPACE_MIN {
        findings.push(Finding::new(
            format!("{} MiB are free on the disk of '{place}'", free >> 20),
            "a deploy that does not fit is refused whole (activate and rollback go on working)",
            format!(
                "df -h {}   # make room, or move the store to a larger disk",
                quoted(store)
            ),
        ));
    }
    // Some filesystems have no such limit, and say 0 of 0.
    if disk.f_files > 0 && disk.f_favail < INODES_MIN {
        findings.push(Finding::new(
            format!("{} inodes are free on the disk of '{place}'", disk.f_favail),
            "each file that is staged takes one: 'cp -r' into a staging folder may fail",
            format!(
                "df -i {}   # remove small files, or use 'deployfs deploy DIR', which copies none",
                quoted(store)
            ),
        ));
    }
    Check::new(
        "space",
        format!("{} MiB and {} inodes free", free >> 20, disk.f_favail),
        findings,
    )
    .of(status)
}

/// All deploys can be read, as far as their files and what is shown of them tell.
pub fn deploys(status: &StatusReport) -> Check {
    let findings = status.unreadable.iter().map(|unreadable| {
        Finding::new(
            unreadable.sentence(),
            "visitors of it get an error (EIO, which web servers answer with 500 or 403)",
            UNREADABLE_REMEDY,
        )
    });
    Check::new(
        "deploys",
        format!("{} in the history", status.deploys),
        findings.collect(),
    )
    .of(status)
}

/// Not behind the time that deploys were dated by.
pub fn clock(status: &StatusReport) -> Check {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    clock_at(status.last_mtime, now.map_or(0, |now| now.as_secs())).of(status)
}

fn clock_at(last_mtime: u64, now: u64) -> Check {
    let mut findings = Vec::new();
    if last_mtime > now + CLOCK_MAX {
        findings.push(Finding::new(
            format!("the clock is {} s behind the last mtime given to a deploy", last_mtime - now),
            "new files are dated into the future, and browsers and servers may not believe a Last-Modified that is to come",
            "timedatectl set-ntp true   # if the clock is wrong now; if it was wrong then, this passes with time",
        ));
    }
    Check::new("clock", "compared with the last deploy", findings)
}

/// The index can be used.
pub fn index(status: &StatusReport) -> Check {
    let mut findings = Vec::new();
    if let Some(why) = status.index.strip_prefix("unavailable") {
        let path = status.store.join("index");
        findings.push(Finding::new(
            format!("the index '{}' cannot be used{why}", path.display()),
            "what is there is served, but every seal has to look chunks up without it",
            format!(
                "rm -r {}   # nothing is lost: it is built again from the packs",
                quoted(&path)
            ),
        ));
    }
    Check::new("index", status.index.clone(), findings).of(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_behind_the_last_deploy_is_told() {
        assert_eq!(clock_at(1_000, 940).findings, []);
        assert_eq!(clock_at(0, 940).findings, []);
        let check = clock_at(5_000, 1_000);
        assert!(
            check.findings[0].what.contains("4000 s behind"),
            "{check:?}"
        );
    }

    #[test]
    fn an_index_that_cannot_be_used_is_told() {
        let status = |index: &str| StatusReport {
            store: "/srv/store".into(),
            index: index.into(),
            ..StatusReport::default()
        };
        assert_eq!(index(&status("ready")).findings, []);
        assert_eq!(index(&status("closed")).findings, []);
        let check = index(&status("unavailable: IO error"));
        assert!(
            check.findings[0].what.ends_with("used: IO error"),
            "{check:?}"
        );
        assert!(check.findings[0].mend.starts_with("rm -r /srv/store/index"));
    }
}
