//! All packs of a store: where a chunk is, reading it verified, appending new ones, finishing a pack that is full.
//!
//! One pack at the most is being appended to. Packs that are not finished are scanned when the store opens; their chunks,
//! and those appended since, are looked up in memory. Finished packs are looked up in the index, else in their own footers.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};

use super::disk::Disk;
use super::error::StoreError;
use super::index::{Index, Places, Stamp};
use super::pack::{
    ENTRY_LEN, Encoded, FOOTER_HEAD, FooterRange, HEADER_LEN, Header, Place, TRAILER_LEN,
    decode_entry, decode_footer, decode_trailer, encode_footer,
};
use crate::model::ChunkId;

/// The folder of the packs in a store.
pub const FOLDER: &str = "packs";
/// A pack is finished once it holds this many bytes …
const FINISH_BYTES: u64 = 256 << 20;
/// … or, at the end of a seal, this many chunks or bytes: so that opening a store scans little.
const SEAL_FINISH_CHUNKS: usize = 16_384;
const SEAL_FINISH_BYTES: u64 = 64 << 20;
const BUFFER: usize = 1 << 20;
const SCAN_WINDOW: usize = 1 << 20;

/// The packs of one store.
pub struct Packs {
    disk: Arc<dyn Disk>,
    index: Index,
    finished: RwLock<BTreeMap<u32, Finished>>,
    /// Chunks in packs that are not finished.
    recent: RwLock<HashMap<ChunkId, (u32, Place)>>,
    /// Taken after no other lock of this struct, before `recent` and `finished`.
    writer: Mutex<Writer>,
}

#[derive(Clone, Copy)]
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
    /// Bytes of packs that are neither finished nor current.
    stray_bytes: u64,
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
}

/// A pack that is not finished, as the store found it.
pub struct Unfinished {
    /// Its number.
    pub number: u32,
    /// Bytes of whole records at its start.
    pub valid: u64,
    /// Bytes of the file.
    pub len: u64,
    places: Places,
}

impl Packs {
    /// The packs in [`FOLDER`]: reads every trailer, scans what is not finished.
    pub fn open(disk: Arc<dyn Disk>, index: Index) -> Result<(Self, Vec<Unfinished>), StoreError> {
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
        let mut recent = HashMap::new();
        for pack in &unfinished {
            recent.extend(
                pack.places
                    .iter()
                    .map(|&(id, place)| (id, (pack.number, place))),
            );
            writer.stray_bytes += pack.len;
        }
        let (finished, recent) = (RwLock::new(finished), RwLock::new(recent));
        Ok((
            Packs {
                disk,
                index,
                finished,
                recent,
                writer: Mutex::new(writer),
            },
            unfinished,
        ))
    }

    /// Appends to this pack from now on, if it is whole to its last byte. One with a torn end is left as it is.
    pub fn resume(&self, pack: Unfinished) {
        if pack.valid != pack.len {
            log::warn!(
                "'{}' ends in {} bytes of a record that was never completed; they are left alone",
                path_of(pack.number),
                pack.len - pack.valid
            );
            return;
        }
        let mut writer = self.writer();
        writer.stray_bytes -= pack.len;
        writer.current = Some(Current {
            number: pack.number,
            len: pack.len,
            buffer: Vec::new(),
            places: pack.places,
            dirty: false,
            unnamed: false,
        });
    }

    /// Opens the index and makes it cover the finished packs.
    pub fn fill_index(&self) {
        let packs: Vec<(u32, Stamp)> = self
            .finished()
            .iter()
            .map(|(&number, pack)| (number, pack.stamp))
            .collect();
        self.index.fill(&packs, &|number| self.footer(number).ok());
    }

    /// What `status` says of the index.
    pub fn index_state(&self) -> String {
        self.index.state()
    }

    /// Bytes of all packs.
    pub fn bytes(&self) -> u64 {
        let writer = self.writer();
        let current = writer.current.as_ref().map_or(0, |current| current.len);
        self.finished().values().map(|pack| pack.len).sum::<u64>() + current + writer.stray_bytes
    }

