//! A list of every record in every pack at one moment, by chunk and by pack: what gc and `du` count with.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::Range;

use super::pack::Place;
use super::packs::sweep::{Listed, State};
use crate::model::ChunkId;

/// One record.
#[derive(Clone, Copy)]
pub struct Entry {
    /// Whose bytes it has.
    pub id: ChunkId,
    /// In which pack it is.
    pub pack: u32,
    /// And where.
    pub place: Place,
}

impl Entry {
    /// Bytes of the record.
    pub fn len(&self) -> u64 {
        self.place.end() - self.place.offset
    }
}

/// All records.
pub struct Catalog {
    /// By chunk, the newest pack first where several have it.
    entries: Vec<Entry>,
    /// The numbers of the entries by pack, in the order of their places.
    by_pack: Vec<u32>,
    packs: BTreeMap<u32, Pack>,
}

/// A pack of a [`Catalog`].
#[derive(Clone, Copy)]
pub struct Pack {
    /// Bytes of its file.
    pub len: u64,
    /// Bytes of its records, and of what is none where it has no footer.
    pub records: u64,
    /// How far it was.
    pub state: State,
}

impl Catalog {
    /// The list of these packs' records.
    pub fn new(listed: Vec<Listed>) -> Self {
        let mut packs = BTreeMap::new();
        let mut entries = Vec::with_capacity(listed.iter().map(|pack| pack.places.len()).sum());
        for pack in listed {
            let Listed {
                number,
                len,
                places,
                state,
            } = pack;
            let sum = places
                .iter()
                .map(|(_, place)| place.end() - place.offset)
                .sum();
            let records = if state == State::Finished { sum } else { len };
            packs.insert(
                number,
                Pack {
                    len,
                    records,
                    state,
                },
            );
            entries.extend(places.into_iter().map(|(id, place)| Entry {
                id,
                pack: number,
                place,
            }));
        }
        entries.sort_unstable_by_key(|entry| (entry.id, Reverse(entry.pack), entry.place.offset));
        let mut by_pack: Vec<u32> = (0..entries.len() as u32).collect();
        by_pack.sort_unstable_by_key(|&at| {
            let entry = &entries[at as usize];
            (entry.pack, entry.place.offset)
        });
        Catalog {
            entries,
            by_pack,
            packs,
        }
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// The records that have a chunk's bytes.
    pub fn copies(&self, id: &ChunkId) -> Range<usize> {
        let start = self.entries.partition_point(|entry| entry.id < *id);
        let more = self.entries[start..]
            .iter()
            .take_while(|entry| entry.id == *id);
        start..start + more.count()
    }

    /// One record.
    pub fn entry(&self, at: usize) -> &Entry {
        &self.entries[at]
    }

    /// The packs, by number.
    pub fn packs(&self) -> &BTreeMap<u32, Pack> {
        &self.packs
    }

    /// The records of a pack, in the order of their places.
    pub fn in_pack(&self, pack: u32) -> impl Iterator<Item = usize> + '_ {
        let numbers = &self.by_pack[self.range_of(pack)];
        numbers.iter().map(|&at| at as usize)
    }

    /// The same as a range for [`Catalog::nth_by_pack`].
    pub fn range_of(&self, pack: u32) -> Range<usize> {
        let pack_of = |&at: &u32| self.entries[at as usize].pack;
        let start = self.by_pack.partition_point(|at| pack_of(at) < pack);
        let end = self.by_pack.partition_point(|at| pack_of(at) <= pack);
        start..end
    }

    /// The record at this place of the order by pack.
    pub fn nth_by_pack(&self, nth: usize) -> usize {
        self.by_pack[nth] as usize
    }
}
