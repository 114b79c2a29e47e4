//! Where chunks wait while a client's folder is read: nothing of a client's is read under a lock of the store, so that a folder on a
//! filesystem that hangs, or a very large one, holds up nobody else's seal and no gc.
//!
//! The spool compresses what is new, as the store would, and keeps it in memory, or in a file without a name in the store's folder.
//! Under the lock of seals its chunks are appended at once. Until then nothing protects the chunks that were found in the store:
//! where any may have been removed since, each is looked up once more, and a seal that misses one reads its folder again.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate};

use super::error::DeployError;
use super::sink::{Counters, Counts, IndexOpener, Sink, StoreSink};
use crate::model::ChunkId;
use crate::store::{Codec, Encoded, HEADER_LEN, Header, Store, StoreError, random_hex};
use crate::sync::Mutex;

/// Bytes that are kept in memory before they go to a file.
const BUFFER: usize = 8 << 20;
/// Bytes that are read from it at a time.
const READ_BUFFER: usize = 1 << 20;
/// So many bytes are given back to the disk at a time.
const RELEASE_STEP: u64 = 8 << 20;

/// Takes the chunks of one folder.
pub struct Spool<'a> {
    store: &'a Store,
    index: IndexOpener<'a>,
    /// [`Store::appended`] and the removals so far, when it was made.
    appended: u64,
    removals: u64,
    waiting: Mutex<Waiting>,
    /// Chunks that were found in the store.
    found: Mutex<HashSet<ChunkId>>,
    counters: Counters,
}

#[derive(Default)]
struct Waiting {
    ids: HashSet<ChunkId>,
    /// Records as in a pack, behind those in the file.
    buffer: Vec<u8>,
    file: Option<File>,
}

impl<'a> Spool<'a> {
    /// An empty spool. `removals`: how often chunks may have been removed from the store so far.
    pub fn new(store: &'a Store, removals: u64) -> Self {
        Spool {
            store,
            index: IndexOpener::new(store),
            appended: store.appended(),
            removals,
            waiting: Mutex::default(),
            found: Mutex::default(),
            counters: Counters::default(),
        }
    }

    /// Appends all chunks to the store. The caller holds the lock of seals; `removals` as it is now.
    ///
    /// # Errors
    /// [`DeployError::ReadAgain`] where a chunk that was found is there no more.
    pub fn empty_into(self, sink: &StoreSink<'_>, removals: u64) -> Result<(), DeployError> {
        let mut waiting = self.waiting.into_inner().expect("no panic under this lock");
        // What is appended needs as much memory again.
        waiting.ids = HashSet::new();
        let found = self.found.into_inner().expect("no panic under this lock");
        if removals != self.removals {
            for id in &found {
                if !self.store.contains(id)? {
                    return Err(DeployError::ReadAgain);
                }
            }
        }
        drop(found);
        let others_appended = self.store.appended() != self.appended;
        if let Some(file) = &mut waiting.file {
            file.rewind().map_err(StoreError::io("read", "the spool"))?;
            let mut records = io::BufReader::with_capacity(READ_BUFFER, &*file);
            let (mut done, mut released) = (0, 0);
            while let Some(chunk) = next_record(&mut records)? {
                sink.append(&chunk, others_appended)?;
                done += chunk.header.record_len();
                if done >= released + RELEASE_STEP {
                    release(&*file, done);
                    released = done;
                }
            }
        }
        let mut records = waiting.buffer.as_slice();
        while let Some(chunk) = next_record(&mut records)? {
            sink.append(&chunk, others_appended)?;
        }
        Ok(())
    }

    fn rely_on(&self, id: &ChunkId) {
        self.found
            .lock()
            .expect("no panic under this lock")
            .insert(*id);
    }

    /// False: the chunk waits already.
    fn take(&self, chunk: &Encoded) -> Result<bool, StoreError> {
        let mut waiting = self.waiting.lock().expect("no panic under this lock");
        if !waiting.ids.insert(chunk.header.id) {
            return Ok(false);
        }
        waiting.buffer.extend_from_slice(&chunk.header.encode());
        waiting.buffer.extend_from_slice(&chunk.payload);
        if waiting.buffer.len() >= BUFFER {
            waiting
                .write_out(self.store)
                .map_err(StoreError::io("write", "the spool"))?;
        }
        Ok(true)
    }

    fn waits(&self, id: &ChunkId) -> bool {
        let waiting = self.waiting.lock().expect("no panic under this lock");
        waiting.ids.contains(id)
    }
}

impl Waiting {
    fn write_out(&mut self, store: &Store) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(nameless(store.root())?),
        };
        file.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }
}

impl Sink for Spool<'_> {
    fn put(&self, id: ChunkId, raw: &[u8], like: Option<&ChunkId>) -> Result<(), StoreError> {
        self.index.open_if_it_pays();
        if self.waits(&id) {
            return Ok(());
        }
        if self.store.holds(&id)? {
            self.rely_on(&id);
            return Ok(());
        }
        let chunk = self.store.encode(id, raw, like);
        if let Codec::ZstdWith(other) | Codec::ZstdLike(other) = &chunk.header.codec {
            self.rely_on(other);
        }
        if self.take(&chunk)? {
            self.counters.add(raw.len(), chunk.header.record_len());
        }
        Ok(())
    }

    fn contains(&self, id: &ChunkId) -> Result<bool, StoreError> {
        self.index.open_if_it_pays();
        if self.waits(id) {
            return Ok(true);
        }
        let contains = self.store.contains(id)?;
        if contains {
            self.rely_on(id);
        }
        Ok(contains)
    }

    fn is_trusted(&self) -> bool {
        !self.store.has_suspects()
    }

    fn counts(&self) -> Counts {
        self.counters.get()
    }
}

/// `None` at the end.
fn next_record(from: &mut impl Read) -> Result<Option<Encoded>, StoreError> {
    let failed = || StoreError::io("read", "the spool");
    let mut header = [0; HEADER_LEN];
    match from.read(&mut header[..1]).map_err(failed())? {
        0 => return Ok(None),
        _ => from.read_exact(&mut header[1..]).map_err(failed())?,
    }
    let header = Header::decode(&header)
        .map_err(io::Error::other)
        .map_err(failed())?;
    let mut payload = vec![0; header.stored_len as usize];
    from.read_exact(&mut payload).map_err(failed())?;
    Ok(Some(Encoded { header, payload }))
}

/// Gives the disk back what has been appended, where its filesystem can: a full disk need not hold it twice.
fn release(file: impl AsFd, done: u64) {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(file, flags, 0, done).ok();
}

/// A file in this folder that has no name and goes with this process.
pub fn nameless(folder: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).write(true).mode(0o600);
    let unnamed = options.clone().custom_flags(libc::O_TMPFILE).open(folder);
    unnamed.or_else(|_| {
        let path = folder.join(format!(".spool-{}", random_hex()));
        let file = options.create_new(true).open(&path)?;
        std::fs::remove_file(&path)?;
        Ok(file)
    })
}
