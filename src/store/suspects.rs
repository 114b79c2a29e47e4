//! Chunks that could not be read: what `status` shows, and what a seal must not take for being there.
//!
//! They are remembered over a restart in a file that may be lost: then the next reader finds them again.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use super::disk::Disk;
use super::error::StoreError;
use super::{CACHE, journal, replace};
use crate::model::ChunkId;
use crate::model::report::Suspect;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, MutexGuard};

/// More are not remembered: a pack that is gone as a whole has many.
const KEPT_MAX: usize = 1000;
const FILE: &str = "suspects";

/// The suspects of one store.
pub struct Suspects {
    disk: Arc<dyn Disk>,
    known: Mutex<BTreeMap<ChunkId, Suspect>>,
    /// Most stores have none, and every look-up asks.
    any: AtomicBool,
    /// Not remembered yet.
    changed: AtomicBool,
}

impl Suspects {
    /// Those that are remembered.
    pub fn load(disk: Arc<dyn Disk>) -> Self {
        let bytes = journal::read_whole(&*disk, &path()).unwrap_or_default();
        let list: Vec<Suspect> = serde_json::from_slice(&bytes).unwrap_or_default();
        let known: BTreeMap<_, _> = list.into_iter().map(|one| (one.chunk, one)).collect();
        Suspects {
            disk,
            any: AtomicBool::new(!known.is_empty()),
            known: Mutex::new(known),
            changed: AtomicBool::new(false),
        }
    }

    /// Remembers them over a restart. Not done as they are found: a reader writes nothing.
    pub fn keep(&self) {
        if !self.changed.swap(false, Ordering::Relaxed) {
            return;
        }
        let list = self.list();
        let bytes = serde_json::to_vec(&list).expect("a suspect has only text keys");
        if let Err(error) = replace(&*self.disk, &path(), &bytes) {
            log::debug!("'{}' cannot be written: {error}", path());
        }
    }

    /// True where there is any.
    pub fn has_any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// True where the chunk could not be read and has not come anew since.
    pub fn has(&self, id: &ChunkId) -> bool {
        self.any.load(Ordering::Acquire) && self.known().contains_key(id)
    }

    /// All of them.
    pub fn list(&self) -> Vec<Suspect> {
        self.known().values().cloned().collect()
    }

    /// A reader could not have this chunk.
    pub fn add(&self, id: &ChunkId, error: &StoreError) {
        let (file, offset) = match error {
            StoreError::DamagedChunk { path, offset, .. } => (path.clone(), *offset),
            StoreError::Io { path, .. } => (path.clone(), 0),
            _ => (super::packs::FOLDER.to_owned(), 0),
        };
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |elapsed| elapsed.as_secs());
        let mut known = self.known();
        if known.len() >= KEPT_MAX || known.contains_key(id) {
            return;
        }
        log::error!("{error}");
        let suspect = Suspect {
            chunk: *id,
            file,
            offset,
            what: error.to_string(),
            since,
        };
        known.insert(*id, suspect);
        self.changed(&known);
    }

    /// The chunk has come anew, or could be read after all.
    pub fn remove(&self, id: &ChunkId) {
        if !self.any.load(Ordering::Acquire) {
            return;
        }
        let mut known = self.known();
        if known.remove(id).is_some() {
            log::info!("chunk {id} is whole again");
            self.changed(&known);
        }
    }

    fn changed(&self, known: &BTreeMap<ChunkId, Suspect>) {
        self.any.store(!known.is_empty(), Ordering::Release);
        self.changed.store(true, Ordering::Relaxed);
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<ChunkId, Suspect>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn path() -> String {
    format!("{CACHE}/{FILE}")
}
