//! What the flow and a mounted view say to each other: the view reads trees and files, the flow tells it what became true.

use std::sync::Arc;

use crate::model::{Blob, ChannelName, ChunkRef, DeployId, SealedTree, Tree};
use crate::store::StoreError;

/// A deploy as a view shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// Its address.
    pub id: DeployId,
    /// The stored tree of its root directory, mtimes included.
    pub tree: Blob,
    /// The root directory's own mtime, whole seconds since 1970.
    pub mtime: u64,
    /// Its place in the order of first seals: stable, ascending, never used twice.
    pub order: u64,
}

impl Root {
    /// A deploy whose file cannot be read: everything in it is an error, since its tree is in no pack.
    pub fn unreadable(id: DeployId, order: u64) -> Self {
        Root {
            id,
            tree: Blob::single(NO_TREE),
            mtime: 0,
            order,
        }
    }
}

/// Whether a directory's tree is that of [`Root::unreadable`].
pub fn is_unreadable(tree: &Blob) -> bool {
    *tree == Blob::single(NO_TREE)
}

const NO_TREE: &[u8] =
    b"deployfs: the tree of a deploy that cannot be read; these bytes are never stored";

/// All that a view shows when it is mounted.
#[derive(Debug, Clone, Default)]
pub struct Shown {
    /// What is live.
    pub live: Option<Root>,
    /// What the other channels show.
    pub channels: Vec<(ChannelName, Root)>,
    /// Every deploy.
    pub deploys: Vec<Root>,
}

/// Sealed bytes, verified against their ids as they are read.
pub trait Content: Send + Sync + 'static {
    /// A tree as it is stored, from memory where it is used often.
    fn sealed_tree(&self, blob: &Blob) -> Result<Arc<SealedTree>, StoreError>;

    /// The decoded tree.
    fn tree(&self, blob: &Blob) -> Result<Arc<Tree>, StoreError> {
        Ok(Arc::new(self.sealed_tree(blob)?.decode()))
    }

    /// The chunks of a blob, in order.
    fn chunks(&self, blob: &Blob) -> Result<Vec<ChunkRef>, StoreError>;

    /// Exactly the bytes `offset..min(offset + len, blob.len)`, or an error.
    fn read(&self, blob: &Blob, offset: u64, len: u32) -> Result<Vec<u8>, StoreError>;
}

/// Something that is open, or may be opened without a look at `deploys/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    /// A file's bytes.
    File(Blob),
    /// A directory's tree.
    Dir(Blob),
}

/// The mount could not be told; what was recorded stands.
#[derive(Debug, thiserror::Error)]
pub enum MountedError {
    /// A notification to the kernel failed.
    #[error("the kernel did not take the notice for '{what}': {cause}")]
    Notify {
        /// Which entry or inode.
        what: String,
        /// The kernel's answer.
        cause: std::io::Error,
    },
    /// The notice is under way and waits for a lock in the kernel.
    #[error("another process holds up the mount")]
    Waiting,
    /// The view has ended.
    #[error("the mount is gone")]
    Gone,
}

impl MountedError {
    /// What makes the mount show what is recorded.
    pub fn remedy(&self) -> &'static str {
        match self {
            MountedError::Waiting => {
                "the mount shows it as soon as that process lets go; 'deployfs status', as root, names it"
            }
            MountedError::Notify { .. } | MountedError::Gone => {
                "unmount and mount again to show it"
            }
        }
    }
}

/// A view that is mounted. Calls return once no new path walk can see the state before.
/// They must not be made on a thread that answers FUSE requests, nor with a lock held that such a thread takes.
pub trait Mounted: Send + Sync {
    /// Makes `root` what the channel shows: publish, barrier, retire. `live` is a channel.
    fn flip(&self, channel: &ChannelName, root: &Root) -> Result<(), MountedError>;

    /// The channel has been taken away; it is not `live`. Open files go on reading.
    fn closed(&self, channel: &ChannelName) -> Result<(), MountedError>;

    /// `root` has been sealed: `deploys/` lists it from now on.
    fn sealed(&self, root: &Root) -> Result<(), MountedError>;

    /// Tells of every file and directory that somebody may go on reading, also of removed deploys. What is reached later is
    /// below one of them, or in a deploy that is there.
    fn held(&self, tell: &mut dyn FnMut(Held));

    /// Lets go of all that nobody has open of what is shown no more.
    fn reclaim(&self) {}

    /// The deploy has been removed: `deploys/` does not list it any more. Open files go on reading.
    fn removed(&self, id: DeployId) -> Result<(), MountedError>;
}
