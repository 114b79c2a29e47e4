//! What the last `deploy DIR` of each user read, so that the next one reads only what has changed since.
//!
//! A file is known again by its inode, size, mode, mtime and ctime, as git knows it. On one mounted, writable superblock its
//! ctime cannot be set, so a change shows, but for one made within the same tick of the clock as the reading: such young files
//! are not remembered ("racily clean"). On any other superblock, and after each mount, everything is read (superblock.rs).
//!
//! ```text
//! "dfm" version=2, superblock (32), count, then each file: device (2), inode, size, mtime (2), ctime (2), mode, content id (32),
//! layout (blob.rs); BLAKE3 of all before (32)
//! ```
//! Numbers are LEB128. A cache: lost, torn or from another version, it is as if it were empty.

use std::time::{Duration, SystemTime};

use super::scan::Stamp;
use super::superblock::Superblock;
use crate::model::Blob;
use crate::model::codec::{DecodeError, Reader, put_number};

const MAGIC: &[u8; 4] = b"dfm\x02";
const SUM_LEN: usize = 32;
/// The kernel's clock for files ticks every 10 ms at the slowest; this is twice that.
const TICK: Duration = Duration::from_millis(20);
/// Where file times have no fractions of a second.
const COARSE_TICK: Duration = Duration::from_secs(2);

/// A file that was read.
pub struct FileBlob {
    /// As it was all the while.
    pub stamp: Stamp,
    /// What it holds.
    pub blob: Blob,
}

/// Files and what they hold, as they are kept: a fifth of what they would take decoded.
#[derive(Debug, Default)]
pub struct Memory {
    superblock: [u8; Superblock::ID_LEN],
    bytes: Vec<u8>,
    /// Where each file's numbers start, by its device and inode.
    starts: Vec<u32>,
}

impl Memory {
    /// The memory itself, if its files lie on this superblock, which has been mounted all the while; else an empty one.
    pub fn on(self, superblock: Option<&Superblock>) -> Self {
        match superblock.is_some_and(|superblock| *superblock.id() == self.superblock) {
            true => self,
            false => Memory::default(),
        }
    }

    /// What the file holds, if it is as it was.
    pub fn recall(&self, stamp: &Stamp) -> Option<Blob> {
        let id_at = |start: u32| {
            let mut reader = Reader::new(&self.bytes[start as usize..]);
            let mut number = || reader.number().unwrap_or_default();
            ((number() as u32, number() as u32), number())
        };
        let wanted = stamp.file();
        let at = self
            .starts
            .binary_search_by(|start| id_at(*start).cmp(&wanted))
            .ok()?;
        let (then, mut reader) = self.entry(self.starts[at])?;
        let blob = Blob::decode(&mut reader, then.size()).ok()?;
        (then == *stamp).then_some(blob)
    }

    /// What all the files hold.
    pub fn blobs(&self) -> impl Iterator<Item = Blob> {
        self.starts.iter().filter_map(|start| {
            let (stamp, mut reader) = self.entry(*start)?;
            Blob::decode(&mut reader, stamp.size()).ok()
        })
    }

    /// The checksum of what was kept; empty where nothing was.
    pub fn sum(&self) -> Vec<u8> {
        sum_of(&self.bytes).to_vec()
    }

    /// A file's stamp, and a reader of what it holds.
    fn entry(&self, start: u32) -> Option<(Stamp, Reader<'_>)> {
        let mut reader = Reader::new(self.bytes.get(start as usize..)?);
        let stamp = read_stamp(&mut reader).ok()?;
        Some((stamp, reader))
    }

    /// The bytes to keep of files of this superblock that were read after `began`.
    pub fn encode<I: Iterator<Item = FileBlob>>(
        files: impl Fn() -> I,
        superblock: &Superblock,
        began: SystemTime,
    ) -> Vec<u8> {
        let is_known =
            |stamp: &Stamp| superblock.has_device(stamp.file().0) && is_settled(stamp, began);
        let known = || files().filter(|file| is_known(&file.stamp));
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(superblock.id());
        put_number(&mut out, known().count() as u64);
        for file in known() {
            for number in file.stamp.numbers() {
                put_number(&mut out, number);
            }
            file.blob.encode(&mut out);
        }
        let sum = blake3::hash(&out);
        out.extend_from_slice(sum.as_bytes());
        out
    }

