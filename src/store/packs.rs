//! All packs of a store: where a chunk is, reading it verified, appending new ones, finishing a pack that is full.
//!
//! One pack at the most is being appended to. Packs that are not finished are scanned when the store opens; their chunks,
//! and those appended since, are looked up in memory. Finished packs are looked up in the index, which gets them behind the
//! seal that finished them, else in their own footers.

mod punch;
mod record;
pub mod sweep;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, PoisonError};

use super::compress::{Aid, DICTIONARY_CHUNK_MAX, Dictionary, compress, is_alike};
use super::disk::Disk;
use super::error::StoreError;
use super::index::{Index, Places, Stamp};
use super::pack::{
    Codec, ENTRY_LEN, Encoded, FOOTER_HEAD, FooterRange, HEADER_LEN, Header, Place, TRAILER_LEN,
    decode_entry, decode_footer, decode_trailer, encode_footer, footer_end,
};
use super::recent::Recent;
use super::scan::{Unfinished, scan};
use super::suspects::Suspects;
use super::synced::Synced;
use crate::model::ChunkId;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard, thread};

/// The folder of the packs in a store.
pub const FOLDER: &str = "packs";
/// Whoever reads a chunk that takes so many bytes keeps it himself: the kernel need not keep it a second time. (A dictionary, which
/// every command reads, is another thing.)
const DROP_BYTES: usize = 64 << 10;

/// How large packs become.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// A pack is finished once it holds this many bytes …
    pub finish_bytes: u64,
    /// … or, at the end of a seal, this many chunks …
    pub seal_finish_chunks: usize,
    /// … or bytes: so that opening a store scans little.
    pub seal_finish_bytes: u64,
    /// Bytes that are written at once.
    pub buffer: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            finish_bytes: 256 << 20,
            seal_finish_chunks: 16_384,
            seal_finish_bytes: 16 << 20,
            buffer: 1 << 20,
        }
    }
}

/// The packs of one store.
pub struct Packs {
    disk: Arc<dyn Disk>,
    index: Arc<Index>,
    limits: Limits,
    finished: RwLock<BTreeMap<u32, Finished>>,
    /// Chunks in packs that are not finished, or not in the index yet.
    recent: Arc<RwLock<Recent>>,
    /// Adds the pack that was finished last to the index.
    indexing: Mutex<Option<thread::JoinHandle<()>>>,
    /// Taken after no other lock of this struct, before all others.
    writer: Mutex<Writer>,
    /// The pack that is appended to, and how many of its bytes are in its file: to read beyond, flush first.
    written: Mutex<(u32, u64)>,
    /// How many chunks seals have appended.
    appended: AtomicU64,
    /// How often a pack was given up.
    failures: AtomicU64,
    /// How many footers were searched for a chunk because the index had no answer.
    searches: AtomicU64,
    /// What finished packs hold, by number: it never changes.
    held: Mutex<HashMap<u32, Held>>,
    /// How often a pack went whose chunks may be elsewhere now: a look-up during which that happened is made again.
    moves: AtomicU64,
    dictionaries: Mutex<HashMap<ChunkId, Arc<Dictionary>>>,
    /// What new chunks are compressed with.
    active: RwLock<Option<Arc<Dictionary>>>,
    suspects: Suspects,
    /// Finished packs whose footer has been read as a whole since a chunk was missing.
    footers_read: Mutex<HashSet<u32>>,
    /// Packs that could not be written: their end is whatever the disk took.
    given_up: Mutex<HashSet<u32>>,
}

/// What a pack's file holds.
#[derive(Default)]
pub struct Survey {
    /// It has a footer.
    pub is_finished: bool,
    /// Where its records must end at the latest.
    pub end: u64,
    /// Its records, by their headers.
    pub places: Places,
    /// What is damaged.
    pub problems: Vec<StoreError>,
    /// What is odd, but may come from a crash.
    pub notes: Vec<String>,
}

impl Survey {
    /// The records follow one another from the first byte on.
    pub fn is_contiguous(&self) -> bool {
        let mut end = 0;
        self.places.iter().all(|(_, place)| {
            let follows = place.offset == end;
            end = place.end();
            follows
        })
    }
}

/// The packs before the first chunk of a seal: [`Packs::sync`] tells whether all that came since is still there,
/// [`Packs::discard`] takes it back.
#[derive(Debug, Clone, Copy)]
#[must_use]
pub struct Mark {
    failures: u64,
    last: u32,
    current: Option<CurrentMark>,
}

#[derive(Debug, Clone, Copy)]
struct CurrentMark {
    number: u32,
    len: u64,
    places: usize,
}

/// Chunks and their raw bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// How many chunks.
    pub chunks: u64,
    /// Their bytes before compression.
    pub raw_bytes: u64,
}

impl Held {
    fn add(&mut self, place: &Place) {
        self.chunks += 1;
        self.raw_bytes += u64::from(place.raw_len);
    }
}

/// What a chunk may need to be read. What it needs may need less only, so that reading ends soon.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lean {
    Nothing,
    Dictionary,
    Chunk,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Finished {
    footer: FooterRange,
    stamp: Stamp,
    len: u64,
}

#[derive(Default)]
struct Writer {
    current: Option<Current>,
    /// The highest pack number ever seen: a number is never used twice.
    last: u32,
    /// Packs that are neither finished nor current, and their bytes.
    strays: BTreeMap<u32, u64>,
    /// How many packs had been given up at the last mark.
    failures_before: u64,
    /// Why the last of them was.
    lost_by: String,
}

struct Current {
    number: u32,
    /// Bytes of the file once the buffer has been written.
    len: u64,
    buffer: Vec<u8>,
    places: Places,
    /// Written since the last sync.
    dirty: bool,
    /// Its name may not have reached the disk yet.
    unnamed: bool,
    /// Bytes and places that a power cut cannot take back.
    synced_len: u64,
    synced_places: usize,
}

