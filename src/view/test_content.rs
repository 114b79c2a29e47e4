//! Sealed content in memory, for tests.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use crate::deploy::mounted::{Content, Root};
use crate::model::content::tree_content_id;
use crate::model::{
    Blob, ChunkId, ChunkRef, ContentId, DeployId, Entry, Name, Node, SealedTree, Tree,
};
use crate::store::StoreError;

/// A `HashMap` for a store.
#[derive(Default)]
pub(crate) struct Memory(Mutex<HashMap<ContentId, Vec<u8>>>);

impl Memory {
    fn keep(&self, bytes: Vec<u8>) -> Blob {
        let blob = Blob::single(&bytes);
        self.0.lock().unwrap().insert(blob.id, bytes);
        blob
    }

    fn bytes(&self, blob: &Blob) -> Result<Vec<u8>, StoreError> {
        let kept = self.0.lock().unwrap().get(&blob.id).cloned();
        kept.ok_or(StoreError::MissingChunk(ChunkId(blob.id.0)))
    }

    /// Loses the bytes, as a damaged disk would.
    pub(crate) fn lose(&self, bytes: &[u8]) {
        self.0.lock().unwrap().remove(&ContentId::of(bytes));
    }

    /// Seals `(path, bytes)`; a path that ends in `@` is a symlink to the bytes. At least one `/` deep paths make directories.
    pub(crate) fn seal(&self, files: &[(&str, &str)], mtime: u64, order: u64) -> Root {
        let (tree, content) = self.tree(files, mtime);
        Root {
            id: DeployId::of(&content),
            tree,
            mtime,
            order,
        }
    }

    fn tree(&self, files: &[(&str, &str)], mtime: u64) -> (Blob, ContentId) {
        let mut entries = Vec::new();
        let mut dirs: HashMap<&str, Vec<(&str, &str)>> = HashMap::new();
        for &(path, bytes) in files {
            match path.split_once('/') {
                Some((dir, rest)) => dirs.entry(dir).or_default().push((rest, bytes)),
                None => entries.push(self.leaf(path, bytes, mtime)),
            }
        }
        for (dir, files) in dirs {
            let (tree, content) = self.tree(&files, mtime);
            entries.push(entry(dir, 0o555, mtime, Node::Dir { content, tree }));
        }
        let tree = Tree::new(entries);
        (self.keep(tree.encode()), tree_content_id(&tree))
    }

    fn leaf(&self, name: &str, bytes: &str, mtime: u64) -> Entry {
        match name.strip_suffix('@') {
            Some(name) => entry(name, 0o777, mtime, Node::Symlink(bytes.as_bytes().into())),
            None => {
                let blob = self.keep(bytes.as_bytes().to_vec());
                entry(name, 0o444, mtime, Node::File(blob))
            }
        }
    }
}

fn entry(name: &str, mode: u16, mtime: u64, node: Node) -> Entry {
    Entry {
        name: Name::new(name.as_bytes()).unwrap(),
        mode,
        mtime,
        node,
    }
}

impl Content for Memory {
    fn sealed_tree(&self, blob: &Blob) -> Result<Arc<SealedTree>, StoreError> {
        Ok(Arc::new(SealedTree::new(self.bytes(blob)?).unwrap()))
    }

    fn chunks(&self, _: &Blob) -> Result<Vec<ChunkRef>, StoreError> {
        unreachable!("a view reads bytes, not chunks")
    }

    fn read(&self, blob: &Blob, offset: u64, len: u32) -> Result<Vec<u8>, StoreError> {
        let end = (offset + u64::from(len)).min(blob.len);
        Ok(self.bytes(blob)?[offset as usize..end as usize].to_vec())
    }
}
