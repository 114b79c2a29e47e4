//! The history file: reads and checks it, appends a record and makes it durable.

use std::sync::Arc;

use super::disk::Disk;
use super::error::StoreError;
use super::records::{Blocks, decode_all, lines, split_at_line};
use crate::model::history::{LineError, Record, encode_line};
use crate::model::ledger::Ledger;

/// The history's path in the store.
pub const PATH: &str = "history";
/// Holds seq and checksum of the last record known durable: tells a torn record from a damaged one.
pub const HEAD: &str = "head";
/// Space kept at the end of the history, so that an activation works on a full disk.
const RESERVE: u64 = 64 << 10;
/// So many bytes of lines are decoded at once.
const PART: usize = 1 << 20;

/// The history of an open store.
pub struct Journal {
    disk: Arc<dyn Disk>,
    ledger: Ledger,
    /// Bytes of the file that are whole records.
    len: u64,
    /// Why nothing may be appended, if so.
    stopped: Option<Stop>,
}

enum Stop {
    /// A line in the middle is damaged or not understood.
    Unreadable { offset: u64, what: String },
    /// An append or sync failed.
    Failed,
}

/// What follows the last whole record.
pub struct Tail {
    /// Where it starts.
    pub offset: u64,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// The bytes of a history, understood.
pub struct Parsed {
    /// What its whole records add up to.
    pub ledger: Ledger,
    /// Bytes of whole records.
    pub len: u64,
    /// What follows them is a record that was never completed.
    pub is_torn: bool,
    /// What follows them is damaged, missing or not understood.
    pub wrong: Option<String>,
}

impl Parsed {
    /// Reads whole records up to the first one that is none. `head` is the number of the last record known durable, 0 if
    /// nothing is known.
    pub fn new(bytes: &[u8], head: u64) -> Self {
        let mut parsed = Self::nothing();
        match parsed.take(bytes) {
            Ok(()) => parsed.check_head(head),
            Err(error) => parsed.stop(error, &bytes[parsed.len as usize..], true, head),
        }
        parsed
    }

    /// The same for a file, of which only a part is in memory at a time; and what follows the whole records if it is torn.
    fn read(disk: &dyn Disk, head: u64) -> Result<(Self, Option<Tail>), StoreError> {
        let mut parsed = Self::nothing();
        let mut blocks = Blocks::new(disk, 0);
        loop {
            let (start, block) = blocks.next()?;
            if block.is_empty() {
                parsed.check_head(head);
                return Ok((parsed, None));
            }
            let Err(error) = parsed.take(block) else {
                continue;
            };
            let rest = block[(parsed.len - start) as usize..].to_vec();
            parsed.stop(error, &rest, blocks.is_at_end()?, head);
            let tail = parsed.is_torn.then_some(Tail {
                offset: parsed.len,
                bytes: rest,
            });
            return Ok((parsed, tail));
        }
    }

    fn nothing() -> Self {
        Parsed {
            ledger: Ledger::default(),
            len: 0,
            is_torn: false,
            wrong: None,
        }
    }

    /// Takes the records of these lines. Ends at the first one that cannot be the next, saying why; `None`: its checksum does not
    /// fit.
    fn take(&mut self, mut block: &[u8]) -> Result<(), Option<String>> {
        while !block.is_empty() {
            let (part, rest) = split_at_line(block, PART);
            block = rest;
            for (decoded, (line, _)) in decode_all(part).into_iter().zip(lines(part)) {
                let (record, sum) = decoded.map_err(|error| match error {
                    LineError::Checksum => None,
                    LineError::Unknown(_) => Some(error.to_string()),
                })?;
                let applied = self.ledger.apply(&record, sum, self.len);
                applied.map_err(|error| Some(error.to_string()))?;
                self.len += line.len() as u64 + 1;
            }
        }
        Ok(())
    }

