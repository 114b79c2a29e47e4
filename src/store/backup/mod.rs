//! A backup: another store with the same uuid that holds one state of this one, a prefix of its history.
//!
//! The source is opened for reading, beside whoever writes to it; [`Hold`](super::hold::Hold) keeps its packs from being
//! removed. First the history is read, then the packs: so every chunk that the history needs is in a pack that is known.
//!
//! The target is written in the commit order of a seal, so a crash at any step leaves its state before or after:
//!
//! 1. chunks that are not there are appended and synced;
//! 2. deploy files are written. One of a deploy that was removed and sealed again since the last backup gets the number of its
//!    seal behind its name, `deploys/ID.SEQ`: it counts once the history has that seal;
//! 3. the history is replaced, in one step;
//! 4. in a new target, the `format` file is written: only now it is a store. Until then `backup.incomplete` marks it.
//!
//! What the source has removed goes afterwards, by a gc of the target.

mod copy;
mod settings;
mod snapshot;
mod target;

use std::path::Path;

use super::StoreError;

pub use copy::Copied;
pub use snapshot::Snapshot;
pub use target::{INCOMPLETE, Place, Target, is_gc_due};

/// Why no backup was made.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// Source or target failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The target holds another store.
    #[error("'{dir}' is a backup of another store, {found}: give a new folder, or an empty one")]
    OtherStore {
        /// The target.
        dir: String,
        /// The uuid that it has.
        found: String,
    },
    /// The target has a state of which the source knows nothing.
    #[error(
        "'{dir}' has a history of its own from record {seq} on, so it is no backup of '{source_dir}' any more: one of the two was changed, or put back, since the last backup; keep it, and give a new folder, or an empty one"
    )]
    Diverged {
        /// The target.
        dir: String,
        /// The source.
        source_dir: String,
        /// The first record that differs.
        seq: u64,
    },
    /// Some of the source cannot be read.
    #[error("not everything could be read, so '{dir}' stays as it was:{}\nseal that content again to heal it, or 'deployfs rm' the deploys, then make the backup again", lines(.problems))]
    Damaged {
        /// The target.
        dir: String,
        /// What cannot be read, each with its path in the source.
        problems: Vec<String>,
    },
    /// Deploys are removed faster than the list of them is read.
    #[error("deploys are removed from '{0}' all the time: try again when that has ended")]
    Restless(String),
    /// The caller ended it.
    #[error("interrupted: the backup stays as it was, and goes on from here next time")]
    Cancelled,
}

fn lines(problems: &[String]) -> String {
    problems.iter().map(|one| format!("\n  {one}")).collect()
}

/// Copies what people write into a store: `retention.toml` and the hooks.
pub fn copy_settings(from: &Path, to: &Path) -> Result<(), StoreError> {
    settings::copy(from, to)
}
