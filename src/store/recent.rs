//! Chunks in packs that are not finished, and where they are.

use std::collections::HashMap;

use super::index::Places;
use super::pack::Place;
use crate::model::ChunkId;

/// The places of chunks in several packs.
#[derive(Default)]
pub struct Recent {
    newest: HashMap<ChunkId, (u32, Place)>,
    /// Older copies of chunks, oldest first. They count again once a newer one is lost. Few, if any: a chunk is stored twice
    /// only after a failure or a crash.
    shadowed: Vec<(ChunkId, (u32, Place))>,
    /// Copies that did not read back when the store was opened. They count as lost, so that their content is stored again, but
    /// the disk may only have failed to read them then.
    doubted: Vec<(ChunkId, (u32, Place))>,
}

impl Recent {
    /// Adds a copy that is newer than all others.
    pub fn add(&mut self, id: ChunkId, pack: u32, place: Place) {
        if let Some(older) = self.newest.insert(id, (pack, place)) {
            self.shadowed.push((id, older));
        }
    }

    /// The newest copy.
    pub fn get(&self, id: &ChunkId) -> Option<(u32, Place)> {
        self.newest.get(id).copied()
    }

    /// The newest copies of all chunks.
    pub fn places(&self) -> impl Iterator<Item = &(u32, Place)> {
        self.newest.values()
    }

    /// The other copies, those more worth trying first.
    pub fn others(&self, id: &ChunkId) -> Vec<(u32, Place)> {
        let others = self.shadowed.iter().rev().chain(&self.doubted);
        let others = others.filter(|(known, _)| known == id);
        others.map(|(_, copy)| *copy).collect()
    }

    /// Counts copies in this pack as lost, but for reading.
    pub fn doubt(&mut self, pack: u32, places: &Places) {
        self.forget(pack, places);
        let copies = places.iter().map(|(id, place)| (*id, (pack, *place)));
        self.doubted.extend(copies);
    }

    /// All copies in this pack, those that are doubted too.
    pub fn in_pack(&self, pack: u32) -> Places {
        let newest = self.newest.iter().map(|(id, copy)| (*id, *copy));
        let others = self.shadowed.iter().chain(&self.doubted).copied();
        newest
            .chain(others)
            .filter(|(_, (number, _))| *number == pack)
            .map(|(id, (_, place))| (id, place))
            .collect()
    }

    /// Drops a chunk's copies, wherever they are.
    pub fn forget_chunk(&mut self, id: &ChunkId) {
        self.newest.remove(id);
        self.shadowed.retain(|(known, _)| known != id);
        self.doubted.retain(|(known, _)| known != id);
    }

    /// Drops all copies in this pack.
    pub fn forget_pack(&mut self, pack: u32) {
        let places = self.in_pack(pack);
        self.forget(pack, &places);
        self.doubted.retain(|(_, (number, _))| *number != pack);
    }

    /// Drops copies in this pack.
    pub fn forget(&mut self, pack: u32, places: &Places) {
        for (id, place) in places {
            let copy = (pack, *place);
            if self.newest.get(id) == Some(&copy) {
                let older = self.shadowed.iter().rposition(|(known, _)| known == id);
                match older.map(|at| self.shadowed.remove(at)) {
                    Some((_, older)) => self.newest.insert(*id, older),
                    None => self.newest.remove(id),
                };
            } else if !self.shadowed.is_empty() {
                self.shadowed.retain(|known| *known != (*id, copy));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(offset: u64) -> Place {
        Place {
            offset,
            raw_len: 1,
            stored_len: 1,
        }
    }

    #[test]
    fn when_the_newest_copy_is_lost_the_one_before_it_is_found_again() {
        let id = ChunkId::of(b"x");
        let mut recent = Recent::default();
        for pack in 1..=3 {
            recent.add(id, pack, place(u64::from(pack)));
        }
        assert_eq!(recent.others(&id), [(2, place(2)), (1, place(1))]);
        recent.forget(2, &vec![(id, place(2))]);
        assert_eq!(recent.get(&id), Some((3, place(3))));
        recent.forget(3, &vec![(id, place(3))]);
        assert_eq!(recent.get(&id), Some((1, place(1))));
        recent.doubt(1, &vec![(id, place(1))]);
        assert_eq!(recent.get(&id), None);
        assert_eq!(recent.others(&id), [(1, place(1))]);
    }
}
