//! What can go wrong with the store, each with the file or id it happened to.

use std::io;

use crate::model::codec::DecodeError;
use crate::model::{ChunkId, DeployId};

/// A failure of the store. Every text says what it happened to, and what to do where something can be done.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The operating system refused an operation on a file of the store.
    #[error("cannot {doing} '{path}': {cause}{}", remedy(cause))]
    Io {
        /// The operation, as a verb: "read", "append to", "sync".
        doing: &'static str,
        /// The path.
        path: String,
        /// The operating system's answer.
        cause: io::Error,
    },
    /// `init` on a folder that has something in it.
    #[error("'{0}' is not empty: give a new folder, or an empty one")]
    NotEmpty(String),
    /// The folder has no `format` file of ours.
    #[error("'{0}' is not a deployfs store: make one with 'deployfs init {0}'")]
    NotAStore(String),
    /// The first backup into the folder has not ended.
    #[error("'{0}' is a backup that is not complete: make the backup again, it goes on from here")]
    IncompleteBackup(String),
    /// Written by a later deployfs.
    #[error(
        "'{path}' has store format '{found}', this deployfs knows 'deployfs 1': use a newer deployfs"
    )]
    NewerFormat {
        /// The store.
        path: String,
        /// The first line of its `format` file.
        found: String,
    },
    /// The `format` file is damaged.
    #[error("'{0}/format' is damaged: 'deployfs fsck --repair' mends it")]
    Format(String),
    /// A file of the store that is not what it was when it was written.
    #[error("'{path}' at byte {offset}: {what}; 'deployfs fsck --repair' mends what can be mended")]
    Damaged {
        /// The file, relative to the store.
        path: String,
        /// Where.
        offset: u64,
        /// What is wrong.
        what: String,
    },
    /// Another process has the store open for writing.
    #[error(
        "'{path}' is in use by {holder}: wait for it to end, or end it ('deployfs umount MOUNTPOINT' ends a daemon)"
    )]
    InUse {
        /// The store.
        path: String,
        /// Who, as far as is known.
        holder: String,
    },
    /// A gc has no room to move what is kept.
    #[error(
        "{cause}; gc has freed {freed} bytes and stops: to free the next pack it needs {needed} more bytes on the store's disk"
    )]
    NoRoom {
        /// What failed.
        cause: Box<StoreError>,
        /// Bytes that were freed before.
        freed: u64,
        /// Bytes that must be free for it to go on.
        needed: u64,
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
    /// A deploy that the history knows has no readable deploy file.
    #[error("deploy file 'deploys/{id}' cannot be used: {what}")]
    DeployFile {
        /// The deploy.
        id: DeployId,
        /// What is wrong with it.
        what: String,
    },
    /// Nothing may be written: the history holds something that cannot be continued.
    #[error("the store cannot be written: 'history' at byte {offset}: {what}")]
    History {
        /// Where the line starts that is damaged or not understood.
        offset: u64,
        /// What is wrong with it.
        what: String,
    },
    /// A pack that a seal wrote to could not be written, noticed by somebody else: what that one was told.
    #[error("a pack could not be written while this was being sealed: {0}")]
    PackLost(String),
    /// Nothing may be written until the store is opened again.
    #[error(
        "the store has stopped taking changes, since an earlier write to 'history' failed: free space or replace the disk, then start deployfs again"
    )]
    Stopped,
    /// A record was written, and the disk did not confirm it: after a restart it may be there or not.
    #[error(
        "it is not known whether this is recorded, since 'history' was written and cannot be synced: {0}; free space or replace the disk, start deployfs again, and see 'deployfs log'"
    )]
    NotConfirmed(io::Error),
    /// Opened for reading only.
    #[error("'{0}' is open for reading only")]
    ReadOnly(String),
}

/// What to do about an answer of the operating system; empty where that depends.
pub fn remedy(cause: &io::Error) -> &'static str {
    if cause.raw_os_error() == Some(libc::EPERM) {
        return "; an attribute may forbid it to root too: see 'lsattr -d', and take it away with 'chattr -i -a'";
    }
    match cause.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; free space on the store's disk, or inodes where 'df -i' shows none left, then try again"
        }
        io::ErrorKind::ReadOnlyFilesystem => "; make the store's disk writable, then try again",
        io::ErrorKind::PermissionDenied => "; be root or the store's owner",
        _ => "",
    }
}

impl StoreError {
    pub(crate) fn io(
        doing: &'static str,
        path: impl Into<String>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |cause| StoreError::Io { doing, path, cause }
    }

    /// True where the disk, or the user's share of it, is full.
    pub(super) fn is_full(&self) -> bool {
        let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
        matches!(self, StoreError::Io { cause, .. } if full.contains(&cause.kind()))
    }

    /// True where the file is not there.
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, StoreError::Io { cause, .. } if cause.kind() == io::ErrorKind::NotFound)
    }
}
