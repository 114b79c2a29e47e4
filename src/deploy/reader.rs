//! Reads sealed bytes for the views: trees as they are stored, chunk lists and the chunks of large files, each in a bounded cache.

use std::collections::BTreeMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};

use crate::model::{Blob, ChunkId, ContentId, Layout, SealedTree};
use crate::store::{Store, StoreError};

/// Bytes of trees kept: those of a million files take 55 MiB. One that is larger (a folder of a million files) is kept as long as
/// no other such is read.
const TREE_BYTES: u64 = 64 << 20;
/// Bytes of large files' chunks kept: the kernel asks for one in several requests. Small files are read once.
const CHUNK_BYTES: u64 = 16 << 20;
/// Bytes of chunk lists kept, roughly.
const LIST_BYTES: u64 = 8 << 20;
/// Rough memory of a chunk reference.
const REF_BYTES: usize = 48;

/// Caches over a store. What is read is verified on its way in.
pub struct Reader {
    trees: Cache<ContentId, Arc<SealedTree>, Weight>,
    huge: Mutex<Option<(ContentId, Arc<SealedTree>)>>,
    chunks: Cache<ChunkId, Arc<Vec<u8>>, Weight>,
    lists: Cache<ContentId, Arc<Vec<Piece>>, Weight>,
}

/// One chunk of a file and where its bytes end in the file.
#[derive(Debug, Clone, Copy)]
struct Piece {
    id: ChunkId,
    start: u64,
    end: u64,
}

#[derive(Clone)]
struct Weight;

impl Weighter<ContentId, Arc<SealedTree>> for Weight {
    fn weight(&self, _: &ContentId, tree: &Arc<SealedTree>) -> u64 {
        tree.memory() as u64
    }
}

impl Weighter<ContentId, Arc<Vec<Piece>>> for Weight {
    fn weight(&self, _: &ContentId, list: &Arc<Vec<Piece>>) -> u64 {
        (64 + list.len() * REF_BYTES) as u64
    }
}

impl Weighter<ChunkId, Arc<Vec<u8>>> for Weight {
    fn weight(&self, _: &ChunkId, raw: &Arc<Vec<u8>>) -> u64 {
        64 + raw.len() as u64
    }
}

impl Default for Reader {
    fn default() -> Self {
        Reader {
            trees: cache(1000, TREE_BYTES),
            huge: Mutex::default(),
            chunks: cache(64, CHUNK_BYTES),
            lists: cache(100, LIST_BYTES),
        }
    }
}

/// In one shard: each of several would take only items that fit its share.
fn cache<K: Eq + Hash, V: Clone>(items: usize, bytes: u64) -> Cache<K, V, Weight>
where
    Weight: Weighter<K, V>,
{
    let options = OptionsBuilder::new()
        .shards(1)
        .estimated_items_capacity(items)
        .weight_capacity(bytes)
        .build()
        .expect("both sizes are given");
    Cache::with_options(
        options,
        Weight,
        DefaultHashBuilder::default(),
        DefaultLifecycle::default(),
    )
}

impl Reader {
    /// Hits, misses and bytes of each cache, as `trees_hits` and so on.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        let mut add = |cache: &str, [hits, misses, bytes]: [u64; 3]| {
            counts.insert(format!("{cache}_hits"), hits);
            counts.insert(format!("{cache}_misses"), misses);
            counts.insert(format!("{cache}_bytes"), bytes);
        };
        let Reader {
            trees,
            chunks,
            lists,
            huge: _,
        } = self;
        add("trees", [trees.hits(), trees.misses(), trees.weight()]);
        add("chunks", [chunks.hits(), chunks.misses(), chunks.weight()]);
        add("lists", [lists.hits(), lists.misses(), lists.weight()]);
        counts
    }

    /// The stored tree.
    pub fn tree(&self, store: &Store, blob: &Blob) -> Result<Arc<SealedTree>, StoreError> {
        // An entry takes 12 bytes or more, and 4 in the table: only what is so long can be too large for the cache.
        if blob.len * 16 / 12 > TREE_BYTES {
            return self.huge_tree(store, blob);
        }
        self.trees
            .get_or_insert_with(&blob.id, || store.read_sealed_tree(blob).map(Arc::new))
    }

    fn huge_tree(&self, store: &Store, blob: &Blob) -> Result<Arc<SealedTree>, StoreError> {
        let mut huge = self.huge.lock().unwrap_or_else(PoisonError::into_inner);
        match &*huge {
            Some((id, tree)) if *id == blob.id => Ok(tree.clone()),
            Some(_) | None => {
                let tree = Arc::new(store.read_sealed_tree(blob)?);
                *huge = Some((blob.id, tree.clone()));
                Ok(tree)
            }
        }
    }

    /// Exactly the bytes `offset..min(offset + len, blob.len)`.
    pub fn read(
        &self,
        store: &Store,
        blob: &Blob,
        offset: u64,
        len: u32,
    ) -> Result<Vec<u8>, StoreError> {
        let end = blob.len.min(offset.saturating_add(u64::from(len)));
        if offset >= end {
            return Ok(Vec::new());
        }
        if let Layout::Single = blob.layout {
            let mut raw = store.read_chunk(&ChunkId(blob.id.0))?;
            return match raw.len() as u64 == blob.len {
                true if offset == 0 && end == blob.len => Ok(raw),
                true => Ok(raw.drain(offset as usize..end as usize).collect()),
                false => Err(wrong_length(&ChunkId(blob.id.0))),
            };
        }
        let list = self.list(store, blob)?;
        let first = list.partition_point(|piece| piece.end <= offset);
        let mut out = Vec::with_capacity((end - offset) as usize);
        for piece in list[first..].iter().take_while(|piece| piece.start < end) {
            self.read_piece(store, piece, offset, end, &mut out)?;
        }
        Ok(out)
    }

    /// Appends what the piece has of the file's bytes `offset..end`.
    fn read_piece(
        &self,
        store: &Store,
        piece: &Piece,
        offset: u64,
        end: u64,
        out: &mut Vec<u8>,
    ) -> Result<(), StoreError> {
        let len = piece.end - piece.start;
        if offset <= piece.start && piece.end <= end && self.chunks.get(&piece.id).is_none() {
            // All of it is asked for, and will not be again.
            let before = out.len() as u64;
            store.read_chunk_into(&piece.id, out)?;
            return match out.len() as u64 - before == len {
                true => Ok(()),
                false => Err(wrong_length(&piece.id)),
            };
        }
        let raw = self
            .chunks
            .get_or_insert_with(&piece.id, || store.read_chunk(&piece.id).map(Arc::new))?;
        if raw.len() as u64 != len {
            return Err(wrong_length(&piece.id));
        }
        let from = offset.max(piece.start) - piece.start;
        let to = end.min(piece.end) - piece.start;
        out.extend_from_slice(&raw[from as usize..to as usize]);
        Ok(())
    }

    fn list(&self, store: &Store, blob: &Blob) -> Result<Arc<Vec<Piece>>, StoreError> {
        self.lists.get_or_insert_with(&blob.id, || {
            let mut start = 0;
            let pieces = store.chunks(blob)?.into_iter().map(|chunk| {
                let piece = Piece {
                    id: chunk.id,
                    start,
                    end: start + u64::from(chunk.len),
                };
                start = piece.end;
                piece
            });
            Ok(Arc::new(pieces.collect()))
        })
    }
}

fn wrong_length(id: &ChunkId) -> StoreError {
    StoreError::DamagedChunk {
        id: *id,
        path: "packs".into(),
        offset: 0,
        what: "it has another length than the file that names it says".into(),
    }
}