    /// True where a record with this id is there and its header is whole: its payload is verified when it is read.
    pub fn contains(&self, id: &ChunkId) -> Result<bool, StoreError> {
        if self.recent().contains_key(id) {
            return Ok(true);
        }
        let hit = match self.index.get(id) {
            Some(answer) => answer,
            None => self.find_in_footers(id)?,
        };
        let Some((pack, place)) = hit else {
            return Ok(false);
        };
        Ok(self
            .header_at(pack, &place)
            .is_ok_and(|header| header.id == *id))
    }

    /// The chunk's raw bytes, verified against its id.
    pub fn read(&self, id: &ChunkId) -> Result<Vec<u8>, StoreError> {
        if let Some(&(pack, place)) = self.recent().get(id) {
            self.flush_if_current(pack)?;
            return self.read_at(id, pack, &place);
        }
        if let Some(Some((pack, place))) = self.index.get(id) {
            match self.read_at(id, pack, &place) {
                Ok(raw) => return Ok(raw),
                Err(error) => log::debug!("index: {error}; asking the footers"),
            }
        }
        // The index may lag behind or be wrong: the footers decide. A chunk may stand in several packs, one of them damaged.
        let mut damage = None;
        for number in self.numbers_newest_first() {
            if let Some(place) = self.find_in_footer(number, id)? {
                match self.read_at(id, number, &place) {
                    Ok(raw) => return Ok(raw),
                    Err(error) => damage = Some(error),
                }
            }
        }
        Err(damage.unwrap_or(StoreError::MissingChunk(*id)))
    }

    fn read_at(&self, id: &ChunkId, pack: u32, place: &Place) -> Result<Vec<u8>, StoreError> {
        let path = path_of(pack);
        let len = HEADER_LEN + place.stored_len as usize;
        let record = self
            .disk
            .read_at(&path, place.offset, len)
            .map_err(StoreError::io("read", &path))?;
        let open = || {
            let header = Header::decode(&record)?;
            if header.id != *id {
                return Err("another chunk is there");
            }
            header.open(&record[HEADER_LEN..])
        };
        open().map_err(|what| damaged(id, path, place.offset, what))
    }

