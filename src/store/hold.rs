//! The lock that keeps packs in place: shared by whoever copies them, exclusive for whoever removes or rewrites them. It is an
//! flock on the folder of the packs, so it works between processes, needs no daemon, and ends with its process.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::error::StoreError;
use super::packs::FOLDER;

/// Between two tries. gc lets go of the lock for longer than this after each of its steps.
const RETRY: Duration = Duration::from_micros(500);

/// The lock, released when dropped. `None`: the packs are not in a folder of this host.
pub struct Hold(#[expect(dead_code, reason = "it is there to be dropped")] Option<File>);

impl Hold {
    /// Keeps all packs in place. Waits for the step of a gc, `None` once `goes_on` says no.
    pub fn share(store: &Path, goes_on: &dyn Fn() -> bool) -> Result<Option<Self>, StoreError> {
        let path = store.join(FOLDER);
        let failed = || StoreError::io("lock", path.display().to_string());
        let folder = open(&path).map_err(failed())?;
        loop {
            match flock(&folder, FlockOperation::NonBlockingLockShared) {
                Ok(()) => return Ok(Some(Hold(Some(folder)))),
                Err(Errno::WOULDBLOCK | Errno::INTR) if goes_on() => std::thread::sleep(RETRY),
                Err(Errno::WOULDBLOCK | Errno::INTR) => return Ok(None),
                Err(errno) => return Err(failed()(errno.into())),
            }
        }
    }

    /// The right to remove and rewrite packs; `None` while somebody copies them.
    pub fn exclusive(store: &Path) -> Result<Option<Self>, StoreError> {
        let path = store.join(FOLDER);
        let failed = || StoreError::io("lock", path.display().to_string());
        let folder = match open(&path) {
            Ok(folder) => folder,
            // The packs of a test may be on a simulated disk.
            Err(error) if cfg!(test) && error.kind() == io::ErrorKind::NotFound => {
                return Ok(Some(Hold(None)));
            }
            Err(error) => return Err(failed()(error)),
        };
        match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Hold(Some(folder)))),
            Err(Errno::WOULDBLOCK | Errno::INTR) => Ok(None),
            Err(errno) => Err(failed()(errno.into())),
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    File::options()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
        .open(path)
}
