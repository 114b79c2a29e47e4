//! Which store a command is about: `--store`, else `DEPLOYFS_STORE`, else the mount that the working directory is in.

use std::path::{Path, PathBuf};

use super::Error;
use crate::view::find_mount_of;

/// The store's folder, absolute.
pub fn find(given: Option<&Path>) -> Result<PathBuf, Error> {
    if let Some(path) = given {
        return absolute(path);
    }
    let here = std::env::current_dir()
        .map_err(|error| Error::failed(format!("the working directory is gone: {error}")))?;
    match find_mount_of(&here) {
        Some(mount) => Ok(mount.store),
        None => Err(Error::Usage(format!(
            "which store? Nothing is mounted at or above '{}': mount it and come again (cd .), give --store PATH, or set DEPLOYFS_STORE",
            here.display()
        ))),
    }
}

/// The path without symlinks, from the root.
pub fn absolute(path: &Path) -> Result<PathBuf, Error> {
    path.canonicalize()
        .map_err(|error| Error::failed(format!("'{}': {error}", path.display())))
}
