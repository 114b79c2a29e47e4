//! Archives from elsewhere: a tar stream, read with care and unpacked into a folder. What it holds was made by somebody else, so
//! nothing in it is believed: not a name, not a size, not its end.

mod compression;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod header;
mod tar;
mod unpack;

use std::io;
use std::path::PathBuf;

pub use compression::decompressed;
pub use unpack::{Limits, Watch, unpack};

/// Why an archive was not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// One entry is not taken, and so the whole archive is not.
    #[error("{}: {what}", String::from_utf8_lossy(path))]
    Entry {
        /// Its name in the archive.
        path: Vec<u8>,
        /// What is wrong with it and what to do.
        what: String,
    },
    /// It is not what it should be.
    #[error("{0}")]
    Format(String),
    /// It ends before its end.
    #[error(
        "the archive ends too early, as after a connection that broke or a build that failed: send it again"
    )]
    Truncated,
    /// The stream fails.
    #[error("it cannot be read: {0}")]
    Read(io::Error),
    /// The disk fails.
    #[error("'{}' cannot be written: {cause}", path.display())]
    Write {
        /// Where.
        path: PathBuf,
        /// The operating system's answer.
        cause: io::Error,
    },
    /// Interrupted by the one who asked.
    #[error("interrupted")]
    Cancelled,
}

impl ArchiveError {
    fn entry(path: &[u8], what: impl Into<String>) -> Self {
        ArchiveError::Entry {
            path: path.to_owned(),
            what: what.into(),
        }
    }

    fn read(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            ArchiveError::Truncated
        } else {
            ArchiveError::Read(error)
        }
    }
}
