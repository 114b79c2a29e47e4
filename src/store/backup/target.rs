//! The store that a backup is kept in: found or made, checked, and brought to a new state in one step.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::super::disk::{Disk, HostDisk};
use super::super::index::Index;
use super::super::journal::{self, HEAD, encode_head};
use super::super::lock::Lock;
use super::super::packs::{self, Limits};
use super::super::{
    CACHE, DEPLOYS, DICTIONARY, STAGING, Store, StoreError, format, make_folders, publish, replace,
};
use super::copy::Copier;
use super::{BackupError, Copied, Snapshot};
use crate::model::DeployId;

/// Holds the uuid of the source while a target has no complete state.
pub const INCOMPLETE: &str = "backup.incomplete";
/// The temporary file that becomes the marker.
const INCOMPLETE_TMP: &str = "backup.incomplete.tmp";
/// The folders that a target has before its marker.
const FOLDERS: [&str; 5] = [packs::FOLDER, DEPLOYS, STAGING, "index", CACHE];
/// In the cache of a target: a gc of it has not ended since something was removed.
const GC_DUE: &str = "gc-due";

/// The target of a backup, locked.
pub struct Target {
    store: Store,
    disk: Arc<dyn Disk>,
    is_new: bool,
}

/// How a target is opened: its disk, its folder, its lock, its index and the sizes of its packs.
pub struct Place<'a> {
    /// Its files.
    pub disk: Arc<dyn Disk>,
    /// Its folder.
    pub root: &'a Path,
    /// Its lock, taken.
    pub lock: Lock,
    /// Its index.
    pub index: Index,
    /// How large its packs become.
    pub limits: Limits,
}

impl<'a> Place<'a> {
    /// A folder of this host, which is a backup, complete or not, or empty.
    pub fn on_host(root: &'a Path) -> Result<Self, StoreError> {
        let shown = root.display().to_string();
        let disk = HostDisk::new(root.to_owned(), true);
        match format::read(&disk, root) {
            Ok(_) | Err(StoreError::IncompleteBackup(_)) => {}
            Err(StoreError::NotAStore(_)) => {
                if !is_unused(root).map_err(StoreError::io("read", &shown))? {
                    return Err(StoreError::NotEmpty(shown));
                }
            }
            Err(error) => return Err(error),
        }
        make_folders(root)?;
        Ok(Place {
            lock: Lock::take(root)?,
            disk: Arc::new(disk),
            root,
            index: Index::new(root.join("index")),
            limits: Limits::default(),
        })
    }
}

#[cfg(test)]
impl<'a> Place<'a> {
    /// A target whose files are on this disk; only its lock is below `root`.
    pub fn on(disk: Arc<dyn Disk>, root: &'a Path, limits: Limits) -> Result<Self, StoreError> {
        Ok(Place {
            disk,
            root,
            lock: Lock::take(root)?,
            index: Index::none(),
            limits,
        })
    }
}

impl Target {
    /// Opens the target for a backup of this state. A folder that is no store yet becomes an incomplete one.
    pub fn open(
        place: Place<'_>,
        source: &Store,
        snapshot: &Snapshot,
    ) -> Result<Self, BackupError> {
        let Place {
            disk,
            root,
            lock,
            index,
            limits,
        } = place;
        let is_new = match format::read(&*disk, root) {
            Ok(uuid) if uuid == source.uuid() => false,
            Ok(found) => return Err(other_store(root, found)),
            Err(StoreError::NotAStore(_) | StoreError::IncompleteBackup(_)) => true,
            Err(error) => return Err(error.into()),
        };
        if is_new {
            begin(&*disk, root, source.uuid(), snapshot)?;
        }
        let uuid = source.uuid().to_owned();
        let store = Store::assemble_as(uuid, disk.clone(), root, Some(lock), index, limits)?;
        store.check_writable()?;
        let there = journal::read_whole(&*disk, journal::PATH)?;
        if !snapshot.history.starts_with(&there) {
            let same = there
                .iter()
                .zip(&snapshot.history)
                .take_while(|(a, b)| a == b);
            let same = same
                .map(|(byte, _)| byte)
                .filter(|byte| **byte == b'\n')
                .count();
            return Err(BackupError::Diverged {
                dir: root.display().to_string(),
                source_dir: source.root().display().to_string(),
                seq: same as u64 + 1,
            });
        }
        Ok(Target {
            store,
            disk,
            is_new,
        })
    }

