//! One state of a store that others may be changing: a prefix of its history, and the deploy files that this needs.

use super::super::disk::Disk;
use super::super::journal::{self, Parsed};
use super::super::{Store, StoreError};
use super::BackupError;
use crate::model::DeployId;
use crate::model::deploy_file::DeployFile;
use crate::model::history::{Verb, decode_line};
use crate::model::ledger::Ledger;

/// How often the list of deploys is read again because one of them was removed meanwhile.
const TRIES: usize = 100;

/// One state of a store.
pub struct Snapshot {
    /// The records up to it, as they are on disk.
    pub history: Vec<u8>,
    /// What they add up to.
    pub ledger: Ledger,
    /// Each deploy with the number of its first seal and its file.
    pub files: Vec<(DeployId, u64, DeployFile)>,
}

impl Snapshot {
    /// The state of the store on this disk now, and the store opened for reading. Its packs must be held.
    pub fn take(
        disk: &dyn Disk,
        name: &str,
        open: &dyn Fn() -> Result<Store, StoreError>,
    ) -> Result<(Self, Store), BackupError> {
        for _ in 0..TRIES {
            let (history, ledger) = durable_history(disk)?;
            // After the history: every chunk that it needs is in a pack that is listed.
            let store = match open() {
                // A pack of a seal that came to nothing may go while they are listed.
                Err(error) if error.is_not_found() => continue,
                other => other?,
            };
            let sealed = ledger.deploys().iter();
            let files: Result<Vec<_>, StoreError> = sealed
                .map(|(&id, sealed)| Ok((id, sealed.order, store.deploy_file(id)?)))
                .collect();
            if removes_any(disk, history.len())? {
                continue;
            }
            let snapshot = Snapshot {
                files: files?,
                history,
                ledger,
            };
            return Ok((snapshot, store));
        }
        Err(BackupError::Restless(name.to_owned()))
    }

    /// The number of its last record.
    pub fn last_seq(&self) -> u64 {
        self.ledger.next_seq() - 1
    }
}

/// All whole records, once they are durable: what is acknowledged is among them.
fn durable_history(disk: &dyn Disk) -> Result<(Vec<u8>, Ledger), StoreError> {
    // First the hint, then the file: the file has at least what the hint knows.
    let head = journal::read_head(disk).unwrap_or_default();
    let mut history = journal::read_whole(disk, journal::PATH)?;
    match disk.sync(journal::PATH) {
        Err(error) if error.kind() != std::io::ErrorKind::ReadOnlyFilesystem => {
            return Err(StoreError::io("sync", journal::PATH)(error));
        }
        Ok(()) | Err(_) => {}
    }
    let Parsed {
        ledger, len, wrong, ..
    } = Parsed::new(&history, head);
    match wrong {
        Some(what) => Err(StoreError::History { offset: len, what }),
        None => {
            history.truncate(len as usize);
            Ok((history, ledger))
        }
    }
}

/// True where a deploy has been removed since the history had this length.
fn removes_any(disk: &dyn Disk, len: usize) -> Result<bool, StoreError> {
    let now = journal::read_whole(disk, journal::PATH)?;
    let later = now.get(len..).unwrap_or_default();
    let mut records = later.split(|&byte| byte == b'\n').map(decode_line);
    Ok(records.any(|record| record.is_ok_and(|(record, _)| record.verb == Verb::Remove)))
}
