//! Reading the history piece by piece: forward in blocks of whole lines, backward from its end, or one record at its place. The
//! history may be longer than the memory, and a text in it as well as all the rest: no more is held than a block and a line.

use std::ops::ControlFlow;
use std::panic::resume_unwind;

use super::disk::Disk;
use super::error::StoreError;
use super::journal::PATH;
use crate::model::history::{LineError, Record, decode_line};
use crate::model::report::{LogEntry, LogRequest};
use crate::sync::thread;

/// How much is read at once, in bytes.
const BLOCK: usize = 1 << 20;
/// How much is read at once where a few records are wanted, in bytes.
const STEP: usize = 64 << 10;
/// How much is read at once where one record is wanted, in bytes.
const LINE: usize = 1 << 10;
/// Fewer bytes of lines than these are not worth a thread.
const WORTH: usize = 256 << 10;
/// An answer of a limited number of entries ends earlier once their lines have so many bytes.
const PAGE_BYTES: usize = 4 << 20;

/// A line that was read: a record and its checksum, or why it is none.
pub type Decoded = Result<(Record, String), LineError>;

/// The lines of the history from a place on, in blocks.
pub struct Blocks<'a> {
    disk: &'a dyn Disk,
    bytes: Vec<u8>,
    /// Where `bytes` starts in the file.
    at: u64,
    /// How many bytes the last block had.
    taken: usize,
    /// How much is read at once, in bytes.
    step: usize,
    at_end: bool,
}

impl<'a> Blocks<'a> {
    /// All lines from this place on, which is the start of one.
    pub fn new(disk: &'a dyn Disk, at: u64) -> Self {
        Self::of(disk, at, BLOCK)
    }

    fn of(disk: &'a dyn Disk, at: u64, step: usize) -> Self {
        Blocks {
            disk,
            bytes: Vec::new(),
            at,
            taken: 0,
            step,
            at_end: false,
        }
    }

    /// The next lines, whole ones but at the end of the file, and where they start. Empty at the end.
    pub fn next(&mut self) -> Result<(u64, &[u8]), StoreError> {
        self.bytes.drain(..self.taken);
        self.at += self.taken as u64;
        self.taken = 0;
        let mut end = None;
        while end.is_none() && !self.at_end {
            let have = self.bytes.len();
            self.fill(self.step)?;
            let newline = self.bytes[have..].iter().rposition(|&byte| byte == b'\n');
            end = newline.map(|newline| have + newline + 1);
        }
        self.taken = if self.at_end {
            self.bytes.len()
        } else {
            end.unwrap_or_default()
        };
        Ok((self.at, &self.bytes[..self.taken]))
    }

    /// True where nothing follows the last block.
    pub fn is_at_end(&mut self) -> Result<bool, StoreError> {
        if self.taken == self.bytes.len() && !self.at_end {
            self.fill(1)?;
        }
        Ok(self.taken == self.bytes.len())
    }

    fn fill(&mut self, len: usize) -> Result<(), StoreError> {
        let have = self.bytes.len();
        self.disk
            .read_into(PATH, self.at + have as u64, len, &mut self.bytes)
            .map_err(StoreError::io("read", PATH))?;
        self.at_end = self.bytes.len() < have + len;
        Ok(())
    }
}

/// The lines of a block, without their newlines, and whether each has one.
pub fn lines(block: &[u8]) -> impl Iterator<Item = (&[u8], bool)> {
    let parts = block.split_inclusive(|&byte| byte == b'\n');
    parts.map(|line| match line.strip_suffix(b"\n") {
        Some(line) => (line, true),
        None => (line, false),
    })
}

/// The lines that start in the first so many bytes, and the others.
pub fn split_at_line(block: &[u8], about: usize) -> (&[u8], &[u8]) {
    let from = about.min(block.len());
    let newline = block[from..].iter().position(|&byte| byte == b'\n');
    block.split_at(newline.map_or(block.len(), |newline| from + newline + 1))
}

