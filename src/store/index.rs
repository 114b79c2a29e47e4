//! The index: chunk id to pack and place, in sled. A cache of the finished packs' footers, rebuilt whenever it is in doubt.
//!
//! Nothing depends on it: what it says is a hint that the reader checks against the record itself, what it does not say is
//! looked up in the footers. sled 0.34 can lose what it said was flushed, come back ahead of the packs, fail to open after a
//! kill, or panic; in every such case the folder is moved aside and the index is filled again from the footers. This is the
//! only file that names sled.

use std::os::unix::fs::DirBuilderExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use super::pack::Place;
use crate::model::ChunkId;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, RwLock};

const CACHE_BYTES: u64 = 32 << 20;
const PACK_KEY: &[u8] = b"pack";
/// Entries that sled is given at once. Measured with a million: 4,096 leave it with 3 GB of memory, since nothing that a batch
/// replaces can go while it lasts; 32 take half as long again.
const BATCH: usize = 128;

/// What identifies a finished pack: a pack of another content has another stamp.
pub type Stamp = [u8; 24];

/// The places in one finished pack.
pub type Places = Vec<(ChunkId, Place)>;

/// The index of one store.
pub struct Index {
    folder: PathBuf,
    db: RwLock<State>,
    /// Held while the index is being opened or filled, so that it happens once.
    filling: Mutex<()>,
    /// Closed for good: nothing more is opened or added.
    over: AtomicBool,
}

enum State {
    Closed,
    Ready(sled::Db),
    Unavailable(String),
    #[cfg(test)]
    None,
}

impl Index {
    /// An index in this folder, not opened yet.
    pub fn new(folder: PathBuf) -> Self {
        Index {
            folder,
            db: RwLock::new(State::Closed),
            filling: Mutex::new(()),
            over: AtomicBool::new(false),
        }
    }

    /// An index that never has an answer.
    #[cfg(test)]
    pub fn none() -> Self {
        Index {
            folder: PathBuf::new(),
            db: RwLock::new(State::None),
            filling: Mutex::new(()),
            over: AtomicBool::new(false),
        }
    }

    /// True where packs can be added.
    pub fn is_ready(&self) -> bool {
        matches!(
            &*self.db.read().expect("no panic under this lock"),
            State::Ready(_)
        )
    }

    /// `ready`, `closed` or `unavailable: …`.
    pub fn state(&self) -> String {
        match &*self.db.read().expect("no panic under this lock") {
            State::Closed => "closed".into(),
            State::Ready(_) => "ready".into(),
            State::Unavailable(why) => format!("unavailable: {why}"),
            #[cfg(test)]
            State::None => "none".into(),
        }
    }

    /// Opens the index and makes it cover exactly the finished packs. `read` gives the places of one of them; while what `hold`
    /// gives is held, none is finished. Whatever goes wrong, the store works on without it.
    pub fn fill<Held>(
        &self,
        packs: &dyn Fn() -> Vec<(u32, Stamp)>,
        read: &dyn Fn(u32) -> Option<Places>,
        hold: impl FnOnce() -> Held,
    ) {
        let _once = self
            .filling
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        if self.over.load(Ordering::Acquire) {
            return;
        }
        match &*self.db.read().expect("no panic under this lock") {
            State::Closed | State::Unavailable(_) => {}
            State::Ready(_) => return,
            #[cfg(test)]
            State::None => return,
        }
        let opened = self.open_and_cover(&packs(), read).or_else(|why| {
            log::warn!("index: {why}; it is moved aside and filled again from the packs");
            move_aside(&self.folder);
            self.open_and_cover(&packs(), read)
        });
        // Nothing is added to an index that is not ready: what was finished meanwhile follows here, the last of it with no other
        // behind it. One that is ready and lacks a pack would deny what is in it.
        let catch_up = |db: sled::Db| self.cover_all(&db, &packs(), read).map(|()| db);
        let opened = opened.and_then(catch_up);
        let _held = hold();
        let opened = opened.and_then(catch_up);
        let state = match opened {
            Ok(_) if self.over.load(Ordering::Acquire) => return,
            Ok(db) => State::Ready(db),
            Err(why) => {
                log::warn!("index: {why}; working without it");
                State::Unavailable(why)
            }
        };
        *self.db.write().expect("no panic under this lock") = state;
    }

