//! Where chunks go: into the store, or, for a dry run, nowhere; both count what is new.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::model::ChunkId;
use crate::store::{Encoded, Store, StoreError};
use crate::sync::Mutex;

/// What was new.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Chunks that were not there.
    pub new_chunks: u64,
    /// Their raw bytes.
    pub new_bytes: u64,
    /// Bytes by which the packs grew.
    pub stored_bytes: u64,
}

/// Takes chunks, from several threads.
pub trait Sink: Sync {
    /// Takes a chunk; one that is there already costs only a look. `like`: what stood in its place before, if anything.
    fn put(&self, id: ChunkId, raw: &[u8], like: Option<&ChunkId>) -> Result<(), StoreError>;
    /// True where the chunk is there.
    fn contains(&self, id: &ChunkId) -> Result<bool, StoreError>;
    /// True while no chunk is known that could not be read.
    fn is_trusted(&self) -> bool;
    /// What was new so far.
    fn counts(&self) -> Counts;
}

#[derive(Default)]
pub(super) struct Counters {
    chunks: AtomicU64,
    bytes: AtomicU64,
    stored: AtomicU64,
}

impl Counters {
    pub(super) fn add(&self, raw: usize, stored: u64) {
        self.chunks.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(raw as u64, Ordering::Relaxed);
        self.stored.fetch_add(stored, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> Counts {
        Counts {
            new_chunks: self.chunks.load(Ordering::Relaxed),
            new_bytes: self.bytes.load(Ordering::Relaxed),
            stored_bytes: self.stored.load(Ordering::Relaxed),
        }
    }
}

/// After so many searches without the index it is opened. The small stores of unit tests open it too.
const SEARCHES: u64 = if cfg!(test) { 3 } else { 1000 };

/// Opens the index of a store, once, where that pays: not for the few chunks of a small change.
pub(super) struct IndexOpener<'a> {
    store: &'a Store,
    searches_before: u64,
    wants_index: AtomicBool,
}

impl<'a> IndexOpener<'a> {
    pub(super) fn new(store: &'a Store) -> Self {
        IndexOpener {
            store,
            searches_before: store.searches(),
            wants_index: AtomicBool::new(true),
        }
    }

    /// The other threads go on without it.
    pub(super) fn open_if_it_pays(&self) {
        let searches = self.store.searches().saturating_sub(self.searches_before);
        if searches >= SEARCHES && self.wants_index.swap(false, Ordering::Relaxed) {
            self.store.fill_index();
        }
    }
}

/// Appends to the store's packs.
pub struct StoreSink<'a> {
    store: &'a Store,
    index: IndexOpener<'a>,
    counters: Counters,
}

impl<'a> StoreSink<'a> {
    /// A sink into this store.
    pub fn new(store: &'a Store) -> Self {
        StoreSink {
            store,
            index: IndexOpener::new(store),
            counters: Counters::default(),
        }
    }

    /// Appends a chunk that is not there; one that may be is looked up first.
    pub(super) fn append(&self, chunk: &Encoded, may_be_there: bool) -> Result<(), StoreError> {
        if may_be_there && self.store.holds(&chunk.header.id)? {
            return Ok(());
        }
        let grown = self.store.append(chunk)?;
        if grown > 0 {
            self.counters.add(chunk.header.raw_len as usize, grown);
        }
        Ok(())
    }
}

impl Sink for StoreSink<'_> {
    fn put(&self, id: ChunkId, raw: &[u8], like: Option<&ChunkId>) -> Result<(), StoreError> {
        self.index.open_if_it_pays();
        if self.store.holds(&id)? {
            return Ok(());
        }
        self.append(&self.store.encode(id, raw, like), false)
    }

    fn contains(&self, id: &ChunkId) -> Result<bool, StoreError> {
        self.index.open_if_it_pays();
        self.store.contains(id)
    }

    fn is_trusted(&self) -> bool {
        !self.store.has_suspects()
    }

    fn counts(&self) -> Counts {
        self.counters.get()
    }
}

/// Stores nothing.
pub struct DrySink<'a> {
    store: &'a Store,
    seen: Mutex<HashSet<ChunkId>>,
    counters: Counters,
}

impl<'a> DrySink<'a> {
    /// A sink that looks into this store.
    pub fn new(store: &'a Store) -> Self {
        DrySink {
            store,
            seen: Mutex::default(),
            counters: Counters::default(),
        }
    }
}

impl Sink for DrySink<'_> {
    fn put(&self, id: ChunkId, raw: &[u8], like: Option<&ChunkId>) -> Result<(), StoreError> {
        if !self.store.contains(&id)?
            && self
                .seen
                .lock()
                .expect("no panic under this lock")
                .insert(id)
        {
            let record_len = self.store.encode(id, raw, like).header.record_len();
            self.counters.add(raw.len(), record_len);
        }
        Ok(())
    }

    fn contains(&self, id: &ChunkId) -> Result<bool, StoreError> {
        self.store.contains(id)
    }

    fn is_trusted(&self) -> bool {
        !self.store.has_suspects()
    }

    fn counts(&self) -> Counts {
        self.counters.get()
    }
}
