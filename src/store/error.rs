//! What can go wrong with the store, each with the file or id it happened to.

use std::io;

use crate::model::ChunkId;
use crate::model::codec::DecodeError;

/// A failure of the store. Every variant names what it happened to; the text says what to do where something can be done.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The operating system refused an operation on a file of the store.
    #[error("cannot {doing} '{path}': {cause}")]
    Io {
        /// The operation, as a verb: "read", "append to", "sync".
        doing: &'static str,
        /// The path, relative to the store.
        path: String,
        /// The operating system's answer.
        cause: io::Error,
    },
    /// No pack holds the chunk.
    #[error("chunk {0} is in no pack: run 'deployfs fsck', and seal its content again to heal it")]
    MissingChunk(ChunkId),
    /// A chunk's bytes do not hash to its id, or its record is damaged.
    #[error("chunk {id} is damaged in '{path}' at byte {offset}: {what}")]
    DamagedChunk {
        /// The chunk that was asked for.
        id: ChunkId,
        /// The pack, relative to the store.
        path: String,
        /// Where its record starts.
        offset: u64,
        /// What is wrong.
        what: String,
    },
    /// A tree or chunk list that hashes to its id but cannot be decoded.
    #[error("object {id} cannot be decoded: {cause}")]
    Object {
        /// Its id.
        id: String,
        /// What is wrong with its bytes.
        cause: DecodeError,
    },
}
