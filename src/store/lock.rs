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
                holder: holder(&mut file),
            });
        }
        // Who holds it is for people only, so a failure to write it down does not matter.
        let _ = file.set_len(0);
        let _ = write!(file, "{}", std::process::id());
        Ok(Lock(file))
    }

    /// True where some process has the lock.
    pub fn is_taken(store: &Path) -> bool {
        File::open(store.join("lock"))
            .is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockShared).is_err())
    }
}

fn holder(file: &mut File) -> String {
    let mut pid = String::new();
    let read = file.rewind().and_then(|()| file.read_to_string(&mut pid));
    match (read, pid.trim()) {
        (Ok(_), pid) if !pid.is_empty() => format!("process {pid}"),
        _ => "another process".into(),
    }
}