    /// Judges what follows the whole records, `error` being what [`Parsed::take`] says of it.
    fn stop(&mut self, error: Option<String>, rest: &[u8], is_at_end: bool, head: u64) {
        let line = rest.split_inclusive(|&byte| byte == b'\n').next();
        let is_last = is_at_end && line.is_some_and(|line| line.len() == rest.len());
        // Only what follows the last record known durable, at the very end, can be a write that was cut short.
        if error.is_none() && is_last && self.ledger.next_seq() > head.max(1) {
            self.is_torn = true;
        } else {
            self.wrong = Some(error.unwrap_or_else(|| LineError::Checksum.to_string()));
        }
    }

    fn check_head(&mut self, head: u64) {
        // The record of the store's making was durable before there was a store.
        let head = head.max(1);
        if self.ledger.next_seq() <= head {
            let what = format!("its last records are missing: record {head} was there");
            self.wrong = Some(what);
        }
    }
}

impl Journal {
    /// The history of a store that is being made: no record yet.
    pub fn create(disk: Arc<dyn Disk>) -> Result<Self, StoreError> {
        disk.append(PATH, b"")
            .map_err(StoreError::io("create", PATH))?;
        Ok(Journal {
            disk,
            ledger: Ledger::default(),
            len: 0,
            stopped: None,
        })
    }

    /// Reads the whole history. A torn last record is returned, to be cut by [`Journal::cut`]; damage or an unknown verb
    /// ends the reading and forbids writing.
    pub fn open(disk: Arc<dyn Disk>) -> Result<(Self, Option<Tail>), StoreError> {
        let head = read_head(&*disk).unwrap_or_default();
        let (parsed, tail) = Parsed::read(&*disk, head)?;
        let stopped = parsed.wrong.map(|what| Stop::Unreadable {
            offset: parsed.len,
            what,
        });
        let journal = Journal {
            disk,
            ledger: parsed.ledger,
            len: parsed.len,
            stopped,
        };
        Ok((journal, tail))
    }

    /// Saves a torn tail aside, where the disk has room for it, cuts it off and makes that durable.
    pub fn cut(&mut self, tail: &Tail) -> Result<(), StoreError> {
        let aside = format!("{PATH}.torn-{}", self.ledger.next_seq());
        let ended = format!(
            "'{PATH}' ended in {} bytes of a record that was never completed",
            tail.bytes.len()
        );
        let kept = self.disk.append(&aside, &tail.bytes);
        match kept.map_err(StoreError::io("append to", &aside)) {
            Ok(()) => log::warn!("{ended}; they are kept in '{aside}'"),
            // A full disk tears records, and must not keep the store closed: nobody was told of this one.
            Err(error) if error.is_full() => {
                log::warn!("{ended}; they are cut off, not all of them kept: {error}");
            }
            Err(error) => return Err(error),
        }
        self.disk
            .truncate(PATH, tail.offset)
            .map_err(StoreError::io("truncate", PATH))?;
        self.sync()
    }

    /// Makes what was read survive a power cut, and sets space aside for the next records.
    pub fn sync(&mut self) -> Result<(), StoreError> {
        self.disk.sync(PATH).map_err(StoreError::io("sync", PATH))?;
        if self.stopped.is_some() {
            // What was read ends before the damage: the hint knows of more, and is what tells damage from a torn record.
            return Ok(());
        }
        self.write_head();
        if let Err(error) = self.disk.reserve(PATH, RESERVE) {
            log::warn!("no space can be set aside for '{PATH}': {error}");
        }
        Ok(())
    }

    /// Where the records end, in bytes. What lies before it stays as it is.
    pub fn end(&self) -> u64 {
        self.len
    }

    /// What the history adds up to.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Reads the file again and says what is not as it was written.
    pub fn check(&self) -> Vec<StoreError> {
        let mut problems: Vec<StoreError> = read_head(&*self.disk).err().into_iter().collect();
        match Journal::open(self.disk.clone()) {
            Err(error) => problems.push(error),
            Ok((journal, _)) => {
                problems.extend(journal.check_writable().err());
                problems.extend(self.check_writable().err());
                if journal.stopped.is_none() && journal.len < self.len {
                    problems.push(StoreError::Damaged {
                        path: PATH.into(),
                        offset: journal.len,
                        what: "the records from there on are not as they were written".into(),
                    });
                }
            }
        }
        problems
    }

