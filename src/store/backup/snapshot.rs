//! One state of a store that others may be changing: a prefix of its history, and the deploy files that this needs.

use std::collections::BTreeMap;
use std::io;

use super::super::disk::Disk;
use super::super::journal::{self, Parsed};
use super::super::{DEPLOYS, Store, StoreError, read_deploy_file, read_deploy_file_at};
use super::BackupError;
use crate::model::DeployId;
use crate::model::deploy_file::DeployFile;
use crate::model::history::{Record, Verb, decode_line};
use crate::model::ledger::Ledger;

/// How often a later state is taken because a deploy was removed while the files of this one were read.
const TRIES: usize = 1000;
/// How often the store is opened again because a file of it went meanwhile.
const OPEN_TRIES: usize = 100;

type Files = BTreeMap<DeployId, (u64, DeployFile)>;

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
        let (mut history, mut ledger) = whole_history(disk)?;
        let mut files = Files::new();
        for _ in 0..TRIES {
            let read = read_files(disk, &ledger, &mut files);
            let later = later_records(disk, history.len())?;
            if later
                .iter()
                .all(|(_, record, _)| record.verb != Verb::Remove)
            {
                read?;
                sync(disk)?;
                // After the history: every chunk that it needs is in a pack that is listed.
                let store = open_settled(open)?;
                let files = files
                    .into_iter()
                    .map(|(id, (order, file))| (id, order, file));
                let snapshot = Snapshot {
                    files: files.collect(),
                    history,
                    ledger,
                };
                return Ok((snapshot, store));
            }
            // What was removed may have been removed before its file was read: a later state it is, for which little is missing.
            for (line, record, sum) in later {
                let applied = ledger.apply(&record, sum, history.len() as u64);
                applied.map_err(|error| StoreError::History {
                    offset: history.len() as u64,
                    what: error.to_string(),
                })?;
                history.extend_from_slice(&line);
            }
        }
        Err(BackupError::Restless(name.to_owned()))
    }

    /// The number of its last record.
    pub fn last_seq(&self) -> u64 {
        self.ledger.next_seq() - 1
    }
}

/// All whole records, and what they add up to.
fn whole_history(disk: &dyn Disk) -> Result<(Vec<u8>, Ledger), StoreError> {
    // First the hint, then the file: the file has at least what the hint knows.
    let head = journal::read_head(disk).unwrap_or_default();
    let mut history = journal::read_whole(disk, journal::PATH)?;
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

/// Makes the records that were read durable: only a state that the store cannot lose is backed up.
fn sync(disk: &dyn Disk) -> Result<(), StoreError> {
    match disk.sync(journal::PATH) {
        Err(error) if error.kind() != io::ErrorKind::ReadOnlyFilesystem => {
            Err(StoreError::io("sync", journal::PATH)(error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The whole records after the first `len` bytes of the history: line, record and checksum.
fn later_records(
    disk: &dyn Disk,
    len: usize,
) -> Result<Vec<(Vec<u8>, Record, String)>, StoreError> {
    const STEP: usize = 1 << 20;
    let mut bytes = Vec::new();
    loop {
        let part = disk
            .read_at(journal::PATH, (len + bytes.len()) as u64, STEP)
            .map_err(StoreError::io("read", journal::PATH))?;
        bytes.extend_from_slice(&part);
        if part.len() < STEP {
            break;
        }
    }
    let lines = bytes.split_inclusive(|&byte| byte == b'\n');
    let decoded = lines.map_while(|line| {
        let (record, sum) = decode_line(line.strip_suffix(b"\n")?).ok()?;
        Some((line.to_vec(), record, sum))
    });
    Ok(decoded.collect())
}

/// Reads the deploy files of this state that have not been read, and drops those of other states. The first failure counts once
/// it is known that no deploy was removed meanwhile.
fn read_files(disk: &dyn Disk, ledger: &Ledger, files: &mut Files) -> Result<(), StoreError> {
    let order_of = |id: &DeployId| ledger.deploys().get(id).map(|sealed| sealed.order);
    files.retain(|id, (order, _)| order_of(id) == Some(*order));
    let mut outcome = Ok(());
    for (&id, sealed) in ledger.deploys() {
        if files.contains_key(&id) {
            continue;
        }
        let newer = format!("{DEPLOYS}/{id}.{}", sealed.order);
        let read = read_deploy_file_at(disk, id, &newer).or_else(|_| read_deploy_file(disk, id));
        match read {
            Ok(file) => {
                files.insert(id, (sealed.order, file));
            }
            Err(error) => outcome = outcome.and(Err(error)),
        }
    }
    outcome
}

/// A pack of a seal that came to nothing may go while the packs are listed.
fn open_settled(open: &dyn Fn() -> Result<Store, StoreError>) -> Result<Store, StoreError> {
    let mut tries = OPEN_TRIES;
    loop {
        match open() {
            Err(error) if error.is_not_found() && tries > 0 => tries -= 1,
            other => return other,
        }
    }
}
