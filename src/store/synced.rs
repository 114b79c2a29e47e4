//! How much of the pack that is appended to has been verified or synced: what comes before need not be read again when the store
//! is opened, which would take longer with each deploy until the pack is finished.
//!
//! ```text
//! NUMBER LEN ID: of the pack NUMBER the first LEN bytes, which end with the record of the chunk ID
//! ```
//! A file that may be lost, or of another time than the pack: it counts only where that record ends there.

use super::disk::Disk;
use super::index::Places;
use super::scan::Unfinished;
use super::{CACHE, journal, replace};
use crate::model::ChunkId;

const FILE: &str = "synced";

/// The beginning of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Synced {
    pack: u32,
    len: u64,
    last: ChunkId,
}

impl Synced {
    /// All of these places, if there are any.
    pub fn of(pack: u32, places: &Places) -> Option<Self> {
        let (last, place) = places.last()?;
        Some(Synced {
            pack,
            len: place.end(),
            last: *last,
        })
    }

    /// What was kept last.
    pub fn load(disk: &dyn Disk) -> Option<Self> {
        let bytes = journal::read_whole(disk, &path()).ok()?;
        let text = String::from_utf8(bytes).ok()?;
        let [pack, len, last] = text.split_whitespace().collect::<Vec<_>>()[..] else {
            return None;
        };
        Some(Synced {
            pack: pack.parse().ok()?,
            len: len.parse().ok()?,
            last: last.parse().ok()?,
        })
    }

    /// Keeps it for the next opening.
    pub fn keep(&self, disk: &dyn Disk) {
        let Synced { pack, len, last } = self;
        let text = format!("{pack} {len} {last}\n");
        if let Err(error) = replace(disk, &path(), text.as_bytes()) {
            log::debug!("'{}' cannot be written: {error}", path());
        }
    }

    /// Forgets it, before a pack is cut: what comes in the place of the records that go may be the same ones, not synced.
    pub fn forget(disk: &dyn Disk) {
        // Most often there is none.
        disk.remove(&path()).ok();
    }

    /// How many of the pack's records, from the first one on, are covered.
    pub fn covers(&self, pack: &Unfinished) -> usize {
        let count = pack
            .places
            .partition_point(|(_, place)| place.end() <= self.len);
        let last = pack.places[..count].last();
        let fits = last.is_some_and(|(id, place)| *id == self.last && place.end() == self.len);
        match fits && self.pack == pack.number {
            true => count,
            false => 0,
        }
    }
}

fn path() -> String {
    format!("{CACHE}/{FILE}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::disk::HostDisk;
    use crate::store::pack::{HEADER_LEN, Place};

    fn pack(number: u32, texts: &[&str]) -> Unfinished {
        let mut offset = 0;
        let places: Places = texts
            .iter()
            .map(|text| {
                let place = Place {
                    offset,
                    raw_len: text.len() as u32,
                    stored_len: text.len() as u32,
                };
                offset += (HEADER_LEN + text.len()) as u64;
                (ChunkId::of(text.as_bytes()), place)
            })
            .collect();
        Unfinished {
            number,
            whole: true,
            len: offset,
            places,
            gaps: Vec::new(),
            has_footer: false,
        }
    }

    #[test]
    fn it_covers_the_records_that_it_was_made_of_and_only_where_they_are() {
        let synced = Synced::of(3, &pack(3, &["one", "two"]).places).unwrap();
        assert_eq!(synced.covers(&pack(3, &["one", "two"])), 2);
        assert_eq!(synced.covers(&pack(3, &["one", "two", "three"])), 2);
        assert_eq!(synced.covers(&pack(4, &["one", "two"])), 0);
        assert_eq!(synced.covers(&pack(3, &["one"])), 0);
        assert_eq!(synced.covers(&pack(3, &["one", "six"])), 0);
        assert_eq!(synced.covers(&pack(3, &["one", "longer"])), 0);
        assert_eq!(synced.covers(&pack(3, &[])), 0);
        assert_eq!(Synced::of(3, &Places::new()), None);
    }

    #[test]
    fn it_comes_back_unless_it_is_lost_or_damaged() {
        let temp = tempfile::tempdir().unwrap();
        let disk = HostDisk::new(temp.path().to_owned(), true);
        std::fs::create_dir(temp.path().join(CACHE)).unwrap();
        assert_eq!(Synced::load(&disk), None);
        let synced = Synced::of(3, &pack(3, &["one"]).places).unwrap();
        synced.keep(&disk);
        assert_eq!(Synced::load(&disk), Some(synced));
        std::fs::write(temp.path().join(path()), b"3 91").unwrap();
        assert_eq!(Synced::load(&disk), None);
    }
}
