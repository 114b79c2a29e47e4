//! Where chunks go: into the store, or, for a dry run, nowhere; both count what is new.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::model::ChunkId;
use crate::store::{Store, StoreError};
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
struct Counters {
    chunks: AtomicU64,
    bytes: AtomicU64,
    stored: AtomicU64,
}

impl Counters {
    fn add(&self, raw: usize, stored: u64) {
        self.chunks.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(raw as u64, Ordering::Relaxed);
        self.stored.fetch_add(stored, Ordering::Relaxed);
    }

    fn get(&self) -> Counts {
        Counts {
            new_chunks: self.chunks.load(Ordering::Relaxed),
            new_bytes: self.bytes.load(Ordering::Relaxed),
            stored_bytes: self.stored.load(Ordering::Relaxed),
        }
    }
}

/// After so many searches without the index it is opened. The small stores of unit tests open it too.
const SEARCHES: u64 = if cfg!(test) { 3 } else { 1000 };

/// Appends to the store's packs.
pub struct StoreSink<'a> {
    store: &'a Store,
    searches_before: u64,
    wants_index: AtomicBool,
    counters: Counters,
}

impl<'a> StoreSink<'a> {
    /// A sink into this store.
    pub fn new(store: &'a Store) -> Self {
        StoreSink {
            store,
            searches_before: store.searches(),
            wants_index: AtomicBool::new(true),
            counters: Counters::default(),
        }
    }

    /// Opens the index, once, where that pays: not for the few chunks of a small change. The other threads go on without it.
    fn open_index_if_it_pays(&self) {
        let searches = self.store.searches().saturating_sub(self.searches_before);
        if searches >= SEARCHES && self.wants_index.swap(false, Ordering::Relaxed) {
            self.store.fill_index();
        }
    }
}

impl Sink for StoreSink<'_> {
    fn put(&self, id: ChunkId, raw: &[u8], like: Option<&ChunkId>) -> Result<(), StoreError> {
        self.open_index_if_it_pays();
        if self.store.holds(&id)? {
            return Ok(());
        }
        let grown = self.store.append(&self.store.encode(id, raw, like))?;
        if grown > 0 {
            self.counters.add(raw.len(), grown);
        }
        Ok(())
    }

    fn contains(&self, id: &ChunkId) -> Result<bool, StoreError> {
        self.open_index_if_it_pays();
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