fn decode((line, is_whole): (&[u8], bool)) -> Decoded {
    match is_whole {
        true => decode_line(line),
        false => Err(LineError::Checksum),
    }
}

/// All lines of a block, read on all cores.
pub fn decode_all(block: &[u8]) -> Vec<Decoded> {
    let cores = std::thread::available_parallelism().map_or(1, |count| count.get());
    let threads = cores.min(block.len() / WORTH).max(1);
    if threads == 1 {
        return lines(block).map(decode).collect();
    }
    let mut parts = Vec::new();
    let mut rest = block;
    for left in (1..=threads).rev() {
        let (part, more) = split_at_line(rest, rest.len() / left);
        parts.push(part);
        rest = more;
    }
    thread::scope(|scope| {
        let part = |part| scope.spawn(move || lines(part).map(decode).collect::<Vec<_>>());
        let workers: Vec<_> = parts.into_iter().map(part).collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap_or_else(|panic| resume_unwind(panic)))
            .collect()
    })
}

/// The records from this place on up to `end`, oldest first, each verified. `take` says whether to go on.
pub fn each_from(
    disk: &dyn Disk,
    at: u64,
    end: u64,
    mut take: impl FnMut(Record, usize) -> ControlFlow<()>,
) -> Result<(), StoreError> {
    let mut blocks = Blocks::of(disk, at, STEP);
    loop {
        let (mut at, block) = blocks.next()?;
        for (line, is_whole) in lines(block) {
            if at >= end {
                return Ok(());
            }
            let (record, _) = decode((line, is_whole)).map_err(|error| damaged(at, error))?;
            if take(record, line.len()).is_break() {
                return Ok(());
            }
            at += line.len() as u64 + 1;
        }
        if block.is_empty() {
            return Ok(());
        }
    }
}

/// The lines before `end`, newest first, and where each starts. `take` says whether to go on.
pub fn lines_back(
    disk: &dyn Disk,
    end: u64,
    mut take: impl FnMut(u64, &[u8]) -> Result<ControlFlow<()>, StoreError>,
) -> Result<(), StoreError> {
    // `bytes` is what lies from `at` on and has not been handed out.
    let (mut bytes, mut at, mut step) = (Vec::new(), end, STEP);
    loop {
        let body = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        let start = match body.iter().rposition(|&byte| byte == b'\n') {
            Some(newline) => newline + 1,
            None if at > 0 => {
                let len = (step as u64).min(at);
                let mut more = disk
                    .read_at(PATH, at - len, len as usize)
                    .map_err(StoreError::io("read", PATH))?;
                more.append(&mut bytes);
                (bytes, at, step) = (more, at - len, step * 2);
                continue;
            }
            None if bytes.is_empty() => return Ok(()),
            None => 0,
        };
        if take(at + start as u64, &bytes[start..])?.is_break() {
            return Ok(());
        }
        bytes.truncate(start);
        step = STEP;
    }
}

/// The records before `end`, newest first, each verified, and chained to the one after it. `take` says whether to go on.
pub fn each_back(
    disk: &dyn Disk,
    end: u64,
    mut take: impl FnMut(Record, usize) -> ControlFlow<()>,
) -> Result<(), StoreError> {
    let mut prev: Option<String> = None;
    lines_back(disk, end, |at, line| {
        let (body, is_whole) = lines(line).next().unwrap_or_default();
        let (record, sum) = decode((body, is_whole)).map_err(|error| damaged(at, error))?;
        if prev.as_ref().is_some_and(|prev| *prev != sum) {
            return Err(damaged(at, "the record after it does not follow it"));
        }
        prev = Some(record.prev.clone());
        Ok(take(record, line.len()))
    })
}