    /// Fails where nothing may be appended.
    pub fn check_writable(&self) -> Result<(), StoreError> {
        match &self.stopped {
            None => Ok(()),
            Some(Stop::Failed) => Err(StoreError::Stopped),
            Some(Stop::Unreadable { offset, what }) => Err(StoreError::History {
                offset: *offset,
                what: what.clone(),
            }),
        }
    }

    /// Appends a record and makes it durable. `seq` and `prev` are filled in here. After an error nothing more is taken.
    pub fn append(&mut self, mut record: Record) -> Result<(), StoreError> {
        self.check_writable()?;
        record.seq = self.ledger.next_seq();
        record.prev = self.ledger.last_sum().to_owned();
        let (line, sum) = encode_line(&record);
        let refused = |error| StoreError::Io {
            doing: "append to",
            path: PATH.into(),
            cause: std::io::Error::other(error),
        };
        self.ledger.check(&record).map_err(refused)?;
        let written = self
            .disk
            .append(PATH, &line)
            .map_err(StoreError::io("append to", PATH))
            .and_then(|()| self.disk.sync(PATH).map_err(StoreError::NotConfirmed));
        if let Err(error) = written {
            self.stopped = Some(Stop::Failed);
            return Err(error);
        }
        self.ledger.apply(&record, sum, self.len).map_err(refused)?;
        self.len += line.len() as u64;
        self.write_head();
        if let Err(error) = self.disk.reserve(PATH, RESERVE) {
            log::debug!("no space can be set aside for '{PATH}': {error}");
        }
        Ok(())
    }

    /// The hint may be lost or fail: then a torn record is looked for a little further back.
    fn write_head(&self) {
        let text = encode_head(self.ledger.next_seq() - 1, self.ledger.last_sum());
        if let Err(error) = super::replace(&*self.disk, HEAD, text.as_bytes()) {
            log::debug!("'{HEAD}' cannot be written: {error}");
        }
    }
}

pub(super) fn encode_head(seq: u64, sum: &str) -> String {
    let body = format!("{seq} {sum}");
    let check = blake3::hash(body.as_bytes()).to_hex();
    format!("{body} {}\n", &check[..16])
}

/// The number of the last record known durable, 0 where the hint is lost; an error: it is damaged.
pub fn read_head(disk: &dyn Disk) -> Result<u64, StoreError> {
    let bytes = read_whole(disk, HEAD).unwrap_or_default();
    // It is not synced: after a power cut its name may be there without its bytes.
    if bytes.iter().all(|&byte| byte == 0) {
        return Ok(0);
    }
    decode_head(&bytes).ok_or_else(|| StoreError::Damaged {
        path: HEAD.into(),
        offset: 0,
        what: "it does not fit its checksum".into(),
    })
}

pub(super) fn decode_head(bytes: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(bytes).ok()?;
    let mut words = text.strip_suffix('\n')?.split(' ');
    let seq = words.next()?.parse().ok()?;
    let sum = words.next()?;
    let whole = encode_head(seq, sum);
    // Without a checksum: an older deployfs wrote it.
    (text == whole || (sum.len() == 64 && text == format!("{seq} {sum}\n"))).then_some(seq)
}

/// The bytes of a whole file.
pub fn read_whole(disk: &dyn Disk, path: &str) -> Result<Vec<u8>, StoreError> {
    const STEP: usize = 1 << 20;
    let mut bytes = Vec::new();
    loop {
        let part = disk
            .read_at(path, bytes.len() as u64, STEP)
            .map_err(StoreError::io("read", path))?;
        bytes.extend_from_slice(&part);
        if part.len() < STEP {
            return Ok(bytes);
        }
    }
}
