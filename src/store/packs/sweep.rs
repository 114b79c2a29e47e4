//! What gc does to packs: it lists their records, copies those that are kept into the current pack, and lets a pack go. Only
//! while no seal runs: a seal takes back what comes after its mark.

use super::super::index::Places;
use super::super::pack::{Encoded, HEADER_LEN, Header, Place};
use super::{Current, Lean, Packs, damaged, path_of};
use crate::model::ChunkId;
use crate::store::StoreError;

/// gc finishes its pack at so many times the bytes at which a seal does: packs of some size are found faster.
const FINISH_AT: u64 = 4;

/// The records of one pack.
pub struct Listed {
    /// Its number.
    pub number: u32,
    /// Bytes of its file.
    pub len: u64,
    /// Its records that are whole.
    pub places: Places,
    /// How far it is.
    pub state: State,
}

/// How far a pack is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It has a footer and never changes. Its records are not listed yet.
    Finished,
    /// It is appended to.
    Current,
    /// It has no footer, and nothing is appended to it.
    Stray,
}

/// A record that has been appended once more; nobody looks there yet.
pub struct Copied {
    id: ChunkId,
    pack: u32,
    place: Place,
}

impl Packs {
    /// The packs as they are. While no seal runs: what one appends it may take back.
    pub fn list(&self) -> Vec<Listed> {
        let writer = self.writer();
        let stray = |(&number, &len): (&u32, &u64)| Listed {
            number,
            len,
            places: self.recent().in_pack(number),
            state: State::Stray,
        };
        let mut listed: Vec<Listed> = writer.strays.iter().map(stray).collect();
        listed.extend(writer.current.as_ref().map(|current| Listed {
            number: current.number,
            len: current.len,
            places: current.places.clone(),
            state: State::Current,
        }));
        let finished = self.finished();
        listed.extend(finished.iter().map(|(&number, pack)| Listed {
            number,
            len: pack.len,
            places: Vec::new(),
            state: State::Finished,
        }));
        listed
    }

    /// Finishes the pack that is appended to, if it is this one and has only records that are known; false: it is not.
    pub fn finish_current(
        &self,
        pack: u32,
        is_known: impl Fn(&(ChunkId, Place)) -> bool,
    ) -> Result<bool, StoreError> {
        let mut writer = self.writer();
        let as_known =
            |current: &Current| current.number == pack && current.places.iter().all(is_known);
        if !writer.current.as_ref().is_some_and(as_known) {
            return Ok(false);
        }
        self.finish(&mut writer)?;
        Ok(true)
    }

    /// The header of the record at a place.
    pub fn header_of(&self, id: &ChunkId, pack: u32, place: &Place) -> Result<Header, StoreError> {
        let header = self.header_at(id, pack, place)?;
        let wrong = || damaged(id, path_of(pack), place.offset, "another chunk is there");
        if header.id == *id {
            Ok(header)
        } else {
            Err(wrong())
        }
    }

    /// The header of a chunk, wherever it is.
    pub fn any_header(&self, id: &ChunkId) -> Result<Option<Header>, StoreError> {
        self.look_again(Option::is_some, || self.find_header(id))
    }

    /// True where the record at a place reads whole, and needs no more than this.
    pub fn reads_whole(&self, id: &ChunkId, pack: u32, place: &Place, most: Lean) -> bool {
        self.read_at(id, pack, place, most, &mut Vec::new()).is_ok()
    }

    /// Appends a record once more, as it is.
    pub fn copy(&self, id: &ChunkId, pack: u32, place: &Place) -> Result<Copied, StoreError> {
        let path = path_of(pack);
        let len = HEADER_LEN + place.stored_len as usize;
        let record = self
            .disk
            .read_at(&path, place.offset, len)
            .map_err(StoreError::io("read", &path))?;
        let wrong = |what| damaged(id, path.clone(), place.offset, what);
        let header = Header::decode(&record).map_err(wrong)?;
        if header.id != *id || record.len() != len || header.stored_len != place.stored_len {
            return Err(wrong("another chunk is there"));
        }
        let payload = record[HEADER_LEN..].to_vec();
        let mut writer = self.writer();
        let (pack, place) = self.push(&mut writer, &Encoded { header, payload })?;
        Ok(Copied {
            id: *id,
            pack,
            place,
        })
    }

    /// Makes the copies survive a power cut, and has them looked up from now on.
    pub fn settle(&self, copies: Vec<Copied>) -> Result<(), StoreError> {
        let mut writer = self.writer();
        self.flush(&mut writer)?;
        self.sync_current(&mut writer)?;
        let current = writer.current.as_ref().map(|current| current.number);
        {
            let mut recent = self.recent.write().expect("no panic under this lock");
            for copy in copies.into_iter().filter(|copy| Some(copy.pack) == current) {
                recent.add(copy.id, copy.pack, copy.place);
            }
        }
        let is_full = writer.current.as_ref().is_some_and(|current| {
            current.len >= FINISH_AT * self.limits.seal_finish_bytes
                || current.places.len() >= self.limits.seal_finish_chunks
        });
        if is_full {
            self.finish(&mut writer)?;
        }
        Ok(())
    }

    /// No longer looks up these chunks in packs that are not finished: what they lean on may go.
    pub fn forget_recent(&self, ids: impl Iterator<Item = ChunkId>) {
        let mut recent = self.recent.write().expect("no panic under this lock");
        for id in ids {
            recent.forget_chunk(&id);
        }
    }

    /// Lets a pack go of which nothing is needed that has not been copied. A reader that still looks there looks again.
    pub fn retire(&self, pack: u32) {
        self.await_index();
        if self.writer().strays.remove(&pack).is_some() {
            let mut recent = self.recent.write().expect("no panic under this lock");
            recent.forget_pack(pack);
        }
        self.unlist(pack);
        self.index.forget_pack(pack);
        self.remove_file(&path_of(pack));
        self.dictionaries().clear();
    }

    /// Takes what went with a pack out of the index. A hint that stays is found wrong when it is looked at.
    pub fn forget_places(&self, pack: u32, places: &Places) {
        self.index.forget_places(pack, places);
    }
}
