//! `deployfs umount`

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::progress::Wait;
use super::{Error, Outcome};
use crate::control::client::Client;
use crate::daemon::end_killed;
use crate::deploy::Deployfs;
use crate::model::report::Request;
use crate::view::{find_mount_of, unmount_path};

const END_WAIT: Duration = Duration::from_secs(10);

/// Unmount and end the daemon.
///
/// Works also while files are open or a shell stands in the mount: new accesses see the empty mountpoint at once. A mount
/// whose daemon has died is cleared away.
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
            client.call(&Request::Shutdown, &|_| {})?;
            wait_for_end(&mount.store)
        }
        None => unmount_path(&mount.mountpoint).map_err(|error| {
            Error::failed(format!(
                "cannot unmount '{}': {error}",
                mount.mountpoint.display()
            ))
        }),
    }
}

fn wait_for_end(store: &Path) -> Outcome {
    let started = Instant::now();
    let mut wait = Wait::new("waiting for the daemon's end");
    while Deployfs::is_in_use(store) {
        if started.elapsed() > END_WAIT {
            return Err(Error::failed(format!(
                "the daemon of '{}' was asked to end and has not yet: its log says what it is doing",
                store.display()
            )));
        }
        wait.tick();
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