/// The record whose line starts there.
pub fn record_at(disk: &dyn Disk, at: u64) -> Result<Record, StoreError> {
    let line = line_at(disk, at)?;
    let (record, _) = decode_line(&line).map_err(|error| damaged(at, error))?;
    Ok(record)
}

/// The line that starts there, without its newline.
fn line_at(disk: &dyn Disk, at: u64) -> Result<Vec<u8>, StoreError> {
    let (mut line, mut step) = (Vec::new(), LINE);
    loop {
        let have = line.len();
        disk.read_into(PATH, at + have as u64, step, &mut line)
            .map_err(StoreError::io("read", PATH))?;
        if let Some(newline) = line[have..].iter().position(|&byte| byte == b'\n') {
            line.truncate(have + newline);
            return Ok(line);
        }
        if line.len() < have + step {
            return Ok(line);
        }
        step *= 2;
    }
}

/// Where the line of a record starts. `end`: where the known records end, and the answer if this one is later.
pub fn place_of(disk: &dyn Disk, end: u64, seq: u64) -> Result<u64, StoreError> {
    // `low` is the start of a line whose record is not later; no line that starts from `high` on has an earlier one.
    let (mut low, mut high) = (0, end);
    while high - low > STEP as u64 {
        let middle = low + (high - low) / 2;
        let start = middle + line_at(disk, middle)?.len() as u64 + 1;
        if start < high && record_at(disk, start)?.seq <= seq {
            low = start;
        } else {
            high = middle;
        }
    }
    let (mut at, mut found) = (low, end);
    each_from(disk, low, end, |record, len| {
        if record.seq >= seq {
            found = at;
            return ControlFlow::Break(());
        }
        at += len as u64 + 1;
        ControlFlow::Continue(())
    })?;
    Ok(found)
}

/// The records that are wanted, oldest first; of a limited number there may be fewer than there are, but not none.
/// `end`: where the known records end.
pub fn log(disk: &dyn Disk, end: u64, wanted: &LogRequest) -> Result<Vec<LogEntry>, StoreError> {
    let end = match wanted.before {
        Some(before) => place_of(disk, end, before)?,
        None => end,
    };
    let limit = wanted.newest.or(wanted.oldest);
    let (mut entries, mut bytes) = (Vec::new(), 0);
    let take = |record: Record, len: usize| {
        if record.seq <= wanted.after || limit == Some(0) {
            return ControlFlow::Break(());
        }
        if wanted.channel.is_none() || record.channel == wanted.channel {
            entries.push(entry(record));
            bytes += len;
        }
        let is_full = |limit| entries.len() as u64 >= limit || bytes >= PAGE_BYTES;
        match limit.is_some_and(is_full) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    };
    if wanted.newest.is_some() {
        each_back(disk, end, take)?;
        entries.reverse();
    } else {
        let start = match wanted.after {
            0 => 0,
            after => place_of(disk, end, after.saturating_add(1))?,
        };
        each_from(disk, start, end, take)?;
    }
    Ok(entries)
}

fn entry(record: Record) -> LogEntry {
    LogEntry {
        seq: record.seq,
        time: record.time,
        actor: record.actor,
        verb: record.verb.as_str().to_owned(),
        channel: record.channel,
        deploy_id: record.deploy,
        until: record.until,
        overrides: record.overrides,
        message: record.message,
        meta: record.meta,
    }
}

/// When the seal of this transaction was recorded, if it was.
pub fn sealed_at(disk: &dyn Disk, end: u64, txn: &str) -> Result<Option<u64>, StoreError> {
    let needle = format!("\"txn\":\"{txn}\"");
    let has_it = |line: &[u8]| {
        let mut windows = line.windows(needle.len());
        windows.any(|window| window == needle.as_bytes())
    };
    let mut blocks = Blocks::new(disk, 0);
    loop {
        let (mut at, block) = blocks.next()?;
        for (line, is_whole) in lines(block) {
            if at < end && has_it(line) {
                let (record, _) = decode((line, is_whole)).map_err(|error| damaged(at, error))?;
                if record.txn.as_deref() == Some(txn) {
                    return Ok(Some(record.time));
                }
            }
            at += line.len() as u64 + 1;
        }
        if block.is_empty() || at >= end {
            return Ok(None);
        }
    }
}

