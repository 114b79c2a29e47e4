//! One writer: a lock on the store's `lock` file, held for as long as the store is open for writing.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use super::error::StoreError;

/// How often the lock is tried again while others only look at it, and the time between two tries.
const LOOKS_MAX: u32 = 1000;
const LOOK: Duration = Duration::from_micros(500);

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
        let mut tries = LOOKS_MAX;
        while flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            // Whoever asks whether the lock is taken has it shared for a moment.
            if tries > 0 && flock(&file, FlockOperation::NonBlockingLockShared).is_ok() {
                tries -= 1;
                let _ = flock(&file, FlockOperation::Unlock);
                std::thread::sleep(LOOK);
                continue;
            }
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