    /// Its folder.
    pub fn root(&self) -> &Path {
        self.store.root()
    }

    /// True where the target's state has this deploy, sealed first by this record, and its file.
    pub fn has(&self, id: DeployId, order: u64) -> bool {
        let sealed = |ledger: &crate::model::ledger::Ledger| {
            ledger.deploys().get(&id).map(|deploy| deploy.order)
        };
        self.store.with_ledger(sealed) == Some(order) && self.store.deploy_file(id).is_ok()
    }

    /// Reads all that the target has: what is damaged in it is copied anew by the next [`Target::copy`].
    pub fn check(&self, goes_on: &dyn Fn(u64) -> bool) -> Result<u64, BackupError> {
        let mut read = 0;
        let mut ended = false;
        let mut damaged = 0;
        self.store.scrub(&mut |stored, problem| {
            read += stored;
            if let Some(problem) = problem {
                log::warn!("the backup: {problem}");
                damaged += 1;
            }
            ended |= !goes_on(read);
            !ended
        })?;
        match ended {
            true => Err(BackupError::Cancelled),
            false => Ok(damaged),
        }
    }

    /// Copies what the target lacks of this state. It keeps its own state.
    pub fn copy(
        &self,
        source: &Store,
        snapshot: &Snapshot,
        goes_on: &dyn Fn(&Copied) -> bool,
    ) -> Result<Copied, BackupError> {
        Copier::new(source, &self.store, goes_on).run(snapshot, self)
    }

    /// Makes this the target's state. All that it needs must have been copied. The target must be opened again.
    pub fn publish(self, source: &Store, snapshot: &Snapshot) -> Result<(), BackupError> {
        let Target {
            store,
            disk,
            is_new,
        } = self;
        let is_gone = |(id, order): (DeployId, u64)| {
            let now = snapshot.ledger.deploys().get(&id);
            now.is_none_or(|deploy| deploy.order != order)
        };
        let before: Vec<(DeployId, u64)> = store.with_ledger(|ledger| {
            let deploys = ledger.deploys().iter();
            deploys.map(|(&id, deploy)| (id, deploy.order)).collect()
        });
        if before.iter().copied().any(is_gone) {
            store.keep_cached(GC_DUE, b"1\n");
        }
        write_deploy_files(&store, &*disk, &before, snapshot)?;
        publish(&*disk, journal::PATH, &snapshot.history, ".")?;
        if is_new {
            publish(&*disk, format::PATH, &format::encode(store.uuid()), ".")?;
        }
        // Without the marker it is the same: the `format` file decides.
        let _ = disk.remove(INCOMPLETE);
        let head = encode_head(snapshot.last_seq(), snapshot.ledger.last_sum());
        if let Err(error) = replace(&*disk, HEAD, head.as_bytes()) {
            log::debug!("'{HEAD}' cannot be written: {error}");
        }
        keep_dictionary(source, &store);
        Ok(())
    }
}

/// True where something was removed from the target and no gc has ended since.
pub fn is_gc_due(store: &Store) -> bool {
    !store.cached(GC_DUE).is_empty()
}

impl Store {
    /// Notes that a gc of a backup has ended.
    pub fn gc_is_done(&self) {
        self.drop_cached(GC_DUE, |_| true);
    }
}