    /// Closes the index for good, in the middle of filling it if need be: sled, killed while it opens, may have to begin anew.
    pub fn close(&self) {
        self.over.store(true, Ordering::Release);
        let _ended = self
            .filling
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut state = self.db.write().expect("no panic under this lock");
        if matches!(*state, State::Ready(_)) {
            *state = State::Closed;
        }
    }

    /// Closes the index and moves it aside: it has contradicted the packs.
    pub fn discard(&self, why: &str) {
        log::warn!("index: {why}; it will be filled again from the packs");
        *self.db.write().expect("no panic under this lock") = State::Closed;
        move_aside(&self.folder);
    }

    /// The pack and place of a chunk in a finished pack. `None`: it has no answer; `Some(None)`: it has no such chunk.
    pub fn get(&self, id: &ChunkId) -> Option<Option<(u32, Place)>> {
        let state = self.db.read().expect("no panic under this lock");
        let State::Ready(db) = &*state else {
            return None;
        };
        let found = guarded(|| db.get(id.0).map_err(|error| error.to_string()));
        drop(state);
        match found.map(|value| value.map(|bytes| decode_value(&bytes))) {
            Ok(None) => Some(None),
            Ok(Some(Some(hit))) => Some(Some(hit)),
            Ok(Some(None)) => {
                self.discard("an entry cannot be decoded");
                None
            }
            Err(why) => {
                self.discard(&why);
                None
            }
        }
    }

    /// A pack has been removed. What is said of its chunks is found wrong when it is looked at, as any hint may be.
    pub fn forget_pack(&self, pack: u32) {
        let state = self.db.read().expect("no panic under this lock");
        let State::Ready(db) = &*state else { return };
        let key = pack_key(pack);
        let removed = guarded(|| db.remove(&key).map_err(|error| error.to_string()));
        drop(state);
        if let Err(why) = removed {
            self.discard(&why);
        }
    }

    /// Takes out what is said of these chunks as far as it names this pack, which has been removed.
    pub fn forget_places(&self, pack: u32, places: &Places) {
        let state = self.db.read().expect("no panic under this lock");
        let State::Ready(db) = &*state else { return };
        let forgotten = guarded(|| {
            for (id, place) in places {
                let old = encode_value(pack, place);
                db.compare_and_swap(id.0, Some(&old[..]), None::<&[u8]>)
                    .map_err(|error| error.to_string())?
                    .ok();
            }
            Ok(())
        });
        drop(state);
        if let Err(why) = forgotten {
            self.discard(&why);
        }
    }

    /// Adds a pack that has just been finished and synced.
    pub fn add(&self, pack: u32, stamp: Stamp, places: &Places) {
        let state = self.db.read().expect("no panic under this lock");
        let State::Ready(db) = &*state else { return };
        let added = self.cover(db, pack, &stamp, places);
        drop(state);
        if let Err(why) = added {
            self.discard(&why);
        }
    }

    fn open_and_cover(
        &self,
        packs: &[(u32, Stamp)],
        read: &dyn Fn(u32) -> Option<Places>,
    ) -> Result<sled::Db, String> {
        // sled would make it readable for all. Where it cannot be made, sled says why.
        let _ = std::fs::DirBuilder::new().mode(0o700).create(&self.folder);
        let config = sled::Config::new()
            .path(&self.folder)
            .cache_capacity(CACHE_BYTES);
        let db = guarded(|| config.open().map_err(|error| error.to_string()))?;
        let covered = guarded(|| covered_packs(&db))?;
        if covered.iter().any(|pack| !packs.contains(pack)) {
            return Err("it names a pack that is not there, or has another content".into());
        }
        self.cover_all(&db, packs, read)?;
        Ok(db)
    }