    fn header_at(&self, pack: u32, place: &Place) -> Result<Header, StoreError> {
        let path = path_of(pack);
        let bytes = self
            .disk
            .read_at(&path, place.offset, HEADER_LEN)
            .map_err(StoreError::io("read", &path))?;
        Header::decode(&bytes).map_err(|what| damaged(&ChunkId([0; 32]), path, place.offset, what))
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
        let path = path_of(number);
        let (mut low, mut high) = (0, pack.footer.count());
        while low < high {
            let middle = low + (high - low) / 2;
            let offset = pack.footer.offset + FOOTER_HEAD as u64 + middle * ENTRY_LEN as u64;
            let bytes = self
                .disk
                .read_at(&path, offset, ENTRY_LEN)
                .map_err(StoreError::io("read", &path))?;
            if bytes.len() < ENTRY_LEN {
                return Ok(None);
            }
            let (found, place) = decode_entry(&bytes);
            match found.cmp(id) {
                std::cmp::Ordering::Equal => return Ok(Some(place)),
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        Ok(None)
    }

    /// Appends a chunk, unless it is there already; returns the bytes by which the pack grows.
    pub fn append(&self, chunk: &Encoded) -> Result<u64, StoreError> {
        if self.contains(&chunk.header.id)? {
            return Ok(0);
        }
        let mut writer = self.writer();
        if self.recent().contains_key(&chunk.header.id) {
            return Ok(0);
        }
        let record_len = chunk.header.record_len();
        if writer
            .current
            .as_ref()
            .is_some_and(|current| current.len + record_len > FINISH_BYTES)
        {
            self.finish(&mut writer)?;
        }
        let current = writer.current_or_new();
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
        if current.buffer.len() >= BUFFER {
            self.flush(&mut writer)?;
        }
        self.recent
            .write()
            .expect("no panic under this lock")
            .insert(chunk.header.id, (number, place));
        Ok(record_len)
    }

    /// Makes everything appended so far survive a power cut. After an error the pack is given up: what was in it and not
    /// synced is forgotten, and the next chunk goes to a new pack.
    pub fn sync(&self) -> Result<(), StoreError> {
        let mut writer = self.writer();
        let Some(current) = &writer.current else {
            return Ok(());
        };
        if current.places.len() >= SEAL_FINISH_CHUNKS || current.len >= SEAL_FINISH_BYTES {
            return self.finish(&mut writer);
        }
        self.flush(&mut writer)?;
        self.sync_current(&mut writer)
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
                Ok(())
            }
            Err(error) => {
                self.give_up(writer);
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
        let bytes = std::mem::take(&mut current.buffer);
        current.dirty = true;
        match self.disk.append(&path, &bytes) {
            Ok(()) => Ok(()),
            Err(cause) => {
                self.give_up(writer);
                Err(StoreError::Io {
                    doing: "append to",
                    path,
                    cause,
                })
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

    /// Writes the footer and syncs: the pack never changes again.
    fn finish(&self, writer: &mut Writer) -> Result<(), StoreError> {
        let Some(current) = &mut writer.current else {
            return Ok(());
        };
        let records_end = current.len;
        let footer = encode_footer(&current.places, records_end);
        current.buffer.extend_from_slice(&footer);
        current.len += footer.len() as u64;
        self.flush(writer)?;
        self.sync_current(writer)?;
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
        self.index.add(current.number, pack.stamp, &current.places);
        self.finished
            .write()
            .expect("no panic under this lock")
            .insert(current.number, pack);
        let mut recent = self.recent.write().expect("no panic under this lock");
        for (id, _) in &current.places {
            recent.remove(id);
        }
        Ok(())
    }

    /// After a failed write or sync nobody knows what the pack's file holds. It stays on disk and is scanned at the next open.
    fn give_up(&self, writer: &mut Writer) {
        let Some(current) = writer.current.take() else {
            return;
        };
        log::error!(
            "'{}' could not be written; it is left alone from now on",
            path_of(current.number)
        );
        writer.stray_bytes += current.len;
        let mut recent = self.recent.write().expect("no panic under this lock");
        recent.retain(|_, (pack, _)| *pack != current.number);
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

    fn finished(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<u32, Finished>> {
        self.finished.read().expect("no panic under this lock")
    }

    fn recent(&self) -> std::sync::RwLockReadGuard<'_, HashMap<ChunkId, (u32, Place)>> {
        self.recent.read().expect("no panic under this lock")
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().expect("no panic under this lock")
    }
}

impl Writer {
    fn current_or_new(&mut self) -> &mut Current {
        let last = &mut self.last;
        self.current.get_or_insert_with(|| {
            *last += 1;
            Current {
                number: *last,
                len: 0,
                buffer: Vec::new(),
                places: Vec::new(),
                dirty: false,
                unnamed: true,
            }
        })
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

/// Reads the record headers of a pack that is not finished, up to the first that is not whole.
fn scan(disk: &dyn Disk, number: u32, len: u64) -> Result<Unfinished, StoreError> {
    let path = path_of(number);
    let mut places = Vec::new();
    let mut at = 0;
    let (mut window, mut window_at) = (Vec::new(), 0u64);
    while at + HEADER_LEN as u64 <= len {
        if at < window_at || at + HEADER_LEN as u64 > window_at + window.len() as u64 {
            window_at = at;
            window = disk
                .read_at(&path, at, SCAN_WINDOW)
                .map_err(StoreError::io("read", &path))?;
        }
        let start = (at - window_at) as usize;
        let Ok(header) = Header::decode(&window[start..]) else {
            break;
        };
        if at + header.record_len() > len {
            break;
        }
        let place = Place {
            offset: at,
            raw_len: header.raw_len,
            stored_len: header.stored_len,
        };
        places.push((header.id, place));
        at += header.record_len();
    }
    Ok(Unfinished {
        number,
        valid: at,
        len,
        places,
    })
}
