//! Staging: plain folders on the host's filesystem where deploys are put together, and freezing them while they are sealed.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use rustix::io::Errno;

use super::error::DeployError;
use super::removing::remove_folder;
use crate::model::StagingName;
use crate::model::report::Caller;
use crate::store::{SEALING, STAGING, random_hex};

/// In [`SEALING`], what no staging folder's name begins with: a folder that is being made or being removed.
pub(super) const NO_NAME: &str = ".";

/// The staging folders of one store. Dropped only once what it removes is gone.
pub struct Staging {
    folder: PathBuf,
    removals: Mutex<Vec<JoinHandle<()>>>,
}

/// A staging folder that is being sealed: new absolute paths do not reach it.
pub struct Frozen {
    /// Where it is meanwhile.
    pub path: PathBuf,
    /// The seal's transaction.
    pub txn: String,
    name: StagingName,
}

impl Staging {
    /// The staging folders of the store at `root`.
    pub fn new(root: &Path) -> Self {
        Staging {
            folder: root.join(STAGING),
            removals: Mutex::default(),
        }
    }

    /// Makes a folder that belongs to the caller.
    pub fn create(&self, name: &StagingName, caller: &Caller) -> Result<PathBuf, DeployError> {
        let path = self.folder.join(name.as_str());
        let sealing = self.folder.join(SEALING);
        spread_out(&sealing);
        // Under a new name each time: ext4 chooses the place of a top directory by its name.
        let new = sealing.join(format!("{NO_NAME}{}", random_hex()));
        fs::DirBuilder::new()
            .mode(0o755)
            .create(&new)
            .map_err(DeployError::io("create", &new))?;
        if let Err(errno) = rename_to_free(&new, &path) {
            let _ = fs::remove_dir(&new);
            return Err(match errno {
                Errno::EXIST => DeployError::StagingExists(name.to_string()),
                errno => DeployError::io("create", path)(errno.into()),
            });
        }
        self.give_to(caller, &path)?;
        Ok(path)
    }

    /// Root writes anywhere, so that a daemon without the right to give folders away serves it and its own user.
    fn give_to(&self, caller: &Caller, path: &Path) -> Result<(), DeployError> {
        let Err(cause) = chown(path, Some(caller.uid), Some(caller.gid)) else {
            return Ok(());
        };
        let own = rustix::process::geteuid().as_raw();
        if cause.kind() == std::io::ErrorKind::PermissionDenied && [0, own].contains(&caller.uid) {
            return Ok(());
        }
        fs::remove_dir(path).map_err(DeployError::io("remove", path))?;
        Err(DeployError::CannotGive {
            user: caller.name.clone(),
            daemon: own,
            cause,
        })
    }

    /// True for a path below the staging folders.
    pub fn holds(&self, path: &Path) -> bool {
        path.starts_with(&self.folder)
    }

    /// The names of all staging folders.
    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| name != SEALING)
            .collect();
        names.sort();
        names
    }

    /// Throws a folder away.
    pub fn abort(&self, name: &StagingName) -> Result<(), DeployError> {
        let frozen = self.freeze(name)?;
        remove_folder(&frozen.path).map_err(DeployError::io("remove", &frozen.path))
    }

    /// Moves a folder aside, so that it is not reached by its path any more while it is sealed.
    pub fn freeze(&self, name: &StagingName) -> Result<Frozen, DeployError> {
        let from = self.folder.join(name.as_str());
        let is_dir = fs::symlink_metadata(&from).is_ok_and(|metadata| metadata.is_dir());
        if !is_dir {
            return Err(DeployError::NoStaging {
                name: name.to_string(),
                known: self.names(),
            });
        }
        let txn = random_hex();
        let path = self.folder.join(SEALING).join(format!("{name}.{txn}"));
        fs::rename(&from, &path).map_err(DeployError::io("move aside", &from))?;
        Ok(Frozen {
            path,
            txn,
            name: name.clone(),
        })
    }

    /// Removes a frozen folder that nobody needs any more. The caller does not wait for it; where the process ends before it is
    /// done, the rest goes when the store is opened again.
    pub fn remove(&self, frozen: &Frozen) -> Result<(), DeployError> {
        let gone = self
            .folder
            .join(SEALING)
            .join(format!("{NO_NAME}{}", frozen.txn));
        fs::rename(&frozen.path, &gone).map_err(DeployError::io("remove", &frozen.path))?;
        self.remove_meanwhile(gone);
        Ok(())
    }

    fn remove_meanwhile(&self, path: PathBuf) {
        let remove = move || {
            if let Err(error) = remove_folder(&path) {
                log::warn!("'{}' cannot be removed: {error}", path.display());
            }
        };
        let mut removals = self.removals.lock().unwrap_or_else(PoisonError::into_inner);
        removals.retain(|removal| !removal.is_finished());
        removals.push(thread::spawn(remove));
    }

    /// Moves a frozen folder back; under another name if its own is taken. Returns where it is.
    pub fn thaw(&self, frozen: &Frozen) -> Result<PathBuf, DeployError> {
        self.move_back(&frozen.path, frozen.name.as_str())
    }

    fn move_back(&self, path: &Path, name: &str) -> Result<PathBuf, DeployError> {
        for number in 1.. {
            let free = if number == 1 {
                name.to_owned()
            } else {
                format!("{name}-{number}")
            };
            let back = self.folder.join(free);
            match rename_to_free(path, &back) {
                Ok(()) => return Ok(back),
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(DeployError::io("move back", path)(errno.into())),
            }
        }
        unreachable!("some number is free")
    }

    /// After a crash: frozen folders whose seal is recorded are removed, unless something in them is younger than the
    /// seal; the others move back.
    pub fn recover(&self, sealed_at: impl Fn(&str) -> Option<u64>) -> Result<(), DeployError> {
        let sealing = self.folder.join(SEALING);
        let entries = match fs::read_dir(&sealing) {
            Ok(entries) => entries,
            Err(error) => return Err(DeployError::io("read", &sealing)(error)),
        };
        for entry in entries.flatten() {
            let path = entry.path();
            let file_name = entry.file_name().to_string_lossy().into_owned();
            if file_name.starts_with(NO_NAME) {
                self.remove_meanwhile(path);
                continue;
            }
            let Some((name, txn)) = file_name.rsplit_once('.') else {
                continue;
            };
            match sealed_at(txn) {
                Some(second) if !has_younger(&path, second) => {
                    log::info!("removing '{}': its seal is recorded", path.display());
                    remove_folder(&path).map_err(DeployError::io("remove", &path))?;
                }
                Some(_) | None => {
                    let back = self.move_back(&path, name)?;
                    log::warn!(
                        "a seal did not complete; its folder is '{}' again",
                        back.display()
                    );
                }
            }
        }
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        let removals = self.removals.get_mut();
        for removal in removals.unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = removal.join();
        }
    }
}