    /// Adds those of the packs that it does not have.
    fn cover_all(
        &self,
        db: &sled::Db,
        packs: &[(u32, Stamp)],
        read: &dyn Fn(u32) -> Option<Places>,
    ) -> Result<(), String> {
        let covered = guarded(|| covered_packs(db))?;
        for (pack, stamp) in packs.iter().filter(|pack| !covered.contains(pack)) {
            if let Some(places) = read(*pack) {
                self.cover(db, *pack, stamp, &places)?;
            }
        }
        Ok(())
    }

    /// Adds a pack, unless the index is closed meanwhile.
    fn cover(
        &self,
        db: &sled::Db,
        pack: u32,
        stamp: &Stamp,
        places: &Places,
    ) -> Result<(), String> {
        // By ascending key sled goes through its tree once.
        let mut sorted: Vec<&(ChunkId, Place)> = places.iter().collect();
        sorted.sort_unstable_by_key(|(id, _)| *id);
        for part in sorted.chunks(BATCH) {
            if self.over.load(Ordering::Acquire) {
                return Ok(());
            }
            let mut batch = sled::Batch::default();
            for (id, place) in part {
                batch.insert(&id.0, &encode_value(pack, place)[..]);
            }
            guarded(|| {
                db.apply_batch(batch.clone())
                    .map_err(|error| error.to_string())
            })?;
        }
        let key = pack_key(pack);
        guarded(|| {
            db.insert(key.as_slice(), &stamp[..])
                .map_err(|error| error.to_string())
        })?;
        Ok(())
    }
}

fn covered_packs(db: &sled::Db) -> Result<Vec<(u32, Stamp)>, String> {
    let mut packs = Vec::new();
    for item in db.scan_prefix(PACK_KEY) {
        let (key, value) = item.map_err(|error| error.to_string())?;
        // A chunk id may begin with the same bytes: it is told apart by its length.
        if let Ok(number) = <[u8; 4]>::try_from(&key[PACK_KEY.len()..]) {
            let stamp = Stamp::try_from(&value[..]).map_err(|_| "an entry cannot be decoded")?;
            packs.push((u32::from_be_bytes(number), stamp));
        }
    }
    Ok(packs)
}

fn pack_key(pack: u32) -> Vec<u8> {
    [PACK_KEY, &pack.to_be_bytes()].concat()
}

fn guarded<T>(call: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_| Err("sled panicked".into()))
}

fn move_aside(folder: &Path) {
    let aside = folder.with_extension("bad");
    let _ = std::fs::remove_dir_all(&aside);
    if let Err(error) = std::fs::rename(folder, &aside) {
        log::debug!(
            "index: '{}' cannot be moved aside: {error}",
            folder.display()
        );
    }
}

fn encode_value(pack: u32, place: &Place) -> [u8; 20] {
    let mut value = [0; 20];
    value[..4].copy_from_slice(&pack.to_le_bytes());
    value[4..12].copy_from_slice(&place.offset.to_le_bytes());
    value[12..16].copy_from_slice(&place.raw_len.to_le_bytes());
    value[16..].copy_from_slice(&place.stored_len.to_le_bytes());
    value
}

