//! Staging: plain folders on the host's filesystem where deploys are put together, and freezing them while they are sealed.
//!
//! The daemon owns the folder of staging folders, so it makes, renames and removes the names in it. Each staging folder belongs to
//! a user, and whatever happens inside it is done with the rights of the one who asked: see [`Rights`].
//!
//! ```text
//! staging/NAME                   mode 0700, its owner's
//! staging/.sealing-NAME.TXN      the same folder while it is sealed
//! staging/.removing-TXN          the same folder while it is removed
//! staging/.sealing/              folders that are being made; in stores of older versions the two above, NAME.TXN and .TXN
//! ```

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use rustix::fs::{Access, AtFlags, Mode, OFlags, Stat, accessat, fstat};
use rustix::io::Errno;

use super::credentials::Rights;
use super::error::DeployError;
use super::removing::empty_folder;
use crate::model::StagingName;
use crate::model::report::Caller;
use crate::store::{SEALING, STAGING, StoreError, random_hex};
use crate::users::{name_of, user};

/// How the name of a folder that is being sealed begins.
pub(super) const FROZEN: &str = ".sealing-";
/// How the name of a folder that is being removed begins.
pub(super) const REMOVING: &str = ".removing-";
/// In [`SEALING`], what no staging folder's name begins with: a folder that is being made.
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
    /// Whose rights hold inside it.
    pub rights: Rights,
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

    /// Lets the members of a group reach the staging folders, and nobody else but root and this process's user.
    pub fn admit(&self, group: Option<u32>) -> std::io::Result<()> {
        if let Some(group) = group {
            chown(&self.folder, None, Some(group))?;
        }
        let mode = if group.is_some() { 0o710 } else { 0o700 };
        fs::set_permissions(&self.folder, fs::Permissions::from_mode(mode))
    }

    /// Makes a folder that belongs to the caller, and that nobody else can enter.
    pub fn create(&self, name: &StagingName, caller: &Caller) -> Result<PathBuf, DeployError> {
        let path = self.folder.join(name.as_str());
        let sealing = self.folder.join(SEALING);
        spread_out(&sealing);
        // Under a new name each time: ext4 chooses the place of a top directory by its name.
        let new = sealing.join(format!("{NO_NAME}{}", random_hex()));
        fs::DirBuilder::new()
            .mode(0o700)
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
        let mut names: Vec<String> = self
            .entries()
            .filter(|name| !name.starts_with(NO_NAME))
            .collect();
        names.sort();
        names
    }

    fn entries(&self) -> impl Iterator<Item = String> + use<> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok())
    }

    /// Throws a folder away, as far as the caller can. What is left is a staging folder again.
    pub fn abort(&self, name: &StagingName, caller: &Caller) -> Result<(), DeployError> {
        let (frozen, _) = self.freeze(name, caller)?;
        let Err(error) = remove_staged(&frozen.path, &frozen.rights) else {
            return Ok(());
        };
        let left = self.thaw(&frozen)?;
        Err(match error {
            DeployError::Io { cause, .. } => DeployError::NotRemoved { left, cause },
            other => other,
        })
    }

    /// Moves a folder aside, so that it is not reached by its path any more while it is sealed, and opens it. Refused unless the
    /// caller is its owner or may write to it, which an owner allows to colleagues.
    pub fn freeze(
        &self,
        name: &StagingName,
        caller: &Caller,
    ) -> Result<(Frozen, OwnedFd), DeployError> {
        let from = self.folder.join(name.as_str());
        let none = || DeployError::NoStaging {
            name: name.to_string(),
            known: self.names(),
        };
        let folder = open_folder(&from).map_err(|errno| match errno {
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP => none(),
            errno => DeployError::io("open", &from)(errno.into()),
        })?;
        let stat = fstat(&folder).map_err(|errno| DeployError::io("open", &from)(errno.into()))?;
        let rights = Rights::over(caller, stat.st_uid);
        if !is_theirs(caller, &rights, &folder, &stat)? {
            return Err(DeployError::NotYours {
                name: name.to_string(),
                owner: name_of(stat.st_uid),
            });
        }
        let txn = random_hex();
        // In the same folder: to move a folder of somebody else to another one takes a right on it.
        let path = self.folder.join(format!("{FROZEN}{name}.{txn}"));
        fs::rename(&from, &path).map_err(DeployError::io("move aside", &from))?;
        let frozen = Frozen {
            path,
            txn,
            rights,
            name: name.clone(),
        };
        if !is_at(&frozen.path, &stat) {
            // Another one came to its name after it was opened.
            self.thaw(&frozen)?;
            return Err(none());
        }
        Ok((frozen, folder))
    }

    /// Removes a frozen folder that nobody needs any more. The caller does not wait for it; where the process ends before it is
    /// done, the rest goes when the store is opened again.
    pub fn remove(&self, frozen: &Frozen) -> Result<(), DeployError> {
        let gone = self.folder.join(format!("{REMOVING}{}", frozen.txn));
        fs::rename(&frozen.path, &gone).map_err(DeployError::io("remove", &frozen.path))?;
        self.remove_meanwhile(gone, frozen.rights.clone());
        Ok(())
    }

    fn remove_meanwhile(&self, path: PathBuf, rights: Rights) {
        let remove = move || {
            if let Err(error) = remove_staged(&path, &rights) {
                log::warn!("a sealed copy is left, for root to remove: {error}");
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
    /// seal; the others move back. What cannot be done is logged: one folder must not keep a store from being opened.
    pub fn recover(
        &self,
        sealed_at: impl Fn(&str) -> Result<Option<u64>, StoreError>,
    ) -> Result<(), DeployError> {
        self.keep_others_out();
        let sealing = self.folder.join(SEALING);
        let older = match fs::read_dir(&sealing) {
            Ok(entries) => entries.flatten(),
            Err(error) => return Err(DeployError::io("read", &sealing)(error)),
        };
        for entry in older {
            let name = entry.file_name().to_string_lossy().into_owned();
            match name.starts_with(NO_NAME) {
                true => self.remove_meanwhile(entry.path(), rights_of_owner(&entry.path())),
                false => self.recover_frozen(&entry.path(), &name, &sealed_at),
            }
        }
        for name in self.entries() {
            let path = self.folder.join(&name);
            if let Some(frozen) = name.strip_prefix(FROZEN) {
                self.recover_frozen(&path, frozen, &sealed_at);
            } else if name.starts_with(REMOVING) {
                self.remove_meanwhile(path.clone(), rights_of_owner(&path));
            }
        }
        Ok(())
    }

    fn recover_frozen(
        &self,
        path: &Path,
        name_and_txn: &str,
        sealed_at: &impl Fn(&str) -> Result<Option<u64>, StoreError>,
    ) {
        let Some((name, txn)) = name_and_txn.rsplit_once('.') else {
            return;
        };
        let rights = rights_of_owner(path);
        let sealed_at = match sealed_at(txn) {
            Ok(sealed_at) => sealed_at,
            Err(error) => {
                return log::error!("'{}' stays aside: {error}", path.display());
            }
        };
        let is_used_up = sealed_at.is_some_and(|second| {
            let has_younger = rights.on_a_thread(|| has_younger(path, second));
            !has_younger.unwrap_or(true)
        });
        if is_used_up {
            log::info!("removing '{}': its seal is recorded", path.display());
            if let Err(error) = remove_staged(path, &rights) {
                log::error!("a sealed copy is left, for root to remove: {error}");
            }
            return;
        }
        match self.move_back(path, name) {
            Ok(back) => log::warn!(
                "a seal did not complete; its folder is '{}' again",
                back.display()
            ),
            Err(error) => log::error!(
                "a seal did not complete, and its folder stays aside: {error}; as root: mv '{}' '{}'",
                path.display(),
                self.folder.join(name).display()
            ),
        }
    }

    /// Stores of older versions let everybody pass through to a folder whose name can be guessed.
    fn keep_others_out(&self) {
        let mode = fs::metadata(&self.folder).map_or(0, |meta| meta.permissions().mode());
        if mode & 0o007 == 0 {
            return;
        }
        let closed = fs::Permissions::from_mode(mode & 0o770);
        if let Err(error) = fs::set_permissions(&self.folder, closed) {
            log::warn!("'{}' stays open to others: {error}", self.folder.display());
        }
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

/// A folder at this path and not behind a link there, for what is below it. Takes no right on the folder itself.
fn open_folder(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}

/// True for the folder's owner, for root, and for whom the kernel lets write to it.
fn is_theirs(
    caller: &Caller,
    rights: &Rights,
    folder: &OwnedFd,
    stat: &Stat,
) -> Result<bool, DeployError> {
    if caller.uid == stat.st_uid || caller.uid == 0 {
        return Ok(true);
    }
    match rights {
        Rights::Own | Rights::Judged(_) => Ok(false),
        Rights::Caller(_) => rights.on_a_thread(|| {
            let wanted = Access::WRITE_OK | Access::EXEC_OK;
            accessat(folder, ".", wanted, AtFlags::EACCESS).is_ok()
        }),
    }
}

fn is_at(path: &Path, stat: &Stat) -> bool {
    fs::symlink_metadata(path)
        .is_ok_and(|meta| (meta.dev(), meta.ino()) == (stat.st_dev, stat.st_ino))
}

/// The rights of the user a folder belongs to. Only root can have made it anybody else's than who asked for it.
fn rights_of_owner(path: &Path) -> Rights {
    fs::symlink_metadata(path).map_or(Rights::Own, |meta| Rights::of(&user(meta.uid())))
}

/// Empties a staging folder with these rights, and removes it as the owner of the folder that it is in.
fn remove_staged(path: &Path, rights: &Rights) -> Result<(), DeployError> {
    let failed = |cause| DeployError::io("remove", path)(cause);
    let folder = open_folder(path).map_err(|errno| failed(errno.into()))?;
    rights
        .on_a_thread(|| empty_folder(&folder))?
        .map_err(failed)?;
    fs::remove_dir(path).map_err(failed)
}

/// Renames a folder; fails with EXIST where the name is taken.
fn rename_to_free(from: &Path, to: &Path) -> Result<(), Errno> {
    use rustix::fs::{CWD, Mode, RenameFlags, mkdirat, renameat, renameat_with};
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // bindfs and other FUSE filesystems, and NFS, know no flags. An empty folder of our own holds the name there, which a folder
        // may replace.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            mkdirat(CWD, to, Mode::RWXU)?;
            renameat(CWD, from, CWD, to).inspect_err(|_| {
                let _ = fs::remove_dir(to);
            })
        }
        done => done,
    }
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
        staging.recover(|_| Ok(None)).unwrap();
        assert_eq!(staging.names(), ["v1"]);
        drop(staging);
        assert_eq!(fs::read_dir(&sealing).unwrap().count(), 0);
    }

    #[test]
    fn what_a_crash_left_of_a_seal_goes_back_to_its_name_or_goes_and_others_are_kept_out() {
        let temp = tempfile::tempdir().unwrap();
        let folder = temp.path().join(STAGING);
        fs::create_dir_all(folder.join(SEALING)).unwrap();
        fs::create_dir_all(folder.join(".sealing-v1.x.4567").join("below")).unwrap();
        fs::create_dir_all(folder.join(".sealing-v2.89ab").join("below")).unwrap();
        fs::create_dir_all(folder.join(".removing-cdef").join("below")).unwrap();
        let open = fs::Permissions::from_mode(0o711);
        fs::set_permissions(&folder, open).unwrap();
        let staging = Staging::new(temp.path());
        staging
            .recover(|txn| Ok((txn == "89ab").then_some(u64::MAX >> 1)))
            .unwrap();
        assert_eq!(staging.names(), ["v1.x"]);
        drop(staging);
        let mut left: Vec<_> = fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        left.sort();
        assert_eq!(left, [".sealing", "v1.x"]);
        let mode = fs::metadata(&folder).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o710);
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
        let (frozen, _) = staging.freeze(&name, &caller).unwrap();
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
