//! What the last `deploy DIR` of each user read, so that the next one reads only what has changed since.
//!
//! A file is known again by its inode, size, mode, mtime and ctime, as git knows it. Its ctime cannot be set, so a change shows,
//! but for one made within the same tick of the clock as the reading: such young files are not remembered ("racily clean").
//!
//! ```text
//! "dfm" version=1, count, then each file: device (2), inode, size, mtime (2), ctime (2), mode, content id (32), layout (blob.rs)
//! BLAKE3 of all before (32)
//! ```
//! Numbers are LEB128. A cache: lost, torn or from another version, it is as if it were empty.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use super::scan::{FileId, Stamp};
use crate::model::Blob;
use crate::model::codec::{DecodeError, Reader, put_number};

const MAGIC: &[u8; 4] = b"dfm\x01";
/// The kernel's clock for files ticks every 10 ms at the slowest; this is twice that.
const TICK: Duration = Duration::from_millis(20);
/// Where file times have no fractions of a second.
const COARSE_TICK: Duration = Duration::from_secs(2);

/// A file that was read.
pub struct FileBlob<'a> {
    /// As it was all the while.
    pub stamp: &'a Stamp,
    /// What it holds.
    pub blob: &'a Blob,
}

/// Files and what they hold, by inode.
#[derive(Debug, Default)]
pub struct Memory(HashMap<FileId, (Stamp, Blob)>);

impl Memory {
    /// What the file holds, if it is as it was.
    pub fn recall(&self, stamp: &Stamp) -> Option<&Blob> {
        let (then, blob) = self.0.get(&stamp.file())?;
        (then == stamp).then_some(blob)
    }

    /// What all the files hold.
    pub fn blobs(&self) -> impl Iterator<Item = &Blob> {
        self.0.values().map(|(_, blob)| blob)
    }

    /// The bytes to keep of files that were read after `began`.
    pub fn encode<'a>(files: impl Iterator<Item = FileBlob<'a>>, began: SystemTime) -> Vec<u8> {
        let (mut entries, mut count) = (Vec::new(), 0);
        for file in files.filter(|file| is_settled(file.stamp, began)) {
            count += 1;
            for number in file.stamp.numbers() {
                put_number(&mut entries, number);
            }
            file.blob.encode(&mut entries);
        }
        let mut out = MAGIC.to_vec();
        put_number(&mut out, count);
        out.append(&mut entries);
        let sum = blake3::hash(&out);
        out.extend_from_slice(sum.as_bytes());
        out
    }

    /// What was kept; empty if it cannot be used.
    pub fn decode(bytes: &[u8]) -> Self {
        Self::try_decode(bytes).unwrap_or_else(|error| {
            log::debug!("what the last deploy read is not known: {error}");
            Memory::default()
        })
    }

    fn try_decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (body, sum) = bytes.split_last_chunk::<32>().ok_or(DecodeError::Short)?;
        if blake3::hash(body).as_bytes() != sum {
            return Err(DecodeError::Invalid("its checksum does not fit"));
        }
        let mut reader = Reader::new(body);
        if reader.take(4)? != MAGIC {
            return Err(DecodeError::Invalid("it is of another version"));
        }
        let count = reader.count(Stamp::NUMBERS + 33)?;
        let mut files = HashMap::with_capacity(count);
        for _ in 0..count {
            let mut numbers = [0; Stamp::NUMBERS];
            for number in &mut numbers {
                *number = reader.number()?;
            }
            let stamp = Stamp::from_numbers(numbers)
                .ok_or(DecodeError::Invalid("a stamp is out of range"))?;
            let blob = Blob::decode(&mut reader, stamp.size())?;
            files.insert(stamp.file(), (stamp, blob));
        }
        reader.finish()?;
        Ok(Memory(files))
    }
}

/// True where any change since `began` shows in the file's times.
fn is_settled(stamp: &Stamp, began: SystemTime) -> bool {
    let tick = if stamp.has_fractions() {
        TICK
    } else {
        COARSE_TICK
    };
    stamp
        .changed_at()
        .and_then(|changed| changed.checked_add(tick))
        .is_some_and(|settled| settled < began)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    fn stamp(ino: u64, ctime: (u64, u64)) -> Stamp {
        Stamp::from_numbers([8, 1, ino, 5, 70, 7, ctime.0, ctime.1, 0o644]).unwrap()
    }

    fn kept(stamps: &[Stamp], began: Duration) -> Memory {
        let blob = Blob::single(b"bytes");
        let files = stamps.iter().map(|stamp| FileBlob { stamp, blob: &blob });
        Memory::decode(&Memory::encode(files, UNIX_EPOCH + began))
    }

    #[test]
    fn a_file_is_known_again_until_anything_of_it_changes() {
        let one = stamp(1, (100, 500));
        let memory = kept(&[one], Duration::from_secs(200));
        assert_eq!(memory.recall(&one), Some(&Blob::single(b"bytes")));
        assert_eq!(memory.recall(&stamp(1, (100, 501))), None);
        assert_eq!(memory.recall(&stamp(2, (100, 500))), None);
    }

    #[test]
    fn what_may_have_changed_unseen_is_not_remembered() {
        let young = stamp(1, (100, 990_000_000));
        assert_eq!(
            kept(&[young], Duration::from_secs(101)).recall(&young),
            None
        );
        let at = Duration::from_millis(101_020);
        assert!(kept(&[young], at).recall(&young).is_some());
        let coarse = stamp(2, (100, 0));
        assert_eq!(kept(&[coarse], at).recall(&coarse), None);
        let later = Duration::from_secs(103);
        assert!(kept(&[coarse], later).recall(&coarse).is_some());
    }

    #[test]
    fn every_flipped_byte_and_every_cut_makes_it_empty() {
        let one = stamp(1, (100, 500));
        let blob = Blob::single(b"bytes");
        let file = FileBlob {
            stamp: &one,
            blob: &blob,
        };
        let began = UNIX_EPOCH + Duration::from_secs(200);
        let bytes = Memory::encode(std::iter::once(file), began);
        assert!(Memory::decode(&bytes).recall(&one).is_some());
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 4;
            assert!(Memory::decode(&bad).0.is_empty(), "byte {at}");
            assert!(Memory::decode(&bytes[..at]).0.is_empty(), "cut at {at}");
        }
    }
}