    /// What was kept; empty if it cannot be used.
    pub fn decode(bytes: Vec<u8>) -> Self {
        Self::try_decode(bytes).unwrap_or_else(|error| {
            log::debug!("what the last deploy read is not known: {error}");
            Memory::default()
        })
    }

    fn try_decode(bytes: Vec<u8>) -> Result<Self, DecodeError> {
        if u32::try_from(bytes.len()).is_err() {
            return Err(DecodeError::Invalid("it is too long"));
        }
        let (body, sum) = bytes
            .split_last_chunk::<SUM_LEN>()
            .ok_or(DecodeError::Short)?;
        if blake3::hash(body).as_bytes() != sum {
            return Err(DecodeError::Invalid("its checksum does not fit"));
        }
        let mut reader = Reader::new(body);
        if reader.take(4)? != MAGIC {
            return Err(DecodeError::Invalid("it is of another version"));
        }
        let mut superblock = [0; Superblock::ID_LEN];
        superblock.copy_from_slice(reader.take(Superblock::ID_LEN)?);
        let count = reader.count(Stamp::NUMBERS + 33)?;
        let mut files = Vec::with_capacity(count);
        for _ in 0..count {
            let start = (body.len() - reader.left()) as u32;
            let stamp = read_stamp(&mut reader)?;
            Blob::decode(&mut reader, stamp.size())?;
            files.push((stamp.file(), start));
        }
        reader.finish()?;
        // A file may come twice, under two names.
        files.sort_unstable();
        files.dedup_by_key(|(file, _)| *file);
        Ok(Memory {
            superblock,
            starts: files.into_iter().map(|(_, start)| start).collect(),
            bytes,
        })
    }
}

fn read_stamp(reader: &mut Reader<'_>) -> Result<Stamp, DecodeError> {
    let mut numbers = [0; Stamp::NUMBERS];
    for number in &mut numbers {
        *number = reader.number()?;
    }
    Stamp::from_numbers(numbers).ok_or(DecodeError::Invalid("a stamp is out of range"))
}

/// The checksum at the end of what is kept.
pub fn sum_of(bytes: &[u8]) -> &[u8] {
    &bytes[bytes.len().saturating_sub(SUM_LEN)..]
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
        let file = |stamp: &Stamp| FileBlob {
            stamp: *stamp,
            blob: Blob::single(b"bytes"),
        };
        let files = || stamps.iter().map(file);
        let disk = Superblock::invented(1, (8, 1));
        Memory::decode(Memory::encode(files, &disk, UNIX_EPOCH + began)).on(Some(&disk))
    }

    #[test]
    fn another_superblock_or_device_knows_nothing() {
        let one = stamp(1, (100, 500));
        let known = || kept(&[one], Duration::from_secs(200));
        assert!(known().on(None).recall(&one).is_none());
        let other = Superblock::invented(2, (8, 1));
        assert!(known().on(Some(&other)).recall(&one).is_none());
        let disk = Superblock::invented(1, (8, 1));
        assert!(known().on(Some(&disk)).recall(&one).is_some());
        let subvolume = Stamp::from_numbers([8, 2, 1, 5, 70, 7, 100, 500, 0o644]).unwrap();
        let memory = kept(&[subvolume], Duration::from_secs(200));
        assert!(memory.recall(&subvolume).is_none());
    }

    #[test]
    fn a_file_is_known_again_until_anything_of_it_changes() {
        let one = stamp(1, (100, 500));
        let memory = kept(&[one], Duration::from_secs(200));
        assert_eq!(memory.recall(&one), Some(Blob::single(b"bytes")));
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
        let file = || {
            std::iter::once(FileBlob {
                stamp: one,
                blob: Blob::single(b"bytes"),
            })
        };
        let began = UNIX_EPOCH + Duration::from_secs(200);
        let disk = Superblock::invented(1, (8, 1));
        let bytes = Memory::encode(file, &disk, began);
        assert!(Memory::decode(bytes.clone()).recall(&one).is_some());
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 4;
            assert!(Memory::decode(bad).starts.is_empty(), "byte {at}");
            let cut = Memory::decode(bytes[..at].to_vec());
            assert!(cut.starts.is_empty(), "cut at {at}");
        }
    }
}