impl Packs {
    /// The packs in [`FOLDER`]: reads every trailer, scans what is not finished.
    pub fn open(
        disk: Arc<dyn Disk>,
        index: Index,
        limits: Limits,
    ) -> Result<(Self, Vec<Unfinished>), StoreError> {
        let mut finished = BTreeMap::new();
        let mut unfinished = Vec::new();
        let files = disk.list(FOLDER).map_err(StoreError::io("list", FOLDER))?;
        for (name, len) in files {
            let Some(number) = number_of(&name) else {
                continue;
            };
            match read_trailer(&*disk, number, len)? {
                Some(pack) => {
                    finished.insert(number, pack);
                }
                None => unfinished.push(scan(&*disk, number, len)?),
            }
        }
        unfinished.sort_by_key(|pack| pack.number);
        let last = finished
            .keys()
            .copied()
            .chain(unfinished.iter().map(|pack| pack.number))
            .max();
        let mut writer = Writer {
            last: last.unwrap_or(0),
            ..Writer::default()
        };
        let mut recent = Recent::default();
        for pack in &unfinished {
            for &(id, place) in &pack.places {
                recent.add(id, pack.number, place);
            }
            writer.strays.insert(pack.number, pack.len);
        }
        let packs = Packs {
            suspects: Suspects::load(disk.clone()),
            footers_read: Mutex::default(),
            given_up: Mutex::default(),
            disk,
            index: Arc::new(index),
            limits,
            finished: RwLock::new(finished),
            recent: Arc::new(RwLock::new(recent)),
            indexing: Mutex::default(),
            writer: Mutex::new(writer),
            written: Mutex::default(),
            appended: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            searches: AtomicU64::new(0),
            held: Mutex::default(),
            moves: AtomicU64::new(0),
            dictionaries: Mutex::default(),
            active: RwLock::default(),
        };
        Ok((packs, unfinished))
    }

    /// Reads the records of a pack that is not finished, but for those that are known to have been synced: after a crash a header
    /// may be there without its payload. Damaged chunks do not count as there, so that the next seal of their content brings them
    /// back; so it is with damage that is found later.
    pub fn verify(&self, pack: &mut Unfinished) {
        let known = Synced::load(&*self.disk).map_or(0, |synced| synced.covers(pack));
        let rest = pack.places.split_off(known);
        let (whole, damaged): (Places, Places) = rest.into_iter().partition(|(id, place)| {
            self.read_at(id, pack.number, place, Lean::Chunk, &mut Vec::new())
                .inspect_err(|error| log::warn!("{error}"))
                .is_ok()
        });
        pack.places.extend(whole);
        pack.whole &= damaged.is_empty();
        self.recent
            .write()
            .expect("no panic under this lock")
            .doubt(pack.number, &damaged);
    }

    /// Cuts off a footer that is not whole: it says nothing that the records do not say. A new one is not written in its
    /// place, since a crash could leave the end of one after the beginning of the other.
    pub fn cut_footer(&self, pack: &mut Unfinished) -> Result<(), StoreError> {
        if !pack.has_footer {
            return Ok(());
        }
        let Some((start, _)) = pack.gaps.pop() else {
            return Ok(());
        };
        let path = path_of(pack.number);
        log::warn!("'{path}' at byte {start}: its footer is not whole; it is cut off");
        self.disk
            .truncate(&path, start)
            .and_then(|()| self.disk.sync(&path))
            .map_err(StoreError::io("cut", &path))?;
        self.writer().strays.insert(pack.number, start);
        pack.len = start;
        pack.has_footer = false;
        // A power cut may have taken a record before it too.
        pack.whole = pack.gaps.is_empty();
        Ok(())
    }

    /// Writes a pack's footer anew, in place of all that follows its records; the length of the file then.
    pub fn replace_footer(
        &self,
        number: u32,
        places: &Places,
        records_end: u64,
    ) -> Result<u64, StoreError> {
        let path = path_of(number);
        let footer = encode_footer(places, records_end);
        self.disk
            .truncate(&path, records_end)
            .map_err(StoreError::io("truncate", &path))?;
        self.disk
            .append(&path, &footer)
            .map_err(StoreError::io("append to", &path))?;
        self.disk
            .sync(&path)
            .map_err(StoreError::io("sync", &path))?;
        Ok(records_end + footer.len() as u64)
    }

    /// What is wrong with the index, if anything: then it is moved aside, to be filled again.
    pub fn check_index(&self) -> Option<String> {
        self.await_index();
        for number in self.numbers_newest_first() {
            for (id, place) in self.footer(number).unwrap_or_default() {
                // It may have been freed.
                if self.header_at(&id, number, &place).is_err() {
                    continue;
                }
                // Without an answer there is no index.
                let answer = self.index.get(&id)?;
                let is_there = answer
                    .and_then(|(pack, place)| self.header_at(&id, pack, &place).ok())
                    .is_some_and(|header| header.id == id);
                if !is_there && !self.is_finished(number) {
                    // A gc has let it go meanwhile.
                    break;
                }
                if !is_there {
                    let what = format!("it does not lead to chunk {id}");
                    self.index.discard(&what);
                    return Some(what);
                }
            }
        }
        None
    }

    /// The chunks that could not be read.
    pub fn suspects(&self) -> &Suspects {
        &self.suspects
    }

    /// Appends to this pack from now on, if it is whole to its last byte. Any other is left as it is.
    pub fn resume(&self, pack: Unfinished) {
        if !pack.whole {
            log::warn!(
                "'{}' has bytes that are no whole record, as a crash leaves them; it is left alone",
                path_of(pack.number)
            );
            return;
        }
        let synced = Synced::of(pack.number, &pack.places);
        if let Some(synced) = synced.filter(|_| synced != Synced::load(&*self.disk)) {
            synced.keep(&*self.disk);
        }
        let mut writer = self.writer();
        writer.strays.remove(&pack.number);
        self.set_written(pack.number, pack.len);
        writer.current = Some(Current {
            number: pack.number,
            len: pack.len,
            buffer: Vec::new(),
            dirty: false,
            unnamed: false,
            synced_len: pack.len,
            synced_places: pack.places.len(),
            places: pack.places,
        });
    }

    /// The moment before a seal's first chunk.
    pub fn mark(&self) -> Mark {
        let mut writer = self.writer();
        // Nothing is buffered between seals, unless the one before ended in an error.
        if let Err(error) = self.flush(&mut writer) {
            log::warn!("{error}");
        }
        writer.failures_before = self.failures.load(Ordering::Acquire);
        Mark {
            failures: writer.failures_before,
            last: writer.last,
            current: writer.current.as_ref().map(|current| CurrentMark {
                number: current.number,
                len: current.len,
                places: current.places.len(),
            }),
        }
    }

