//! Pure words and rules: no I/O, no clock, no lock, no thread.
//!
//! Everything here is a function of its arguments, so it can be tested with plain values and a `HashMap` for a store.

pub mod blob;
pub mod chunking;
pub mod codec;
pub mod content;
pub mod deploy_file;
pub mod diff;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod history;
pub mod ids;
pub mod ledger;
pub mod limits;
pub mod mending;
pub mod moment;
pub mod mtime;
pub mod name;
pub mod report;
pub mod retention;
pub mod sealed_tree;
pub mod tree;

pub use blob::{Blob, ChunkRef, Layout};
pub use ids::{ChunkId, ContentId, DeployId};
pub use name::{ChannelName, Name, StagingName};
pub use sealed_tree::SealedTree;
pub use tree::{Entry, Node, Tree};
