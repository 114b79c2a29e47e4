//! Mending the history: one flipped bit is set right; where a record is lost, the deploys it may have sealed are recorded again
//! from their own files, and what follows is chained anew.

use std::collections::BTreeSet;

use super::Repair;
use crate::model::history::{LineError, NO_RECORD, Record, Verb, decode_line, encode_line};
use crate::model::ledger::Ledger;
use crate::model::mending::mend_bit;
use crate::model::report::Meta;
use crate::model::{DeployId, deploy_file::DeployFile};
use crate::store::error::StoreError;
use crate::store::journal::{HEAD, Journal, PATH, read_head, read_whole};
use crate::store::{DEPLOYS, publish, read_deploy_file};

/// In longer lines no flipped bit is looked for: it would take minutes.
const LINE_MAX: usize = 16 << 10;

enum Line {
    Whole(Box<Record>),
    /// Where it starts and how long it is.
    Lost(u64, usize),
}

impl Repair {
    /// Mends history and head.
    pub(super) fn history(&mut self) -> Result<(), StoreError> {
        if read_head(&*self.disk).is_err() {
            self.set_aside(HEAD)?;
            self.mended(format!("'{HEAD}': it was damaged; it is written anew"));
        }
        let bytes = match read_whole(&*self.disk, PATH) {
            Ok(bytes) => bytes,
            Err(StoreError::Io { cause, .. }) if cause.kind() == std::io::ErrorKind::NotFound => {
                Vec::new()
            }
            Err(error) => return Err(error),
        };
        if !bytes.is_empty() {
            let (journal, tail) = Journal::open(self.disk.clone())?;
            // A torn end is for the recovery.
            if tail.is_some() || journal.check_writable().is_ok() {
                return Ok(());
            }
        }
        let mut found = Vec::new();
        let Some(lines) = read_lines(&bytes, &mut found) else {
            // From a newer deployfs: it is not damaged.
            return Ok(());
        };
        let new = self.chain(lines, bytes.is_empty(), &mut found)?;
        if new == bytes {
            // Nothing but the hint is in doubt: it counts more records than there are.
            self.set_aside(HEAD)?;
            self.mended(format!(
                "'{PATH}' at byte {}: its last records are lost; what is left counts",
                bytes.len()
            ));
            return Ok(());
        }
        if !bytes.is_empty() {
            self.copy_aside(PATH, &bytes)?;
        }
        // Else it would count records that are not there any more.
        let _ = self.disk.remove(HEAD);
        publish(&*self.disk, PATH, &new, ".")?;
        found.into_iter().for_each(|what| self.mended(what));
        Ok(())
    }

    /// The lines of a history in which all records follow one another.
    fn chain(
        &self,
        lines: Vec<Line>,
        is_gone: bool,
        found: &mut Vec<String>,
    ) -> Result<Vec<u8>, StoreError> {
        let mut orphans = self.unrecorded(&lines)?;
        let (mut out, mut ledger) = (Vec::new(), Ledger::default());
        if is_gone {
            found.push(format!(
                "'{PATH}' was gone; {} deploys are recorded again, nothing is live",
                orphans.len()
            ));
            add_all(&mut orphans, &mut out, &mut ledger);
        }
        for line in lines {
            match line {
                Line::Whole(record) => {
                    let seq = record.seq;
                    if let Err(what) = add(*record, &mut out, &mut ledger) {
                        found.push(format!("'{PATH}': record {seq} is left out: {what}"));
                    }
                }
                Line::Lost(offset, len) => {
                    found.push(format!(
                        "'{PATH}' at byte {offset}: a record of {len} bytes is lost, {} deploys whose seal it may have \
                         been are recorded again; if it was an activation, activate what is to be live",
                        orphans.len()
                    ));
                    add_all(&mut orphans, &mut out, &mut ledger);
                }
            }
        }
        Ok(out)
    }