    /// Takes back what was appended since the mark by a seal that came to nothing. No record may name any of it. The newest
    /// goes first, and nothing more once something could not go: a chunk may lean on an older one.
    pub fn discard(&self, since: Mark) {
        self.await_index();
        let mut writer = self.writer();
        let mut going = true;
        if let Some(current) = writer.current.take() {
            let mark = since.current.filter(|mark| mark.number == current.number);
            (writer.current, going) = self.cut(current, mark);
        }
        for number in self.numbers_newest_first() {
            if !going || number <= since.last {
                break;
            }
            let pack = self.unlist(number);
            going = self.remove_file(&path_of(number));
            match (going, pack) {
                (false, Some(pack)) => self.list_finished(number, pack),
                _ => self.index.forget_pack(number),
            }
        }
        drop(writer);
        // One of them may be gone: what leans on it must not pass for whole.
        self.dictionaries().clear();
        let active = self.active();
        if active.is_some_and(|active| !self.contains(&active.id).unwrap_or(false)) {
            *self.active.write().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }

    /// The pack as it was at the mark, none: it goes; and whether all that is newer has gone.
    fn cut(&self, mut current: Current, mark: Option<CurrentMark>) -> (Option<Current>, bool) {
        let path = path_of(current.number);
        let (len, places) = mark.map_or((0, 0), |mark| (mark.len, mark.places));
        let dropped = current.places.split_off(places);
        self.forget(current.number, &dropped);
        self.moves.fetch_add(1, Ordering::AcqRel);
        current.buffer.clear();
        Synced::forget(&*self.disk);
        if len == 0 {
            return (None, self.remove_file(&path));
        }
        if let Err(error) = self.disk.truncate(&path, len) {
            // Its end is unknown, so nothing more is appended; what is whole in it is read on.
            log::warn!("'{path}' cannot be cut: {error}");
            return (None, false);
        }
        self.set_written(current.number, len);
        current.len = len;
        current.synced_len = current.synced_len.min(len);
        current.synced_places = current.synced_places.min(places);
        (Some(current), true)
    }

    fn list_finished(&self, number: u32, pack: Finished) {
        let mut finished = self.finished.write().expect("no panic under this lock");
        finished.insert(number, pack);
    }

    /// From here on nobody looks into the pack, and who does will look again. Its file may go.
    fn unlist(&self, number: u32) -> Option<Finished> {
        let mut finished = self.finished.write().expect("no panic under this lock");
        let pack = finished.remove(&number);
        // While the list is held: whoever finds the pack there, and whoever misses it, began before this and will look again.
        self.moves.fetch_add(1, Ordering::AcqRel);
        pack
    }

    /// True where it is gone.
    fn remove_file(&self, path: &str) -> bool {
        match self.disk.remove(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                log::warn!("'{path}' cannot be removed: {error}");
                false
            }
            Ok(()) | Err(_) => true,
        }
    }

    /// The chunk as it would be appended: in the smallest of the forms that are worth trying. `like` may be a chunk that has
    /// much in common with it, as the version before has.
    pub fn encode(&self, id: ChunkId, raw: &[u8], like: Option<&ChunkId>) -> Encoded {
        let like = like
            .and_then(|like| self.base(like))
            // A second copy of a chunk would need the first one.
            .filter(|(base, _)| *base != id)
            .and_then(|(base, bytes)| {
                Some((Codec::ZstdLike(base), compress(raw, Aid::Like(&bytes))?))
            });
        if let Some((_, packed)) = &like
            && is_alike(raw, packed)
        {
            return Encoded::new(id, raw, like);
        }
        let active = self.active().filter(|_| raw.len() <= DICTIONARY_CHUNK_MAX);
        let other = match &active {
            Some(dictionary) => compress(raw, Aid::With(dictionary))
                .map(|packed| (Codec::ZstdWith(dictionary.id), packed)),
            None => compress(raw, Aid::Alone).map(|packed| (Codec::Zstd, packed)),
        };
        let smallest = [like, other]
            .into_iter()
            .flatten()
            .min_by_key(|(_, packed)| packed.len());
        Encoded::new(id, raw, smallest)
    }

    /// A chunk that others may be compressed with: this one, or the one that it is compressed with itself.
    fn base(&self, id: &ChunkId) -> Option<(ChunkId, Vec<u8>)> {
        let (header, raw) = self.read_whole(id, Lean::Chunk).ok()?;
        match header.codec {
            Codec::ZstdLike(base) => Some((base, self.read_whole(&base, Lean::Dictionary).ok()?.1)),
            Codec::Raw | Codec::Zstd | Codec::ZstdWith(_) => Some((*id, raw)),
        }
    }

    /// True where new chunks are compressed with a dictionary.
    pub fn has_dictionary(&self) -> bool {
        self.active().is_some()
    }

    /// Compresses new chunks with this dictionary from now on.
    pub fn use_dictionary(&self, id: &ChunkId) -> Result<(), StoreError> {
        let dictionary = self.dictionary(id)?;
        *self.active.write().unwrap_or_else(PoisonError::into_inner) = Some(dictionary);
        Ok(())
    }

    /// The chunk that new chunks are compressed with.
    pub fn active_dictionary(&self) -> Option<ChunkId> {
        self.active().map(|active| active.id)
    }

    fn active(&self) -> Option<Arc<Dictionary>> {
        let active = self.active.read().unwrap_or_else(PoisonError::into_inner);
        active.clone()
    }

    /// A dictionary, read once.
    fn dictionary(&self, id: &ChunkId) -> Result<Arc<Dictionary>, StoreError> {
        let known = self.dictionaries().get(id).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let bytes = self.read_whole(id, Lean::Nothing)?.1;
        let dictionary = Dictionary::new(*id, &bytes)
            .ok_or_else(|| damaged(id, FOLDER.into(), 0, "it is no dictionary that zstd takes"))?;
        let dictionary = Arc::new(dictionary);
        self.dictionaries().insert(*id, dictionary.clone());
        Ok(dictionary)
    }

    fn dictionaries(&self) -> MutexGuard<'_, HashMap<ChunkId, Arc<Dictionary>>> {
        self.dictionaries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the index and makes it cover the finished packs.
    pub fn fill_index(&self) {
        self.index.fill(
            &|| self.stamps(),
            &|number| self.footer(number).ok(),
            // Finishing a pack takes it.
            || self.writer(),
        );
    }

    fn stamps(&self) -> Vec<(u32, Stamp)> {
        let finished = self.finished();
        let stamps = finished.iter().map(|(&number, pack)| (number, pack.stamp));
        stamps.collect()
    }

    /// Closes the index for good.
    pub fn close_index(&self) {
        self.index.close();
    }

    /// What `status` says of the index.
    pub fn index_state(&self) -> String {
        self.index.state()
    }

    /// Bytes of all packs.
    pub fn bytes(&self) -> u64 {
        let writer = self.writer();
        let current = writer.current.as_ref().map_or(0, |current| current.len);
        let strays = writer.strays.values().sum::<u64>();
        self.finished().values().map(|pack| pack.len).sum::<u64>() + current + strays
    }

