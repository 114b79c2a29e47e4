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
        None => store_of_staging(&here).ok_or_else(|| Error::Usage(format!(
            "which store? Nothing is mounted at or above '{}': mount the store there ('cd .' if that was just done), give --store PATH, or set DEPLOYFS_STORE",
            here.display()
        ))),
    }
}

/// The store whose staging folder this is, or lies in: `cd "$(deployfs create v1)"` leads there.
fn store_of_staging(here: &Path) -> Option<PathBuf> {
    let mut above = here.ancestors().skip(1);
    let staging = above.find(|path| {
        let store = path.parent().map(|store| store.join("format"));
        path.ends_with("staging") && store.is_some_and(|format| format.is_file())
    })?;
    staging.parent().map(Path::to_owned)
}

/// The path without symlinks, from the root.
pub fn absolute(path: &Path) -> Result<PathBuf, Error> {
    path.canonicalize()
        .map_err(|error| Error::failed(format!("'{}': {error}", path.display())))
}
