//! The files of a store that people write: `retention.toml` and the hooks.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use super::super::{RETENTION, StoreError};

const HOOKS: &str = "hooks";
/// The mode of the folder of the hooks.
const HOOKS_MODE: u32 = 0o755;
/// A longer file is no setting.
const LEN_MAX: u64 = 1 << 20;

/// Makes the target's settings those of the source.
pub fn copy(from: &Path, to: &Path) -> Result<(), StoreError> {
    copy_file(&from.join(RETENTION), &to.join(RETENTION))?;
    let hooks = names(&from.join(HOOKS))?;
    if !hooks.is_empty() {
        let made = fs::DirBuilder::new()
            .mode(HOOKS_MODE)
            .create(to.join(HOOKS));
        match made {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed("create", &to.join(HOOKS))(error));
            }
            Ok(()) | Err(_) => set_mode(&to.join(HOOKS), HOOKS_MODE)?,
        }
    }
    let stale = names(&to.join(HOOKS))?.into_iter();
    for name in stale.filter(|name| !hooks.contains(name)) {
        let path = to.join(HOOKS).join(name);
        fs::remove_file(&path).map_err(failed("remove", &path))?;
    }
    for name in &hooks {
        copy_file(&from.join(HOOKS).join(name), &to.join(HOOKS).join(name))?;
    }
    Ok(())
}

/// The regular files in a folder, none if there is no folder.
fn names(folder: &Path) -> Result<Vec<std::ffi::OsString>, StoreError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed("read", folder))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed("read", folder))?;
        if entry.file_type().is_ok_and(|kind| kind.is_file()) {
            names.push(entry.file_name());
        }
    }
    Ok(names)
}

/// Replaces one file by another, durably, with its mode; removes it where the other is absent.
fn copy_file(from: &Path, to: &Path) -> Result<(), StoreError> {
    let (bytes, mode) = match read(from) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return match fs::remove_file(to) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(failed("remove", to)(error))
                }
                Ok(()) | Err(_) => Ok(()),
            };
        }
        Err(error) => return Err(failed("read", from)(error)),
    };
    if read(to).is_ok_and(|there| there == (bytes.clone(), mode)) {
        return Ok(());
    }
    let tmp = to.with_extension("tmp");
    let _ = fs::remove_file(&tmp);
    let written = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&tmp)
        .and_then(|mut file| {
            file.write_all(&bytes)?;
            file.set_permissions(fs::Permissions::from_mode(mode))?;
            file.sync_all()
        });
    written.map_err(failed("write", &tmp))?;
    fs::rename(&tmp, to).map_err(failed("rename", &tmp))?;
    let folder = to.parent().unwrap_or(to);
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(failed("sync", folder))
}

/// A file's bytes and mode, without following a link.
fn read(path: &Path) -> io::Result<(Vec<u8>, u32)> {
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() > LEN_MAX {
        return Err(io::Error::other("it is not a small regular file"));
    }
    let mut bytes = Vec::new();
    file.take(LEN_MAX).read_to_end(&mut bytes)?;
    Ok((bytes, metadata.permissions().mode() & 0o777))
}

fn set_mode(path: &Path, mode: u32) -> Result<(), StoreError> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(failed("set the mode of", path))
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    StoreError::io(doing, path.display().to_string())
}