    /// What all packs hold. Each footer is read once.
    pub fn held(&self) -> Held {
        let mut all = Held::default();
        let numbers = self.numbers_newest_first();
        let mut known = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|number, _| numbers.contains(number));
        for number in numbers {
            let held = known
                .entry(number)
                .or_insert_with(|| self.held_in(number).unwrap_or_default());
            all.chunks += held.chunks;
            all.raw_bytes += held.raw_bytes;
        }
        for (pack, place) in self.recent().places() {
            // Else it is in the footer too.
            if known.get(pack).is_none_or(|held| held.chunks == 0) {
                all.add(place);
            }
        }
        all
    }

    /// What a finished pack holds, by its footer: in parts, since one of a million chunks has 60 MB. Damage in it is told by
    /// whoever needs the footer.
    fn held_in(&self, number: u32) -> Option<Held> {
        const PART: u64 = 4096;
        let footer = self.finished().get(&number)?.footer;
        let mut held = Held::default();
        let mut first = 0;
        while first < footer.count() {
            let count = PART.min(footer.count() - first);
            let at = footer.offset + FOOTER_HEAD as u64 + first * ENTRY_LEN as u64;
            let part = self
                .disk
                .read_at(&path_of(number), at, count as usize * ENTRY_LEN)
                .ok()?;
            for entry in part.chunks_exact(ENTRY_LEN) {
                held.add(&decode_entry(entry).1);
            }
            first += count;
        }
        Some(held)
    }

    /// True where a record with this id is there and its header is whole, and so for what it leans on: its payload is verified
    /// when it is read.
    pub fn contains(&self, id: &ChunkId) -> Result<bool, StoreError> {
        if self.suspects.has(id) {
            return Ok(self.read(id).is_ok());
        }
        if self.recent().get(id).is_some() {
            return Ok(true);
        }
        self.look_again(|found| *found, || self.is_whole(id, Lean::Chunk))
    }

    fn is_whole(&self, id: &ChunkId, most: Lean) -> Result<bool, StoreError> {
        let Some(header) = self.find_header(id)? else {
            return Ok(false);
        };
        match header.codec {
            Codec::Raw | Codec::Zstd => Ok(true),
            Codec::ZstdWith(other) | Codec::ZstdLike(other) if self.suspects.has(&other) => {
                Ok(self.read(id).is_ok())
            }
            Codec::ZstdWith(dictionary) if most >= Lean::Dictionary => {
                let is_known = self.dictionaries().contains_key(&dictionary);
                Ok(is_known || self.is_whole(&dictionary, Lean::Nothing)?)
            }
            Codec::ZstdLike(other) if most >= Lean::Chunk => {
                self.is_whole(&other, Lean::Dictionary)
            }
            Codec::ZstdWith(_) | Codec::ZstdLike(_) => Ok(false),
        }
    }

    /// True where the chunk is there and its stored bytes, and those of what it leans on, are as they were written.
    pub fn holds(&self, id: &ChunkId) -> Result<bool, StoreError> {
        let moves = self.moves.load(Ordering::Acquire);
        let holds = self.contains(id)? && self.is_as_written(id)?;
        if !holds && self.moves.load(Ordering::Acquire) != moves {
            // It was taken back in between, and is no damage.
            self.suspects.remove(id);
        }
        Ok(holds)
    }

    fn is_as_written(&self, id: &ChunkId) -> Result<bool, StoreError> {
        // What was appended since the last sync has just come.
        if let Some((pack, place)) = self.recent().get(id)
            && !self.is_written(pack, &place)
        {
            return Ok(true);
        }
        let Some((pack, place)) = self.place_of(id)? else {
            return Ok(self.read(id).is_ok());
        };
        let fits = self
            .record_at(id, pack, &place)
            .ok()
            .and_then(|(header, payload)| match header.fits(&payload) {
                Some(true) => Some(header),
                Some(false) | None => None,
            });
        match fits.map(|header| header.codec) {
            Some(Codec::Raw | Codec::Zstd) => Ok(true),
            Some(Codec::ZstdWith(other)) if self.dictionaries().contains_key(&other) => Ok(true),
            Some(Codec::ZstdWith(other) | Codec::ZstdLike(other)) => self.holds(&other),
            None => Ok(self.read(id).is_ok()),
        }
    }

    /// How many footers have been searched so far, which the index saves.
    pub fn searches(&self) -> u64 {
        self.searches.load(Ordering::Relaxed)
    }

    /// How many chunks seals have appended so far.
    pub fn appended(&self) -> u64 {
        self.appended.load(Ordering::Acquire)
    }

    /// Where the newest record of a chunk is.
    pub fn place_of(&self, id: &ChunkId) -> Result<Option<(u32, Place)>, StoreError> {
        match self.find_recent(id)? {
            Some(hit) => Ok(Some(hit)),
            None => match self.index.get(id) {
                Some(Some((pack, place))) if self.finished().contains_key(&pack) => {
                    Ok(Some((pack, place)))
                }
                Some(None) => Ok(None),
                Some(Some(_)) | None => self.find_in_footers(id),
            },
        }
    }

    /// Looks until it is found, or nothing was moved meanwhile.
    fn look_again<T>(
        &self,
        is_found: impl Fn(&T) -> bool,
        mut look: impl FnMut() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        loop {
            let moves = self.moves.load(Ordering::Acquire);
            let answer = look();
            if answer.as_ref().is_ok_and(&is_found) || self.moves.load(Ordering::Acquire) == moves {
                return answer;
            }
        }
    }

    /// The place of a chunk in a pack that is not finished; by then its record is in the file.
    fn find_recent(&self, id: &ChunkId) -> Result<Option<(u32, Place)>, StoreError> {
        let recent = self.recent().get(id);
        if let Some((pack, place)) = recent
            && !self.is_written(pack, &place)
        {
            self.flush_if_current(pack)?;
        }
        Ok(recent)
    }

    fn find_header(&self, id: &ChunkId) -> Result<Option<Header>, StoreError> {
        Ok(self
            .place_of(id)?
            .and_then(|(pack, place)| self.header_at(id, pack, &place).ok())
            .filter(|header| header.id == *id))
    }

    /// The chunk's raw bytes, verified against its id.
    pub fn read(&self, id: &ChunkId) -> Result<Vec<u8>, StoreError> {
        let mut raw = Vec::new();
        self.read_into(id, &mut raw)?;
        Ok(raw)
    }

    /// The same, appended to `out`.
    pub fn read_into(&self, id: &ChunkId, out: &mut Vec<u8>) -> Result<(), StoreError> {
        self.look_again(|_| true, || self.read_record(id, Lean::Chunk, out))?;
        Ok(())
    }

    /// The record's header too.
    fn read_whole(&self, id: &ChunkId, most: Lean) -> Result<(Header, Vec<u8>), StoreError> {
        let mut raw = Vec::new();
        let header = self.read_record(id, most, &mut raw)?;
        Ok((header, raw))
    }

    /// Appends the chunk's raw bytes, or nothing after an error.
    fn read_record(
        &self,
        id: &ChunkId,
        most: Lean,
        out: &mut Vec<u8>,
    ) -> Result<Header, StoreError> {
        let moves = self.moves.load(Ordering::Acquire);
        let mut found = self.read_any(id, most, out);
        // A damaged footer hides chunks that are whole.
        if found.is_err() && self.read_hidden() {
            found = self.read_any(id, most, out);
        }
        match &found {
            Ok(_) => self.suspects.remove(id),
            Err(error) if self.moves.load(Ordering::Acquire) == moves => {
                self.suspects.add(id, error);
            }
            // It may only have been moved.
            Err(_) => {}
        }
        found
    }

    /// From the first of its copies that is whole.
    fn read_any(&self, id: &ChunkId, most: Lean, out: &mut Vec<u8>) -> Result<Header, StoreError> {
        // A chunk may stand in several packs, one of them damaged.
        let mut damage = None;
        if let Some((pack, place)) = self.find_recent(id)? {
            match self.read_at(id, pack, &place, most, out) {
                Ok(header) => return Ok(header),
                Err(error) => damage = Some(error),
            }
        }
        if let Some(Some((pack, place))) = self.index.get(id)
            && self.finished().contains_key(&pack)
        {
            match self.read_at(id, pack, &place, most, out) {
                Ok(header) => return Ok(header),
                Err(error) => log::debug!("index: {error}; asking the footers"),
            }
        }
        // The index may lag behind or be wrong: the footers decide.
        for number in self.numbers_newest_first() {
            let copy = self
                .find_in_footer(number, id)
                .transpose()
                .map(|place| self.read_at(id, number, &place?, most, out));
            match copy {
                Some(Ok(header)) => return Ok(header),
                Some(Err(error)) => damage = damage.or(Some(error)),
                None => {}
            }
        }
        let others = self.recent().others(id);
        for (pack, place) in others {
            match self.read_at(id, pack, &place, most, out) {
                Ok(header) => return Ok(header),
                Err(error) => damage = damage.or(Some(error)),
            }
        }
        Err(damage.unwrap_or(StoreError::MissingChunk(*id)))
    }

    /// Looks for records that a damaged footer hides; false: there are none that were not known.
    fn read_hidden(&self) -> bool {
        let mut found = false;
        for number in self.numbers_newest_first() {
            let mut read = self
                .footers_read
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if !read.insert(number) {
                continue;
            }
            let Err(error) = self.footer(number) else {
                continue;
            };
            log::error!("{error}");
            let end = self.finished().get(&number).map(|pack| pack.footer.offset);
            let records = end.map(|end| scan(&*self.disk, number, end));
            if let Some(Ok(records)) = records {
                found |= !records.places.is_empty();
                let mut recent = self.recent.write().expect("no panic under this lock");
                for (id, place) in records.places {
                    if recent.get(&id).is_none() {
                        recent.add(id, number, place);
                    }
                }
            }
        }
        found
    }

    fn read_at(
        &self,
        id: &ChunkId,
        pack: u32,
        place: &Place,
        most: Lean,
        out: &mut Vec<u8>,
    ) -> Result<Header, StoreError> {
        let path = path_of(pack);
        let wrong = |what| damaged(id, path.clone(), place.offset, what);
        let header = self.header_at(id, pack, place)?;
        if header.id != *id {
            return Err(wrong("another chunk is there"));
        }
        let at = place.offset + HEADER_LEN as u64;
        let len = header.stored_len as usize;
        let failed = StoreError::io("read", &path);
        if header.codec == Codec::Raw {
            // Straight to its place: no copy.
            let start = out.len();
            self.disk.read_into(&path, at, len, out).map_err(failed)?;
            header.verify(&out[start..]).map_err(|what| {
                out.truncate(start);
                wrong(what)
            })?;
        } else {
            let payload = self.disk.read_at(&path, at, len).map_err(failed)?;
            let opened = self.with_aid(&header, most, &wrong, |aid| header.open(payload, aid))?;
            out.append(&mut opened.map_err(wrong)?);
        }
        if len >= DROP_BYTES && most == Lean::Chunk {
            self.disk.drop_cached(&path, at, len as u64);
        }
        Ok(header)
    }

    /// The raw bytes of a record that may be in no pack.
    pub fn open_record(&self, header: &Header, payload: &[u8]) -> Result<Vec<u8>, StoreError> {
        let wrong = |what| damaged(&header.id, FOLDER.into(), 0, what);
        let payload = payload.to_vec();
        self.with_aid(header, Lean::Chunk, &wrong, |aid| header.open(payload, aid))?
            .map_err(wrong)
    }

    /// Hands out what is needed to decompress a record.
    fn with_aid<T>(
        &self,
        header: &Header,
        most: Lean,
        wrong: &dyn Fn(&'static str) -> StoreError,
        work: impl FnOnce(Aid<'_>) -> T,
    ) -> Result<T, StoreError> {
        let (dictionary, other);
        let aid = match header.codec {
            Codec::Raw | Codec::Zstd => Aid::Alone,
            Codec::ZstdWith(id) if most >= Lean::Dictionary => {
                dictionary = self.dictionary(&id)?;
                Aid::With(&dictionary)
            }
            Codec::ZstdLike(id) if most >= Lean::Chunk => {
                other = self.read_whole(&id, Lean::Dictionary)?.1;
                Aid::Like(&other)
            }
            Codec::ZstdWith(_) | Codec::ZstdLike(_) => {
                return Err(wrong("a chunk that others lean on leans on another one"));
            }
        };
        Ok(work(aid))
    }

    /// The header and the stored bytes of this chunk.
    pub fn record_at(
        &self,
        id: &ChunkId,
        pack: u32,
        place: &Place,
    ) -> Result<(Header, Vec<u8>), StoreError> {
        let path = path_of(pack);
        let len = HEADER_LEN + place.stored_len as usize;
        let mut record = self
            .disk
            .read_at(&path, place.offset, len)
            .map_err(StoreError::io("read", &path))?;
        let wrong = |what| damaged(id, path.clone(), place.offset, what);
        let header = Header::decode(&record).map_err(wrong)?;
        if header.id != *id {
            return Err(wrong("another chunk is there"));
        }
        Ok((header, record.split_off(HEADER_LEN)))
    }

    /// Reads one record of a pack to its last byte, whatever other copies of the chunk there are.
    pub fn check_record(&self, id: &ChunkId, pack: u32, place: &Place) -> Result<(), StoreError> {
        self.read_at(id, pack, place, Lean::Chunk, &mut Vec::new())
            .map(drop)
    }

    /// Checks a record's stored bytes, whatever other copies of the chunk there are. What it leans on may have gone, where nobody
    /// needs it.
    pub fn check_stored(&self, id: &ChunkId, pack: u32, place: &Place) -> Result<(), StoreError> {
        self.check_payload(id, pack, place)
            .unwrap_or_else(|| self.check_record(id, pack, place))
    }

    /// The same by its checksum; none: it has none, only decoding it tells.
    pub fn check_payload(
        &self,
        id: &ChunkId,
        pack: u32,
        place: &Place,
    ) -> Option<Result<(), StoreError>> {
        match self.record_at(id, pack, place) {
            Err(error) => Some(Err(error)),
            Ok((header, payload)) => header.fits(&payload).map(|fits| match fits {
                true => Ok(()),
                false => Err(damaged(
                    id,
                    path_of(pack),
                    place.offset,
                    "the payload does not fit its checksum",
                )),
            }),
        }
    }

    /// True where some copy of the chunk can be read.
    pub fn has_whole_copy(&self, id: &ChunkId) -> bool {
        self.read_any(id, Lean::Chunk, &mut Vec::new()).is_ok()
    }

    /// True where a record of an unfinished pack counts: not for what a crash has left.
    pub fn is_recent(&self, id: &ChunkId, pack: u32, place: &Place) -> bool {
        self.recent().get(id) == Some((pack, *place))
    }

    /// The numbers of all packs that are on disk, with their lengths.
    pub fn files(&self) -> Result<Vec<(u32, u64)>, StoreError> {
        let files = self
            .disk
            .list(FOLDER)
            .map_err(StoreError::io("list", FOLDER))?;
        let mut numbers: Vec<(u32, u64)> = files
            .into_iter()
            .filter_map(|(name, len)| Some((number_of(&name)?, len)))
            .collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// What the packs hold, one after the other, as their files say now. Those that are let go meanwhile are passed over.
    pub fn surveys(
        &self,
    ) -> Result<impl Iterator<Item = (u32, Result<Survey, StoreError>)>, StoreError> {
        let files = self.files()?.into_iter();
        Ok(files.filter_map(|(number, len)| {
            let survey = self.survey(number, len).transpose()?;
            Some((number, survey))
        }))
    }

    /// What a pack holds; none: it has gone. A finished one must be as its footer says in every byte but the payloads.
    fn survey(&self, number: u32, mut len: u64) -> Result<Option<Survey>, StoreError> {
        loop {
            let known = self.finished().get(&number).copied();
            let survey = self.survey_as(number, len, known);
            if survey.as_ref().is_ok_and(|found| found.problems.is_empty()) {
                return survey.map(Some);
            }
            // What is wrong with a file that has been appended to or cut meanwhile says nothing.
            let now = self.files()?.into_iter().find(|(pack, _)| *pack == number);
            let Some((_, now)) = now else {
                return Ok(None);
            };
            if now == len && self.finished().get(&number) == known.as_ref() {
                return survey.map(Some);
            }
            len = now;
        }
    }

    /// True where a crash can have left these bytes at the end of a pack: a footer that is shorter than it is to be, and so the
    /// last that was written. A store that is opened for changes cuts it off.
    fn is_cut_footer(&self, path: &str, start: u64, end: u64) -> Result<bool, StoreError> {
        let head = self
            .disk
            .read_at(path, start, FOOTER_HEAD)
            .map_err(StoreError::io("read", path))?;
        Ok(footer_end(start, &head).is_none_or(|whole| end < whole))
    }

    /// True where the pack is finished, and still there.
    pub fn is_finished(&self, number: u32) -> bool {
        self.finished().contains_key(&number)
    }

    fn survey_as(
        &self,
        number: u32,
        len: u64,
        known: Option<Finished>,
    ) -> Result<Survey, StoreError> {
        let path = path_of(number);
        let wrong = |offset, what: &str| StoreError::Damaged {
            path: path.clone(),
            offset,
            what: what.to_owned(),
        };
        let mut survey = Survey::default();
        let trailer = read_trailer(&*self.disk, number, len)?;
        let records_end = match (known, trailer) {
            (_, Some(pack)) => Some(pack.footer.offset),
            (Some(pack), None) => {
                let what = "the trailer is damaged";
                survey.problems.push(wrong(pack.footer.offset, what));
                Some(pack.footer.offset)
            }
            (None, None) => None,
        };
        let found = scan(&*self.disk, number, records_end.unwrap_or(len))?;
        // What is at its end is no footer that is damaged, but one that is being written, or never was.
        let is_open = self.is_appended_to(number)
            || self
                .given_up
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .contains(&number);
        let freed = match trailer {
            Some(pack) => {
                let places = self.footer(number).unwrap_or_default();
                let gaps = found.gaps.iter().copied();
                let gaps: Vec<_> = gaps.filter(|(_, end)| *end <= pack.footer.offset).collect();
                self.freed(&path, &gaps, &places)?
            }
            None => Vec::new(),
        };
        let is_freed = |at: u64| {
            freed
                .iter()
                .any(|(start, end)| (*start..*end).contains(&at))
        };
        for &(start, end) in found.gaps.iter().filter(|(start, _)| !is_freed(*start)) {
            let what = format!("{} bytes are no record", end - start);
            match records_end {
                Some(_) => survey.problems.push(wrong(start, &what)),
                None if found.has_footer
                    && end == len
                    && !is_open
                    && !self.is_cut_footer(&path, start, end)? =>
                {
                    survey.problems.push(wrong(start, "the footer is damaged"));
                }
                None => survey.notes.push(format!(
                    "'{path}' at byte {start}: {what}, as a crash leaves them"
                )),
            }
        }
        if let Some(pack) = trailer {
            let footer = self
                .disk
                .read_at(&path, pack.footer.offset, pack.footer.len as usize)
                .map_err(StoreError::io("read", &path))?;
            match decode_footer(&footer) {
                Err(what) => survey.problems.push(wrong(pack.footer.offset, what)),
                Ok(places) => {
                    let there: HashSet<(ChunkId, u64)> = found
                        .places
                        .iter()
                        .map(|(id, place)| (*id, place.offset))
                        .collect();
                    for (id, place) in &places {
                        if !there.contains(&(*id, place.offset)) && !is_freed(place.offset) {
                            let what = format!("the record of chunk {id} is not there");
                            survey.problems.push(wrong(place.offset, &what));
                        }
                    }
                }
            }
        }
        survey.is_finished = trailer.is_some();
        survey.end = records_end.unwrap_or(len);
        survey.places = found.places;
        Ok(survey)
    }

    fn header_at(&self, id: &ChunkId, pack: u32, place: &Place) -> Result<Header, StoreError> {
        let path = path_of(pack);
        let bytes = self
            .disk
            .read_at(&path, place.offset, HEADER_LEN)
            .map_err(StoreError::io("read", &path))?;
        Header::decode(&bytes).map_err(|what| damaged(id, path, place.offset, what))
    }

    fn find_in_footers(&self, id: &ChunkId) -> Result<Option<(u32, Place)>, StoreError> {
        for number in self.numbers_newest_first() {
            if let Some(place) = self.find_in_footer(number, id)? {
                return Ok(Some((number, place)));
            }
        }
        Ok(None)
    }

    /// Binary search in the footer on disk.
    fn find_in_footer(&self, number: u32, id: &ChunkId) -> Result<Option<Place>, StoreError> {
        let Some(pack) = self.finished().get(&number).copied() else {
            return Ok(None);
        };
        self.searches.fetch_add(1, Ordering::Relaxed);
        let path = path_of(number);
        let (mut low, mut high) = (0, pack.footer.count());
        while low < high {
            let middle = low + (high - low) / 2;
            let offset = pack.footer.offset + FOOTER_HEAD as u64 + middle * ENTRY_LEN as u64;
            let bytes = match self.disk.read_at(&path, offset, ENTRY_LEN) {
                Ok(bytes) if bytes.len() < ENTRY_LEN => return Ok(None),
                Ok(bytes) => bytes,
                // It has gone meanwhile.
                Err(_) if !self.is_finished(number) => return Ok(None),
                Err(cause) => return Err(StoreError::io("read", &path)(cause)),
            };
            let (found, place) = decode_entry(&bytes);
            match found.cmp(id) {
                std::cmp::Ordering::Equal => return Ok(Some(place)),
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        Ok(None)
    }

    /// Appends a chunk that [`Packs::contains`] does not know, unless another thread has done so meanwhile; returns the bytes
    /// by which the pack grows. Refuses once a pack has been lost since the last mark: nothing of that seal will stand.
    pub fn append(&self, chunk: &Encoded) -> Result<u64, StoreError> {
        let mut writer = self.writer();
        if self.failures.load(Ordering::Acquire) != writer.failures_before {
            return Err(StoreError::PackLost(writer.lost_by.clone()));
        }
        let id = chunk.header.id;
        if self.recent().get(&id).is_some() && !self.suspects.has(&id) {
            return Ok(0);
        }
        let (pack, place) = self.push(&mut writer, chunk)?;
        self.recent
            .write()
            .expect("no panic under this lock")
            .add(id, pack, place);
        self.suspects.remove(&id);
        self.appended.fetch_add(1, Ordering::AcqRel);
        Ok(chunk.header.record_len())
    }

    fn push(&self, writer: &mut Writer, chunk: &Encoded) -> Result<(u32, Place), StoreError> {
        let record_len = chunk.header.record_len();
        if writer
            .current
            .as_ref()
            .is_some_and(|current| current.len + record_len > self.limits.finish_bytes)
        {
            self.finish(writer)?;
        }
        let current = match &mut writer.current {
            Some(current) => current,
            None => self.begin(writer),
        };
        let place = Place {
            offset: current.len,
            raw_len: chunk.header.raw_len,
            stored_len: chunk.header.stored_len,
        };
        current.buffer.extend_from_slice(&chunk.header.encode());
        current.buffer.extend_from_slice(&chunk.payload);
        current.len += record_len;
        current.places.push((chunk.header.id, place));
        let number = current.number;
        if current.buffer.len() >= self.limits.buffer {
            self.flush(writer)?;
        }
        Ok((number, place))
    }

    /// Makes everything appended so far survive a power cut, and fails if anything appended since the mark was lost. After
    /// an error the pack is given up: what was in it and not synced is forgotten, and the next chunk goes to a new pack.
    pub fn sync(&self, since: Mark) -> Result<(), StoreError> {
        let mut writer = self.writer();
        if let Some(current) = &writer.current {
            if current.places.len() >= self.limits.seal_finish_chunks
                || current.len >= self.limits.seal_finish_bytes
            {
                self.finish(&mut writer)?;
            } else {
                self.flush(&mut writer)?;
                self.sync_current(&mut writer)?;
                let current = writer.current.as_ref();
                if let Some(synced) = current.and_then(|pack| Synced::of(pack.number, &pack.places))
                {
                    synced.keep(&*self.disk);
                }
            }
        }
        match self.failures.load(Ordering::Acquire) == since.failures {
            true => Ok(()),
            false => Err(StoreError::PackLost(writer.lost_by.clone())),
        }
    }

    fn begin<'a>(&self, writer: &'a mut Writer) -> &'a mut Current {
        writer.last += 1;
        self.set_written(writer.last, 0);
        writer.current.insert(Current {
            number: writer.last,
            len: 0,
            buffer: Vec::new(),
            places: Vec::new(),
            dirty: false,
            unnamed: true,
            synced_len: 0,
            synced_places: 0,
        })
    }

    fn is_written(&self, pack: u32, place: &Place) -> bool {
        let (current, len) = *self.written.lock().unwrap_or_else(PoisonError::into_inner);
        pack != current || place.end() <= len
    }

    /// True for the pack that is appended to, and for the last one that was.
    fn is_appended_to(&self, pack: u32) -> bool {
        self.written
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .0
            == pack
    }

    fn set_written(&self, pack: u32, len: u64) {
        *self.written.lock().unwrap_or_else(PoisonError::into_inner) = (pack, len);
    }

    fn sync_current(&self, writer: &mut Writer) -> Result<(), StoreError> {
        let Some(current) = &mut writer.current else {
            return Ok(());
        };
        if !current.dirty {
            return Ok(());
        }
        let path = path_of(current.number);
        let synced = self
            .disk
            .sync(&path)
            .map_err(StoreError::io("sync", &path))
            .and_then(|()| {
                if !current.unnamed {
                    return Ok(());
                }
                self.disk
                    .sync(FOLDER)
                    .map_err(StoreError::io("sync", FOLDER))
            });
        match synced {
            Ok(()) => {
                current.dirty = false;
                current.unnamed = false;
                current.synced_len = current.len;
                current.synced_places = current.places.len();
                Ok(())
            }
            Err(error) => {
                self.give_up(writer, &error);
                Err(error)
            }
        }
    }

    fn flush(&self, writer: &mut Writer) -> Result<(), StoreError> {
        let Some(current) = &mut writer.current else {
            return Ok(());
        };
        if current.buffer.is_empty() {
            return Ok(());
        }
        let path = path_of(current.number);
        current.dirty = true;
        let appended = self.disk.append(&path, &current.buffer);
        current.buffer.clear();
        match appended {
            Ok(()) => {
                self.set_written(current.number, current.len);
                Ok(())
            }
            Err(cause) => {
                let error = StoreError::io("append to", path)(cause);
                self.give_up(writer, &error);
                Err(error)
            }
        }
    }

    fn flush_if_current(&self, pack: u32) -> Result<(), StoreError> {
        let mut writer = self.writer();
        match &writer.current {
            Some(current) if current.number == pack => self.flush(&mut writer),
            Some(_) | None => Ok(()),
        }
    }

    /// Writes the footer and syncs: the pack never changes again. The trailer comes once the footer is durable: a pack that has
    /// one is found whole after any crash.
    fn finish(&self, writer: &mut Writer) -> Result<(), StoreError> {
        let Some(current) = &mut writer.current else {
            return Ok(());
        };
        let records_end = current.len;
        let footer = encode_footer(&current.places, records_end);
        let (footer, trailer) = footer.split_at(footer.len() - TRAILER_LEN);
        for part in [footer, trailer] {
            for piece in part.chunks(self.limits.buffer) {
                let Some(current) = &mut writer.current else {
                    return Err(StoreError::PackLost(writer.lost_by.clone()));
                };
                current.buffer.extend_from_slice(piece);
                current.len += piece.len() as u64;
                self.flush(writer)?;
            }
            self.sync_current(writer)?;
        }
        let Some(current) = writer.current.take() else {
            return Ok(());
        };
        let Some(pack) = read_trailer(&*self.disk, current.number, current.len)? else {
            let path = path_of(current.number);
            let cause = std::io::Error::other("the footer just written does not read back");
            return Err(StoreError::Io {
                doing: "finish",
                path,
                cause,
            });
        };
        self.list_finished(current.number, pack);
        self.add_to_index(current.number, pack.stamp, current.places);
        Ok(())
    }

    /// Adds a finished pack to the index, which takes as long as many a seal: nobody waits for it. Meanwhile its chunks are
    /// looked up in memory.
    fn add_to_index(&self, number: u32, stamp: Stamp, places: Places) {
        self.await_index();
        if !self.index.is_ready() {
            return self.forget(number, &places);
        }
        let (index, recent) = (self.index.clone(), self.recent.clone());
        let add = move || {
            index.add(number, stamp, &places);
            let mut recent = recent.write().expect("no panic under this lock");
            recent.forget(number, &places);
        };
        match thread::Builder::new().name("index".into()).spawn(add) {
            Ok(thread) => *self.indexing() = Some(thread),
            // They stay in memory.
            Err(error) => log::warn!("index: no thread to add a pack: {error}"),
        }
    }

    /// Waits until the index has all finished packs.
    fn await_index(&self) {
        let thread = self.indexing().take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            log::error!("index: adding a pack ended in a panic");
        }
    }

    fn indexing(&self) -> MutexGuard<'_, Option<thread::JoinHandle<()>>> {
        self.indexing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// After a failed write or sync nobody knows what the end of the pack's file holds. What was synced before stays and is
    /// read on; the rest is forgotten, and its space is given back where that still goes.
    fn give_up(&self, writer: &mut Writer, error: &StoreError) {
        let Some(mut current) = writer.current.take() else {
            return;
        };
        let path = path_of(current.number);
        log::error!("{error}; nothing more is appended to '{path}'");
        writer.lost_by = error.to_string();
        self.failures.fetch_add(1, Ordering::AcqRel);
        self.given_up
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(current.number);
        let lost = current.places.split_off(current.synced_places);
        self.forget(current.number, &lost);
        if current.synced_len > 0 {
            writer.strays.insert(current.number, current.synced_len);
        }
        let freed = match current.synced_len {
            0 => self.disk.remove(&path),
            len => self.disk.truncate(&path, len),
        };
        if let Err(error) = freed {
            log::debug!("the space of '{path}' cannot be given back: {error}");
        }
    }

    fn forget(&self, pack: u32, places: &Places) {
        let mut recent = self.recent.write().expect("no panic under this lock");
        recent.forget(pack, places);
    }

    /// All chunks of a finished pack, from its footer.
    pub fn footer(&self, number: u32) -> Result<Places, StoreError> {
        let path = path_of(number);
        let Some(pack) = self.finished().get(&number).copied() else {
            return Ok(Vec::new());
        };
        let bytes = self
            .disk
            .read_at(&path, pack.footer.offset, pack.footer.len as usize)
            .map_err(StoreError::io("read", &path))?;
        decode_footer(&bytes)
            .map_err(|what| damaged(&ChunkId([0; 32]), path, pack.footer.offset, what))
    }

    /// The numbers of the finished packs, newest first.
    pub fn numbers_newest_first(&self) -> Vec<u32> {
        self.finished().keys().rev().copied().collect()
    }

    fn finished(&self) -> RwLockReadGuard<'_, BTreeMap<u32, Finished>> {
        self.finished.read().expect("no panic under this lock")
    }

    fn recent(&self) -> RwLockReadGuard<'_, Recent> {
        self.recent.read().expect("no panic under this lock")
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().expect("no panic under this lock")
    }
}

