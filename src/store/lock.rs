//! One writer: a lock on the store's `lock` file, held for as long as the store is open for writing.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, OFlags, flock};

use super::error::StoreError;
use super::own_files::{self, Whose};
use crate::process::ProcessId;

/// How often the lock is tried again while others only look at it, and the time between two tries.
const LOOKS_MAX: u32 = 1000;
const LOOK: Duration = Duration::from_micros(500);

const FILE: &str = "lock";

/// The lock, released when dropped or when the process ends.
pub struct Lock(File);

/// Who has taken the lock last.
///
/// In the file: `PID DEVICE STARTED NAMESPACE`, with `-` for what is not known. An older deployfs writes, and reads, the first two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    /// The process, in its own PID namespace.
    pub pid: i32,
    /// The device number of its mount, where it has one.
    pub device: Option<u64>,
    /// The process for certain; `None` where an older deployfs took the lock.
    id: Option<ProcessId>,
}

impl Holder {
    /// True for a process that has been killed and may still be there, for threads of it that cannot end. False where that is not certain:
    /// the number alone may be another process's, here or in another PID namespace.
    pub fn is_killed(&self) -> bool {
        self.id.is_some_and(|id| id.is_killed())
    }

    fn written(&self) -> String {
        let text = |number: Option<u64>| number.map_or("-".into(), |number| number.to_string());
        let id = self.id.as_ref();
        format!(
            "{} {} {} {}",
            self.pid,
            text(self.device),
            text(id.map(|id| id.started)),
            text(id.map(|id| id.namespace))
        )
    }

    fn shown(&self) -> String {
        match self.id {
            Some(id) if !id.is_of_this_namespace() => {
                format!("process {} of another PID namespace", self.pid)
            }
            _ => format!("process {}", self.pid),
        }
    }
}

impl Lock {
    /// Takes the lock, or says who has it.
    pub fn take(store: &Path) -> Result<Self, StoreError> {
        let path = store.join(FILE);
        let name = path.display().to_string();
        let mut file = own_files::open(store, FILE, OFlags::RDWR, true, Whose::Owners)
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
                holder: holder(&mut file).map_or("another process".into(), |holder| holder.shown()),
            });
        }
        let mut lock = Lock(file);
        lock.write_down(None);
        Ok(lock)
    }

    /// Writes down, beside the process, which device its mount is.
    pub fn note_device(&mut self, device: u64) {
        // For whoever finds this process killed: without it the mount is found by its name alone.
        self.write_down(Some(device));
    }

    /// A failure does not matter: then nobody ends this process where it is killed and cannot end, and a refusal does not name it.
    fn write_down(&mut self, device: Option<u64>) {
        let holder = Holder {
            pid: std::process::id() as i32,
            device,
            id: ProcessId::this(),
        };
        let written = self.0.set_len(0).and_then(|()| self.0.rewind());
        let _ = written.and_then(|()| self.0.write_all(holder.written().as_bytes()));
    }

    /// The process that has taken the lock last, and perhaps has it still.
    pub fn last_holder(store: &Path) -> Option<Holder> {
        holder(&mut open(store).ok()?)
    }

    /// True where some process has the lock.
    pub fn is_taken(store: &Path) -> bool {
        open(store).is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockShared).is_err())
    }
}

fn open(store: &Path) -> std::io::Result<File> {
    own_files::open(store, FILE, OFlags::RDONLY, false, Whose::Owners)
}

fn holder(file: &mut File) -> Option<Holder> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.read_to_string(&mut text).ok()?;
    let mut words = text.split_whitespace();
    let pid = words.next()?.parse().ok()?;
    let mut number = || words.next().and_then(|word| word.parse().ok());
    let (device, started, namespace) = (number(), number(), number());
    Some(Holder {
        pid,
        device,
        id: started
            .zip(namespace)
            .map(|(started, namespace)| ProcessId {
                pid,
                started,
                namespace,
            }),
    })
}
