//! Questions to the history that the ledger does not answer: texts, and who did something when. They are read from the disk when they
//! are asked for, without holding up changes: what has been written there stays as it is.

use std::ops::ControlFlow;
use std::path::Path;

use super::disk::{Disk, HostDisk};
use super::error::StoreError;
use super::journal::{PATH, read_head};
use super::records;
use super::{Store, format};
use crate::model::history::Record;
use crate::model::ledger::SealMark;
use crate::model::report::{LogEntry, LogRequest, SealInfo};

impl Store {
    /// The records that are wanted, oldest first; of a limited number there may be fewer than there are, but not none.
    pub fn log(&self, wanted: &LogRequest) -> Result<Vec<LogEntry>, StoreError> {
        records::log(&*self.disk, self.history_end(), wanted)
    }

    /// The same for a store that is not open: nothing else of it is read. `None` if only opening it can tell.
    pub fn log_of(root: &Path, wanted: &LogRequest) -> Result<Option<Vec<LogEntry>>, StoreError> {
        let disk = HostDisk::new(root.to_owned(), false);
        format::read(&disk, root)?;
        // Before the length: whoever writes adds the record first.
        let Ok(head) = read_head(&disk) else {
            return Ok(None);
        };
        let files = disk.list(".").map_err(StoreError::io("list", "."))?;
        let Some((_, len)) = files.into_iter().find(|(name, _)| name == PATH) else {
            return Ok(None);
        };
        match records::end_of(&disk, len, head)? {
            Some(end) => records::log(&disk, end, wanted).map(Some),
            None => Ok(None),
        }
    }

    /// Where the history ends now, in bytes.
    fn history_end(&self) -> u64 {
        self.journal.read().expect("no panic under this lock").end()
    }

    /// When the seal of this transaction was recorded, if it was. Reads the whole history.
    pub fn sealed_at(&self, txn: &str) -> Result<Option<u64>, StoreError> {
        records::sealed_at(&*self.disk, self.history_end(), txn)
    }

    /// Who made a seal, and why.
    pub fn seal_info(&self, seal: &SealMark) -> Result<SealInfo, StoreError> {
        let record = records::record_at(&*self.disk, seal.at)?;
        Ok(SealInfo {
            time: record.time,
            actor: record.actor,
            message: record.message,
            meta: record.meta,
        })
    }

    /// Hands on all records, oldest first.
    pub fn each_record(&self, mut take: impl FnMut(Record)) -> Result<(), StoreError> {
        records::each_from(&*self.disk, 0, self.history_end(), |record, _| {
            take(record);
            ControlFlow::Continue(())
        })
    }
}