    /// Seals of deploys that have a file and no record.
    fn unrecorded(&self, lines: &[Line]) -> Result<Vec<Record>, StoreError> {
        let recorded: BTreeSet<DeployId> = lines
            .iter()
            .filter_map(|line| match line {
                Line::Whole(record) => match record.verb {
                    Verb::Seal | Verb::Remove => record.deploy,
                    _ => None,
                },
                Line::Lost(..) => None,
            })
            .collect();
        let names = self
            .disk
            .list(DEPLOYS)
            .map_err(StoreError::io("list", DEPLOYS))?;
        let mut files: Vec<DeployFile> = names
            .into_iter()
            .filter_map(|(name, _)| name.parse::<DeployId>().ok())
            .filter(|id| !recorded.contains(id))
            .filter_map(|id| read_deploy_file(&*self.disk, id).ok())
            .collect();
        files.sort_by_key(|file| (file.root_mtime, file.id()));
        Ok(files.iter().map(seal_of).collect())
    }
}

fn seal_of(file: &DeployFile) -> Record {
    Record {
        seq: 0,
        time: file.sealed_at,
        actor: file.sealed_by.clone(),
        verb: Verb::Seal,
        channel: None,
        deploy: Some(file.id()),
        content: Some(file.content),
        txn: None,
        message: "recorded again by 'fsck --repair'".into(),
        until: None,
        overrides: None,
        meta: Meta::new(),
        last_mtime: file.root_mtime,
        prev: NO_RECORD.to_owned(),
    }
}

fn add_all(records: &mut Vec<Record>, out: &mut Vec<u8>, ledger: &mut Ledger) {
    for record in records.drain(..) {
        // Its id and content come from one file, so it can follow anything.
        let _ = add(record, out, ledger);
    }
}

/// Appends a record as the next one.
fn add(mut record: Record, out: &mut Vec<u8>, ledger: &mut Ledger) -> Result<(), String> {
    record.seq = ledger.next_seq();
    record.prev = ledger.last_sum().to_owned();
    record.last_mtime = record.last_mtime.max(ledger.last_mtime());
    let (line, sum) = encode_line(&record);
    ledger
        .apply(&record, sum, out.len() as u64)
        .map_err(|error| error.to_string())?;
    out.extend_from_slice(&line);
    Ok(())
}

/// All lines, flipped bits set right; none: a whole one is not understood.
fn read_lines(bytes: &[u8], found: &mut Vec<String>) -> Option<Vec<Line>> {
    let parts: Vec<&[u8]> = bytes
        .strip_suffix(b"\n")
        .unwrap_or(bytes)
        .split(|&byte| byte == b'\n')
        .collect();
    let (mut lines, mut at, mut offset) = (Vec::new(), 0, 0);
    while at < parts.len() && !bytes.is_empty() {
        let mut taken = 1;
        match decode_line(parts[at]) {
            Ok((record, _)) => lines.push(Line::Whole(Box::new(record))),
            Err(LineError::Unknown(_)) => return None,
            Err(LineError::Checksum) => {
                // The flipped bit may have made a newline, or unmade one.
                let two = parts
                    .get(at + 1)
                    .map(|next| [parts[at], b"\n", next].concat());
                let alone = mended_records(parts[at]).map(|(where_, records)| (1, where_, records));
                let joined = || mended_records(&two?).map(|(where_, records)| (2, where_, records));
                match alone.or_else(joined) {
                    Some((count, where_, records)) => {
                        taken = count;
                        found.push(format!(
                            "'{PATH}' at byte {}: one bit was flipped",
                            offset + where_ as u64
                        ));
                        lines.extend(records.into_iter().map(|one| Line::Whole(Box::new(one))));
                    }
                    None => lines.push(Line::Lost(offset, parts[at].len())),
                }
            }
        }
        for part in &parts[at..at + taken] {
            offset += part.len() as u64 + 1;
        }
        at += taken;
    }
    Some(lines)
}

fn mended_records(bytes: &[u8]) -> Option<(usize, Vec<Record>)> {
    if bytes.len() > LINE_MAX {
        return None;
    }
    let records = |bytes: &[u8]| -> Option<Vec<Record>> {
        let lines = bytes.split(|&byte| byte == b'\n');
        lines
            .map(|line| decode_line(line).ok().map(|(record, _)| record))
            .collect()
    };
    let (at, mended) = mend_bit(bytes, |tried| records(tried).is_some())?;
    Some((at, records(&mended)?))
}
