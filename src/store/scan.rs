//! Reading a pack that is not finished: a crash may have left anything at its end, and damage anything anywhere.

use super::disk::Disk;
use super::error::StoreError;
use super::index::Places;
use super::pack::{
    FOOTER_MAGIC, HEADER_LEN, Header, Place, RECORD_MAGIC, TRAILER_LEN, TRAILER_MAGIC,
};
use super::packs::path_of;

const WINDOW: usize = 1 << 20;

/// A pack that is not finished, as the store found it.
pub struct Unfinished {
    /// Its number.
    pub number: u32,
    /// It consists of whole records to its last byte.
    pub whole: bool,
    /// Bytes of the file.
    pub len: u64,
    /// Its records.
    pub places: Places,
    /// Bytes that are no record: where they start and end.
    pub gaps: Vec<(u64, u64)>,
    /// What lies at the end is a footer that is not whole.
    pub has_footer: bool,
}

/// Finds the records by their headers. Bytes that are no record are passed over up to the next one: behind damage there may
/// be chunks that a deploy needs.
pub fn scan(disk: &dyn Disk, number: u32, len: u64) -> Result<Unfinished, StoreError> {
    let mut file = File {
        disk,
        path: path_of(number),
        window: Vec::new(),
        at: 0,
    };
    let mut pack = Unfinished {
        number,
        whole: true,
        len,
        places: Vec::new(),
        gaps: Vec::new(),
        has_footer: false,
    };
    let mut at = 0;
    while at < len {
        match file.header(at)? {
            Some(header) if at + header.record_len() <= len => {
                let place = Place {
                    offset: at,
                    raw_len: header.raw_len,
                    stored_len: header.stored_len,
                };
                pack.places.push((header.id, place));
                at += header.record_len();
            }
            Some(_) | None => {
                pack.whole = false;
                let next = file.next_magic(at + 1)?.unwrap_or(len);
                match pack.gaps.last_mut() {
                    Some((_, end)) if *end == at => *end = next,
                    Some(_) | None => pack.gaps.push((at, next)),
                }
                at = next;
            }
        }
    }
    if let Some(&(start, end)) = pack.gaps.last()
        && end == len
    {
        pack.has_footer = file.is_footer(start, len)?;
    }
    Ok(pack)
}

struct File<'a> {
    disk: &'a dyn Disk,
    path: String,
    window: Vec<u8>,
    at: u64,
}

impl File<'_> {
    /// The bytes from `at`: at least `least` of them unless the file ends before.
    fn bytes(&mut self, at: u64, least: usize) -> Result<&[u8], StoreError> {
        let end = self.at + self.window.len() as u64;
        if at < self.at || at + least as u64 > end {
            self.window = self
                .disk
                .read_at(&self.path, at, WINDOW)
                .map_err(StoreError::io("read", &self.path))?;
            self.at = at;
        }
        Ok(&self.window[(at - self.at) as usize..])
    }

    fn header(&mut self, at: u64) -> Result<Option<Header>, StoreError> {
        Ok(Header::decode(self.bytes(at, HEADER_LEN)?).ok())
    }

    /// True where the bytes from `start` begin or end as a footer does.
    fn is_footer(&mut self, start: u64, len: u64) -> Result<bool, StoreError> {
        if self
            .bytes(start, FOOTER_MAGIC.len())?
            .starts_with(FOOTER_MAGIC)
        {
            return Ok(true);
        }
        match len.checked_sub(TRAILER_LEN as u64) {
            Some(at) if at >= start => Ok(self.bytes(at, TRAILER_LEN)?.starts_with(TRAILER_MAGIC)),
            Some(_) | None => Ok(false),
        }
    }

    /// Where a record may start, from `at` on.
    fn next_magic(&mut self, mut at: u64) -> Result<Option<u64>, StoreError> {
        loop {
            let bytes = self.bytes(at, RECORD_MAGIC.len())?;
            if let Some(found) = bytes
                .windows(RECORD_MAGIC.len())
                .position(|four| four == RECORD_MAGIC)
            {
                return Ok(Some(at + found as u64));
            }
            match bytes.len().checked_sub(RECORD_MAGIC.len() - 1) {
                None | Some(0) => return Ok(None),
                Some(seen) => at += seen as u64,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ChunkId;
    use crate::store::disk::HostDisk;
    use crate::store::pack::Encoded;

    /// Records of these texts, one after the other, and where each starts.
    fn records(texts: &[&str]) -> (Vec<u8>, Vec<usize>) {
        let (mut bytes, mut starts) = (Vec::new(), Vec::new());
        for text in texts {
            let chunk = Encoded::new(ChunkId::of(text.as_bytes()), text.as_bytes(), None);
            starts.push(bytes.len());
            bytes.extend_from_slice(&chunk.header.encode());
            bytes.extend_from_slice(&chunk.payload);
        }
        (bytes, starts)
    }

    fn scanned(bytes: &[u8]) -> (bool, Vec<u64>) {
        let temp = tempfile::tempdir().unwrap();
        let disk = HostDisk::new(temp.path().to_owned(), true);
        std::fs::create_dir(temp.path().join("packs")).unwrap();
        disk.append(&path_of(1), bytes).unwrap();
        let pack = scan(&disk, 1, bytes.len() as u64).unwrap();
        (
            pack.whole,
            pack.places.iter().map(|(_, place)| place.offset).collect(),
        )
    }

    #[test]
    fn all_records_of_a_whole_pack_are_found() {
        let long = "long ".repeat(WINDOW / 4);
        let (bytes, starts) = records(&["one", &long, "three", ""]);
        let starts: Vec<u64> = starts.iter().map(|&start| start as u64).collect();
        assert_eq!(scanned(&bytes), (true, starts));
        assert_eq!(scanned(b""), (true, vec![]));
    }

    #[test]
    fn a_torn_end_loses_only_itself() {
        let (bytes, starts) = records(&["one", "two"]);
        for end in starts[1] + 1..bytes.len() {
            assert_eq!(scanned(&bytes[..end]), (false, vec![0]), "{end}");
        }
    }

    #[test]
    fn records_behind_a_damaged_header_are_found() {
        let (mut bytes, starts) = records(&["one", "two", "three"]);
        for at in 0..HEADER_LEN {
            bytes[starts[1] + at] ^= 1;
            assert_eq!(scanned(&bytes), (false, vec![0, starts[2] as u64]), "{at}");
            bytes[starts[1] + at] ^= 1;
        }
        let mut holed = bytes[..starts[1]].to_vec();
        holed.extend(vec![0; 3 * WINDOW + 1]);
        let third = holed.len() as u64;
        holed.extend_from_slice(&bytes[starts[2]..]);
        assert_eq!(scanned(&holed), (false, vec![0, third]));
    }
}
