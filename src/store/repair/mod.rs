//! `fsck --repair`: brings back what can be brought back from what is there, and never removes good data. What is replaced is
//! set aside in `damaged/`.
//!
//! In this order, since each step leans on the one before: history, format, packs, then on the open store deploy files and index.

mod deploy_files;
mod history;
mod packs;

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;

use super::backup::INCOMPLETE;
use super::disk::{Disk, HostDisk};
use super::error::StoreError;
use super::hold::Hold;
use super::index::Index;
use super::lock::Lock;
use super::packs::Limits;
use super::records::record_at;
use super::{DEPLOYS, Store, UUID, format, journal, publish};
use crate::model::report::RepairReport;

/// Where damaged files are kept.
const ASIDE: &str = "damaged";

/// What a repair works with.
struct Repair {
    disk: Arc<dyn Disk>,
    mended: Vec<String>,
}

/// Mends a store that nobody has open, then checks all of it.
pub fn repair(root: &Path) -> Result<RepairReport, StoreError> {
    if !root.join(super::packs::FOLDER).is_dir() || !root.join(DEPLOYS).is_dir() {
        return Err(StoreError::NotAStore(root.display().to_string()));
    }
    let lock = Lock::take(root)?;
    if root.join(INCOMPLETE).exists() && !root.join(format::PATH).exists() {
        return Err(StoreError::IncompleteBackup(root.display().to_string()));
    }
    let _hold = Hold::exclusive(root)?.ok_or_else(|| StoreError::InUse {
        path: root.display().to_string(),
        holder: "a backup of it".into(),
    })?;
    let disk: Arc<dyn Disk> = Arc::new(HostDisk::new(root.to_owned(), true));
    // It may be there.
    let _ = fs::DirBuilder::new().mode(0o700).create(root.join(ASIDE));
    let mut repair = Repair {
        disk: disk.clone(),
        mended: Vec::new(),
    };
    repair.history()?;
    repair.format(root)?;
    repair.packs(root)?;
    let store = Store::assemble_on(
        disk,
        root,
        Some(lock),
        Index::new(root.join("index")),
        Limits::default(),
    )?;
    repair.deploy_files(&store)?;
    store.fill_index();
    if let Some(what) = store.packs.check_index() {
        repair
            .mended
            .push(format!("'index': {what}; it is filled anew"));
        store.fill_index();
    }
    for suspect in store.suspects() {
        // One that can be read is none any more.
        let _ = store.read_chunk(&suspect.chunk);
    }
    store.keep_suspects();
    let _ = fs::remove_dir(root.join(ASIDE));
    let mut checker = store.checker(&|_| true);
    checker.check_store();
    let ids: Vec<_> = store.with_ledger(|ledger| ledger.deploys().keys().copied().collect());
    for id in ids {
        checker.check_deploy(id, true);
    }
    checker.check_all_data(&|| true);
    Ok(RepairReport {
        mended: repair.mended,
        left: checker.finish().problems,
    })
}

impl Repair {
    fn mended(&mut self, what: String) {
        log::info!("{what}");
        self.mended.push(what);
    }

    /// Moves a file to [`ASIDE`] under a name that is free there; where it is then.
    fn set_aside(&self, path: &str) -> Result<String, StoreError> {
        let aside = self.free_name(path)?;
        self.disk
            .rename(path, &aside)
            .map_err(StoreError::io("set aside", path))?;
        Ok(aside)
    }

    fn free_name(&self, path: &str) -> Result<String, StoreError> {
        let taken = self
            .disk
            .list(ASIDE)
            .map_err(StoreError::io("list", ASIDE))?;
        let name = path.rsplit('/').next().unwrap_or(path);
        let names =
            std::iter::once(name.to_owned()).chain((2..).map(|number| format!("{name}-{number}")));
        let mut free = names.filter(|name| taken.iter().all(|(other, _)| other != name));
        let name = free.next().expect("some number is free");
        Ok(format!("{ASIDE}/{name}"))
    }

    /// Keeps a copy of bytes that are about to be replaced.
    fn copy_aside(&self, path: &str, bytes: &[u8]) -> Result<String, StoreError> {
        let aside = self.free_name(path)?;
        self.disk
            .append(&aside, bytes)
            .and_then(|()| self.disk.sync(&aside))
            .map_err(StoreError::io("write", &aside))?;
        Ok(aside)
    }

    fn format(&mut self, root: &Path) -> Result<(), StoreError> {
        let bytes = journal::read_whole(&*self.disk, format::PATH).unwrap_or_default();
        let (uuid, what) = match format::read(&*self.disk, root) {
            Ok(_) => return Ok(()),
            Err(error @ (StoreError::NewerFormat { .. } | StoreError::Io { .. })) => {
                return Err(error);
            }
            Err(_) => match (format::mend(&bytes), self.recorded_uuid()) {
                (Some(uuid), _) => (uuid, "one of its bits was flipped"),
                (None, Some(uuid)) => (uuid, "it is written anew, with the uuid in the history"),
                (None, None) => (
                    super::random_hex(),
                    "it is written anew, with a new uuid: the old one is lost",
                ),
            },
        };
        if !bytes.is_empty() {
            self.copy_aside(format::PATH, &bytes)?;
        }
        publish(&*self.disk, format::PATH, &format::encode(&uuid), ".")?;
        self.mended(format!("'format': {what}"));
        Ok(())
    }

    /// The uuid as the record of the store's making has it.
    fn recorded_uuid(&self) -> Option<String> {
        let first = record_at(&*self.disk, 0).ok()?;
        first.meta.get(UUID).cloned()
    }
}