/// Where the records end of a history that nobody has read: a last line that was torn is left out. `None` if the end is damaged:
/// only whoever reads all of it can say more.
pub fn end_of(disk: &dyn Disk, len: u64, head: u64) -> Result<Option<u64>, StoreError> {
    let (mut end, mut torn) = (None, 0);
    lines_back(disk, len, |at, line| {
        let (body, is_whole) = lines(line).next().unwrap_or_default();
        match decode((body, is_whole)) {
            Ok((record, _)) if record.seq >= head => end = Some(at + line.len() as u64),
            // Only the last record can be torn.
            Err(LineError::Checksum) if torn == 0 => {
                torn += 1;
                return Ok(ControlFlow::Continue(()));
            }
            Ok(_) | Err(_) => {}
        }
        Ok(ControlFlow::Break(()))
    })?;
    Ok(end)
}

fn damaged(at: u64, what: impl ToString) -> StoreError {
    StoreError::Damaged {
        path: PATH.into(),
        offset: at,
        what: what.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::history::tests::record;
    use crate::model::history::{NO_RECORD, Verb, encode_line};
    use crate::store::disk::HostDisk;

    /// A history whose texts have these lengths, and where each line starts.
    fn history(lens: &[usize]) -> (tempfile::TempDir, HostDisk, Vec<u64>) {
        let temp = tempfile::tempdir().unwrap();
        let disk = HostDisk::new(temp.path().to_owned(), true);
        let (mut prev, mut starts, mut at) = (NO_RECORD.to_owned(), Vec::new(), 0);
        for (seq, len) in (1..).zip(lens) {
            let mut next = record(seq, Verb::Activate, None, &prev);
            next.message = "x".repeat(*len);
            if seq % 3 == 0 {
                next.channel = Some("third".parse().unwrap());
            }
            next.txn = Some(format!("txn-{seq}."));
            let (line, sum) = encode_line(&next);
            disk.append(PATH, &line).unwrap();
            starts.push(at);
            at += line.len() as u64;
            prev = sum;
        }
        starts.push(at);
        (temp, disk, starts)
    }

    fn mixed() -> Vec<usize> {
        let len = |number: usize| match number % 40 {
            7 => 200_000,
            8 => 70_000,
            other => other * 13,
        };
        (0..500).map(len).collect()
    }

    fn seqs(entries: &[LogEntry]) -> Vec<u64> {
        entries.iter().map(|entry| entry.seq).collect()
    }

    #[test]
    fn every_record_is_found_at_its_place_by_its_number() {
        let (_temp, disk, starts) = history(&mixed());
        let end = *starts.last().unwrap();
        for (seq, start) in (1..).zip(&starts) {
            assert_eq!(place_of(&disk, end, seq).unwrap(), *start, "record {seq}");
        }
        assert_eq!(place_of(&disk, end, 10_000).unwrap(), end);
        assert_eq!(place_of(&disk, end, 0).unwrap(), 0);
        for (seq, start) in (1..).zip(&starts[..500]) {
            assert_eq!(record_at(&disk, *start).unwrap().seq, seq);
        }
    }

    #[test]
    fn pages_towards_the_past_and_towards_the_present_give_every_entry_once() {
        let (_temp, disk, starts) = history(&mixed());
        let end = *starts.last().unwrap();
        for channel in [None, Some("third".parse().unwrap())] {
            let every = if channel.is_some() { 3 } else { 1 };
            let all: Vec<u64> = (1..=500).filter(|seq| seq % every == 0).collect();
            let ask = |wanted| {
                let wanted = LogRequest {
                    channel: channel.clone(),
                    ..wanted
                };
                seqs(&log(&disk, end, &wanted).unwrap())
            };
            assert_eq!(ask(LogRequest::default()), all);
            let (mut past, mut before) = (Vec::new(), None);
            loop {
                let newest = Some(17);
                let page = ask(LogRequest {
                    before,
                    newest,
                    ..LogRequest::default()
                });
                let Some(first) = page.first() else { break };
                before = Some(*first);
                past = [page, past].concat();
            }
            assert_eq!(past, all);
            let (mut present, mut after) = (Vec::new(), 0);
            loop {
                let oldest = Some(1000);
                let page = ask(LogRequest {
                    after,
                    oldest,
                    ..LogRequest::default()
                });
                let Some(last) = page.last() else { break };
                after = *last;
                present.extend(page);
            }
            assert_eq!(present, all);
        }
    }

    #[test]
    fn a_page_ends_early_where_texts_are_long() {
        let (_temp, disk, starts) = history(&[1 << 20; 12]);
        let wanted = LogRequest {
            newest: Some(12),
            ..LogRequest::default()
        };
        let page = log(&disk, *starts.last().unwrap(), &wanted).unwrap();
        assert_eq!(seqs(&page), [9, 10, 11, 12]);
    }

    #[test]
    fn a_torn_end_is_left_out_and_a_damaged_one_is_not_judged() {
        let (_temp, disk, starts) = history(&[10, 20, 30]);
        let (last, end) = (starts[2], starts[3]);
        let ends = |len, head| end_of(&disk, len, head).unwrap();
        assert_eq!(ends(end, 3), Some(end));
        assert_eq!(ends(end, 1), Some(end));
        assert_eq!(ends(end - 1, 2), Some(last), "torn");
        assert_eq!(ends(last + 5, 2), Some(last), "torn");
        assert_eq!(ends(end - 1, 3), None, "it was durable");
        assert_eq!(ends(last, 3), None, "it is missing");
        disk.append(PATH, b"rubbish\nrubbish\n").unwrap();
        assert_eq!(ends(end + 16, 3), None, "two are not one torn write");
    }

    #[test]
    fn a_flipped_byte_is_found_by_whoever_reads_the_line() {
        let (temp, disk, starts) = history(&[10, 20, 30]);
        let path = temp.path().join(PATH);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[starts[1] as usize + 30] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let ask = |newest| {
            let wanted = LogRequest {
                newest: Some(newest),
                ..LogRequest::default()
            };
            log(&disk, starts[3], &wanted)
        };
        assert_eq!(seqs(&ask(1).unwrap()), [3]);
        let error = ask(2).unwrap_err();
        assert!(error.is_damage_at(starts[1]), "{error}");
        assert!(record_at(&disk, starts[1]).is_err());
    }

    impl StoreError {
        fn is_damage_at(&self, at: u64) -> bool {
            matches!(self, StoreError::Damaged { offset, .. } if *offset == at)
        }
    }

    #[test]
    fn the_seal_of_a_transaction_is_found() {
        let (_temp, disk, starts) = history(&mixed());
        let find = |end, txn| sealed_at(&disk, end, txn).unwrap();
        assert_eq!(find(starts[500], "txn-499."), Some(1_700_000_499));
        assert_eq!(find(starts[498], "txn-499."), None, "it is not known");
        assert_eq!(find(starts[500], "txn-49"), None);
    }

    #[test]
    fn a_block_is_read_the_same_on_all_cores() {
        let (temp, _disk, _) = history(&[900; 2000]);
        let bytes = std::fs::read(temp.path().join(PATH)).unwrap();
        let torn = &bytes[..bytes.len() - 7];
        let alone: Vec<Decoded> = lines(torn).map(decode).collect();
        assert!(torn.len() > 4 * WORTH);
        assert_eq!(decode_all(torn), alone);
    }
}
