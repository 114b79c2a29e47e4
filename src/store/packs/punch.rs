//! Space of records that nothing needs, given back while their pack stays: for a gc on a disk so full that what is kept cannot be
//! moved out of any pack.
//!
//! A freed record has an all-zero header. The headers go first, durably: no reader may find a header whose payload is gone. The
//! pack keeps its length, its footer and the places of all other records; the gc that frees it rewrites it as soon as there is room.

use std::collections::HashMap;

use super::super::index::Places;
use super::super::pack::{HEADER_LEN, Place};
use super::{Packs, path_of};
use crate::store::StoreError;

impl Packs {
    /// Frees these records of a finished pack, which are in the order of their places. How many bytes that are.
    pub fn punch(&self, pack: u32, places: &Places) -> Result<u64, StoreError> {
        let path = path_of(pack);
        let failed = || StoreError::io("free space in", &path);
        let mut freed = 0;
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for (_, place) in places {
            self.disk
                .punch(&path, place.offset, HEADER_LEN as u64)
                .map_err(failed())?;
            freed += place.end() - place.offset;
            match runs.last_mut() {
                Some((_, end)) if *end == place.offset => *end = place.end(),
                Some(_) | None => runs.push((place.offset, place.end())),
            }
        }
        self.disk.sync(&path).map_err(failed())?;
        for (start, end) in runs {
            self.disk
                .punch(&path, start, end - start)
                .map_err(failed())?;
        }
        // Whoever found one of them a moment ago looks again.
        self.moves
            .fetch_add(1, crate::sync::atomic::Ordering::AcqRel);
        self.dictionaries().clear();
        Ok(freed)
    }

    /// Of these gaps of a finished pack those that are freed records, by what its footer says was there.
    pub(super) fn freed(
        &self,
        path: &str,
        gaps: &[(u64, u64)],
        footer: &Places,
    ) -> Result<Vec<(u64, u64)>, StoreError> {
        if gaps.is_empty() {
            return Ok(Vec::new());
        }
        let by_start: HashMap<u64, Place> = footer
            .iter()
            .map(|(_, place)| (place.offset, *place))
            .collect();
        let mut freed = Vec::new();
        for &(start, end) in gaps {
            let mut at = start;
            while let Some(place) = by_start.get(&at).filter(|place| place.end() <= end) {
                let header = self
                    .disk
                    .read_at(path, at, HEADER_LEN)
                    .map_err(StoreError::io("read", path))?;
                if header.iter().any(|&byte| byte != 0) {
                    break;
                }
                at = place.end();
            }
            if at == end {
                freed.push((start, end));
            }
        }
        Ok(freed)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::model::ChunkId;
    use crate::store::packs::sweep::State;
    use crate::store::{HostDisk, Index, Limits, Store};

    #[test]
    fn a_freed_record_is_absent_and_no_damage_and_its_chunk_can_be_stored_again() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("store");
        Store::init(&root, "root", 1).unwrap();
        let limits = Limits {
            seal_finish_chunks: 1,
            ..Limits::default()
        };
        let open = || {
            let disk = Arc::new(HostDisk::new(root.clone(), true));
            Store::open_on(disk, &root, Index::new(root.join("index")), limits).unwrap()
        };
        let store = open();
        let chunks: Vec<Vec<u8>> = (0..4u8).map(|byte| vec![byte; 9000]).collect();
        let ids: Vec<ChunkId> = chunks.iter().map(|raw| ChunkId::of(raw)).collect();
        let mark = store.mark();
        for (id, raw) in ids.iter().zip(&chunks) {
            let chunk = crate::store::Encoded::new(*id, raw, None);
            store.append(&chunk).unwrap();
        }
        store.sync_packs(mark).unwrap();
        store.fill_index();
        let listed = store.list_packs();
        assert!(listed.packs[0].state == State::Finished);
        let mut places = store.packs.footer(1).unwrap();
        places.retain(|(id, _)| ids[1..3].contains(id));
        places.sort_by_key(|(_, place)| place.offset);
        assert!(store.packs.punch(1, &places).unwrap() > 18_000);

        let is_whole = |store: &Store| {
            for (number, id) in ids.iter().enumerate() {
                let is_kept = [0, 3].contains(&number);
                assert_eq!(store.contains(id).unwrap(), is_kept, "{number}");
                assert_eq!(store.read_chunk(id).is_ok(), is_kept, "{number}");
            }
            let mut checker = store.checker(&|_| true);
            checker.check_store();
            checker.check_all_data(&|| true);
            assert_eq!(checker.finish().problems, [""; 0]);
        };
        is_whole(&store);
        assert_eq!(store.packs.check_index(), None);
        store.close_index();
        drop(store);
        let store = open();
        is_whole(&store);
        let mark = store.mark();
        let again = crate::store::Encoded::new(ids[1], &chunks[1], None);
        assert!(store.append(&again).unwrap() > 0);
        store.sync_packs(mark).unwrap();
        assert_eq!(store.read_chunk(&ids[1]).unwrap(), chunks[1]);

        // A flipped bit in what was freed is damage.
        let path = root.join("packs/000001.pack");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[places[1].1.offset as usize + 5] = 1;
        std::fs::write(&path, bytes).unwrap();
        let mut checker = store.checker(&|_| true);
        checker.check_store();
        assert!(!checker.finish().problems.is_empty());
    }
}
