//! One writer: a lock on the store's `lock` file, held for as long as the store is open for writing.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use super::error::StoreError;

/// The lock, released when dropped or when the process ends.
pub struct Lock(File);

/// Who has taken the lock last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    /// The process.
    pub pid: i32,
    /// The device number of its mount, where it has one.
    pub device: Option<u64>,
}

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
                holder: holder(&mut file).map_or("another process".into(), |holder| {
                    format!("process {}", holder.pid)
                }),
            });
        }
        // Who holds it is for people only, so a failure to write it down does not matter.
        let _ = file.set_len(0);
        let _ = write!(file, "{}", std::process::id());
        Ok(Lock(file))
    }

    /// Writes down, beside the process, which device its mount is.
    pub fn note_device(&mut self, device: u64) {
        // For whoever finds this process killed: without it the mount is found by its name alone.
        let _ = write!(self.0, " {device}");
    }

    /// The process that has taken the lock last, and perhaps has it still.
    pub fn last_holder(store: &Path) -> Option<Holder> {
        holder(&mut File::open(store.join("lock")).ok()?)
    }

    /// True where some process has the lock.
    pub fn is_taken(store: &Path) -> bool {
        File::open(store.join("lock"))
            .is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockShared).is_err())
    }
}

fn holder(file: &mut File) -> Option<Holder> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.read_to_string(&mut text).ok()?;
    let mut words = text.split_whitespace();
    Some(Holder {
        pid: words.next()?.parse().ok()?,
        device: words.next().and_then(|device| device.parse().ok()),
    })
}