fn decode_value(bytes: &[u8]) -> Option<(u32, Place)> {
    let value: [u8; 20] = bytes.try_into().ok()?;
    let four =
        |at: usize| u32::from_le_bytes([value[at], value[at + 1], value[at + 2], value[at + 3]]);
    let offset = u64::from(four(4)) | u64::from(four(8)) << 32;
    Some((
        four(0),
        Place {
            offset,
            raw_len: four(12),
            stored_len: four(16),
        },
    ))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn places(count: u64) -> Places {
        let place = |n: u64| Place {
            offset: n * (1 << 33),
            raw_len: 5,
            stored_len: 3,
        };
        (0..count)
            .map(|n| (ChunkId::of(&n.to_le_bytes()), place(n)))
            .collect()
    }

    fn filled(folder: &Path, packs: &[(u32, Stamp)]) -> Index {
        let index = Index::new(folder.to_owned());
        index.fill(&|| packs.to_vec(), &|_| Some(places(10)), || ());
        index
    }

    #[test]
    fn p6_it_fills_itself_when_missing_ahead_or_corrupt() {
        let temp = tempfile::tempdir().unwrap();
        let folder = temp.path().join("index");
        let (id, place) = places(10)[7];
        let hit = Some(Some((3, place)));
        assert_eq!(filled(&folder, &[(3, [1; 24])]).get(&id), hit, "missing");
        assert_eq!(filled(&folder, &[(3, [1; 24])]).get(&id), hit, "there");
        assert_eq!(
            filled(&folder, &[(3, [2; 24])]).get(&id),
            hit,
            "another content"
        );
        assert_eq!(
            filled(&folder, &[]).get(&id),
            Some(None),
            "ahead of the packs"
        );
        drop(filled(&folder, &[(3, [1; 24])]));
        std::fs::write(folder.join("conf"), b"rubbish").unwrap();
        assert_eq!(filled(&folder, &[(3, [1; 24])]).get(&id), hit, "corrupt");
    }

    #[test]
    fn p6_closed_while_it_is_filled_it_says_nothing_of_that_pack_until_it_is_filled_again() {
        let temp = tempfile::tempdir().unwrap();
        let folder = temp.path().join("index");
        let index = Index::new(folder.clone());
        let all = places(10 * BATCH as u64);
        let pack = || vec![(3, [1; 24])];
        std::thread::scope(|scope| {
            let read = |_| {
                scope.spawn(|| index.close());
                while !index.over.load(Ordering::Acquire) {
                    std::thread::yield_now();
                }
                Some(all.clone())
            };
            index.fill(&pack, &read, || ());
        });
        assert_eq!(index.state(), "closed");
        index.fill(&pack, &|_| panic!("nothing is opened any more"), || ());
        assert_eq!(index.get(&all[0].0), None);
        drop(index);
        let again = Index::new(folder);
        again.fill(&pack, &|_| Some(all.clone()), || ());
        for (id, place) in &all {
            assert_eq!(again.get(id), Some(Some((3, *place))));
        }
    }

    #[test]
    fn p6_packs_finished_while_it_is_filled_are_in_it_once_it_is_ready() {
        let temp = tempfile::tempdir().unwrap();
        let index = Index::new(temp.path().join("index"));
        let all = places(30);
        // One at first, one more by each look, the last one when it is held.
        let finished = Cell::new(0);
        let packs = || {
            finished.set(finished.get() + 1);
            (1..=finished.get())
                .map(|pack| (pack, [pack as u8; 24]))
                .collect()
        };
        let read = |pack: u32| Some(all[pack as usize * 5..][..5].to_vec());
        index.fill(&packs, &read, || assert!(!index.is_ready()));
        assert!(index.is_ready());
        assert_eq!(finished.get(), 3);
        for pack in 1..=3 {
            for (id, place) in read(pack).unwrap() {
                assert_eq!(index.get(&id), Some(Some((pack, place))));
            }
        }
        assert_eq!(index.get(&all[29].0), Some(None));
    }

    #[test]
    fn p6_where_it_cannot_be_opened_at_all_it_has_no_answer() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("file");
        std::fs::write(&file, b"").unwrap();
        let index = filled(&file.join("index"), &[(3, [1; 24])]);
        assert_eq!(index.get(&places(1)[0].0), None);
        assert!(
            index.state().starts_with("unavailable"),
            "{}",
            index.state()
        );
    }
}
