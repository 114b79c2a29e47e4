//! One writer: a lock on the store's `lock` file, held for as long as the store is open for writing.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use super::error::StoreError;

/// The lock, released when dropped or when the process ends.
pub struct Lock(#[expect(dead_code, reason = "the open file holds the lock")] File);

impl Lock {
    /// Takes the lock, or says who has it.
    pub fn take(store: &Path) -> Result<Self, StoreError> {
        let path = store.join("lock");
        let name = path.display().to_string();
        let mut options = OpenOptions::new();
        let mut file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(StoreError::io("open", &name))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(StoreError::InUse {
                path: store.display().to_string(),
                holder: holder(&mut file)
                    .map_or("another process".into(), |pid| format!("process {pid}")),
            });
        }
        // Who holds it is for people only, so a failure to write it down does not matter.
        let _ = file.set_len(0);
        let _ = write!(file, "{}", std::process::id());
        Ok(Lock(file))
    }

    /// The process that has taken the lock last, and perhaps has it still.
    pub fn last_holder(store: &Path) -> Option<i32> {
        holder(&mut File::open(store.join("lock")).ok()?)
    }

    /// True where some process has the lock.
    pub fn is_taken(store: &Path) -> bool {
        File::open(store.join("lock"))
            .is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockShared).is_err())
    }
}

fn holder(file: &mut File) -> Option<i32> {
    let mut pid = String::new();
    file.rewind().ok()?;
    file.read_to_string(&mut pid).ok()?;
    pid.trim().parse().ok()
}
