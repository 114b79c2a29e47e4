//! `deployfs umount`

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::progress::Wait;
use super::{Error, Outcome};
use crate::control::client::Client;
use crate::daemon::end_killed;
use crate::deploy::Deployfs;
use crate::model::report::{Failure, FailureKind, Request};
use crate::view::{MountInfo, find_mount_of, unmount_path};

const END_WAIT: Duration = Duration::from_secs(10);

/// Unmount and end the daemon.
///
/// Works also while files are open or a shell stands in the mount: new accesses see the empty mountpoint at once. A mount
/// whose daemon has died is cleared away. Returns once nothing of it is mounted any more. For root and the daemon's user; members of the
/// control group may not.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  deployfs umount /srv/site")]
pub struct Args {
    /// Where it is mounted
    mountpoint: PathBuf,
}

pub fn run(args: &Args) -> Outcome {
    let mount = find_mount_of(&args.mountpoint).ok_or_else(|| {
        Error::failed(format!(
            "'{}' is not a deployfs mount",
            args.mountpoint.display()
        ))
    })?;
    check_whole(&mount, &args.mountpoint)?;
    end_killed(&mount.store)?;
    if find_mount_of(&args.mountpoint).is_none() {
        // That has taken it off.
        return Ok(());
    }
    let daemon = if mount.dead {
        None
    } else {
        Client::connect(&mount.store)?
    };
    match daemon {
        Some(client) => {
            match client.call(&Request::Shutdown, &|_| {}) {
                // It may end before its answer is on its way; whether it does is seen.
                Err(failure) if failure.kind != FailureKind::Unknown => Err(failure.into()),
                Ok(_) | Err(_) => wait_for_end(&mount),
            }
        }
        None => detach(&mount),
    }
}

/// Refuses a path in a mount, and a bind of a part of one: to unmount the whole site is not what was asked for.
fn check_whole(mount: &MountInfo, path: &Path) -> Outcome {
    let at = mount.mountpoint.display();
    let is_at = mount.is_at(path);
    let path = path.display();
    if mount.root != Path::new("/") {
        return Err(Error::failed(format!(
            "'{path}' is a bind of a part of a mount, '{}': 'umount {at}' takes the bind off, and the site stays",
            mount.root.display()
        )));
    }
    match is_at {
        true => Ok(()),
        false => Err(Error::failed(format!(
            "'{path}' lies in the mount at '{at}': 'deployfs umount {at}' ends the whole site"
        ))),
    }
}

fn detach(mount: &MountInfo) -> Outcome {
    unmount_path(&mount.mountpoint).map_err(|error| {
        Error::failed(format!(
            "cannot unmount '{}': {error}",
            mount.mountpoint.display()
        ))
    })
}

fn is_mounted(mount: &MountInfo) -> bool {
    find_mount_of(&mount.mountpoint)
        .is_some_and(|now| now.mountpoint == mount.mountpoint && now.store == mount.store)
}

fn wait_for_end(mount: &MountInfo) -> Outcome {
    let started = Instant::now();
    let mut wait = Wait::new("waiting for the daemon's end");
    // Who may not read the store's lock sees the mount all the same.
    while Deployfs::is_in_use(&mount.store) || is_mounted(mount) {
        // In this mount namespace it stays, dead, where the daemon's is another one.
        if !Deployfs::is_in_use(&mount.store)
            && find_mount_of(&mount.mountpoint).is_some_and(|now| now.dead)
        {
            return detach(mount);
        }
        if started.elapsed() > END_WAIT {
            return Err(Error::Failure(Failure {
                kind: FailureKind::Unknown,
                message: format!(
                    "the daemon of '{}' was asked to end and has not yet: its log says what it is doing",
                    mount.store.display()
                ),
            }));
        }
        wait.tick();
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
