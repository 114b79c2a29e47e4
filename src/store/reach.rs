//! All chunks that a tree needs, whatever is below it: what gc, `du` and others count with.

use super::{Store, StoreError};
use crate::model::{Blob, ChunkId, Layout, Node};

/// Is told what is reached.
pub trait Reach {
    /// A tree; false: what is below it need not be looked at (again).
    fn enter(&mut self, tree: &Blob) -> bool;
    /// A chunk of a tree, a file or a list; often the same one again.
    fn chunk(&mut self, id: &ChunkId) -> Result<(), StoreError>;
}

/// Tells of all chunks of a tree and of everything below it.
pub fn reach_tree(store: &Store, root: &Blob, reach: &mut dyn Reach) -> Result<(), StoreError> {
    let mut todo = vec![root.clone()];
    while let Some(blob) = todo.pop() {
        reach_blob(store, &blob, reach)?;
        if !reach.enter(&blob) {
            continue;
        }
        for entry in store.read_tree(&blob)?.entries() {
            match &entry.node {
                Node::File(file) => reach_blob(store, file, reach)?,
                Node::Symlink(_) => {}
                Node::Dir { tree, .. } => todo.push(tree.clone()),
            }
        }
    }
    Ok(())
}

/// Tells of all chunks of a blob.
pub fn reach_blob(store: &Store, blob: &Blob, reach: &mut dyn Reach) -> Result<(), StoreError> {
    if let Layout::ListAt(list) = &blob.layout {
        reach.chunk(list)?;
    }
    for chunk in store.chunks(blob)? {
        reach.chunk(&chunk.id)?;
    }
    Ok(())
}