/// Fails with EXIST where the name is taken.
fn rename_to_free(from: &Path, to: &Path) -> Result<(), Errno> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)
}

/// Asks ext4 to give each folder made in this one a block group of its own. A sealed folder is removed, and ext4 searches the inodes just
/// freed one by one before it uses new ones: the tenth `cp -r` of 10,000 files takes seconds in one group, and 0.35 s so.
/// Other filesystems know no such flag and need none.
fn spread_out(folder: &Path) {
    use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
    let flagged = fs::File::open(folder).map_err(|_| ()).and_then(|dir| {
        let flags = ioctl_getflags(&dir).map_err(|_| ())?;
        if flags.contains(IFlags::TOPDIR) {
            return Ok(());
        }
        ioctl_setflags(&dir, flags | IFlags::TOPDIR).map_err(|_| ())
    });
    if flagged.is_err() {
        log::debug!("'{}' cannot be marked as a top directory", folder.display());
    }
}

/// True where a file below was changed in that second or after it: somebody wrote on into a folder that was being sealed.
fn has_younger(folder: &Path, second: u64) -> bool {
    let Ok(entries) = fs::read_dir(folder) else {
        return true;
    };
    entries.flatten().any(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => has_younger(&entry.path(), second),
        Ok(metadata) => metadata.ctime() >= second as i64,
        Err(_) => true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_crash_left_of_a_folder_being_made_or_removed_goes_with_the_next_recovery() {
        let temp = tempfile::tempdir().unwrap();
        let sealing = temp.path().join(STAGING).join(SEALING);
        fs::create_dir_all(sealing.join(".0123").join("below")).unwrap();
        fs::create_dir_all(sealing.join("v1.4567")).unwrap();
        let staging = Staging::new(temp.path());
        staging.recover(|_| None).unwrap();
        assert_eq!(staging.names(), ["v1"]);
        drop(staging);
        assert_eq!(fs::read_dir(&sealing).unwrap().count(), 0);
    }

    #[test]
    fn a_removed_folder_is_out_of_the_way_at_once_and_gone_when_the_store_is_closed() {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir_all(temp.path().join(STAGING).join(SEALING)).unwrap();
        let caller = Caller {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            name: String::new(),
            groups: Vec::new(),
        };
        let staging = Staging::new(temp.path());
        let name: StagingName = "v1".parse().unwrap();
        let path = staging.create(&name, &caller).unwrap();
        fs::write(path.join("file"), "x").unwrap();
        let frozen = staging.freeze(&name).unwrap();
        staging.remove(&frozen).unwrap();
        assert!(!frozen.path.exists());
        staging.create(&name, &caller).unwrap();
        let taken = staging.create(&name, &caller);
        assert!(matches!(taken, Err(DeployError::StagingExists(_))));
        drop(staging);
        let sealing = temp.path().join(STAGING).join(SEALING);
        assert_eq!(fs::read_dir(sealing).unwrap().count(), 0);
    }
}