/// True for a folder that is empty, or has only the start of a backup that ended before its marker was there: empty folders of a store,
/// the lock, the marker's temporary file.
fn is_unused(root: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        let name = entry.file_name();
        let is_ours = match name.to_str() {
            Some("lock" | INCOMPLETE_TMP) => entry.file_type()?.is_file(),
            Some(folder) if FOLDERS.contains(&folder) => is_empty_folder(&entry, folder)?,
            _ => false,
        };
        if !is_ours {
            return Ok(false);
        }
    }
    Ok(true)
}

/// True for a folder of a new store: without a file, and without a folder of somebody else's.
fn is_empty_folder(entry: &fs::DirEntry, name: &str) -> io::Result<bool> {
    if !entry.file_type()?.is_dir() {
        return Ok(false);
    }
    for inner in fs::read_dir(entry.path())? {
        let inner = inner?;
        let is_sealing = name == STAGING && inner.file_name() == ".sealing";
        if !is_sealing
            || !inner.file_type()?.is_dir()
            || fs::read_dir(inner.path())?.next().is_some()
        {
            return Ok(false);
        }
    }
    Ok(true)
}

fn other_store(root: &Path, found: String) -> BackupError {
    BackupError::OtherStore {
        dir: root.display().to_string(),
        found,
    }
}

/// The files of an incomplete target in a folder that has nothing else: the marker first, and the record of the store's making,
/// on which every state builds.
fn begin(disk: &dyn Disk, root: &Path, uuid: &str, snapshot: &Snapshot) -> Result<(), BackupError> {
    let marker = journal::read_whole(disk, INCOMPLETE);
    let found = marker
        .ok()
        .map(|bytes| String::from_utf8_lossy(&bytes).trim_end().to_owned());
    match found {
        Some(found) if found == uuid => {}
        Some(found) => return Err(other_store(root, found)),
        None => publish(disk, INCOMPLETE, format!("{uuid}\n").as_bytes(), ".")?,
    }
    if journal::read_whole(disk, journal::PATH).is_err_and(|error| error.is_not_found()) {
        let end = snapshot.history.iter().position(|&byte| byte == b'\n');
        let first = &snapshot.history[..end.map_or(0, |end| end + 1)];
        publish(disk, journal::PATH, first, ".")?;
    }
    Ok(())
}

/// Writes the deploy files that the target does not have, so that none of its own state changes.
fn write_deploy_files(
    store: &Store,
    disk: &dyn Disk,
    before: &[(DeployId, u64)],
    snapshot: &Snapshot,
) -> Result<(), StoreError> {
    let mut written = false;
    for (id, order, file) in &snapshot.files {
        let known = before.iter().find(|(known, _)| known == id);
        let path = match known {
            Some((_, known)) if known == order && store.deploy_file(*id).is_ok() => continue,
            Some((_, known)) if known != order => format!("{DEPLOYS}/{id}.{order}"),
            Some(_) | None => format!("{DEPLOYS}/{id}"),
        };
        let tmp = format!("{path}.tmp");
        let _ = disk.remove(&tmp);
        disk.append(&tmp, &file.encode())
            .map_err(StoreError::io("write", &tmp))?;
        disk.sync(&tmp).map_err(StoreError::io("sync", &tmp))?;
        disk.rename(&tmp, &path)
            .map_err(StoreError::io("rename", &tmp))?;
        written = true;
    }
    match written {
        true => disk.sync(DEPLOYS).map_err(StoreError::io("sync", DEPLOYS)),
        false => Ok(()),
    }
}

/// New chunks of a store that is mounted from the backup are compressed as those of the source.
fn keep_dictionary(source: &Store, target: &Store) {
    let hint = source.cached(DICTIONARY);
    let id = String::from_utf8_lossy(&hint).trim_end().parse();
    if id.is_ok_and(|id| target.contains(&id).unwrap_or(false)) {
        target.keep_cached(DICTIONARY, &hint);
    }
}