impl Drop for Packs {
    fn drop(&mut self) {
        self.await_index();
    }
}

/// The pack's path in the store.
pub fn path_of(number: u32) -> String {
    format!("{FOLDER}/{number:06}.pack")
}

fn number_of(name: &str) -> Option<u32> {
    name.strip_suffix(".pack")?.parse().ok()
}

fn damaged(id: &ChunkId, path: String, offset: u64, what: &str) -> StoreError {
    StoreError::DamagedChunk {
        id: *id,
        path,
        offset,
        what: what.to_owned(),
    }
}

fn read_trailer(disk: &dyn Disk, number: u32, len: u64) -> Result<Option<Finished>, StoreError> {
    let path = path_of(number);
    let Some(at) = len.checked_sub(TRAILER_LEN as u64) else {
        return Ok(None);
    };
    let bytes = disk
        .read_at(&path, at, TRAILER_LEN)
        .map_err(StoreError::io("read", &path))?;
    let Some(footer) = decode_trailer(&bytes, len) else {
        return Ok(None);
    };
    // The trailer and the end of the footer's checksum: no two packs share it.
    let mut stamp = [0; 24];
    let tail = disk
        .read_at(&path, at - 12, 12)
        .map_err(StoreError::io("read", &path))?;
    stamp[..12].copy_from_slice(&tail);
    stamp[12..].copy_from_slice(&bytes[12..]);
    Ok(Some(Finished { footer, stamp, len }))
}
